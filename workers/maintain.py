"""Background duties. Each is idempotent; several of these processes may run at once.

| duty | every |
| --- | --- |
| workers of this machine whose process is dead, workers that went silent: gone; their units back | 1 s |
| prepare paused while the gpu pool has enough; open jobs told what they wait for | 1 s |
| pools with work that can be claimed: woken | 1 s |
| objects that nothing makes live any more, and those of jobs that ended or were deleted: deleted | 2 s |
| jobs older than `OMNI_KEEP_DAYS`: deleted | 1 min |
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from omni_jobs import __version__, telemetry
from omni_jobs.blobs import BlobStore, open_blobs
from omni_jobs.broker import Bell
from omni_jobs.failpoints import reach
from omni_jobs.job import Outcome
from omni_jobs.settings import Settings
from omni_jobs.store import claims, jobs, objects, open_database, pools, reaper, schema, workers
from omni_jobs.store.database import new_id
from workers import flight
from workers.counters import Counters
from workers.patience import patient
from workers.processes import host, is_alive, started_at

log = telemetry.get_logger()
COLLECT_S = 2.0
EXPIRE_S = 60.0


@dataclass(slots=True)
class Duty:
    """Something to be done again and again; if it fails, the others are done all the same."""

    name: str
    every_s: float
    action: Callable[[], object]
    due_at: float = 0.0

    def do(self, counters: Counters) -> None:
        if time.monotonic() < self.due_at:
            return
        self.due_at = time.monotonic() + self.every_s
        try:
            self.action()
        except Exception as error:
            counters.add("duties_failed", duty=self.name)
            log.warning("duty.failed", duty=self.name, error=f"{type(error).__name__}: {error}"[:300])


@dataclass(slots=True)
class Contact:
    """Since when the database has answered us without a break.

    While it does not, or while the whole machine sleeps, nobody can beat: silence is a fault only where we were heard.
    """

    lease_s: float
    since: float = 0.0
    last: float = float("-inf")

    def lasts(self) -> bool:
        """It has just answered: whether it has done so for a lease."""
        now = time.clock_gettime(time.CLOCK_BOOTTIME)  # it goes on while the machine sleeps, and nobody can set it
        if now - self.last > self.lease_s / 2:
            self.since = now
        self.last = now
        return now - self.since >= self.lease_s


def serve(settings: Settings) -> None:
    """Do the duties until SIGTERM."""
    telemetry.set_up(settings, worker="maintain")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    db = open_database(settings.database_url, application="omni-jobs maintain")
    patient(lambda: schema.require(db))
    bell, blobs, counters = Bell(settings), open_blobs(settings), Counters()
    pid = os.getpid()
    worker_id = new_id()
    patient(
        lambda: workers.register(
            db,
            worker_id,
            pool="maintain",
            host=host(),
            pid=pid,
            pid_started=started_at(pid),
            version=__version__,
            backend=None,
        ),
        stop,
    )
    keep_sources, contact = settings.keep_sources == "copy", Contact(settings.lease_s)
    duties = (
        Duty("beat", 0.0, lambda: workers.beat(db, worker_id, {}, counters.totals())),
        Duty("recover", 0.0, lambda: recover(db, settings, counters, contact)),
        Duty("regulate", 0.0, lambda: pools.regulate(db, ready_s=settings.ready_s, ready_bytes=settings.ready_bytes)),
        Duty("explain", 0.0, lambda: pools.explain(db, settings.lease_s)),
        Duty("wake", 0.0, lambda: wake(db, bell, settings.lease_s)),
        Duty("collect", COLLECT_S, lambda: collect(db, blobs, counters, keep_sources=keep_sources)),
        Duty("expire", EXPIRE_S, lambda: expire(db, settings.keep_days)),
    )
    while not stop.wait(settings.poll_s):
        for duty in duties:
            duty.do(counters)
    workers.leave(db, worker_id, counters.totals())
    bell.close()
    db.dispose()


def recover(db: Engine, settings: Settings, counters: Counters, contact: Contact) -> dict[Outcome, int]:
    """Give back the units of workers that are dead or silent; returns how many were charged, and how many not."""
    records = flight.folder(settings)
    for worker in workers.of_host(db, host()):
        if not is_alive(worker["pid"], worker["pid_started"]):
            record = records / str(worker["worker_id"])
            found = flight.read(record)
            verdict = workers.Verdict(*found) if found is not None else None
            workers.bury(db, str(worker["worker_id"]), verdict)
            record.unlink(missing_ok=True)
            counters.add("workers_dead")
            log.warning("worker.dead", worker_id=str(worker["worker_id"]), pid=worker["pid"], verdict=verdict)
    if contact.lasts() and (silent := workers.forget(db, settings.lease_s)):
        counters.add("workers_silent", silent)
    taken = reaper.reap(db)
    for outcome, count in taken.items():
        counters.add("units_reaped", count, outcome=outcome.value)
    if taken:
        log.warning("units.reaped", **{outcome.value: count for outcome, count in taken.items()})
    return taken


def wake(db: Engine, bell: Bell, lease_s: float) -> None:
    """One message for each live worker that could take something, no more."""
    ready = claims.waiting(db)
    if not ready:
        return
    live = {one["pool"]: one["n"] for one in workers.live(db, lease_s)}
    for pool, count in ready.items():
        if live.get(pool.value):
            bell.ring(pool.value, min(count, live[pool.value]))


def collect(db: Engine, blobs: BlobStore, counters: Counters, *, keep_sources: bool) -> int:
    """Delete the objects that nobody needs any more; returns how many prefixes were looked at."""
    objects.condemn(db)
    if not keep_sources:
        objects.release_sources(db)
    found = objects.garbage(db)
    for one in found:
        deleted = blobs.delete(one["prefix"])
        counters.add("objects_deleted", deleted)
        if one["again"] and deleted:
            counters.add("objects_deleted_late", deleted)
    reach("collect.deleted")
    objects.dropped(db, [one["prefix"] for one in found])
    return len(found)


def expire(db: Engine, keep_days: float) -> None:
    """Delete the jobs that are older than they may be; 0 days: none ever is."""
    while keep_days and jobs.expire(db, keep_days):
        pass
