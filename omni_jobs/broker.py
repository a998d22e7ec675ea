"""Celery over the Redis protocol: it wakes pools, runs worker processes and carries remote control. No work in it.

A message says "pool X has work" and nothing else; who wakes claims from the database. So a lost message costs a
second (until `maintain` looks) and a doubled one costs a claim that finds nothing.
"""

import threading
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any

import redis
from celery import Celery
from kombu.entity import Exchange, Queue

from omni_jobs.job import Pool
from omni_jobs.settings import Settings

TASK = "omni.work"
POOLS = (*(pool.value for pool in Pool), "maintain")
GATHER_S = 0.1  # calls for a pool within this time are one message
RINGING_TRIES = 10
RINGING_MS = 2000  # a bell that died while it rang stands in the way of others no longer than this


def queue_of(pool: str) -> str:
    return f"omni.{pool}"


def make_app(settings: Settings) -> Celery:
    """The Celery app of this broker: JSON only, no results, early acknowledgement, no prefetch."""
    app = Celery("omni_jobs", broker=settings.broker_url)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "retry_on_timeout": True,
            "ack_emulation": False,  # what is taken is not written down
        },
        # Taken is done: a wake-up that dies with its worker is sent again by `maintain`, and acknowledging one costs
        # more than all else about it.
        task_queues=[Queue(queue_of(pool), Exchange(queue_of(pool)), queue_of(pool), no_ack=True) for pool in POOLS],
        task_default_queue=queue_of("maintain"),
    )
    return app


class Bell:
    """Wakes pools, best effort: never blocks its caller, and never more messages than workers could take."""

    def __init__(self, settings: Settings) -> None:
        self._app = make_app(settings)
        self._redis: redis.Redis = redis.Redis.from_url(
            settings.broker_url, socket_connect_timeout=0.2, socket_timeout=0.5
        )
        self._lock = threading.Lock()
        self._pending: set[str] = set()
        self._wanted = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def wake(self, pool: str) -> None:
        """Say that a pool has work: returns at once; what is said meanwhile of the same pool is said once."""
        with self._lock:
            self._pending.add(pool)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bell", daemon=True)
                self._thread.start()
        self._wanted.set()

    def _run(self) -> None:
        while not self._closed:
            self._wanted.wait()
            self._wanted.clear()
            with self._lock:
                pools, self._pending = self._pending, set()
            for pool in pools:
                # Redis is down: `maintain` looks again within a second, the row is the outbox.
                with suppress(Exception):
                    self.ring(pool, 1)
            time.sleep(GATHER_S)

    def ring(self, pool: str, most: int) -> int:
        """Send wake-ups until `most` are waiting in the pool's queue; returns how many were sent.

        One bell at a time rings for a pool, else each of several would see room for the same message. Who waits for
        others in vain leaves it to `maintain`.

        Raises:
            redis.RedisError, kombu's OperationalError: the broker does not answer.
        """
        ringing = f"{queue_of(pool)}.ringing"
        for _ in range(RINGING_TRIES):
            if self._redis.set(ringing, 1, nx=True, px=RINGING_MS):
                break
            time.sleep(0.005)
        else:
            return 0
        try:
            waiting = int(self._redis.llen(queue_of(pool)))  # type: ignore[arg-type]
            sent = max(0, most - waiting)
            for _ in range(sent):
                self._app.send_task(
                    TASK, args=[pool], queue=queue_of(pool), retry=False, ignore_result=True, expires=60
                )
        finally:
            self._redis.delete(ringing)
        return sent

    def close(self) -> None:
        self._closed = True
        self._wanted.set()
        self._redis.close()
        self._app.close()


@lru_cache(maxsize=1)
def bell(settings: Settings) -> Bell:
    return Bell(settings)


def ping(settings: Settings) -> dict[str, Any]:
    """Whether the broker answers, for readiness and `doctor`."""
    with redis.Redis.from_url(settings.broker_url, socket_connect_timeout=0.5, socket_timeout=1) as client:
        return dict(client.info("server"))  # type: ignore[arg-type]
