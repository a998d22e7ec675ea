"""Reads PDF pages: their words with boxes as shown, drawn lines, and a rendering where it is needed."""

import math
import mmap
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
import pymupdf

from omni_jobs.errors import ErrorType, SourceError
from workers.media.inside.contents import unpacks_beyond
from workers.media.layers import PageFacts, is_odd, needs_image
from workers.media.page_ranges import pages_within
from workers.media.wire import Message

MOST_PIXELS = 50_000_000
MOST_IMAGE_PIXELS = 600_000_000  # a scan of A0 at 600 dpi
MOST_SIDE_PX = 65_000  # of a JPEG
MOST_CONTENTS_BYTES = 128 << 20
LEAST_DPI = 20.0
MOST_PATHS = 5_000
MOST_RULINGS = 2_000
MOST_WORDS = 50_000
SHRINK_PAGES = 16  # fonts and pictures of earlier pages are forgotten
BOLD = 16
# Every later look at a page interprets it anew; one that takes this long is not looked at again.
SLOW_CPU_S = 3.0
TAGS = ("title", "author", "subject", "keywords", "creator", "producer", "creationDate")


def run(source: BinaryIO, params: dict[str, Any]) -> Iterator[Message]:
    """`open` (pages, encrypted, metadata), then for each page `begin` and `page` or `failure`."""
    pymupdf.TOOLS.mupdf_display_errors(False)
    pymupdf.TOOLS.mupdf_display_warnings(False)
    document, encrypted = _opened(source, params["password"])
    metadata = document.metadata or {}
    tags = {tag: metadata[tag] for tag in TAGS if metadata.get(tag)}
    yield Message("open", {"pages": document.page_count, "encrypted": encrypted, "metadata": tags})
    if params.get("facts"):
        return
    left = params["left"]
    for index, number in enumerate(pages_within(document.page_count, params["ranges"]) if left is None else left):
        yield Message("begin", {"page": number})
        yield _page(document, number, params["dpi"], params["render"] == "all")
        if index % SHRINK_PAGES == SHRINK_PAGES - 1:
            pymupdf.TOOLS.store_shrink(100)


def _opened(source: BinaryIO, password: str) -> tuple[pymupdf.Document, bool]:
    """The open document, and whether it took the password to open it."""
    # Mapped, not read: a large file costs address space only.
    data = memoryview(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        document = pymupdf.Document(stream=data, filetype="pdf")
        if not document.is_pdf:  # whatever the wanted type, content that looks like another wins
            raise SourceError(ErrorType.UNSUPPORTED, "expected a PDF, got a document of another kind")
        # Asked once: asking tries the empty password and would shut it again.
        encrypted = bool(document.needs_pass)
        if encrypted and not document.authenticate(password):
            which = "the right password, got a wrong one" if password else "a password, got none"
            raise SourceError(ErrorType.ENCRYPTED, f"expected {which}: this PDF is encrypted")
        pages = document.page_count
    except SourceError:
        raise
    except Exception as error:
        if _out_of_memory(error):
            raise MemoryError from error
        raise SourceError(
            ErrorType.UNREADABLE, "expected a PDF that can be opened, and this one is damaged beyond repair"
        ) from error
    if not pages and document.is_repaired:
        raise SourceError(ErrorType.UNREADABLE, "expected pages, and none of this damaged PDF could be recovered")
    if not pages:
        raise SourceError(ErrorType.EMPTY, "expected a PDF with pages, got one of 0 pages")
    return document, encrypted


def _page(document: pymupdf.Document, number: int, dpi: float, render_all: bool) -> Message:
    try:
        return _read(document, number, dpi, render_all)
    except SourceError as error:
        return _failure(number, error.type, str(error))
    except MemoryError:
        return _failure(number, ErrorType.TOO_LARGE, f"page {number} needs more memory than a page may take")
    except Exception as error:
        if _out_of_memory(error):
            return _failure(number, ErrorType.TOO_LARGE, f"page {number} needs more memory than a page may take")
        return _failure(number, ErrorType.UNREADABLE, f"page {number} is damaged and cannot be read")


def _failure(number: int, kind: ErrorType, message: str) -> Message:
    return Message("failure", {"page": number, "type": kind, "message": message})


def _out_of_memory(error: Exception) -> bool:
    words = f"{type(error).__name__} {error}"
    return isinstance(error, MemoryError) or "malloc" in words or "FzErrorLimit" in words or "FzErrorSystem" in words


def _read(document: pymupdf.Document, number: int, dpi: float, render_all: bool) -> Message:
    page = document[number - 1]
    rect = page.rect
    if not (0 < rect.width < math.inf and 0 < rect.height < math.inf):
        raise SourceError(ErrorType.UNREADABLE, f"page {number} has no area")
    if unpacks_beyond(document, page, MOST_CONTENTS_BYTES):
        size = f"{MOST_CONTENTS_BYTES >> 20} MiB of drawing instructions"
        raise SourceError(ErrorType.TOO_LARGE, f"expected at most {size}, page {number} unpacks to more")
    begun_s = time.process_time()
    words, facts = _words(page)
    head = {
        "page": number,
        "width_pt": rect.width,
        "height_pt": rect.height,
        "rotation": page.rotation,
        "words": words,
        "images_share": 0.0,
        "rulings": [],
        "dpi": _fitting_dpi(rect, dpi),
        "width_px": 0,
        "height_px": 0,
    }
    if time.process_time() - begun_s > SLOW_CPU_S:
        if not words:
            raise SourceError(ErrorType.TOO_LARGE, f"page {number} takes too long to draw")
        return Message("page", head)
    facts = _drawn(page, facts)
    head |= {
        "images_share": round(facts.images_share, 4),
        "rulings": _rulings(page) if facts.paths <= MOST_PATHS else [],
    }
    if not render_all and not needs_image(facts):
        return Message("page", head)
    if head["dpi"] < LEAST_DPI:
        if words:
            return Message("page", head)
        size = f"{rect.width:.0f} x {rect.height:.0f} points"
        raise SourceError(ErrorType.TOO_LARGE, f"expected a page that can be rendered, page {number} has {size}")
    if any(width * height > MOST_IMAGE_PIXELS for _, _, width, height, *_ in page.get_images()):
        raise SourceError(ErrorType.TOO_LARGE, f"page {number} holds a picture too large to draw")
    zoom = head["dpi"] / 72
    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(zoom, zoom), colorspace=pymupdf.csRGB)
    # The pixmap's memory goes with it, so the message takes a copy.
    return Message("page", {**head, "width_px": pixmap.width, "height_px": pixmap.height}, bytes(pixmap.samples_mv))


def _drawn(page: pymupdf.Page, facts: PageFacts) -> PageFacts:
    """`facts` with what is drawn besides words."""
    log = page.get_bboxlog()
    kinds = [kind for kind, _ in log]
    pictures = [pymupdf.Rect(box) for kind, box in log if kind in ("fill-image", "fill-imgmask")]
    return replace(
        facts,
        texts=sum(kind.endswith("-text") for kind in kinds),
        hidden_texts=kinds.count("ignore-text"),
        images_share=_covered(pictures, page.rect * page.derotation_matrix),
        paths=sum(kind.endswith("-path") for kind in kinds),
    )


def _fitting_dpi(rect: pymupdf.Rect, dpi: float) -> float:
    """`dpi`, or less where the picture would be too large."""
    by_area = 72 * math.sqrt(MOST_PIXELS / (rect.width * rect.height))
    return min(dpi, by_area, 72 * MOST_SIDE_PX / max(rect.width, rect.height))


def _words(page: pymupdf.Page) -> tuple[list[list[Any]], PageFacts]:
    """Rows of `PageWord` in the coordinates of the shown page, and the counts that need them."""
    text = page.get_textpage(flags=pymupdf.TEXT_PRESERVE_WHITESPACE)
    turn, shown = page.rotation_matrix, page.rect
    spans = _spans(text)
    rows: list[list[Any]] = []
    outside = characters = odd = 0
    for x0, y0, x1, y1, word, block, line, _ in text.extractWORDS():
        characters += len(word)
        odd += sum(map(is_odd, word))
        box = pymupdf.Rect(x0, y0, x1, y1) * turn
        middle = pymupdf.Point((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
        if middle not in shown:
            outside += 1
            continue
        size_pt, bold = _look(spans.get((block, line), []), (x0 + x1) / 2, (y0 + y1) / 2)
        if len(rows) < MOST_WORDS:
            corners = [round(value, 2) for value in (box.x0, box.y0, box.x1, box.y1)]
            rows.append([*corners, word.replace("\0", ""), block, line, size_pt, bold])
    return rows, PageFacts(len(rows), characters, odd, outside_words=outside)


Span = tuple[float, float, float, float, float, bool]


def _spans(text: pymupdf.TextPage) -> dict[tuple[int, int], list[Span]]:
    """Box, size and weight of the runs of one font, by block and line."""
    return {
        (block["number"], index): [
            (*span["bbox"], round(span["size"], 2), bool(span["flags"] & BOLD) or "Bold" in span["font"])
            for span in line["spans"]
        ]
        for block in text.extractDICT()["blocks"]
        for index, line in enumerate(block.get("lines", ()))
    }


def _look(spans: list[Span], x: float, y: float) -> tuple[float, bool]:
    for x0, y0, x1, y1, size_pt, bold in spans:
        if x0 <= x <= x1 and y0 <= y <= y1:
            return size_pt, bold
    return (spans[0][4], spans[0][5]) if spans else (0.0, False)


def _covered(boxes: list[pymupdf.Rect], page: pymupdf.Rect) -> float:
    """Share of the page under the boxes, on a grid of 100 x 100."""
    page = page.normalize()
    grid = np.zeros((100, 100), bool)
    for box in boxes:
        box = (box & page) if not box.is_infinite else page
        if box.is_empty:
            continue
        x0, x1 = ((value - page.x0) / page.width * 100 for value in (box.x0, box.x1))
        y0, y1 = ((value - page.y0) / page.height * 100 for value in (box.y0, box.y1))
        grid[round(y0) : round(y1), round(x0) : round(x1)] = True
    return float(grid.mean())


def _rulings(page: pymupdf.Page) -> list[list[float]]:
    """Level and upright lines and edges of boxes, as shown."""
    found: list[list[float]] = []
    for drawing in page.get_cdrawings() or ():
        for item in drawing.get("items", ()):
            for line in _lines(item):
                box = line * page.rotation_matrix
                found.append([round(value, 2) for value in (box.x0, box.y0, box.x1, box.y1)])
        if len(found) > MOST_RULINGS:
            return found[:MOST_RULINGS]
    return found


def _lines(item: tuple[Any, ...]) -> list[pymupdf.Rect]:
    if item[0] == "l":
        (x0, y0), (x1, y1) = item[1], item[2]
        if min(abs(x1 - x0), abs(y1 - y0)) > 1 or max(abs(x1 - x0), abs(y1 - y0)) < 5:
            return []
        return [pymupdf.Rect(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))]
    if item[0] != "re":
        return []
    x0, y0, x1, y1 = item[1]
    if max(x1 - x0, y1 - y0) < 5:
        return []
    if min(x1 - x0, y1 - y0) < 3:  # a line drawn as a thin box
        middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
        level = x1 - x0 > y1 - y0
        return [pymupdf.Rect(x0, middle_y, x1, middle_y) if level else pymupdf.Rect(middle_x, y0, middle_x, y1)]
    edges = ((x0, y0, x1, y0), (x0, y1, x1, y1), (x0, y0, x0, y1), (x1, y0, x1, y1))
    return [pymupdf.Rect(edge) for edge in edges]
