"""Which server is asked next."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from omni_jobs.errors import UsageError
from workers.backends.remote.servers import Away, Server, Servers, base_url, servers_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def pair(weights: tuple[float, float] = (1, 1), slots: int = 4) -> tuple[Servers, Clock]:
    clock = Clock()
    urls = [f"http://{name}:1/v1" for name in "ab"]
    return Servers([Server(url, weight, slots) for url, weight in zip(urls, weights, strict=True)], clock), clock


def test_urls_have_weights_and_get_the_usual_path() -> None:
    found = servers_of(["http://gpu-1:8000/v1 3", " https://x.org/api/ ", "http://[::1]:9000"], 5)
    assert [(one.url, one.weight, one.slots) for one in found] == [
        ("http://gpu-1:8000/v1", 3, 5), ("https://x.org/api", 1, 5), ("http://[::1]:9000/v1", 1, 5),
    ]  # fmt: skip
    assert base_url("http://a:1/v1/chat/completions") == "http://a:1/v1"


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ([], "needs OMNI_REMOTE_URLS"),
        (["gpu-1:8000"], "such as http://gpu-1:8000/v1"),
        (["ftp://a/v1"], "such as"),
        (["http://a:99999/v1"], "such as"),
        (["http://a/v1?key=x"], "such as"),
        (["http://a/v1 0"], "weight above 0"),
        (["http://a/v1 nan"], "weight above 0"),
        (["http://a/v1 many"], "weight above 0"),
        (["http://a/v1", "http://a/v1/ 2"], "more than once"),
    ],
)
def test_what_is_no_url_with_a_weight_is_refused(texts: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        servers_of(texts, 1)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="OMNI_REMOTE_KEY") as refused:
        servers_of(["http://me:hunter2@a/v1"], 1)
    assert "hunter2" not in str(refused.value)


def test_requests_are_shared_out_by_weight_until_a_server_is_full() -> None:
    servers, _ = pair((3, 1), slots=6)

    async def take(count: int) -> Counter[str]:
        async with AsyncExitStack() as stack:
            return Counter([(await stack.enter_async_context(servers.one(0))).name for _ in range(count)])

    assert asyncio.run(take(8)) == {"a:1": 6, "b:1": 2}
    assert asyncio.run(take(12)) == {"a:1": 6, "b:1": 6}


def test_who_comes_when_all_are_full_waits_for_a_place() -> None:
    servers, _ = pair(slots=1)

    async def third() -> str:
        async with servers.one(0), AsyncExitStack() as stack:
            await stack.enter_async_context(servers.one(0))
            waiting = asyncio.create_task(take())
            await asyncio.sleep(0.05)
            assert not waiting.done()
            await stack.aclose()
            return await asyncio.wait_for(waiting, 1)

    async def take() -> str:
        async with servers.one(0) as server:
            return server.name

    assert asyncio.run(third()) == "b:1"


def test_a_server_that_failed_rests_longer_each_time_and_then_is_tried_once() -> None:
    servers, clock = pair()
    a, b = servers.all

    async def names(count: int) -> list[str]:
        async with AsyncExitStack() as stack:
            return [(await stack.enter_async_context(servers.one(0))).name for _ in range(count)]

    for rest_s in (0.5, 1.0, 2.0, 4.0):
        servers.failed(a, Away("it is away"))
        assert a.rest_until == clock.now + rest_s
        assert asyncio.run(names(3)) == ["b:1"] * 3
        clock.now += rest_s
    assert asyncio.run(names(3)) == ["a:1", "b:1", "b:1"]
    servers.well(a)
    assert asyncio.run(names(4)).count("a:1") == 2
    for _ in range(20):
        servers.failed(a, Away("it is away"))
    assert a.rest_until <= clock.now + 30
    assert servers.health() == "" and b.failures == 0


def test_a_server_that_says_when_is_asked_then() -> None:
    servers, clock = pair()
    servers.failed(servers.all[0], Away("429", retry_after_s=17))
    assert servers.all[0].rest_until == clock.now + 17


def test_when_all_rest_for_too_long_nobody_waits() -> None:
    servers, _ = pair()
    for server, rest_s in zip(servers.all, (50, 40), strict=True):
        servers.failed(server, Away(f"{server.name} is busy", retry_after_s=rest_s))

    async def take() -> None:
        async with servers.one(30):
            raise AssertionError("both rest")

    with pytest.raises(Away, match="b:1 is busy") as away:
        asyncio.run(take())
    assert away.value.retry_after_s == pytest.approx(40)
    assert "is busy" in servers.health()
