"""The options of `python -m workers serve-model`. Imports nothing heavy: `--help` must not wait."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

EXAMPLES = """\
examples:
  python -m workers serve-model --model /models/Nemotron-3-Nano-Omni-30B-A3B-Reasoning-FP8
  OMNI_MODEL=omni-fp8 python -m workers serve-model      # of `omni-jobs model list`
  python -m workers serve-model --model DIR --allowed-root /media --idle-s 900
  OMNI_API_KEY=$KEY OMNI_ALLOWED_HOSTS=gpu-1 python -m workers serve-model --model DIR --host 0.0.0.0

then
  curl -s http://127.0.0.1:8000/v1/models
  omni-jobs backend test http://127.0.0.1:8000/v1
"""
Add = Callable[..., object]


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m workers serve-model",
        description="Serve a model directory by OpenAI's API: /v1/chat/completions with image_url, audio_url and "
        "video_url, /v1/completions, /v1/models, /health.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _model(found.add_argument)
    _door(found.add_argument)
    _bounds(found.add_argument)
    _answers(found.add_argument)
    return found


def _model(add: Add) -> None:
    add("--model", default="", metavar="DIR|NAME", help="checkpoint, or one of `omni-jobs model list` (default: "
        "OMNI_MODEL)")  # fmt: skip
    add("--name", action="append", metavar="NAME", help="what the model is called (default: as it or its directory is)")
    add("--device", default="", help="cpu, cuda, cuda:1 (default: a GPU where there is one)")
    _number(add, "--context", int, 131_072, "tokens of prompt and answer", least=16)
    _number(add, "--idle-s", float, 0.0, "give up the weights after so long without a request, the next one loads "
            "them again; 0: never")  # fmt: skip
    add("--lazy", action="store_true", help="load with the first request, not at once")


def _door(add: Add) -> None:
    add("--host", default="127.0.0.1", help="address to bind; others than this machine's need OMNI_API_KEY")
    _number(add, "--port", int, 8000, "0: a free one", most=65_535)
    add("--allowed-root", action="append", type=Path, metavar="DIR", help="file: URLs below it may be read "
        "(default: OMNI_FILE_ROOTS)")  # fmt: skip


def _bounds(add: Add) -> None:
    _number(add, "--max-requests", int, 256, "at once, those that wait included; beyond it 429", least=1)
    _number(add, "--max-body-mb", int, 1024, "of one request, beyond it 413; of all four times it, then 429", least=1)
    _number(add, "--max-media-mb", int, 16_384, "of decoded pictures and sound; the next ones wait", least=1)
    _number(add, "--drain-s", float, None, "on SIGTERM answers get so long to end, then their streams end by an error "
            "(default: OMNI_DRAIN_S)")  # fmt: skip


def _answers(add: Add) -> None:
    add("--reasoning", choices=("apart", "content"), default="apart", help="thoughts as reasoning_content, or inside "
        "content, where the model card's budget client looks for them (default: apart)")  # fmt: skip
    _number(add, "--video-fps", float, 2.0, "frames looked at in a second; 0: all", most=1000)
    _number(add, "--video-frames", int, 256, "frames looked at in all", least=1, most=2048)
    _number(add, "--video-pruning-rate", float, 0.5, "share of a video's tokens that is dropped", most=0.99)


def _number(
    add: Add, name: str, kind: type[int] | type[float], default: float | None, help: str, *, least: float = 0,
    most: float = math.inf,
) -> None:  # fmt: skip
    def read(text: str) -> float:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected a number from {least:g} to {most:g}, got {text}")
        return value

    read.__name__ = kind.__name__  # argparse says it of a text that is no number
    said = help if default is None else f"{help} (default: {default})"
    add(name, type=read, default=default, metavar="S" if name.endswith("-s") else "N", help=said)
