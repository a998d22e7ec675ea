"""What a supervisor says about itself in `home/state.json`, for clients and for the supervisor after it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from omni_jobs.embedded.identity import Identity, alive


@dataclass(frozen=True, slots=True)
class State:
    """One supervisor, its children and their addresses.

    Attributes:
        children: every process it started, by name.
        socket: where clients say that they are there.
        scraps: files and folders outside `home` that go when it ends.
        doing: what it does now, in words for a person.
        ready: servers answer, the schema is at its head, the API answers.
    """

    supervisor: Identity
    children: dict[str, Identity] = field(default_factory=dict)
    database_url: str = ""
    broker_url: str = ""
    blob_url: str = ""
    s3_endpoint: str = ""
    s3_access_key: str = ""
    s3_secret_key: str = field(default="", repr=False)
    api_url: str = ""
    socket: str = ""
    scraps: tuple[str, ...] = ()
    doing: str = ""
    ready: bool = False

    @property
    def live(self) -> bool:
        return alive(self.supervisor)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "State":
        fields = json.loads(text)
        fields["supervisor"] = Identity(**fields["supervisor"])
        fields["children"] = {name: Identity(**child) for name, child in fields["children"].items()}
        fields["scraps"] = tuple(fields["scraps"])
        return cls(**fields)


def read_state(path: Path) -> State | None:
    """The state in a file; None when there is none or it is not one of ours."""
    try:
        return State.from_json(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
