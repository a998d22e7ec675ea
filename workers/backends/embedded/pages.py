"""Pages and pictures: the words of a trustworthy text layer, else what OCR reads, as blocks in reading order.

Preparing a page renders it only where something speaks against its text layer (`workers.media.layers`: a scan with
words laid under it, hidden text, odd characters). So a page without a picture is answered from its words, and where
there is a picture OCR reads it and has to confirm them.
"""

import io
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from workers.answers import Box, PageAnswer
from workers.backends.backend import Cancelled
from workers.backends.embedded.layout import blocks_of
from workers.backends.embedded.ocr import IsCancelled, Ocr, Picture, Reading, turned_back
from workers.backends.embedded.pieces import Piece, pieces_of
from workers.inputs import CanonicalPage, PageWord

UNMAPPABLE_SHARE = 0.1
AGREEMENT = 0.5  # honest layers agree with OCR to 0.9 and more, those of other pages to 0.1
OCR_SHARE = 0.8  # of the work of a page with a picture
BLANK_DEVIATION = 1.5  # standard deviation of grey levels, 0..255: JPEG noise on an empty page stays below


class Pages:
    """Threads: `read` may be called from several; OCR takes turns."""

    def __init__(self, threads: int = 1, ocr: Ocr | None = None) -> None:
        self.ocr = ocr or Ocr(threads)

    def digests(self) -> dict[str, Path]:
        return self.ocr.digests()

    def read(
        self,
        page: CanonicalPage,
        *,
        rung: int = 0,
        cancelled: IsCancelled = lambda: False,
        on_progress: Callable[[float], None] = lambda done: None,
    ) -> PageAnswer:
        """Answer one page.

        Args:
            page: canonical, with or without a picture and words.
            cancelled: asked between any two steps.
            rung: 0 at first; from 1 on OCR sees a larger picture.
            on_progress: told how much is done, 0..1.

        Raises:
            Cancelled: `cancelled` became true; it is asked before every step.
        """

        def check() -> None:
            if cancelled():
                raise Cancelled

        unusable = why_unusable(page.words)
        if not page.jpeg:
            if unusable:
                return PageAnswer(source="none", reason=unusable, unread=f"{unusable} No picture was made of it.")
            return from_layer(page, check)
        picture = picture_of(page.jpeg)
        if is_blank(picture):
            return PageAnswer(source="none") if not page.words else from_layer(page, check)
        picture = enlarged(picture) if rung else picture
        reading = self.ocr.read(picture, cancelled=cancelled, on_progress=lambda done: on_progress(OCR_SHARE * done))
        answer = self._compared(page, reading, page.width_pt / picture.shape[1], unusable, check)
        on_progress(1.0)
        return answer

    def _compared(
        self, page: CanonicalPage, reading: Reading, points_per_px: float, unusable: str, check: Callable[[], object]
    ) -> PageAnswer:
        """The better of the text layer and what OCR read, or both."""
        read, unread = _ocr_pieces(page, reading, points_per_px), _unread(page, reading)

        def from_ocr(pieces: Sequence[Piece], reason: str) -> PageAnswer:
            answer = _answer(page, "ocr", pieces, reading.turn, check, reason)
            return answer.model_copy(update={"unread": unread})

        if unusable and (reading.lines or not _any_letters(page.words)):
            return from_ocr(read, unusable)
        if unusable:
            return from_layer(page, check).model_copy(update={"unread": unusable})
        layer, print_ = bag(word.text for word in page.words), bag(line.text for line in reading.lines)
        common = (layer & print_).total()
        agreement = common / max(layer.total(), print_.total(), 1)
        if agreement >= AGREEMENT or not self.ocr.knows("".join(word.text for word in page.words)):
            return from_layer(page, check)
        if common >= AGREEMENT * layer.total():
            reason = f"The text layer has only {layer.total()} words where OCR reads {print_.total()}."
            return from_ocr(_merged(page, read, reading.turn), reason)
        reason = f"The text layer does not say what is printed: {agreement:.0%} of the words agree."
        return from_ocr(read, reason)


def _unread(page: CanonicalPage, reading: Reading) -> str:
    """What OCR, or the maker of the text layer, saw and nobody could read; empty when that is nothing."""
    if reading.lines:
        return f"{_lines(reading.dropped)} of print could not be read." if reading.dropped else ""
    if reading.dropped:
        return f"Print was seen and none of it could be read: {_lines(reading.dropped)}."
    return "The text layer says that there is print, and none could be read." if page.words else ""


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"


def why_unusable(words: Sequence[PageWord]) -> str:
    """Why the text layer cannot be used at all, in a sentence; empty when it can."""
    text = "".join(word.text for word in words)
    if not text.strip():
        return "The page has no text layer."
    unmappable = sum(_is_unmappable(character) for character in text) / len(text)
    if unmappable > UNMAPPABLE_SHARE:
        return f"The text layer has characters without a meaning: {unmappable:.0%} of them."
    return ""


def _any_letters(words: Sequence[PageWord]) -> bool:
    """Whether most of the layer means something, after all: better than the nothing that OCR read."""
    text = "".join(word.text for word in words)
    return sum(map(_is_unmappable, text)) < 0.5 * len(text)


def _is_unmappable(character: str) -> bool:
    return character == "\ufffd" or unicodedata.category(character) in ("Cc", "Co", "Cn", "Cs")


def bag(texts: Iterable[str]) -> Counter[str]:
    folded = unicodedata.normalize("NFKC", " ".join(texts)).casefold()
    return Counter("".join(c if c.isalnum() else " " for c in folded).split())


def from_layer(page: CanonicalPage, check: Callable[[], object]) -> PageAnswer:
    turn = _turn_of(page.words)
    return _answer(page, "text_layer", _layer_pieces(page, turn), turn, check)


def _layer_pieces(page: CanonicalPage, turn: int) -> list[Piece]:
    words = []
    for word in page.words:
        x0, y0, x1, y1 = _upright((word.x0, word.y0, word.x1, word.y1), turn, page)
        words.append(replace(word, x0=x0, y0=y0, x1=x1, y1=y1))
    return pieces_of(words, [_upright(box, turn, page) for box in page.rulings])


def _ocr_pieces(page: CanonicalPage, reading: Reading, points_per_px: float) -> list[Piece]:
    pieces = []
    for line in reading.lines:
        x0, y0, x1, y1 = (value * points_per_px for value in line.box)
        box = _upright((x0, y0, x1, y1), reading.turn, page)
        pieces.append(Piece(box, line.text, min(box[3] - box[1], box[2] - box[0]), score=line.score))
    return pieces


def _merged(page: CanonicalPage, read: Sequence[Piece], turn: int) -> list[Piece]:
    """The layer's own words, and what OCR read where it has none."""
    own = _layer_pieces(page, turn)
    return own + [piece for piece in read if not any(_covers(other, piece) for other in own)]


def _covers(a: Piece, b: Piece) -> bool:
    wide = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    high = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    return wide > 0.2 * min(a.box[2] - a.box[0], b.box[2] - b.box[0]) and high > 0.4 * min(a.height, b.height)


def _answer(
    page: CanonicalPage,
    source: Literal["text_layer", "ocr"],
    pieces: Sequence[Piece],
    turn: int,
    check: Callable[[], object],
    reason: str = "",
) -> PageAnswer:
    """Blocks ordered on the upright page, with their boxes on the page as shown."""
    width, height = (page.width_pt, page.height_pt) if turn % 180 == 0 else (page.height_pt, page.width_pt)
    rulings = [_upright(box, turn, page) for box in page.rulings]
    blocks = blocks_of(pieces, rulings, width, height, first=page.page == 1, check=check)
    for block in blocks:
        x0, y0, x1, y1 = turned_back(block.box, turn, page.width_pt, page.height_pt)
        block.box = round(x0, 2), round(y0, 2), round(x1, 2), round(y1, 2)
    return PageAnswer(source=source, reason=reason, rotation=turn, blocks=blocks)


def _upright(box: Box, turn: int, page: CanonicalPage) -> Box:
    """A box of the page as shown, once the page is turned `turn` degrees clockwise."""
    width, height = (page.width_pt, page.height_pt) if turn % 180 == 0 else (page.height_pt, page.width_pt)
    return turned_back(box, -turn % 360, width, height)


def _turn_of(words: Sequence[PageWord]) -> int:
    """Degrees clockwise that set the text layer upright: the way in which most neighbouring words run."""
    ways: Counter[int] = Counter()
    for a, b in pairwise(words):
        if (a.block, a.line) == (b.block, b.line):
            across, down = b.x0 + b.x1 - a.x0 - a.x1, b.y0 + b.y1 - a.y0 - a.y1
            ways[0 if abs(across) >= abs(down) else 270 if down > 0 else 90] += len(a.text)
    return max((0, 90, 270), key=lambda turn: ways[turn])


def picture_of(jpeg: bytes) -> Picture:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def is_blank(picture: Picture) -> bool:
    return float(picture.std()) < BLANK_DEVIATION


def enlarged(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    size = (width * 3 // 2, height * 3 // 2)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
