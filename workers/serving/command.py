"""`python -m workers serve-model`: one process that serves a checkpoint directory by OpenAI's API."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from workers.serving.options import parser

if TYPE_CHECKING:
    from omni_jobs.settings import Settings
    from workers.serving.app import Serving


def main(words: Sequence[str] | None = None) -> int:
    usage = parser()
    given = usage.parse_args(words)

    from pydantic import ValidationError

    from omni_jobs.settings import Settings

    try:
        settings = Settings()
    except ValidationError as error:
        print(f"error: a setting cannot be used: {error}", file=sys.stderr)
        return 2
    settings = settings.model_copy(update={"model": given.model or settings.model})
    if not settings.model:
        usage.error("expected --model DIR or NAME, or OMNI_MODEL")
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
    except KeyboardInterrupt:
        return 130


def _serve(given: argparse.Namespace, settings: "Settings") -> int:
    from workers.serving.door import gate_for

    gate = gate_for(settings, given.host)
    serving = serving_of(given, settings)

    import uvicorn

    from omni_jobs import telemetry
    from workers.serving.app import create_app
    from workers.serving.server import BREAK_OFF_S, Server

    config = uvicorn.Config(
        create_app(serving, gate),
        host=given.host,
        port=given.port,
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=BREAK_OFF_S,
    )
    # A port that is in use is said before the weights are read; nobody is let in before they are.
    listener = config.bind_socket()
    if not given.lazy:
        serving.resident.take()
        serving.resident.give_back()
    host, port = listener.getsockname()[:2]
    telemetry.get_logger().info("serving.listening", host=host, port=port, model=serving.names[0])
    drain_s = settings.drain_s if given.drain_s is None else given.drain_s
    Server(config, serving.resident, drain_s).run(sockets=[listener])
    telemetry.get_logger().info("serving.ended")
    return 0


def serving_of(given: argparse.Namespace, settings: "Settings") -> "Serving":
    """What the options say.

    Raises:
        NoModel, NotWhole, Changed: no model of that name, or not as it was added.
        CheckpointError: the directory holds no model.
    """
    from omni_jobs.models import resolve_model
    from omni_jobs.models.add import name_of

    path = resolve_model(settings)  # torch takes seconds to load, and a mistake should not

    import torch

    from workers.engine.checkpoint.reader import Checkpoint
    from workers.engine.start import CPU, GPU, start
    from workers.room import Room
    from workers.serving.app import Serving
    from workers.serving.bodies import Bodies
    from workers.serving.decoding import Watching
    from workers.serving.resident import Resident
    from workers.serving.sources import Sources

    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    context = min(given.context, Checkpoint.open(path).config.text.max_position_embeddings)
    budgets = replace(GPU if device.startswith("cuda") else CPU, context=context)
    most_bytes = given.max_body_mb << 20
    return Serving(
        resident=Resident(
            lambda: start(path, device=device, budgets=budgets), idle_s=given.idle_s, most=given.max_requests
        ),
        names=tuple(given.name or (name_of(settings.model),)),
        context=context,
        sources=Sources(settings.file_roots if given.allowed_root is None else given.allowed_root),
        watching=Watching(given.video_fps, given.video_frames, pruning_rate=given.video_pruning_rate),
        room=Room(given.max_media_mb << 20),
        bodies=Bodies(most_bytes, 4 * most_bytes),
        apart=given.reasoning == "apart",
    )
