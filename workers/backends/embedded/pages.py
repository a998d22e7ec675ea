"""Pages and pictures: the words of a trustworthy text layer, else what OCR reads, as blocks in reading order.

A text layer is trusted until something speaks against it: none there, characters that mean nothing, letters in
proportions that no language has, or a page that is one picture (a scan with words laid under it). Where doubt is
left and there is a picture, OCR reads it and the two bags of words are compared.
"""

import io
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from workers.answers import Box, PageAnswer, PageBlock
from workers.backends.embedded.layout import Piece, blocks_of, pieces_of
from workers.backends.embedded.ocr import Cancelled, Ocr, Picture, Reading, turned_back
from workers.inputs import CanonicalPage, PageWord

UNMAPPABLE_SHARE = 0.1
VOWELS = frozenset("aeiouyAEIOUYàâäáãåæèéêëìíîïòóôöõøùúûüýÿœ")
VOWEL_SHARES = 0.2, 0.65  # of Latin letters; European prose lies between 0.36 and 0.5
ENOUGH_LETTERS = 60
PICTURE_SHARE = 0.5
AGREEMENT = 0.5
BLANK_DEVIATION = 1.5  # standard deviation of grey levels, 0..255: JPEG noise on an empty page stays below


class Pages:
    """Threads: `read` may be called from several; OCR takes turns."""

    def __init__(self, threads: int = 1, ocr: Ocr | None = None) -> None:
        self.ocr = ocr or Ocr(threads)

    def digests(self) -> dict[str, Path]:
        return self.ocr.digests()

    def read(self, page: CanonicalPage, *, rung: int = 0, cancelled: Cancelled = lambda: False) -> PageAnswer:
        """Answer one page.

        Args:
            page: canonical, with or without a picture and words.
            cancelled: asked between any two steps.
            rung: 0 at first; from 1 on the text layer is checked whatever it looks like, and OCR sees a larger picture.

        Raises:
            Stopped: `cancelled()` was true between two steps.
        """
        unusable, doubt = _unusable(page.words), _doubt(page)
        if not unusable and not doubt and rung == 0:
            return _from_layer(page)
        picture = _picture(page)
        if picture is None:
            return PageAnswer(source="none", reason=unusable) if unusable else _from_layer(page)
        if _is_blank(picture):
            return PageAnswer(source="none" if unusable else "text_layer", reason=unusable)
        picture = _enlarged(picture) if rung else picture
        reading = self.ocr.read(picture, cancelled=cancelled)
        if not unusable:
            agreement = _agreement((word.text for word in page.words), (line.text for line in reading.lines))
            if agreement >= AGREEMENT:
                return _from_layer(page)
            unusable = f"The text layer lies: only {agreement:.0%} of its words and of those in print agree."
        return _from_ocr(page, reading, page.width_pt / picture.shape[1], unusable)


def _unusable(words: Sequence[PageWord]) -> str:
    """Why the text layer cannot be used at all, in a sentence; empty when it can."""
    text = "".join(word.text for word in words)
    if not text.strip():
        return "The page has no text layer."
    unmappable = sum(_is_unmappable(character) for character in text) / len(text)
    if unmappable > UNMAPPABLE_SHARE:
        return f"The text layer has characters without a meaning: {unmappable:.0%} of them."
    return ""


def _is_unmappable(character: str) -> bool:
    return character == "\ufffd" or unicodedata.category(character) in ("Cc", "Co", "Cn", "Cs")


def _doubt(page: CanonicalPage) -> bool:
    """Whether print has to confirm the text layer: a scan with words laid under it, or letters in odd proportions."""
    if page.images_share > PICTURE_SHARE:
        return True
    letters = [c for word in page.words for c in word.text if c.isalpha()]
    latin = [c for c in letters if c < "\u0250"]
    if len(latin) < ENOUGH_LETTERS or len(latin) < 0.9 * len(letters):
        return False
    vowels = sum(c in VOWELS for c in latin) / len(latin)
    return not VOWEL_SHARES[0] <= vowels <= VOWEL_SHARES[1]


def _agreement(layer: Iterable[str], read: Iterable[str]) -> float:
    """Common words as a part of the larger bag: a layer with a page number for a full page does not agree."""
    a, b = _bag(layer), _bag(read)
    return (a & b).total() / max(a.total(), b.total(), 1)


def _bag(texts: Iterable[str]) -> Counter[str]:
    folded = unicodedata.normalize("NFKC", " ".join(texts)).casefold()
    return Counter("".join(c if c.isalnum() else " " for c in folded).split())


def _from_layer(page: CanonicalPage) -> PageAnswer:
    turn = _turn_of(page.words)
    words = [
        replace(word, **dict(zip(("x0", "y0", "x1", "y1"), _upright(_box(word), turn, page), strict=True)))
        for word in page.words
    ]
    rulings = [_upright(box, turn, page) for box in page.rulings]
    return PageAnswer(
        source="text_layer", rotation=turn, blocks=_blocks(page, pieces_of(words, rulings), rulings, turn)
    )


def _from_ocr(page: CanonicalPage, reading: Reading, points_per_px: float, reason: str) -> PageAnswer:
    pieces = []
    for line in reading.lines:
        x0, y0, x1, y1 = (value * points_per_px for value in line.box)
        box = _upright((x0, y0, x1, y1), reading.turn, page)
        pieces.append(Piece(box, line.text, min(box[3] - box[1], box[2] - box[0]), score=line.score))
    rulings = [_upright(box, reading.turn, page) for box in page.rulings]
    blocks = _blocks(page, pieces, rulings, reading.turn)
    return PageAnswer(source="ocr", reason=reason, rotation=reading.turn, blocks=blocks)


def _blocks(page: CanonicalPage, pieces: Sequence[Piece], rulings: Sequence[Box], turn: int) -> list[PageBlock]:
    """Blocks ordered on the upright page, with their boxes on the page as shown."""
    width, height = (page.width_pt, page.height_pt) if turn % 180 == 0 else (page.height_pt, page.width_pt)
    blocks = blocks_of(pieces, rulings, width, height, first=page.page == 1)
    for block in blocks:
        box = turned_back(block.box, turn, page.width_pt, page.height_pt)
        block.box = tuple(round(value, 2) for value in box)  # pyright: ignore[reportAttributeAccessIssue]
    return blocks


def _upright(box: Box, turn: int, page: CanonicalPage) -> Box:
    """A box of the page as shown, once the page is turned `turn` degrees clockwise."""
    width, height = (page.width_pt, page.height_pt) if turn % 180 == 0 else (page.height_pt, page.width_pt)
    return turned_back(box, -turn % 360, width, height)


def _box(word: PageWord) -> Box:
    return word.x0, word.y0, word.x1, word.y1


def _turn_of(words: Sequence[PageWord]) -> int:
    """Degrees clockwise that set the text layer upright: the way in which most neighbouring words run."""
    ways: Counter[int] = Counter()
    for a, b in pairwise(words):
        if (a.block, a.line) == (b.block, b.line):
            across, down = b.x0 + b.x1 - a.x0 - a.x1, b.y0 + b.y1 - a.y0 - a.y1
            ways[0 if abs(across) >= abs(down) else 270 if down > 0 else 90] += len(a.text)
    return max((0, 90, 270), key=lambda turn: ways[turn])


def _picture(page: CanonicalPage) -> Picture | None:
    if not page.jpeg:
        return None
    return np.asarray(Image.open(io.BytesIO(page.jpeg)).convert("RGB"))


def _is_blank(picture: Picture) -> bool:
    return float(picture.std()) < BLANK_DEVIATION


def _enlarged(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    size = (width * 3 // 2, height * 3 // 2)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
