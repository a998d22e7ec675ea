"""Pages and pictures: what a model reads in the picture of a page, held against the page's own words.

A page whose text layer is trusted comes without a picture and is answered from that layer: it is exact, and its boxes
are. A page without ink is not shown to a model, which would read something in it.
"""

import io
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from PIL import Image

from workers import prompts
from workers.answers import Box, PageAnswer, PageBlock
from workers.backends.asking.work import Work
from workers.backends.embedded.pages import AGREEMENT, bag, enlarged, from_layer, is_blank, picture_of, why_unusable
from workers.inputs import CanonicalPage, PageWord
from workers.media.video import JPEG_QUALITY
from workers.prompts import BlockSaid, PageSaid

PLACED = 0.5  # of the words of a block must be found in the layer for it to have a place
PLACELESS = "A model read its picture; a block whose words are not in the text layer has the whole page as its place."


async def read(work: Work, page: CanonicalPage) -> PageAnswer:
    """The blocks of a page; once refused, it is shown larger."""
    unusable = why_unusable(page.words)
    if not page.jpeg:
        if unusable:
            return PageAnswer(source="none", reason=unusable, unread=f"{unusable} No picture was made of it.")
        return await work.off_loop(lambda: from_layer(page, lambda: None))
    if await work.off_loop(lambda: is_blank(picture_of(page.jpeg))):
        return PageAnswer(source="none") if not page.words else from_layer(page, lambda: None)
    shown = await work.off_loop(lambda: _larger(page)) if work.again else page
    said = await work.parsed(prompts.read_page(page.page, again=work.again), shown)
    return await work.off_loop(lambda: answer_of(page, said, unusable))


def answer_of(page: CanonicalPage, said: PageSaid, unusable: str) -> PageAnswer:
    """The text layer where the model's reading confirms it, else that reading.

    Args:
        unusable: why the layer cannot be used at all; empty when it can.
    """
    blocks = [block for block in said.blocks if block.text.strip() or block.rows]
    if not unusable:
        layer, read = bag(word.text for word in page.words), bag(text for block in blocks for text in _texts(block))
        agreement = (layer & read).total() / max(layer.total(), read.total(), 1)
        if agreement >= AGREEMENT:
            return from_layer(page, lambda: None)
        unusable = f"The text layer does not say what is printed: {agreement:.0%} of the words agree."
    places = placed(blocks, page)
    return PageAnswer(
        source="ocr",
        reason=f"{unusable} {PLACELESS}",
        unread=" ".join(said.unread.split()),
        language=said.language.strip().lower()[:2] if len(said.language.strip()) in (2, 3) else "",
        blocks=[_block(block, box) for block, box in zip(blocks, places, strict=True)],
    )


def _block(said: BlockSaid, box: Box) -> PageBlock:
    rows = [list(row) for row in said.rows if row] if said.kind == "table" else []
    spare = "\n".join("\t".join(row) for row in said.rows) if not rows else ""
    return PageBlock(kind=said.kind, box=box, text=said.text.strip() or spare, rows=rows or None)


def _texts(block: BlockSaid) -> list[str]:
    return [block.text, *(cell for row in block.rows for cell in row)]


def placed(blocks: Sequence[BlockSaid], page: CanonicalPage) -> list[Box]:
    """Where each block stands: around its words, as far as the layer has them in the same order; else the page."""
    words = [(key, word) for word in page.words if (key := _key(word.text))]
    tokens = [(_key(text), index) for index, block in enumerate(blocks) for text in " ".join(_texts(block)).split()]
    tokens = [(key, index) for key, index in tokens if key]
    found: list[list[PageWord]] = [[] for _ in blocks]
    matcher = SequenceMatcher(None, [key for key, _ in words], [key for key, _ in tokens], autojunk=False)
    for run in matcher.get_matching_blocks():
        for k in range(run.size):
            found[tokens[run.b + k][1]].append(words[run.a + k][1])
    sizes = [sum(index == own for _, index in tokens) for own in range(len(blocks))]
    whole = (0.0, 0.0, round(page.width_pt, 2), round(page.height_pt, 2))
    known = [bool(own) and len(own) >= PLACED * size for own, size in zip(found, sizes, strict=True)]
    return [_around(own) if place else whole for own, place in zip(found, known, strict=True)]


def _around(words: Sequence[PageWord]) -> Box:
    return (
        round(min(word.x0 for word in words), 2),
        round(min(word.y0 for word in words), 2),
        round(max(word.x1 for word in words), 2),
        round(max(word.y1 for word in words), 2),
    )


def _key(text: str) -> str:
    return "".join(sign for sign in text.casefold() if sign.isalnum())


def _larger(page: CanonicalPage) -> CanonicalPage:
    buffer = io.BytesIO()
    Image.fromarray(enlarged(picture_of(page.jpeg))).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return replace(page, jpeg=buffer.getvalue())
