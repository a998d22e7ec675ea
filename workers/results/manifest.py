"""`manifest.json`: what a result consists of, with checksums. It is written last: where it is, the rest is whole."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from workers.results.artifacts import Rendered, as_json

NAME = "manifest.json"
SCHEMA_VERSION = "1"


def manifest(
    job_id: str, revision: int, generation: int, files: Sequence[Rendered], keys: Mapping[str, str] | None = None
) -> Rendered:
    """The manifest of these files.

    Args:
        keys: name of a file -> its key in the object store, where there is one.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "job_id": job_id,
        "revision": revision,
        "generation": generation,
        "files": [_entry(file, (keys or {}).get(file.name)) for file in files],
    }
    return Rendered(NAME, "manifest", as_json(content))


def _entry(file: Rendered, key: str | None) -> dict[str, Any]:
    entry = {
        "name": file.name,
        "format": file.format,
        "media_type": file.media_type,
        "size_bytes": len(file.data),
        "sha256": hashlib.sha256(file.data).hexdigest(),
    }
    return entry if key is None else {**entry, "key": key}
