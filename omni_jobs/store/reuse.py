"""Taking over answers that were given before: of a whole source, or of single units.

A unit is taken over with what hangs on it: the words of a span, the speech that was redone. Copies get ids made of
the new source and the old unit, so that what refers to another unit can be told the new one.
"""

from typing import Any

from sqlalchemy import Connection, Engine

from omni_jobs.store.database import row, rows, run
from omni_jobs.store.locks import LockedJob

COPY = """
insert into omni.units (unit_id, job_id, tenant_id, source_id, revision, kind, pool, position, priority, input, amount,
  cost, reuse_key, state, answer, answer_digest, reused_from, progress, finished_at)
select md5(:salt || u.unit_id::text)::uuid, cast(:job_id as uuid), u.tenant_id, cast(:source_id as uuid), :revision,
  u.kind, u.pool, u.position, :priority,
  u.input
    || case when u.input ? 'of' then jsonb_build_object('of', md5(:salt || (u.input->>'of'))::uuid) else '{}' end
    || case when u.input ? 'redo_of'
         then jsonb_build_object('redo_of', md5(:salt || (u.input->>'redo_of'))::uuid) else '{}' end,
  u.amount, u.cost, u.reuse_key, 'done', u.answer, u.answer_digest, u.unit_id, 1, now()
from omni.units u
"""


def delivered_twin(db: Engine, *, tenant_id: str, reuse_key: str, but_not: str) -> str | None:
    """A source of the same tenant, bytes, options and models whose job has succeeded."""
    with db.connect() as tx:
        found = row(
            tx,
            """
            select s.source_id from omni.sources s join omni.jobs j using (job_id)
            where s.reuse_key = :reuse_key and j.tenant_id = :tenant_id and j.state = 'succeeded'
              and s.job_id <> :but_not and s.error is null
              -- A job may succeed without its speakers; who asks again wants them.
              and not exists (select 1 from omni.units u
                where u.job_id = s.job_id and u.revision = j.revision and u.source_id = s.source_id
                  and u.state = 'dead')
            order by j.finished_at desc limit 1
            """,
            reuse_key=reuse_key,
            tenant_id=tenant_id,
            but_not=but_not,
        )
    return str(found["source_id"]) if found else None


def take_source(tx: Connection, job: LockedJob, source_id: str, twin_id: str) -> None:
    """Answer a source whole from its twin: facts and answers are taken over, marked with where they are from."""
    run(
        tx,
        """
        update omni.sources s set medium = t.medium, container = t.container, duration_s = t.duration_s,
          pages = t.pages, tasks = t.tasks, probe = t.probe, gaps = t.gaps, speech = t.speech, reuse_key = t.reuse_key
        from omni.sources t where t.source_id = :twin_id and s.source_id = :source_id
        """,
        twin_id=twin_id,
        source_id=source_id,
    )
    run(
        tx,
        """
        update omni.jobs set reused_from = (select job_id from omni.sources where source_id = :twin_id)
        where job_id = :job_id
        """,
        twin_id=twin_id,
        job_id=job.job_id,
    )
    _copy(
        tx,
        job,
        source_id,
        """
        join omni.jobs j using (job_id) where u.source_id = :twin_id and u.state = 'done' and u.revision = j.revision
          and u.kind not in ('prepare', 'deliver')
        """,
        twin_id=twin_id,
    )


def take_whole_sources(tx: Connection, job: LockedJob) -> list[str]:
    """Take over, from the revision before, every answer of the sources of which no unit had died.

    Returns:
        The ids of these sources.
    """
    found = rows(
        tx,
        """
        select s.source_id::text from omni.sources s where s.job_id = :job_id and s.error is null
          and exists (select 1 from omni.units u where u.job_id = s.job_id and u.source_id = s.source_id
            and u.revision = :before)
          and not exists (select 1 from omni.units u where u.job_id = s.job_id and u.source_id = s.source_id
            and u.revision = :before and u.state <> 'done' and u.kind <> 'reduce')
        """,
        job_id=job.job_id,
        before=job.revision - 1,
    )
    for one in found:
        _copy(
            tx,
            job,
            one["source_id"],
            """
            where u.job_id = :job_id and u.source_id = :source_id and u.revision = :before and u.state = 'done'
            """,
            before=job.revision - 1,
        )
    return [one["source_id"] for one in found]


def take_units(tx: Connection, job: LockedJob, source_of: dict[str, Any]) -> set[str]:
    """Answer what was asked before; `source_of` maps reuse keys to the source they are wanted for.

    Other jobs' answers are taken if the job allows it, those of its own earlier revisions always.

    Returns:
        The keys that are answered now.
    """
    if not job.reuse and job.revision == 1:
        return set()
    found = rows(
        tx,
        """
        select distinct on (u.reuse_key) u.reuse_key, u.unit_id from omni.units u join omni.jobs j using (job_id)
        where u.reuse_key = any(:keys) and u.state = 'done' and j.tenant_id = :tenant_id
          and case when j.job_id = :job_id then u.revision < :revision else :reuse end
          -- What hangs on it must be whole: a span with text has its words, and no redo of it is open or dead.
          and (u.kind <> 'span' or j.options->'word_times' = 'false'
            or coalesce(u.answer->'segments', '[]') = '[]'
            or exists (select 1 from omni.units w
              where w.job_id = u.job_id and w.kind = 'words' and w.input->>'of' = u.unit_id::text))
          and not exists (select 1 from omni.units w where w.job_id = u.job_id and w.state <> 'done'
              and (w.input->>'of' = u.unit_id::text or w.input->>'redo_of' = u.unit_id::text))
        order by u.reuse_key, u.finished_at desc
        """,
        keys=list(source_of),
        tenant_id=job.tenant_id,
        job_id=job.job_id,
        revision=job.revision,
        reuse=job.reuse,
    )
    for one in found:
        _copy(
            tx,
            job,
            source_of[one["reuse_key"]],
            """
            where u.unit_id = :old or (u.job_id = (select job_id from omni.units where unit_id = :old)
              and u.state = 'done' and (u.input->>'of' = :old_text or u.input->>'redo_of' = :old_text))
            """,
            old=one["unit_id"],
            old_text=str(one["unit_id"]),
        )
    return {one["reuse_key"] for one in found}


def _copy(tx: Connection, job: LockedJob, source_id: Any, which: str, **params: Any) -> None:
    run(
        tx,
        COPY + which,
        job_id=job.job_id,
        salt=f"{job.job_id}/{job.revision}/{source_id}",
        source_id=source_id,
        revision=job.revision,
        priority=job.priority,
        **params,
    )
