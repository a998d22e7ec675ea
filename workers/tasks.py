"""A worker process: a Celery worker that listens for wake-ups, and the pump that does the work."""

import os
import socket
import warnings
from typing import Any

from celery import signals
from celery.worker import WorkController
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from kombu.connection import Connection

from omni_jobs import __version__, telemetry
from omni_jobs.blobs import open_blobs
from omni_jobs.broker import TASK, Bell, make_app, queue_of
from omni_jobs.job import Pool, UnitKind
from omni_jobs.settings import Settings
from omni_jobs.store import open_database, schema, workers
from omni_jobs.store.database import new_id
from workers import align, deliver, flight, infer, prepare
from workers.backends import identity_of, open_backend
from workers.context import Parts
from workers.counters import Counters
from workers.endings import Endings
from workers.patience import patient
from workers.processes import host, scratch_folder, started_at
from workers.pump import Handler, Pump

log = telemetry.get_logger()

HANDLERS: dict[Pool, dict[UnitKind, Handler]] = {
    Pool.CPU: {UnitKind.PREPARE: prepare.run, UnitKind.WORDS: align.words, UnitKind.SPEAKERS: align.speakers},
    Pool.GPU: dict.fromkeys((UnitKind.SPAN, UnitKind.CLIP, UnitKind.PAGE, UnitKind.REDUCE), infer.run),
    Pool.IO: {UnitKind.DELIVER: deliver.run},
}
SLOTS = {Pool.CPU: 2, Pool.IO: 8}  # delivering waits for the object store most of the time
RECONNECT_S = 1.0


class Listener(Consumer):
    """Looks for a broker that is away once a second; Celery's own pauses grow to half a minute."""

    def ensure_connected(self, conn: Connection) -> Connection:
        def away(error: Exception, interval_s: float) -> None:
            log.warning("broker.away", error=str(error)[:200])

        return conn.ensure_connection(
            away, interval_start=RECONNECT_S, interval_step=0, interval_max=RECONNECT_S, callback=maybe_shutdown
        )


def serve(settings: Settings, pool: Pool) -> None:
    """Work for one pool until SIGTERM; a second one, or SIGQUIT, leaves at once."""
    telemetry.set_up(settings, worker=pool.value)
    db = open_database(settings.database_url, application=f"omni-jobs {pool.value}", ping=False, by_keys=True)
    patient(lambda: schema.require(db))
    bell = Bell(settings)
    worker_id = new_id()
    record = flight.Flight(flight.folder(settings) / worker_id)
    backend = open_backend(settings, record) if pool is Pool.GPU else None
    identity = backend.identity() if backend else identity_of(settings)
    slots = backend.capabilities().slots if backend else SLOTS[pool]
    patient(
        lambda: workers.register(
            db,
            worker_id,
            pool=pool.value,
            host=host(),
            pid=os.getpid(),
            pid_started=started_at(os.getpid()),
            version=__version__,
            backend={"backend": identity.backend, "models": identity.models, "digest": identity.digest},
            slots=slots,
        )
    )
    counters, endings = Counters(), Endings(db)
    with scratch_folder(settings.work_dir) as scratch:
        parts = Parts(settings, db, open_blobs(settings), scratch, identity, endings, record, backend)
        pump = Pump(parts, bell, pool, HANDLERS[pool], worker_id=worker_id, slots=slots, counters=counters)
        _listen(settings, pool, pump)
        pump.close(settings.drain_s)
        workers.leave(db, worker_id, counters.totals())
        if backend:
            backend.close()
    endings.close()
    record.close()
    bell.close()
    db.dispose()


def _listen(settings: Settings, pool: Pool, pump: Pump) -> None:
    """Run the Celery worker in this thread; its one task sets the pump's flag and returns."""
    app = make_app(settings)

    @app.task(name=TASK)
    def work(name: str) -> None:
        pump.wake()

    def draining(*_: Any, **__: Any) -> None:
        pump.drain()

    signals.worker_shutting_down.connect(draining, weak=False)
    signals.worker_ready.connect(lambda *_, **__: log.info("worker.ready"), weak=False)
    # As root in a container there is nobody else; a message that is not JSON is refused, so nothing can be run by one.
    warnings.filterwarnings("ignore", message="(?s).*superuser privileges", category=RuntimeWarning)

    class Beginning(Listener):
        def start(self) -> None:
            # Celery heeds signals by now: one that came before would have ended us with units in hand.
            pump.start()
            super().start()

    controller: WorkController = app.Worker(
        pool="threads",
        concurrency=1,
        consumer_cls=Beginning,
        queues=[queue_of(pool.value)],
        hostname=f"{pool.value}-{os.getpid()}@{socket.gethostname()}",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="WARNING",
        quiet=True,
    )
    controller.start()
