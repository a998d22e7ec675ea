"""A recording, a video and a PDF from file to rows, by the handlers of every pool, answered by a recorded server."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from omni_jobs.job import Pool
from omni_jobs.options import Options
from omni_jobs.settings import Settings
from omni_jobs.store import submissions, workers
from omni_jobs.store.submissions import NewJob, NewSource
from tests.waiting import eventually
from tests.workers.backends.remote.conftest import Make
from tests.workers.backends.remote.recorded import MODEL, RecordedServer
from tests.workers.parts import make_parts
from workers.backends import identity_of
from workers.counters import Counters
from workers.pump import Pump
from workers.tasks import HANDLERS

pytestmark = pytest.mark.servers


class Bell:
    """Wakes the pumps of this process."""

    def __init__(self) -> None:
        self.pumps: dict[str, Pump] = {}

    def wake(self, pool: str, *args: Any, **more: Any) -> None:
        if pool in self.pumps:
            self.pumps[pool].wake()


def test_each_medium_from_file_to_rows(
    db: Engine, tmp_path: Path, shelf: Path, remote: Make, server: RecordedServer
) -> None:
    settings = Settings(
        backend="remote", remote_model=MODEL, remote_urls=(server.url,), blob_url=f"file://{tmp_path}/blobs",
        file_roots=(shelf,), min_free_bytes=0, home=tmp_path / "home",
    )  # fmt: skip
    parts = replace(make_parts(db, settings, tmp_path), identity=identity_of(settings), backend=remote())
    bell: Any = Bell()
    for pool in (Pool.CPU, Pool.GPU, Pool.IO):
        worker = workers.register(
            db, pool=pool.value, host="h", pid=1, pid_started=1, version="t", backend=None, slots=2
        )
        made = Pump(parts, bell, pool, HANDLERS[pool], worker_id=worker, slots=2, counters=Counters())
        bell.pumps[pool.value] = made
    options = Options(speakers=False).model_dump(mode="json")
    sources = tuple(NewSource((shelf / name).as_uri(), name) for name in ("talk.wav", "film.mp4", "report.pdf"))
    job_ids = [submissions.insert(db, NewJob("acme", (source,), options))[0] for source in sources]
    for made in bell.pumps.values():
        made.start()
    try:
        states = "select state, error from omni.jobs where job_id = any(cast(:ids as uuid[]))"

        def ended() -> bool:
            return all(row.state not in ("queued", "running") for row in asked(db, states, ids=job_ids))

        assert eventually(ended, 60), asked(db, "select kind, state, error from omni.units")
    finally:
        for made in bell.pumps.values():
            made.close(0.0)
        parts.endings.close()
    assert server.refused == []
    assert {row.state for row in asked(db, states, ids=job_ids)} == {"succeeded"}, asked(
        db, "select kind, state, error from omni.units where state <> 'done'"
    )
    said = asked(db, "select start_s, end_s, text from omni_v1.transcript_segments where source_name = 'talk.wav'")
    assert "worst of times" in " ".join(row.text for row in said) and said[-1].end_s <= 8.0
    seen = asked(db, "select * from omni_v1.captions where source_name = 'film.mp4' order by caption")
    assert seen[0].text.startswith("Frames 1 to")
    assert seen[0].screen_text == "SIGN 1" and all(a.end_s == b.start_s for a, b in pairwise(seen))
    read = asked(db, "select page, text_source, text from omni_v1.pages where source_name = 'report.pdf' order by page")
    assert [(row.page, row.text_source) for row in read] == [(1, "text_layer"), (2, "ocr")]
    assert "Council meetings" in read[0].text and "damp" in read[1].text
    summed = asked(db, "select method, text, page from omni_v1.summaries where source_name = 'report.pdf'")
    assert [(row.method, row.text) for row in summed] == [("model", "It is about an archive.")]
    assert asked(db, "select 1 from omni_v1.coverage where state = 'failed'") == []
    (found, *_) = asked(db, "select source_name, medium from omni_v1.search('SIGN')")
    assert (found.source_name, found.medium) == ("film.mp4", "screen")


def asked(db: Engine, query: str, **parameters: Any) -> list[Any]:
    with db.connect() as tx:
        return list(tx.execute(text(query), parameters).all())
