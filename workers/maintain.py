"""Background duties. Each is idempotent; several of these processes may run at once.

| duty | every |
| --- | --- |
| workers of this machine whose process is dead, workers that went silent: gone; their units back | 1 s |
| pools with work that can be claimed: woken | 1 s |
| canonical media of ended jobs, and generations no row points to: deleted | 2 s |
"""

import signal
import threading

from sqlalchemy import Engine

from omni_jobs import telemetry
from omni_jobs.blobs import BlobStore, open_blobs
from omni_jobs.broker import Bell
from omni_jobs.settings import Settings
from omni_jobs.store import jobs, open_database, results, schema, units, workers
from workers.processes import host, is_alive

log = telemetry.get_logger()


def serve(settings: Settings) -> None:
    """Do the duties until SIGTERM."""
    telemetry.set_up(settings, worker="maintain")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    db = open_database(settings.database_url, application="omni-jobs maintain")
    schema.require(db)
    bell, blobs = Bell(settings), open_blobs(settings)
    turn = 0
    while not stop.wait(settings.poll_s):
        turn += 1
        try:
            recover(db, settings.lease_s)
            wake(db, bell, settings.lease_s)
            if turn % 2 == 0:
                sweep(db, blobs, keep_sources=settings.keep_sources == "copy")
        except Exception as error:
            log.warning("duty.failed", error=f"{type(error).__name__}: {error}"[:300])
    bell.close()
    db.dispose()


def recover(db: Engine, lease_s: float) -> int:
    """Give back the units of workers that are dead or silent; returns how many."""
    for worker in workers.of_host(db, host()):
        if not is_alive(worker["pid"], worker["pid_started"]):
            workers.set_state(db, str(worker["worker_id"]), "gone")
            log.warning("worker.dead", worker_id=str(worker["worker_id"]), pid=worker["pid"])
    workers.forget(db, lease_s)
    lost = units.reap(db)
    if lost:
        log.warning("units.lost", count=lost)
    return lost


def wake(db: Engine, bell: Bell, lease_s: float) -> None:
    """One message for each live worker that could take something, no more."""
    ready = units.waiting(db)
    if not ready:
        return
    live = {one["pool"]: one["n"] for one in workers.live(db, lease_s)}
    for pool, count in ready.items():
        if live.get(pool.value):
            bell.ring(pool.value, min(count, live[pool.value]))


def sweep(db: Engine, blobs: BlobStore, *, keep_sources: bool) -> None:
    """Delete what ended jobs no longer need."""
    for job in jobs.closed_with_media(db):
        root = f"{job['tenant_id']}/{job['job_id']}/"
        blobs.delete(f"{root}media/")
        if not keep_sources:
            blobs.delete(f"{root}source/")
        live = results.live_prefixes(db, job["job_id"])
        for stored in list(blobs.list(root)):
            kept = stored.key.startswith((f"{root}source/", *live))
            if not kept:
                blobs.delete(stored.key)
        jobs.swept(db, job["job_id"])
