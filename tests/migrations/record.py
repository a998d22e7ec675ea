"""Records the store's statements, for the version after this one to be tested beside.

`python -m tests.migrations.record > tests/migrations/statements_NNNN.json`, NNNN being the newest migration: run it
before the next migration is written. The scenario walks every statement that services and workers of two versions send
side by side during a deployment.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import Engine, event

from omni_jobs.embedded.home import Home
from omni_jobs.embedded.postgres import Postgres
from omni_jobs.errors import ErrorType, Problem
from omni_jobs.job import Pool, UnitKind
from omni_jobs.store import open_database, reaper, schema, submissions
from tests.statements import statements

Statement = dict[str, Any]


@contextmanager
def recording(db: Engine) -> Iterator[list[Statement]]:
    """Every statement with its arguments, and where transactions end."""
    said: list[Statement] = []

    def end(_: Any) -> None:
        said.append({"sql": "commit", "arguments": []})

    event.listen(db, "commit", end)
    with statements(lambda sql, arguments: said.append({"sql": sql, "arguments": [_plain(arguments)]})):
        yield said
    event.remove(db, "commit", end)


def _plain(arguments: Any) -> Any:
    """Arguments as JSON: what JSON has no type for is {"type", "value"}."""
    match arguments:
        case dict():
            return {name: _plain(value) for name, value in arguments.items()}
        case list() | tuple():
            return [_plain(value) for value in arguments]
        case Jsonb():
            return {"type": "jsonb", "value": arguments.obj}
        case UUID():
            return {"type": "uuid", "value": str(arguments)}
        case datetime():
            return {"type": "datetime", "value": arguments.isoformat()}
        case _:
            return arguments


def scenario(db: Engine) -> None:
    """Submit, prepare, answer, fail, reject, lose, release, cancel, deliver."""
    from omni_jobs.store import attempts, claims, events, jobs, ledger, objects, pools, results, sources, units, workers
    from omni_jobs.store.submissions import NewJob, NewSource
    from omni_jobs.store.units import NewUnit

    crew = {
        pool: workers.register(db, pool=pool.value, host="h", pid=1, pid_started=1, version="old", backend={"b": 1})
        for pool in Pool
    }

    def one(pool: Pool) -> Any:
        (unit,) = claims.claim(db, crew[pool], pool, 1)
        return unit

    first, _ = submissions.insert(db, NewJob("acme", (NewSource("upload:a", "a"),), {}, metadata={"k": 1}), max_open=10)
    prepare = one(Pool.CPU)
    workers.beat(db, crew[Pool.CPU], {prepare.unit_id: (prepare.generation, 0.5)}, {"wakes": 1})
    objects.reserve(db, prefix="acme/k", tenant_id="acme", job_id=first)
    sources.keep_snapshot(db, prepare, prepare.source_id, key="acme/k", sha256="0" * 64, size_bytes=1)
    follow = [NewUnit(UnitKind.SPAN, prepare.source_id, position, {"start_s": 0}, 1.0) for position in range(3)]
    facts = {"medium": "audio", "container": "wav", "duration_s": 1.0, "pages": None, "tasks": ["transcribe"],
             "probe": {}, "gaps": [], "speech": [(0.0, 1.0)], "reuse_key": "r"}  # fmt: skip
    attempts.finish(
        db, prepare, {"units": 3}, follow=follow, also=lambda _, job: sources.describe(job, prepare.source_id, **facts)
    )
    attempts.finish(db, one(Pool.GPU), {"segments": []})
    attempts.release(db, one(Pool.GPU))
    attempts.fail(db, one(Pool.GPU), Problem(ErrorType.INTERNAL, "no", retryable=False))
    attempts.reject(db, one(Pool.GPU), {"segments": []}, Problem(ErrorType.INTERNAL, "loop"), last=True)
    attempts.finish(db, one(Pool.GPU), {"method": "none"})
    deliver = one(Pool.IO)
    jobs.get(db, "acme", first)
    units.answers(db, first, 1)
    artifact = {"name": "a.txt", "format": "txt", "key": "k", "media_type": "text/plain", "size_bytes": 1,
                "sha256": "0"}  # fmt: skip
    segment = {"position": 0, "start_s": 0.0, "end_s": 1.0, "text": "hi", "language": "en", "speaker": None,
               "confidence": None, "words": []}  # fmt: skip
    attempts.finish(
        db,
        deliver,
        {"prefix": "p/"},
        also=lambda _, job: results.commit(
            job,
            generation=1,
            prefix="p/",
            answered_by={},
            artifacts=[artifact],
            content={prepare.source_id: {"segments": [segment]}},
        ),
    )
    second, _ = submissions.insert(db, NewJob("acme", (NewSource("upload:b", "b"),), {}))
    one(Pool.CPU)
    workers.set_state(db, crew[Pool.CPU], "gone")
    reaper.reap(db)
    jobs.cancel(db, "acme", second)
    jobs.retry(db, "acme", first)
    events.since(db, first)
    results.artifacts(db, "acme", first)
    claims.waiting(db)
    pools.regulate(db, ready_s=1.0, ready_bytes=1)
    objects.condemn(db)
    objects.garbage(db)
    row = ledger.see(db, tenant_id="acme", watch="w", object="o", version="v", size_bytes=1)
    assert row is not None
    ledger.mark(db, row, "refused", "no")


def record(walk: Callable[[Engine], None], out: Any) -> None:
    """Walk a scenario on a fresh database of this version."""
    with tempfile.TemporaryDirectory(prefix="omni record ") as name:
        folder = Path(name)
        folder.chmod(0o711)
        home = Home(folder / "home")
        home.create()
        (folder / "run").mkdir(mode=0o711)
        server = Postgres(home, folder / "run")
        server.start()
        try:
            server.ready()
            schema.upgrade(server.url)
            db = open_database(server.url)
            with recording(db) as said:
                walk(db)
            db.dispose()
        finally:
            server.stop()
    json.dump(said, out, indent=1)
    out.write("\n")


if __name__ == "__main__":
    record(scenario, sys.stdout)
