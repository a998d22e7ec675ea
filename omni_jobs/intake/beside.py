"""Results beside their source: `talk.mp4` gets `talk.srt`, `talk.result.json`; a file of the user's is never touched.

The hidden file `.omni-results` of a folder lists what we wrote and of which bytes. A name is ours while the file there
is one we wrote for the same source and nobody changed; else the names become `talk.mp4.srt`, then `talk.mp4.2.srt`.
What another version of the source left, and this one does not have, goes.
"""

import hashlib
import itertools
import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from omni_jobs.formats import FILED, SUFFIX_OF
from omni_jobs.intake.names import fitting
from omni_jobs.intake.outputs import Output
from omni_jobs.intake.within import Within

INDEX = ".omni-results"


@dataclass(slots=True)
class Index:
    """Our files in one folder: name -> its source and the digests we gave it, of which it has one."""

    files: dict[str, tuple[str, list[str]]]

    @classmethod
    def read(cls, folder: Within) -> "Index":
        """What cannot be read names nothing: then every file is the user's."""
        try:
            with folder.open(INDEX) as file:
                found = json.load(file)["files"]
            return cls({name: (one["source"], list(one["sha256"])) for name, one in found.items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls({})

    def write(self, folder: Within) -> None:
        files = {name: {"source": source, "sha256": digests} for name, (source, digests) in self.files.items()}
        folder.replace(INDEX, folder.draft(iter([json.dumps({"files": files}, indent=1).encode()])))

    def add(self, name: str, source: str, sha256: str) -> None:
        """Before the file is there; the digest before stays valid until it is."""
        known_source, digests = self.files.get(name, (source, []))
        kept = digests[-1:] if known_source == source else []
        self.files[name] = (source, [digest for digest in kept if digest != sha256] + [sha256])

    def owns(self, folder: Within, name: str, source: str) -> bool:
        known_source, digests = self.files.get(name, ("", []))
        return known_source == source and _digest(folder, name) in digests


def put_beside(folder: Within, source: str, outputs: Sequence[Output]) -> list[str]:
    """Write the outputs of a source into its folder; returns their names. The same call twice is harmless.

    What an earlier version of the source left there and this one does not write is removed, if nobody changed it.

    Raises:
        FileExistsError: somebody was faster with a name; call again.
        Damaged: an output is not what was put; nothing has changed.
    """
    folder.sweep()
    wanted = [output for output in outputs if output.format in FILED]
    index = Index.read(folder)
    base = next(base for base in _bases(source) if _is_free(folder, index, source, base, wanted))
    named = {f"{base}{SUFFIX_OF[output.format]}": output for output in wanted}
    drafts: dict[str, str] = {}
    try:
        for name, output in named.items():
            drafts[name] = folder.draft(output.pieces())
        # Asked before the index says that they are ours.
        ours = {name for name in named if index.owns(folder, name, source)}
        for name, output in named.items():
            index.add(name, source, output.sha256)
        index.write(folder)
        for name, draft in drafts.items():
            if name in ours:
                folder.replace(name, draft)
            else:
                folder.publish(name, draft)
    finally:
        for draft in drafts.values():
            folder.remove(draft)
    _remove_stale(folder, index, source, named)
    return list(named)


def _remove_stale(folder: Within, index: Index, source: str, kept: Container[str]) -> None:
    stale = [name for name, (of, _) in index.files.items() if of == source and name not in kept]
    for name in stale:
        if index.owns(folder, name, source):
            folder.remove(name)
        del index.files[name]
    if stale:
        index.write(folder)


def _bases(source: str) -> Iterator[str]:
    full = fitting(source)
    yield fitting(PurePosixPath(source).stem)
    yield full
    for number in itertools.count(2):
        yield f"{full}.{number}"


def _is_free(folder: Within, index: Index, source: str, base: str, outputs: Sequence[Output]) -> bool:
    """Whether all of these names are ours or nobody's."""
    names = [f"{base}{SUFFIX_OF[output.format]}" for output in outputs]
    return all(not folder.exists(name) or index.owns(folder, name, source) for name in names)


def _digest(folder: Within, name: str) -> str:
    try:
        with folder.open(name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
