"""Row 12: one tenant floods, with unequal costs and weights, and the other hardly notices."""

import statistics
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from omni_jobs.job import Pool, UnitKind
from omni_jobs.store import attempts, claims, submissions, tenants, workers
from omni_jobs.store.claims import Claimed
from omni_jobs.store.database import auto, rows, run
from omni_jobs.store.submissions import NewJob, NewSource
from omni_jobs.store.units import NewUnit
from tests.faults.cluster import Cluster, cluster
from tests.faults.fake import Script
from tests.faults.report import Report

pytestmark = [pytest.mark.servers, pytest.mark.faults, pytest.mark.timeout(900)]

FLAT = 1.1
SLACK_BYTES = 4 << 20


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def waits(made: Cluster, ids: list[str]) -> list[dict[str, float]]:
    """Of each job the seconds that its units stood ready: in each queue the last of them, and all queues together."""
    found = made.sql(
        """select u.job_id, u.kind, max(extract(epoch from a.started_at - u.created_at))::float as waited
           from omni.units u join omni.attempts a on a.unit_id = u.unit_id and a.generation = 1
           where u.job_id = any(%s) group by 1, 2""",
        ids,
    )
    of: dict[str, dict[str, float]] = {}
    for one in found:
        of.setdefault(one["job_id"], {"all": 0.0})[one["kind"]] = one["waited"]
        of[one["job_id"]]["all"] += one["waited"]
    assert len(of) == len(ids)
    return list(of.values())


def own_bytes(made: Cluster) -> int:
    """Memory that the workers have for themselves, together."""
    total = 0
    for worker in made.workers:
        for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                total += int(line.split()[1]) << 10
    return total


def flood(made: Cluster, tenant: str, script: Script, count: int) -> None:
    """So many jobs at once of one source."""
    path = made.folder / "in" / f"{script.name}.json"
    path.write_bytes(script.to_bytes())
    source = (NewSource(path.as_uri(), path.name),)
    options = {"summary": False, "word_times": False}
    for _ in range(count):
        submissions.insert(made.db, NewJob(tenant, source, options, reuse=False))


def test_a_flood_at_most_doubles_the_wait_of_others(scale: float, report: Report) -> None:
    """A's spans take half as long again and cost as much more; B has three times its weight.

    Nothing that runs is stopped for B: what it waits more than its share is a unit of A's in each queue.
    """
    small = [Script(f"b-{n}", 2, prepare_s=0.2, span_s=1.0) for n in range(10)]
    with cluster() as made:
        made.start("maintain")
        made.start("cpu", fake_slots=2)
        made.start("gpu", fake_slots=4)
        made.start("io")
        tenants.update(made.db, "a", weight=1.0)
        tenants.update(made.db, "b", weight=3.0)
        warm = made.submit([Script("warm")], tenant="b")
        made.wait(warm, 30)
        alone = made.submit(small, tenant="b", options={"summary": False})
        assert made.wait(alone, timeout_s=120) == {"succeeded": 10}
        waits_alone = waits(made, alone)

        flood(made, "a", Script("a", 2, prepare_s=0.2, span_s=1.5, cost=1.5), round(10_000 * scale))
        made.until(lambda: busy(made, "a") >= 6, 60, "the flood does not fill the slots")
        before = own_bytes(made)
        beside = made.submit(small, tenant="b", options={"summary": False})
        assert made.wait(beside, timeout_s=240) == {"succeeded": 10}
        waits_beside, after = waits(made, beside), own_bytes(made)
        wait_alone_s, wait_s = (p95([one["all"] for one in some]) for some in (waits_alone, waits_beside))
        by_kind = {
            f"{kind}_s": " and ".join(f"{max(one[kind] for one in some):.2f}" for some in (waits_alone, waits_beside))
            for kind in ("prepare", "span", "deliver")
        }
        open_of_a = made.sql("select count(*) as n from omni.jobs where tenant_id = 'a' and state = 'queued'")[0]["n"]
        report.say(
            flood=round(10_000 * scale),
            still_queued=open_of_a,
            p95_wait_alone_s=wait_alone_s,
            p95_wait_s=wait_s,
            memory_before_mb=before / 1e6,
            memory_after_mb=after / 1e6,
            **by_kind,
        )
        assert open_of_a > 100 * scale
        report.bar("ratio", wait_s / wait_alone_s, 2.0)
        assert after <= before * FLAT + SLACK_BYTES
        made.check(dict(zip(beside, small, strict=True)))


def busy(made: Cluster, tenant: str) -> int:
    query = "select count(*) as n from omni.units where tenant_id = %s and state = 'running'"
    return made.sql(query, tenant)[0]["n"]


# The same on the level of the store: pure arithmetic, one claim after the other.


def crowd(db: Engine, tenant: str, count: int, cost: float = 1.0, **more: Any) -> list[str]:
    """Jobs whose prepare unit costs so much."""
    source = (NewSource("upload:x.wav", "x.wav", "k", "0" * 64, 10),)
    ids = [submissions.insert(db, NewJob(tenant, source, {"summary": False}, **more))[0] for _ in range(count)]
    with db.begin() as tx:
        run(tx, "update omni.units set cost = :cost where job_id = any(cast(:ids as uuid[]))", cost=cost, ids=ids)
    return ids


@pytest.fixture
def worker(db: Engine) -> str:
    return workers.register(db, pool="cpu", host="here", pid=1, pid_started=1, version="t", backend=None)


def take(db: Engine, worker: str, count: int, room: int = 1) -> list[Claimed]:
    taken: list[Claimed] = []
    while len(taken) < count and (batch := claims.claim(db, worker, Pool.CPU, room)):
        taken += batch
    return taken


@pytest.mark.parametrize("room", [1, 7])
def test_shares_are_as_the_weights_whatever_a_unit_costs(db: Engine, worker: str, room: int, report: Report) -> None:
    tenants.update(db, "a", weight=1.0)
    tenants.update(db, "b", weight=3.0)
    crowd(db, "a", 40, cost=5.0)
    crowd(db, "b", 150, cost=2.0)
    cost: Counter[str] = Counter()
    for unit in take(db, worker, 130, room):
        cost[unit.tenant_id] += 5 if unit.tenant_id == "a" else 2
    share = cost["a"] / (cost["a"] + cost["b"])
    report.say(share_of_weight_1_in_4=share)
    assert share == pytest.approx(0.25, rel=0.1)


def test_who_was_idle_joins_where_the_pool_is(db: Engine, worker: str) -> None:
    """It neither gets the past made good, nor waits behind who had the pool for itself."""
    crowd(db, "a", 60)
    take(db, worker, 40)
    crowd(db, "b", 20)
    shares = Counter(unit.tenant_id for unit in take(db, worker, 20))
    assert 9 <= shares["b"] <= 11, shares


def test_priority_and_then_the_due_time_order_within_a_tenant_alone(db: Engine, worker: str) -> None:
    late = crowd(db, "a", 2, due_at=datetime(2031, 1, 1, tzinfo=UTC))
    soon = crowd(db, "a", 2, due_at=datetime(2030, 1, 1, tzinfo=UTC))
    high = crowd(db, "a", 1, priority=5)
    other = crowd(db, "b", 5)
    order = [unit.job_id for unit in take(db, worker, 10)]
    assert [job_id for job_id in order if job_id not in other] == high + soon + late
    assert set(order[:4]) & set(other), "the priority of one tenant does not stand before another tenant"


def test_fairness_holds_in_every_pool(db: Engine, worker: str) -> None:
    """What a tenant had of the cpu does not count on the gpu, where its flood has its own clock."""
    crowd(db, "a", 12)
    crowd(db, "b", 3)
    for unit in take(db, worker, 15):
        attempts.finish(db, unit, {}, follow=[NewUnit(UnitKind.SPAN, unit.source_id, n, cost=3.0) for n in range(2)])
    first = [claims.claim(db, worker, Pool.GPU, 1)[0].tenant_id for _ in range(12)]
    assert Counter(first)["b"] == 6, first
    with auto(db) as tx:
        clocks = {one["tenant_id"]: one["clock"] for one in rows(tx, "select * from omni.clocks where pool = 'gpu'")}
    assert clocks["a"] == pytest.approx(clocks["b"], abs=3.0)
