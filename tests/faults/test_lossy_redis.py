"""Increments through a link that loses requests and replies: every one counts once, on every topology, in threads and
in an event loop."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Final

import pytest
import redis
from groups import SERVICE, Sentinel, asked, until
from lossy import FAULTS, Fault, Lossy, lossy, some
from redis.backoff import NoBackoff
from redis.retry import Retry
from servers import RedisServer

from empathy_kv.errors import OutcomeUnknown, UnavailableError
from empathy_kv.kv.operations import Batch, IncrBy
from empathy_kv.kv.redis import AsyncRedisKV, RedisKV

TIMES: Final = {"fast": 60, "default": 300, "nightly": 3000}[os.environ.get("EMPATHY_KV_PROFILE") or "default"]
AT_ONCE: Final = 20
"""Threads, or tasks."""
TIMEOUT: Final = 2.0

Place = tuple[str, Lossy, RedisServer]
"""A URL that leads over a lossy link, the link, and the server behind it."""


@contextmanager
def single() -> Iterator[Place]:
    with RedisServer() as server, lossy(server.port) as link:
        yield f"redis://127.0.0.1:{link.port}/0", link, server


@contextmanager
def cluster_of_one() -> Iterator[Place]:
    """A cluster whose node gives the link as its address."""
    with RedisServer("--cluster-enabled", "yes") as server, lossy(server.port) as link:
        server.ask("CONFIG", "SET", "cluster-announce-ip", "127.0.0.1")
        server.ask("CONFIG", "SET", "cluster-announce-port", link.port)
        server.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        until(lambda: b"cluster_state:ok" in asked(server, "CLUSTER", "INFO"))
        assert asked(server, "CLUSTER", "SLOTS")[0][2][1] == link.port
        yield f"redis+cluster://127.0.0.1:{link.port}", link, server


@contextmanager
def watched_by_sentinel() -> Iterator[Place]:
    """A master that its sentinel reaches over the link, too, and knows by that address."""
    with (
        RedisServer() as server,
        lossy(server.port) as link,
        Sentinel(link.port, quorum=1, down_after=60.0) as sentinel,
    ):
        yield f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}/0", link, server


TOPOLOGIES: Final = {"single": single, "cluster": cluster_of_one, "sentinel": watched_by_sentinel}


@pytest.fixture(scope="module", params=TOPOLOGIES)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with TOPOLOGIES[request.param]() as place:
        yield place


def in_threads(url: str, prefix: str, prepare: Callable[[], None]) -> None:
    """Increment a counter so many times. What did not return is repeated with its token until it does."""
    with RedisKV.from_url(url, prefix=prefix, timeout=TIMEOUT) as kv:

        def increment(_: int) -> None:
            prepare()
            token = kv.token("a")
            while True:
                try:
                    kv.execute(Batch(("a",), (IncrBy("n"),), (), token))
                    break
                except OutcomeUnknown:
                    continue
                except UnavailableError:  # Under load, all tries may have been too late. It was not done, and is void.
                    token = kv.token("a")
            while True:
                with suppress(UnavailableError, OutcomeUnknown):
                    assert kv.settle(token)
                    break

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(increment, range(TIMES)))


def in_an_event_loop(url: str, prefix: str, prepare: Callable[[], None]) -> None:
    left = iter(range(TIMES))

    async def increments(kv: AsyncRedisKV) -> None:
        for _ in left:
            prepare()
            token = kv.token("a")
            while True:
                try:
                    await kv.execute(Batch(("a",), (IncrBy("n"),), (), token))
                    break
                except OutcomeUnknown:
                    continue
                except UnavailableError:  # Under load, all tries may have been too late. It was not done, and is void.
                    token = kv.token("a")
            while True:
                with suppress(UnavailableError, OutcomeUnknown):
                    assert await kv.settle(token)
                    break

    async def main() -> None:
        # Several engines, because the tasks of one share a connection, and a fault meets all that are on it.
        async with AsyncExitStack() as stack:
            kvs = [AsyncRedisKV.from_url(url, prefix=prefix, timeout=TIMEOUT) for _ in range(AT_ONCE)]
            for kv in kvs:
                await stack.enter_async_context(kv)
            async with asyncio.TaskGroup() as group:  # It ends all of them when one fails.
                for kv in kvs * 2:
                    group.create_task(increments(kv))

    asyncio.run(main())


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("drive", [in_threads, in_an_event_loop])
def test_increments_with_up_to_three_faults_each_count_once_each(
    place: Place, drive: Callable[[str, str, Callable[[], None]], None], fault: Fault
) -> None:
    url, link, _ = place
    prefix = f"test-{secrets.token_hex(4)}"
    numbers = some(7)
    met = link.met
    drive(url, prefix, lambda: link.lose(fault, next(numbers)))
    # One and a half each, on average, of which one may meet several that go out together.
    assert link.met - met >= TIMES // 2
    link.heal()
    with RedisKV.from_url(url, prefix=prefix) as kv:
        assert kv.namespace("a").get("n") == b"%d" % TIMES


def test_redis_py_by_itself_counts_more_than_there_were() -> None:
    """That the link loses replies of what was done, and the test above would see it."""
    numbers, faults = some(7), itertools.cycle(FAULTS[:2])
    with single() as (_, link, server):
        link._match = b"HINCRBY"
        with redis.Redis(port=link.port, retry=Retry(NoBackoff(), 10)) as client:
            for _ in range(100):
                link.lose(next(faults), next(numbers))
                client.hincrby("h", "n", 1)
        with redis.Redis(port=server.port) as direct:
            assert int(direct.hget("h", "n") or 0) > 120
