"""Picture files as pages: upright, RGB, one for each page of a TIFF; of an animation the first frame."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO

from omni_jobs.errors import ErrorType, Problem
from workers.inputs import CanonicalPage
from workers.media.document import PageFailure
from workers.media.magic import HEAD_BYTES, Family, family
from workers.media.probe import heif_unsupported
from workers.media.sandbox import Limits, run
from workers.media.video import jpeg_of

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
    for message in run("image", source, {}, limits, cancel):
        head = message.head
        match message.kind:
            case "page":
                yield _page(head, message.payload)
            case "failure":
                problem = Problem(ErrorType(head["type"]), head["message"])
                yield PageFailure(int(head["page"]), problem, partial=bool(head["partial"]))


def _page(head: dict[str, Any], payload: bytes | bytearray | memoryview) -> CanonicalPage:
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
