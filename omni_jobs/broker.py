"""Celery over the Redis protocol: it wakes pools, runs worker processes and carries remote control. No work in it.

A message says "pool X has work" and nothing else; who wakes claims from the database. So a lost message costs a
second (until `maintain` looks) and a doubled one costs a claim that finds nothing.
"""

import threading
from functools import lru_cache
from typing import Any

import redis
from celery import Celery

from omni_jobs.settings import Settings

TASK = "omni.work"


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
            "visibility_timeout": 120,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "retry_on_timeout": True,
        },
        task_create_missing_queues=True,
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

    def wake(self, pool: str) -> None:
        """Say that a pool has work; off the caller's thread, and once while one is on its way."""
        with self._lock:
            if pool in self._pending:
                return
            self._pending.add(pool)
        threading.Thread(target=self._ring, args=(pool, 1), name=f"wake-{pool}", daemon=True).start()

    def _ring(self, pool: str, most: int) -> None:
        with self._lock:
            self._pending.discard(pool)
        try:
            self.ring(pool, most)
        except Exception:
            # Redis is down: `maintain` looks again within a second, the row is the outbox.
            pass

    def ring(self, pool: str, most: int) -> int:
        """Send wake-ups until `most` are waiting in the pool's queue; returns how many were sent.

        Raises:
            redis.RedisError, kombu's OperationalError: the broker does not answer.
        """
        waiting = int(self._redis.llen(queue_of(pool)))  # type: ignore[arg-type]
        sent = max(0, most - waiting)
        for _ in range(sent):
            self._app.send_task(TASK, args=[pool], queue=queue_of(pool), retry=False, ignore_result=True, expires=60)
        return sent

    def close(self) -> None:
        self._redis.close()
        self._app.close()


@lru_cache(maxsize=1)
def bell(settings: Settings) -> Bell:
    return Bell(settings)


def ping(settings: Settings) -> dict[str, Any]:
    """Whether the broker answers, for readiness and `doctor`."""
    with redis.Redis.from_url(settings.broker_url, socket_connect_timeout=0.5, socket_timeout=1) as client:
        return dict(client.info("server"))  # type: ignore[arg-type]
