"""Text lines out of a picture: PP-OCRv6 (detector and recogniser, ONNX) through RapidOCR.

One engine is loaded on first use and shared; calls from several threads take turns. Nothing is kept between calls,
so a picture gives the same lines whatever was read before it. No network: the weights lie in the wheel.

RapidOCR reads a line that stands on its side from top to bottom only, and knows nothing of a page that lies on its
side or on its head. Here a tall line is read both ways and the better one kept, and a page is turned until it reads.
"""

import threading
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.answers import Box
from workers.backends.backend import Cancelled

Picture = NDArray[np.uint8]  # [H, W, 3] RGB
IsCancelled = Callable[[], bool]
OnProgress = Callable[[float], None]

# Over 28 pages of ICDAR 2013 wrong lines score mostly below 0.6 and right ones above 0.8 (tests/evals/eval_pages.py).
# Clean print scores above 0.8. In print degraded to 50-70 dpi 24 of 57 lines below 0.6 were wrong, and so were 9 of the
# 11 "lines" that frames without any text gave.
MIN_SCORE = 0.6
MAX_SIDE_PX = 2000
BATCH_LINES = 6
SAMPLE_LINES = 8
FIND_SHARE = 0.3  # of the work of a picture: finding its lines
UPRIGHT_SCORE = 0.88
TURN_MARGIN = 0.05
TURN_CHARACTERS = 8  # in the sample: fewer do not tell the way up
SPOT = 2, 0.2  # so few characters over so large a part of the picture are no text
TALL = 1.5
WEIGHTS = ("PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text; the box is in pixels of the picture as given, whatever way it was read."""

    text: str
    box: Box
    score: float


@dataclass(frozen=True, slots=True)
class Reading:
    """All lines of a picture, unordered.

    Attributes:
        turn: degrees clockwise by which the picture must be turned to read upright: 0, 90, 180 or 270.
        dropped: lines that scored below `min_score`.
    """

    lines: tuple[Line, ...]
    turn: int = 0
    dropped: int = 0


class Ocr:
    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._engine: Any = None
        self._lock = threading.Lock()

    @staticmethod
    def digests() -> dict[str, Path]:
        """The weight files used, by name."""
        spec = find_spec("rapidocr")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("rapidocr is not installed; it is part of the extra `embedded`")
        return {name: Path(spec.origin).parent / "models" / name for name in WEIGHTS}

    def read(
        self,
        picture: Picture,
        *,
        cancelled: IsCancelled,
        any_way_up: bool = True,
        min_score: float = MIN_SCORE,
        on_progress: OnProgress = lambda done: None,
    ) -> Reading:
        """Find and read every line.

        Args:
            picture: [H, W, 3] uint8, RGB.
            cancelled: asked before every step.
            min_score: lines that the recogniser is less sure of are dropped.
            any_way_up: also look whether the picture lies on its side or on its head.
            on_progress: told how much is done, 0..1.

        Raises:
            Cancelled: `cancelled` became true; it is asked before every step.
        """
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise ValueError(f"expected [H, W, 3] uint8, got {list(picture.shape)} {picture.dtype}")
        image = np.ascontiguousarray(picture[:, :, ::-1])
        crops, quads = self._find(image, cancelled)
        on_progress(FIND_SHARE)
        turn = 0
        if any_way_up and quads is not None:
            turn = self._turn(image, crops, quads, cancelled)
            if turn:
                crops, quads = self._find(np.ascontiguousarray(np.rot90(image, -turn // 90)), cancelled)
        if quads is None:
            return Reading((), turn)
        height, width = picture.shape[:2]
        read = self._recognise_any_way(
            crops, quads, cancelled, lambda done: on_progress(FIND_SHARE + (1 - FIND_SHARE) * done)
        )
        lines = tuple(
            Line(text.strip(), turned_back(_bounds(quad), turn, width, height), score)
            for quad, (text, score) in zip(quads, read, strict=True)
            if text.strip() and not _is_spot(text, quad, width * height)
        )
        kept = tuple(line for line in lines if line.score >= min_score)
        return Reading(kept, turn, len(lines) - len(kept))

    def knows(self, text: str) -> bool:
        """Whether the recogniser has the signs of this text; it has no Arabic, Hebrew or Thai, for instance."""
        with self._lock:
            recogniser = self._load().text_rec  # None until it has read a line
            alphabet = set(recogniser.postprocess_op.character) if recogniser else set()
        letters = [c for c in unicodedata.normalize("NFKC", text) if c.isalpha()]
        return not letters or not alphabet or sum(c in alphabet for c in letters) >= 0.8 * len(letters)

    def _turn(self, image: Picture, crops: list[Picture], quads: NDArray[Any], cancelled: IsCancelled) -> int:
        """Degrees clockwise that set the text upright.

        Which lines stand says whether the page lies on its side; the score of its longest lines, read both ways,
        says which way is up. An upright page costs the sample only when it reads badly.
        """
        sizes = np.array([max(crop.shape[:2]) for crop in crops])
        tall = np.array([_is_tall(quad) for quad in quads])
        sideways = bool(sizes[tall].sum() > sizes[~tall].sum())
        longest = [crops[k] for k in np.argsort(-sizes, kind="stable") if tall[k] == sideways][:SAMPLE_LINES]
        # RapidOCR has stood tall crops up by turning them 90 degrees counterclockwise, which is 270 clockwise.
        first, second = (270, 90) if sideways else (0, 180)
        read = self._recognise(longest, cancelled)
        if _mean_score(read) < UPRIGHT_SCORE:
            other = self._recognise([_flip(crop) for crop in longest], cancelled)
            if _mean_score(other) > _mean_score(read) + TURN_MARGIN:
                first, read = second, other
        return first if sum(len(text) for text, _ in read) >= TURN_CHARACTERS else 0

    def _recognise_any_way(
        self, crops: list[Picture], quads: NDArray[Any], cancelled: IsCancelled, on_progress: OnProgress
    ) -> list[tuple[str, float]]:
        """Read all lines; those that stand are read in both directions and the better reading is kept."""
        read = self._recognise(crops, cancelled, on_progress)
        tall = [k for k, quad in enumerate(quads) if _is_tall(quad) and read[k][1] < UPRIGHT_SCORE]
        for k, other in zip(tall, self._recognise([_flip(crops[k]) for k in tall], cancelled), strict=True):
            read[k] = max(read[k], other, key=lambda pair: pair[1])
        return read

    def _find(self, image: Picture, cancelled: IsCancelled) -> tuple[list[Picture], NDArray[Any] | None]:
        """Crops and their corners [N, 4, 2] in pixels of `image`."""
        _check(cancelled)
        from rapidocr.main import RapidOCRError
        from rapidocr.utils.process_img import map_boxes_to_original

        with self._lock:
            engine = self._load()
            small, record = engine.preprocess_img(image)
            try:
                crops, detected = engine.detect_and_crop(small, record)
            except RapidOCRError:  # its way of saying "no text"
                return [], None
        quads = detected.boxes.astype(np.float32)
        return crops, map_boxes_to_original(quads, record, *image.shape[:2])

    def _recognise(
        self, crops: list[Picture], cancelled: IsCancelled, on_progress: OnProgress = lambda done: None
    ) -> list[tuple[str, float]]:
        read: list[tuple[str, float]] = [("", 0.0)] * len(crops)
        by_width = sorted(range(len(crops)), key=lambda k: crops[k].shape[1] / crops[k].shape[0])
        for start in range(0, len(by_width), BATCH_LINES):
            _check(cancelled)
            batch = by_width[start : start + BATCH_LINES]
            with self._lock:
                output = self._load().recognize_txt([crops[k] for k in batch])
            for k, text, score in zip(batch, output.txts, output.scores, strict=True):
                read[k] = (text, float(score))
            on_progress(min(1.0, (start + BATCH_LINES) / len(crops)))
        return read

    def _load(self) -> Any:
        if self._engine is None:
            self._engine = _engine(self.threads)
        return self._engine


def turned_back(box: Box, turn: int, width: float, height: float) -> Box:
    """A box of a page after turning it `turn` degrees clockwise, as a box of the page before.

    Args:
        box: on the turned page.
        turn: 0, 90, 180 or 270.
        width: of the page before turning.
        height: of the page before turning.
    """
    x0, y0, x1, y1 = box
    if turn == 90:
        return y0, height - x1, y1, height - x0
    if turn == 180:
        return width - x1, height - y1, width - x0, height - y0
    if turn == 270:
        return width - y1, x0, width - y0, x1
    return box


def _engine(threads: int) -> Any:
    from rapidocr import RapidOCR

    files = Ocr.digests()
    return RapidOCR(
        params={
            "Global.use_cls": False,
            "Global.log_level": "critical",
            "Global.max_side_len": MAX_SIDE_PX,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "Det.model_path": str(files[WEIGHTS[0]]),
            "Rec.model_path": str(files[WEIGHTS[1]]),
            "Rec.rec_batch_num": BATCH_LINES,
        }
    )


def _check(cancelled: IsCancelled) -> None:
    if cancelled():
        raise Cancelled


def _is_tall(quad: NDArray[Any]) -> bool:
    """Whether RapidOCR turned the crop of this quad (the same rule as its `get_rotate_crop_image`)."""
    width = max(np.linalg.norm(quad[0] - quad[1]), np.linalg.norm(quad[2] - quad[3]))
    height = max(np.linalg.norm(quad[0] - quad[3]), np.linalg.norm(quad[1] - quad[2]))
    return bool(height >= TALL * max(width, 1.0))


def _bounds(quad: NDArray[Any]) -> Box:
    (x0, y0), (x1, y1) = quad.min(axis=0), quad.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def _is_spot(text: str, quad: NDArray[Any], area: float) -> bool:
    """One huge sign where the detector took a whole picture for a line."""
    x0, y0, x1, y1 = _bounds(quad)
    characters, share = SPOT
    return len(text.strip()) <= characters and (x1 - x0) * (y1 - y0) > share * area


def _flip(crop: Picture) -> Picture:
    return np.ascontiguousarray(crop[::-1, ::-1])


def _mean_score(read: list[tuple[str, float]]) -> float:
    return sum(score for _, score in read) / max(len(read), 1)
