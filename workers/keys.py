"""Where objects of a job lie, and the keys under which answers are reused. Pure."""

import hashlib
import json
from typing import Any

from omni_jobs import __version__
from workers.backends.backend import Identity

# What we ask and how we cut; a change of either must change the answers' keys.
PROMPT_VERSION = "1"


def source_key(tenant_id: str, job_id: str, position: int, generation: int) -> str:
    return f"{tenant_id}/{job_id}/source/{position}-{generation}"


def reuse_of_source(sha256: str, options: dict[str, Any], identity: Identity) -> str:
    """The same bytes, asked the same way of the same weights by the same code."""
    return _digest("source", sha256, options, PROMPT_VERSION, identity.digest, __version__)


def reuse_of_unit(kind: str, content: bytes, where: dict[str, Any], options: dict[str, Any], identity: Identity) -> str:
    """The same decoded content at the same place (answers carry times of the source)."""
    return _digest(kind, hashlib.sha256(content).hexdigest(), where, options, PROMPT_VERSION, identity.digest)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
