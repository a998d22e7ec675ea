"""The folder for sockets: their paths end at 107 bytes, so it cannot lie in `home`."""

import os
import tempfile
from pathlib import Path

from omni_jobs.errors import Unavailable

# Of sun_path, without its closing zero.
LONGEST_PATH = 107
LONGEST_NAME = Path("postgres", ".s.PGSQL.65535.lock")


def runtime_folder() -> Path:
    """A new folder, which as root other accounts may pass through."""
    for parent in (tempfile.gettempdir(), "/tmp"):
        folder = Path(tempfile.mkdtemp(prefix="omni-", dir=parent))
        if len(os.fsencode(folder / LONGEST_NAME)) <= LONGEST_PATH:
            break
        folder.rmdir()
    else:
        raise Unavailable(f"{tempfile.gettempdir()} and /tmp are too long for sockets: set TMPDIR to a short folder")
    if os.geteuid() == 0:
        folder.chmod(0o711)
    return folder
