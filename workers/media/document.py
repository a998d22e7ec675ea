"""Pages of a PDF, one at a time: their own words, and a JPEG where those cannot be trusted.

A page that hangs, crashes the child or takes too much is a `PageFailure`; a new child reads the others.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, Literal

from omni_jobs.errors import ErrorType, SourceError, UsageError
from workers.inputs import CanonicalPage, PageWord
from workers.media.layers import PageFacts, needs_image
from workers.media.magic import HEAD_BYTES, Family, family
from workers.media.page_ranges import pages_within
from workers.media.paging import PageFailure, read_pages
from workers.media.sandbox import Limits, run
from workers.media.video import jpeg_of
from workers.media.wire import Message

__all__ = ["PageFacts", "PageFailure", "needs_image", "pages"]

PAGE_TIMEOUT_S = 9.0  # with the start of a child: 10 s
Render = Literal["needed", "all"]


def pages(
    source: BinaryIO,
    limits: Limits,
    *,
    password: str = "",
    ranges: Sequence[tuple[int, int]] = (),
    dpi: float = 150.0,
    render: Render = "needed",
    cancel: threading.Event | None = None,
) -> Iterator[CanonicalPage | PageFailure]:
    """Yield the pages within `ranges` (from 1, both ends included; none: all), in that order.

    Raises:
        SourceError: the file as a whole: empty, encrypted, unreadable, too_large, timeout.
        UsageError: none of these pages exists.
        SandboxCancelled: `cancel` was set.
    """
    limits = replace(limits, quiet_s=min(PAGE_TIMEOUT_S, limits.quiet_s or PAGE_TIMEOUT_S))
    if family(os.pread(source.fileno(), HEAD_BYTES, 0)) is not Family.DOCUMENT:
        raise SourceError(ErrorType.UNREADABLE, "expected a PDF, got a file that does not begin like one")
    params: dict[str, Any] = {"password": password, "dpi": dpi, "render": render, "ranges": list(ranges)}
    return read_pages(
        lambda left: run("document", source, {**params, "left": left}, limits, cancel),
        lambda count: _asked(count, ranges),
        _page,
        PAGE_TIMEOUT_S,
    )


def _asked(count: int, ranges: Sequence[tuple[int, int]]) -> list[int]:
    numbers = pages_within(count, ranges)
    if not numbers:
        asked = ",".join(f"{first}-{last}" if last != first else str(first) for first, last in ranges)
        raise UsageError(f"expected pages within 1..{count}, got {asked}", pointer="/options/pages")
    return numbers


def _page(message: Message) -> CanonicalPage:
    head, payload = message.head, message.payload
    return CanonicalPage(
        page=int(head["page"]),
        width_pt=float(head["width_pt"]),
        height_pt=float(head["height_pt"]),
        width_px=int(head["width_px"]),
        height_px=int(head["height_px"]),
        dpi=float(head["dpi"]),
        rotation=int(head["rotation"]),
        jpeg=jpeg_of(payload, head["width_px"], head["height_px"]) if payload else b"",
        words=tuple(PageWord(*row) for row in head["words"]),
        images_share=float(head["images_share"]),
        rulings=tuple((row[0], row[1], row[2], row[3]) for row in head["rulings"]),
    )
