"""Which names a watcher looks at. What the bytes are is found out later; here a name only keeps out what is not meant.

So texts, subtitles and JSON beside media (ours and the user's), files that are still being downloaded (`.part`,
`.crdownload`, `~`) and hidden ones are never taken.
"""

import os
from pathlib import PurePosixPath

# A file name has at most 255 bytes; the longest suffix of a result and a number need room.
LONGEST_NAME_BYTES = 230
AUDIO = "aac ac3 aif aiff amr caf flac m4a m4b mka mp2 mp3 oga ogg opus wav wma"
VIDEO = "3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts mxf ogv ts vob webm wmv"
PAPER = "bmp gif heic jpeg jpg pdf png tif tiff webp"
SUFFIXES = frozenset(f".{name}" for name in f"{AUDIO} {VIDEO} {PAPER}".split())


def is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def is_media(path: str) -> bool:
    """Whether a path below a watched root could be media."""
    return not is_hidden(path) and PurePosixPath(path).suffix.lower() in SUFFIXES


def fitting(name: str) -> str:
    """A name that stays one when the suffix of a result is put behind it."""
    return os.fsencode(name)[:LONGEST_NAME_BYTES].decode(errors="ignore")
