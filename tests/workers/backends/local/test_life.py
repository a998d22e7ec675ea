"""A recording, a video and a PDF from file to rows, by the handlers of every pool, answered by the engine on the CPU.

Nobody trained its weights: what it says is noise. What holds whatever it says is looked at: states, times, coverage,
and what each row rests on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from tests.workers.backends.local.conftest import Make
from tests.workers.parts import make_parts
from workers.backends import identity_of
from workers.counters import Counters
from workers.pump import Pump
from workers.tasks import HANDLERS

pytestmark = pytest.mark.servers
ENDED_S = 60.0


@dataclass(frozen=True)
class Bell:
    """Wakes the pumps of this process."""

    pumps: dict[str, Pump]

    def wake(self, pool: str, *args: Any, **more: Any) -> None:
        if pool in self.pumps:
            self.pumps[pool].wake()


@pytest.fixture
def run(
    db: Engine, local: Make, settings_of: Callable[..., Settings], shelf: Path, tmp_path: Path
) -> Callable[..., dict[str, str]]:
    """Runs a job for each file, all at once; returns their states."""

    def run(*names: str, **changes: Any) -> dict[str, str]:
        more: dict[str, Any] = {
            **changes,
            "blob_url": f"file://{tmp_path}/blobs",
            "file_roots": (shelf,),
            "min_free_bytes": 0,
        }
        settings = settings_of(**more)
        base = make_parts(db, settings, tmp_path)
        backend = local(base.flight, **more)
        parts = replace(base, identity=identity_of(settings), backend=backend)
        bell: Any = Bell({})
        for pool, slots in ((Pool.CPU, 2), (Pool.GPU, 4), (Pool.IO, 2)):
            worker = workers.register(
                db, pool=pool.value, host="h", pid=1, pid_started=1, version="t", backend=None, slots=slots
            )
            made = Pump(parts, bell, pool, HANDLERS[pool], worker_id=worker, slots=slots, counters=Counters())
            bell.pumps[pool.value] = made
        options = Options(speakers=False).model_dump(mode="json")
        sources = [NewSource((shelf / name).as_uri(), name) for name in names]
        job_ids = [submissions.insert(db, NewJob("acme", (source,), options))[0] for source in sources]
        for made in bell.pumps.values():
            made.start()

        def states() -> list[str]:
            rows = asked(db, "select job_id, state from omni.jobs")
            found = {str(row.job_id): row.state for row in rows}
            return [found[str(job_id)] for job_id in job_ids]

        try:
            assert eventually(lambda: not {"queued", "running"} & set(states()), ENDED_S), units(db)
        finally:
            for made in bell.pumps.values():
                made.close(0.0)
            parts.endings.close()
        assert backend.health() == "" and backend.stats().running == 0
        return dict(zip(names, states(), strict=True))

    return run


def test_each_medium_from_file_to_rows(db: Engine, run: Callable[..., dict[str, str]], answering: None) -> None:
    states = run("talk.wav", "film.mp4", "report.pdf")
    assert set(states.values()) == {"succeeded"}, units(db)
    said = asked(db, "select start_s, end_s, text from omni_v1.transcript_segments where source_name = 'talk.wav'")
    assert said and all(0.0 <= row.start_s <= row.end_s <= 8.0 and row.text for row in said)
    assert all(a.start_s <= b.start_s for a, b in pairwise(said))
    seen = asked(db, "select * from omni_v1.captions where source_name = 'film.mp4' order by caption")
    assert seen and seen[0].start_s == 0.0 and all(a.end_s == b.start_s for a, b in pairwise(seen))
    # The grammar names the first shot of a question only; asked again, the others may do without a caption.
    assert len(seen[0].text) >= 4
    read = asked(db, "select page, text_source, text from omni_v1.pages where source_name = 'report.pdf' order by page")
    assert [(row.page, row.text_source) for row in read] == [(1, "text_layer"), (2, "ocr")]
    assert "Council meetings" in read[0].text and len(read[1].text) >= 4
    summed = asked(db, "select method, text, page from omni_v1.summaries where source_name = 'report.pdf'")
    assert summed and {row.method for row in summed} == {"model"} and {row.page for row in summed} <= {1, 2}
    assert asked(db, "select 1 from omni_v1.coverage where state = 'failed'") == []


def test_what_the_model_cannot_answer_is_a_gap_that_says_so(db: Engine, run: Callable[..., dict[str, str]]) -> None:
    assert run("film.mp4", "report.pdf", model_max_tokens=16) == {"film.mp4": "failed", "report.pdf": "partial"}, units(
        db
    )
    (clip,) = asked(db, "select state, rejected, error from omni.units where kind = 'clip'")
    assert (clip.state, clip.rejected) == ("dead", 2) and "refused (length)" in clip.error["message"]
    gaps = asked(db, "select * from omni_v1.coverage where state = 'failed'")
    assert [(row.source_name, row.page) for row in gaps] == [("report.pdf", 2)] and "16 tokens" in gaps[0].reason, (
        asked(db, "select * from omni_v1.coverage")
    )


def units(db: Engine) -> list[Any]:
    return asked(db, "select kind, state, rejected, failed, error, answer from omni.units")


def asked(db: Engine, query: str, **parameters: Any) -> list[Any]:
    with db.connect() as tx:
        return list(tx.execute(text(query), parameters).all())
