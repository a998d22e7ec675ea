"""`GET /metrics` for Prometheus: what waits, what runs, what was counted. It wants the key as all else does."""

import re
from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omni_jobs.api.parts import Use
from omni_jobs.store import metrics as store_metrics
from omni_jobs.store.metrics import Numbers

router = APIRouter(tags=["metrics"])

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SERIES = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)(?:\{(.*)\})?", re.DOTALL)
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
# What workers count; a series that is not here is exposed all the same.
HELP = {
    "units": "Attempts that workers ended, by kind and outcome",
    "unit_seconds": "Seconds that workers spent on units, by kind",
    "units_reaped": "Units taken back from workers that were gone or late, by outcome",
    "wakes": "Wake-ups that workers received",
    "wakes_in_vain": "Wake-ups after which a worker found nothing to claim",
    "workers_dead": "Worker processes found dead",
    "workers_silent": "Workers given up because they sent no heartbeat",
    "objects_deleted": "Objects that the collector deleted",
    "objects_deleted_late": "Objects that appeared below a deleted prefix and were deleted, too",
    "duties_failed": "Rounds of upkeep that failed",
}


class Counts:
    """What this process of the API has answered."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "omni_api_requests",
            "Requests this API process answered, by method, route and status",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.too_many = Counter(
            "omni_api_too_many",
            "Requests this API process refused with 429 because too many jobs are open",
            registry=self.registry,
        )


class Counting:
    """ASGI middleware: counts every answer, those of the door, too."""

    def __init__(self, app: ASGIApp, counts: Counts) -> None:
        self._app, self._counts = app, counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status = 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            # The template, never the path: its number is bounded.
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._counts.requests.labels(method, route, str(status or 500)).inc()
            if status == 429:
                self._counts.too_many.inc()


class Numbered(Collector):
    """The numbers of the database as metrics."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        numbers = self._numbers
        yield _gauge("omni_jobs", "Jobs, by state", ["state"], (([s], n) for s, n in numbers.jobs.items()))
        yield _gauge(
            "omni_units",
            "Units that are ready, running or dead, by pool and state",
            ["pool", "state"],
            (([pool, state], n) for (pool, state), n in numbers.units.items()),
        )
        for name, text, values in (
            ("omni_ready_oldest_seconds", "How long the oldest ready unit of a pool has waited", numbers.oldest_s),
            ("omni_pool_paused", "1 while the work that feeds a pool is held back, because enough is ready",
             {pool: float(one.paused) for pool, one in numbers.pools.items()}),
            ("omni_pool_ready_seconds", "Seconds of work that are ready for a pool, at its present speed",
             {pool: one.ready_s for pool, one in numbers.pools.items()}),
            ("omni_pool_ready_bytes", "Bytes of canonical media that wait with the ready units of a pool",
             {pool: float(one.ready_bytes) for pool, one in numbers.pools.items()}),
            ("omni_workers_live", "Workers heard of within a lease, by pool", numbers.workers),
        ):  # fmt: skip
            yield _gauge(name, text, ["pool"], (([pool], n) for pool, n in values.items()))
        yield from _counted(numbers.counters)


def _gauge(name: str, text: str, labels: list[str], values: Iterable[tuple[list[str], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for value_labels, value in values:
        family.add_metric(value_labels, value)
    return family


def _counted(counters: dict[str, float]) -> Iterator[Metric]:
    families: dict[str, CounterMetricFamily] = {}
    for series, value in sorted(counters.items()):
        if (found := SERIES.fullmatch(series)) is None:
            continue
        name, labels = found[1], dict(LABEL.findall(found[2] or ""))
        text = HELP.get(name, f"What workers counted as {name}") + "; summed over all worker processes"
        family = families.setdefault(name, CounterMetricFamily(f"omni_{name}", text))
        family.add_sample(f"omni_{name}_total", labels, value)
    yield from families.values()


@router.get("/metrics", summary="Numbers for Prometheus", response_class=Response)
def metrics(request: Request, parts: Use) -> Response:
    numbers = store_metrics.numbers(parts.db, parts.settings.lease_s)
    registry = CollectorRegistry()
    registry.register(Numbered(numbers))
    counts: Counts = request.app.state.counts
    return Response(generate_latest(registry) + generate_latest(counts.registry), media_type=CONTENT_TYPE_LATEST)
