"""What a URL of a message means, as an open file. Nothing is fetched from elsewhere, and no model sees a path."""

import base64
import binascii
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from omni_jobs.errors import UsageError
from workers.serving.errors import TooLarge

_DATA = re.compile(r"data:(?P<type>[^,;]*)(?P<more>(?:;[^,;]*)*),", re.IGNORECASE)
_O_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Sources:
    """Opens `data:` URLs, and `file:` ones below the allowed folders."""

    def __init__(self, roots: Sequence[Path] = (), most_bytes: int = 2 << 30) -> None:
        """
        Args:
            roots: folders below which files may be read; none: no file may.
            most_bytes: of one medium.
        """
        self.roots, self._most_bytes = tuple(root.resolve() for root in roots), most_bytes

    def open(self, url: str) -> BinaryIO:
        """
        Raises:
            UsageError: a URL of another kind, of nothing, or of what may not be read.
            TooLarge: more than `most_bytes`.
        """
        scheme = url[:16].partition(":")[0].lower()
        if scheme == "data":
            return self._data(url)
        if scheme == "file":
            return self._file(url)
        if scheme in ("http", "https"):
            raise UsageError(
                f"expected a data: or file: URL, got {scheme}: this server fetches nothing; send the bytes as "
                "data:TYPE;base64,..."
            )
        raise UsageError(f"expected a data: or file: URL, got {url[:40]!r}")

    def _data(self, url: str) -> BinaryIO:
        head = _DATA.match(url[:512])
        if head is None:
            raise UsageError(f"expected data:TYPE;base64,..., got {url[:40]!r}")
        if (len(url) - head.end()) * 3 // 4 > self._most_bytes:
            raise TooLarge(f"expected at most {self._most_bytes} bytes in a data: URL, got more")
        text = url[head.end() :]
        try:
            is_base64 = head["more"].lower().endswith(";base64")
            data = base64.b64decode(unquote(text), validate=True) if is_base64 else unquote_to_bytes(text)
        except (binascii.Error, ValueError) as error:
            raise UsageError(f"expected base64 in a data: URL, got what is none ({error})") from error
        file = os.fdopen(os.memfd_create("medium", os.MFD_CLOEXEC), "w+b")
        file.write(data)
        file.flush()
        return file

    def _file(self, url: str) -> BinaryIO:
        path = _path_of(url)
        if path is None:
            raise UsageError(f"expected file:///PATH, got {url[:80]!r}")
        if not self.roots:
            raise UsageError("expected a data: URL: this server reads no files (start it with --allowed-root DIR)")
        # Looked at before anything is opened, so that nobody learns what lies elsewhere, and again once it is open.
        self._check(Path(os.path.realpath(path)), path)
        try:
            fd = os.open(os.path.realpath(path), _O_FLAGS)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        try:
            self._check(Path(os.readlink(f"/proc/self/fd/{fd}")), path)
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise UsageError(f"expected a regular file, got another kind: {path}")
            if facts.st_size > self._most_bytes:
                raise TooLarge(f"expected a file of at most {self._most_bytes} bytes, got {facts.st_size}")
        except BaseException:
            os.close(fd)
            raise
        return os.fdopen(fd, "rb")

    def _check(self, real: Path, asked: Path) -> None:
        if not any(real.is_relative_to(root) for root in self.roots):
            raise UsageError(f"{asked} does not lie below a folder that may be read (--allowed-root)")


def _path_of(url: str) -> Path | None:
    """The path of a `file:` URL of this machine, if it can be one."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    text = unquote(parts.path)
    is_ours = parts.netloc in ("", "localhost") and text.startswith("/") and "\0" not in text
    # Bytes that are no UTF-8 come out of `unquote` replaced, lone surrogates as they are: no file is called so.
    return Path(text) if is_ours and _is_utf8(text) else None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
