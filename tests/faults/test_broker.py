"""Row 5: the broker restarts, forgets everything, and is away, under load."""

import threading
import time

import pytest
import redis

from omni_jobs.broker import queue_of
from tests.faults.cluster import Cluster, cluster, pools
from tests.faults.fake import Script
from tests.faults.load import Client, Load, p95
from tests.faults.report import Report

pytestmark = [pytest.mark.servers, pytest.mark.faults, pytest.mark.timeout(600)]

ANSWER_S = 0.05
RECOVER_S = 5.0


class Queues:
    """Looks at the length of each pool's queue, again and again."""

    def __init__(self, made: Cluster) -> None:
        self._redis = redis.Redis.from_url(made.valkey.url, socket_connect_timeout=0.2, socket_timeout=0.5)
        self._stop = threading.Event()
        self.longest = dict.fromkeys(pools(), 0)
        self.looks = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            for pool in self.longest:
                try:
                    length = int(self._redis.llen(queue_of(pool)))  # type: ignore[arg-type]
                except redis.RedisError:
                    continue
                self.longest[pool] = max(self.longest[pool], length)
                self.looks += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def test_a_broker_that_restarts_forgets_or_is_away_costs_nothing(scale: float, report: Report) -> None:
    down_s = 60 * scale
    with cluster() as made:
        made.start("maintain")
        for pool in ("cpu", "gpu", "gpu", "io"):
            made.start(pool)
        url = made.start_api()
        queues, load = Queues(made), Load(made, url, per_s=4)
        made.until(lambda: len(load.posted) >= 10, 30, "nobody answers")
        made.kill(made.valkey)
        restarted_s = made.revive(made.valkey)
        time.sleep(1)
        redis.Redis.from_url(made.valkey.url).flushall()
        time.sleep(1)

        usual_s = _round_trip(made, url, "usual")

        made.kill(made.valkey)
        away, done_before = time.monotonic(), len(load.posted)
        time.sleep(down_s)
        back = time.monotonic()
        made.revive(made.valkey)
        recovered_s = _round_trip(made, url, "recovery")
        time.sleep(1)
        load.stop()
        queues.stop()

        assert len(load.posted) > done_before
        answers = [one for one in load.posted if away <= one.at < back]
        waits_s = [one.seconds for one in answers]
        taken = load.taken()
        states = made.wait(list(taken), timeout_s=60)
        live = {pool: len(made.of(pool)) for pool in pools()}
        report.say(
            jobs=len(taken),
            **states,
            posts_while_down=len(answers),
            p50_ms=1000 * sorted(waits_s)[len(waits_s) // 2],
            restart_s=restarted_s,
            usual_s=usual_s,
            longest_queues=queues.longest,
            looks=queues.looks,
        )
        assert {one.status for one in load.posted} == {202}
        assert states == {"succeeded": len(taken)}
        made.check(taken)
        report.bar("p95_s", p95(waits_s), ANSWER_S)
        report.bar("recovery_s", recovered_s, RECOVER_S)
        assert all(queues.longest[pool] <= live[pool] for pool in live), (queues.longest, live)
        assert {worker.starts for worker in made.workers} == {1}


def _round_trip(made: Cluster, url: str, name: str) -> float:
    """Seconds from submitting a job to its end."""
    started = time.monotonic()
    posted = Client(made, url).post(Script(name))
    made.wait([posted.job_id], timeout_s=60, every_s=0.05)
    return time.monotonic() - started
