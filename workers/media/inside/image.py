"""Opens picture files: each page or the first frame, upright, in plain RGB."""

import io
import math
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from omni_jobs.errors import ErrorType, SourceError
from workers.media.inside.directories import directories, starting_at
from workers.media.wire import Message

# JPEG includes the multi-picture files of phones, which Pillow names MPO.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "AVIF")
MOST_PIXELS = 100_000_000
# What is handed on: enough for A4 at 400 dpi.
MOST_SHOWN_PIXELS = 16_000_000
MOST_SIDE_PX = 16_000
MOST_PAGES = 10_000

# What Pillow raises for damaged files: of tags that are not what they should be, nearly anything.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, ArithmeticError, struct.error)
MOST_TRIED = 100  # pages, until one opens

# The plugins are loaded now: later nothing can be opened. The size is checked here, before anything is decoded.
Image.init()
Image.MAX_IMAGE_PIXELS = None


def run(source: BinaryIO, params: dict[str, Any]) -> Iterator[Message]:
    """`open` (format, pages, whether it moves), then `begin` and `page` or `failure` for each page that is `left`."""
    file = io.BufferedReader(source)  # type: ignore[type-var]
    offsets = directories(file)
    image = _first(file, offsets)
    pages = max(len(offsets), 1)
    if pages > MOST_PAGES:
        raise SourceError(ErrorType.TOO_LARGE, f"expected at most {MOST_PAGES} pages, got more")
    moves = image.format == "GIF" and bool(getattr(image, "is_animated", False))
    name = "jpeg" if image.format == "MPO" else str(image.format).lower()
    yield Message("open", {"format": name, "pages": pages, "moves": moves})
    if params.get("facts"):
        return
    for number in params.get("left") or range(1, pages + 1):
        yield Message("begin", {"page": number})
        yield from _page(file, number, offsets[number - 1] if offsets else 0)


def _first(file: Any, offsets: list[int]) -> Image.Image:
    """The first page that opens.

    Raises:
        SourceError: what is wrong with the first, where none does.
    """
    problem: SourceError | None = None
    for offset in offsets[:MOST_TRIED] or [0]:
        try:
            return _opened(file, offset, descriptor=False)
        except SourceError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _opened(file: Any, offset: int, *, descriptor: bool) -> Image.Image:
    """The page of a TIFF whose directory lies at `offset`; 0 for other pictures."""
    try:
        image = Image.open(starting_at(file, offset, descriptor=descriptor), formats=FORMATS)
        _check(image)
        return image
    except UnidentifiedImageError as error:
        raise SourceError(
            ErrorType.UNREADABLE, "expected JPEG, PNG, TIFF, WebP, AVIF, BMP or GIF, and no reader recognises this file"
        ) from error
    except DAMAGE as error:
        raise _problem(error) from error


def _check(image: Image.Image) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise SourceError(
            ErrorType.TOO_LARGE,
            f"expected at most {MOST_PIXELS // 1_000_000} megapixels, got {image.width} x {image.height}",
        )


def _problem(error: Exception) -> SourceError:
    if "too large" in str(error):  # a text chunk that unpacks to more than its limit
        return SourceError(ErrorType.TOO_LARGE, "expected a picture, got one with a chunk that unpacks to far too much")
    return SourceError(ErrorType.UNREADABLE, "expected a picture that decodes, and this one is damaged")


def _page(file: Any, number: int, offset: int) -> Iterator[Message]:
    """The page, or what can be had of it with a `failure` that says so."""
    try:
        image, damaged = _decoded(file, offset)
        turn = _rotation(image)
        source_size = image.size if turn in (0, 180) else image.size[::-1]
        shown = _shrunk(_plain(ImageOps.exif_transpose(image)))
    except SourceError as error:
        yield Message("failure", {"page": number, "type": error.type, "message": str(error), "partial": False})
        return
    except DAMAGE as error:
        problem = _problem(error)
        yield Message("failure", {"page": number, "type": problem.type, "message": str(problem), "partial": False})
        return
    head = {"page": number, "source_px": source_size, "rotation": turn}
    yield Message("page", {**head, "width_px": shown.width, "height_px": shown.height}, shown.tobytes())
    if damaged:
        text = "the picture is damaged or cut off: what could be decoded is shown"
        yield Message("failure", {"page": number, "type": ErrorType.UNREADABLE, "message": text, "partial": True})


def _decoded(file: Any, offset: int) -> tuple[Image.Image, bool]:
    """The loaded picture, and whether a part of it is missing."""
    for forgiving in (False, True):
        ImageFile.LOAD_TRUNCATED_IMAGES = forgiving
        try:
            image = _opened(file, offset, descriptor=not forgiving)
            image.load()
        except SourceError:
            raise
        except DAMAGE as error:
            if forgiving:
                raise _problem(error) from error
            continue
        if forgiving and _is_blank(image):
            raise SourceError(ErrorType.UNREADABLE, "expected a picture that decodes, and no part of this one does")
        return image, forgiving
    raise AssertionError("unreachable")


def _is_blank(image: Image.Image) -> bool:
    extrema = image.convert("RGB").getextrema()
    return all(low == high for low, high in extrema)  # type: ignore[misc]


def _rotation(image: Image.Image) -> int:
    """Degrees clockwise that EXIF asks for; mirrored ones count as their rotation."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}.get(orientation, 0)


def _plain(image: Image.Image) -> Image.Image:
    """RGB of any mode: 16 bits scaled, transparency on white, CMYK converted."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = _from_wide(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_wide(image: Image.Image) -> Image.Image:
    """8 bits of a picture with more: 16-bit by its range, others by their own."""
    values = np.asarray(image)
    if image.mode != "F" and values.size and values.min() >= 0 and values.max() <= 0xFFFF:
        return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))
    values = np.nan_to_num(values.astype(np.float32))
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8))


def _shrunk(image: Image.Image) -> Image.Image:
    scale = min(
        1.0, math.sqrt(MOST_SHOWN_PIXELS / (image.width * image.height)), MOST_SIDE_PX / max(image.width, image.height)
    )
    if scale == 1.0:
        return image
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
