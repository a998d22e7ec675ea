"""`python -m workers serve-model`: one process that serves a checkpoint directory by OpenAI's API."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omni_jobs.settings import Settings
    from workers.serving.app import Serving

EXAMPLES = """\
examples:
  python -m workers serve-model --model /models/Nemotron-3-Nano-Omni-30B-A3B-Reasoning-FP8
  python -m workers serve-model --model DIR --allowed-root /media --idle-s 900
  OMNI_API_KEY=$KEY OMNI_ALLOWED_HOSTS=gpu-1 python -m workers serve-model --model DIR --host 0.0.0.0

then
  curl -s http://127.0.0.1:8000/v1/models
  omni-jobs backend test http://127.0.0.1:8000/v1
"""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m workers serve-model",
        description="Serve a model directory by OpenAI's API: /v1/chat/completions with image_url, audio_url and "
        "video_url, /v1/completions, /v1/models, /health.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("--model", type=Path, default=os.environ.get("OMNI_MODEL"), metavar="DIR", help="checkpoint (else OMNI_MODEL)")
    add("--host", default="127.0.0.1", help="address to bind; others than this machine's need OMNI_API_KEY")
    add("--port", type=int, default=8000, help="0: a free one (default: 8000)")
    add("--name", action="append", metavar="NAME", help="what the model is called (default: its directory's name)")
    add("--allowed-root", action="append", type=Path, metavar="DIR", help="file: URLs below it may be read "
        "(default: OMNI_FILE_ROOTS)")  # fmt: skip
    add("--device", default="", help="cpu, cuda, cuda:1 (default: a GPU where there is one)")
    add("--context", type=int, default=131_072, metavar="N", help="tokens of prompt and answer (default: 131072)")
    add("--idle-s", type=float, default=0.0, metavar="S", help="give up the weights after S seconds without a "
        "request; the next one loads them again (default: never)")  # fmt: skip
    add("--lazy", action="store_true", help="load with the first request, not at once")
    add("--max-requests", type=int, default=256, metavar="N", help="at once; beyond it 429 (default: 256)")
    add("--max-body-mb", type=int, default=1024, metavar="N", help="of one request; beyond it 413 (default: 1024)")
    add("--reasoning", choices=("apart", "content"), default="apart", help="thoughts as reasoning_content, or inside "
        "content, where the model card's budget client looks for them (default: apart)")  # fmt: skip
    add("--video-fps", type=float, default=2.0, metavar="N", help="frames looked at in a second (default: 2)")
    add("--video-frames", type=int, default=256, metavar="N", help="frames looked at in all (default: 256)")
    add("--video-pruning-rate", type=float, default=0.5, metavar="R", help="share of a video's tokens that is dropped "
        "(default: 0.5)")  # fmt: skip
    return found


def main(words: Sequence[str] | None = None) -> int:
    usage = parser()
    given = usage.parse_args(words)
    if given.model is None:
        usage.error("expected --model DIR, or OMNI_MODEL")
    from omni_jobs.settings import Settings

    settings = Settings()
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.threads))
    os.environ["HF_HUB_OFFLINE"] = "1"

    from omni_jobs import telemetry
    from omni_jobs.errors import OmniError

    telemetry.set_up(settings, process="serve-model")
    try:
        return _serve(given, settings)
    except (OmniError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _serve(given: argparse.Namespace, settings: "Settings") -> int:
    import uvicorn

    from omni_jobs import telemetry
    from workers.serving.app import create_app
    from workers.serving.door import gate_for

    gate = gate_for(settings, given.host)
    serving = serving_of(given, settings.file_roots)
    if not given.lazy:
        serving.resident.take()
        serving.resident.give_back()
    config = uvicorn.Config(
        create_app(serving, gate),
        host=given.host,
        port=given.port,
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
    )
    listener = config.bind_socket()
    host, port = listener.getsockname()[:2]
    telemetry.get_logger().info("serving.listening", host=host, port=port, model=serving.names[0])
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        serving.resident.close()
    return 0


def serving_of(given: argparse.Namespace, file_roots: Sequence[Path] = ()) -> "Serving":
    """What the options say.

    Raises:
        CheckpointError: the directory holds no model.
    """
    import torch

    from workers.engine.checkpoint.reader import Checkpoint
    from workers.engine.start import CPU, GPU, start
    from workers.serving.app import Serving
    from workers.serving.decoding import Watching
    from workers.serving.resident import Resident
    from workers.serving.sources import Sources

    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    context = min(given.context, Checkpoint.open(given.model).config.text.max_position_embeddings)
    budgets = replace(GPU if device.startswith("cuda") else CPU, context=context)
    resident = Resident(
        lambda: start(given.model, device=device, budgets=budgets), idle_s=given.idle_s, most=given.max_requests
    )
    most_bytes = given.max_body_mb << 20
    roots = given.allowed_root if given.allowed_root is not None else file_roots
    return Serving(
        resident=resident,
        names=tuple(given.name or (given.model.resolve().name,)),
        context=context,
        sources=Sources(roots),
        watching=Watching(given.video_fps, given.video_frames, pruning_rate=given.video_pruning_rate),
        apart=given.reasoning == "apart",
        most_body_bytes=most_bytes,
    )
