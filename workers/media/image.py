"""Picture files as pages: upright, RGB, one for each page of a TIFF; of an animation the first frame.

A page of a TIFF that cannot be decoded is a `PageFailure`, and the others are read all the same.
"""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from workers.inputs import CanonicalPage
from workers.media.magic import HEAD_BYTES, Family, family
from workers.media.paging import PageFailure, read_pages
from workers.media.probe import heif_unsupported
from workers.media.sandbox import Limits, run
from workers.media.video import jpeg_of
from workers.media.wire import Message

PAGE_TIMEOUT_S = 30.0


def page(
    source: BinaryIO, limits: Limits, *, cancel: threading.Event | None = None
) -> Iterator[CanonicalPage | PageFailure]:
    """Yield the pages of a picture file.

    A damaged page that could be decoded in part is yielded, followed by a `PageFailure` with `partial` set.

    Raises:
        SourceError: empty, unreadable, unsupported, too_large, or how the child ended.
        SandboxCancelled: `cancel` was set.
    """
    if family(os.pread(source.fileno(), HEAD_BYTES, 0)) is Family.PHOTO_UNSUPPORTED:
        raise heif_unsupported()
    limits = replace(limits, quiet_s=min(PAGE_TIMEOUT_S, limits.quiet_s or PAGE_TIMEOUT_S))
    return read_pages(
        lambda left: run("image", source, {"left": left}, limits, cancel),
        lambda count: list(range(1, count + 1)),
        _page,
        PAGE_TIMEOUT_S,
    )


def _page(message: Message) -> CanonicalPage:
    head, payload = message.head, message.payload
    width_pt, height_pt = head["source_px"]
    return CanonicalPage(
        page=int(head["page"]),
        width_pt=float(width_pt),
        height_pt=float(height_pt),
        width_px=int(head["width_px"]),
        height_px=int(head["height_px"]),
        dpi=72.0 * head["width_px"] / width_pt,
        rotation=int(head["rotation"]),
        jpeg=jpeg_of(payload, head["width_px"], head["height_px"]),
        images_share=1.0,
    )
