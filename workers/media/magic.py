"""What a file is by its first bytes, never by its name. Pure."""

from enum import StrEnum


class Family(StrEnum):
    """Which reader a file goes to."""

    DOCUMENT = "document"
    IMAGE = "image"
    STREAMS = "streams"  # sound, video, or nothing we know: the demuxers have the last word
    PHOTO_UNSUPPORTED = "photo_unsupported"


HEAD_BYTES = 2048
IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"mif2")
AVIF_BRANDS = (b"avif", b"avis")
# Readers that take a PDF with junk in front must not take these: their first kilobyte may hold anything.
STREAMS = (b"RIFF", b"RIFX", b"OggS", b"fLaC", b"ID3", b"\x1aE\xdf\xa3", b"FORM", b"caff", b"FLV", b"#!AMR")


def family(head: bytes, frames_of_gif: int = 1) -> Family:
    """The family of a file that begins with `head` (`HEAD_BYTES` are enough).

    A GIF with more than one picture is a video.
    """
    if head.startswith((b"GIF87a", b"GIF89a")):
        return Family.STREAMS if frames_of_gif > 1 else Family.IMAGE
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return Family.IMAGE
    if head[4:8] == b"ftyp":
        return _by_brand(head)
    if head.startswith(IMAGES) and not (head.startswith(b"BM") and head[6:10] != b"\0\0\0\0"):
        return Family.IMAGE
    if not head.startswith(STREAMS) and b"%PDF-" in head[:1024]:
        return Family.DOCUMENT
    return Family.STREAMS


def _by_brand(head: bytes) -> Family:
    """ISO media: the major brand decides, and for `mif1` the compatible ones."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))]
    if brands[0] in AVIF_BRANDS or (brands[0] in HEIF_BRANDS and any(brand in AVIF_BRANDS for brand in brands)):
        return Family.IMAGE
    return Family.PHOTO_UNSUPPORTED if brands[0] in HEIF_BRANDS else Family.STREAMS
