"""The account that servers run as when we are root: PostgreSQL refuses root, and the others need it as little."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from omni_jobs.errors import Refused, Unavailable

# An account of the system; a uid without a passwd entry makes initdb fail.
CANDIDATES = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    uid: int
    gid: int

    @classmethod
    def for_data(cls, data: Path) -> "Account | None":
        """Who runs the server of this data folder: its owner, else the first candidate; None when we are not root."""
        if os.geteuid() != 0:
            return None
        if data.exists() and (owner := data.stat().st_uid) != 0:
            return cls._of(pwd.getpwuid(owner))
        for name in CANDIDATES:
            try:
                return cls._of(pwd.getpwnam(name))
            except KeyError:
                continue
        raise Unavailable(f"as root the servers need another account to run as; none of {', '.join(CANDIDATES)} exists")

    @classmethod
    def _of(cls, entry: pwd.struct_passwd) -> "Account":
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)

    def blocked_at(self, path: Path) -> Path | None:
        """The first of a path's folders, or the file itself, that this account may not enter or run."""
        # Asked of the kernel as that user: mode bits alone would miss access lists and mounts.
        ask = 'for part; do test -x "$part" || { printf %s "$part"; exit 1; }; done'
        parts = [str(part) for part in (*reversed(path.parents), path)]
        answer = subprocess.run(
            ["/bin/sh", "-c", ask, "sh", *parts],
            user=self.uid, group=self.gid, extra_groups=[], cwd="/", stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip
        return None if answer.returncode == 0 else Path(os.fsdecode(answer.stdout))

    def own(self, path: Path) -> None:
        os.chown(path, self.uid, self.gid)


def own_folder(path: Path, account: Account | None) -> Path:
    """A 0700 folder for a server's account.

    Raises:
        Refused: the account may not get there.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    if account is not None:
        account.own(path)
        if (wall := account.blocked_at(path)) is not None:
            raise Refused(
                f"as root the servers run as {account.name}, who may not enter {wall}: "
                "set OMNI_HOME to a folder that others may pass through, such as /var/lib/omni-jobs"
            )
    return path


def own_file(path: Path, text: str, account: Account | None) -> Path:
    """A 0600 file that only a server's account reads; replaces what was there."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    if account is not None:
        account.own(path)
    return path
