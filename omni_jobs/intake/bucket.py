"""A watched bucket: objects below a prefix become jobs; results go below `omni-results/` next to that prefix.

The listing is the truth. `s3://media/in/talk.mp4`, watched as `s3://media/in`, gets `omni-results/in/talk.mp4/...`,
its manifest last.
"""

import threading
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from omni_jobs.blobs import S3Store, s3_client
from omni_jobs.errors import UsageError
from omni_jobs.intake.lister import Seen
from omni_jobs.intake.names import is_hidden, is_media
from omni_jobs.intake.outputs import Output
from omni_jobs.intake.places import allowed_bucket, is_internal, object_uri
from omni_jobs.intake.submit import Intake, Submission
from omni_jobs.intake.terms import NONE, Terms
from omni_jobs.settings import Settings

RESULTS = "omni-results"
# Of the objects of a result; nothing else is ever deleted there.
NAMES = frozenset({"result.json", "text.txt", "result.md", "subtitles.srt", "subtitles.vtt", "manifest.json"})


class Bucket:
    """Raises UsageError for a target that is none, or a bucket that we do not read."""

    def __init__(self, target: str, settings: Settings, terms: Terms = NONE) -> None:
        parts = urlsplit(target)
        if parts.scheme != "s3" or not parts.netloc:
            raise UsageError(f"expected s3://bucket/prefix, got {target!r}")
        allowed_bucket(parts.netloc, settings)
        prefix = parts.path.strip("/")
        self._bucket, self._prefix = parts.netloc, f"{prefix}/" if prefix else ""
        self._settings, self._terms = settings, terms
        self._store = S3Store(s3_client(settings), self._bucket)

    @property
    def name(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}"

    @property
    def results(self) -> str:
        """Where results lie: a sibling of the watched prefix. Nothing below a folder of that name is ever listed."""
        parent, _, last = self._prefix.rstrip("/").rpartition("/")
        return (f"{parent}/" if parent else "") + f"{RESULTS}/" + (f"{last}/" if last else "")

    def look(self) -> Iterator[Seen]:
        for one in self._store.list(self._prefix):
            path = one.key[len(self._prefix) :]
            ours = RESULTS in one.key.split("/") or is_internal(self._bucket, one.key, self._settings)
            if ours or is_hidden(path) or not is_media(path):
                continue
            yield Seen(one.key, f"{one.version}-{one.size_bytes}", one.size_bytes, self._fault(one.key, one.size_bytes))

    def take(self, seen: Seen, intake: Intake, ledger_id: str, stop: threading.Event) -> None:
        """Its bytes are copied when the job is prepared."""
        intake.submit(
            Submission(
                uri=object_uri(self._bucket, seen.object),
                origin="bucket",
                **self._terms.fields(),
                origin_ref={"watch": self.name, "key": seen.object, "version": seen.version},
                ledger_id=ledger_id,
            )
        )

    def give(self, object: str, outputs: Sequence[Output]) -> None:
        folder = f"{self.results}{object[len(self._prefix) :]}/"
        for output in outputs:
            self._store.put(folder + output.name, output.open(), output.media_type)
        # What an earlier version left and this one does not have; below sub-folders lie the results of others.
        kept = {output.name for output in outputs}
        for one in list(self._store.list(folder)):
            name = one.key[len(folder) :]
            if name in NAMES and name not in kept:
                self._store.delete(one.key)

    def _fault(self, key: str, size_bytes: int) -> str:
        if size_bytes > self._settings.max_upload_bytes:
            return f"it has {size_bytes} bytes, the most is {self._settings.max_upload_bytes}"
        return ""
