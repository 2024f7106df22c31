"""What is true of the Redis engine in an event loop alone: cancellation, many tasks, connections that are shared."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from typing import Any, NoReturn

import pytest
import redis.asyncio
from lossy import lossy
from servers import RedisServer

from empathy_kv import connect, connect_async
from empathy_kv.errors import ArgumentTypeError, ClosedError, TokenError, UnavailableError
from empathy_kv.kv.operations import Batch, IncrBy
from empathy_kv.kv.redis import AsyncRedisKV
from empathy_kv.kv.redis.multiplexed import Multiplexed
from empathy_kv.kv.redis.topology import Lost


def fresh() -> str:
    return f"test-{secrets.token_hex(4)}"


def opened(port: int, **options: Any) -> AsyncRedisKV:
    return AsyncRedisKV.from_url(f"redis://127.0.0.1:{port}/0", prefix=options.pop("prefix", fresh()), **options)


def test_a_hundred_calls_that_are_cancelled_settle_and_the_total_is_what_the_settled_ones_say(
    redis_server: RedisServer,
) -> None:
    source = random.Random(3)

    async def main() -> None:
        with lossy(redis_server.port) as link:
            async with opened(link.port) as kv:
                await kv.namespace("a").get("warm")
                tokens = [kv.token("a") for _ in range(100)]
                tasks = []
                for number, token in enumerate(tokens):
                    if number % 5 == 0:
                        link.lose("delayed" if number % 2 else "before", 1)
                    tasks.append(asyncio.create_task(kv.execute(Batch(("a",), (IncrBy("n"),), (), token))))
                    for _ in range(source.randint(0, 6)):
                        await asyncio.sleep(0)
                    if source.random() < 0.7:
                        tasks[-1].cancel()
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
                cancelled = [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes]
                assert 40 < sum(cancelled) < 90
                settled = [await kv.settle(token) for token in tokens]
                for token, applied, gone in zip(tokens, settled, cancelled, strict=True):
                    assert applied or gone
                    if not applied:  # What is still under way is refused when it arrives.
                        with pytest.raises(TokenError):
                            await kv.execute(Batch(("a",), (IncrBy("n"),), (), token))
                assert int(await kv.namespace("a").get("n") or 0) == sum(settled)
                # No stray reply: what each asks now is what it is told.
                for number in range(20):
                    await kv.namespace("b").set(str(number), str(number).encode())
                replies = await asyncio.gather(*(kv.namespace("b").get(str(number)) for number in range(20)))
                assert replies == [str(number).encode() for number in range(20)]

    asyncio.run(main())


def test_the_slot_of_a_cancelled_write_comes_back(redis_server: RedisServer) -> None:
    async def main() -> None:
        async with opened(redis_server.port) as kv:
            ns = kv.namespace("a")
            await ns.incr("n")
            for _ in range(50):
                task = asyncio.create_task(ns.incr("n"))
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await asyncio.gather(*kv._cancelled)
            assert kv._tokens._taken == {}
            assert len(kv._tokens._free) <= 2

    asyncio.run(main())


def test_a_cancelled_write_is_settled_when_the_store_is_closed(redis_server: RedisServer) -> None:
    prefix = fresh()

    async def main() -> None:
        with lossy(redis_server.port) as link:
            async with opened(link.port, prefix=prefix) as kv:
                await kv.namespace("a").get("warm")
                link.lose("before", 1)
                task = asyncio.create_task(kv.namespace("a").incr("n"))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert kv._tokens._taken == {}

    asyncio.run(main())


def test_a_thousand_tasks_count_exactly_on_one_connection(redis_server: RedisServer) -> None:
    async def main() -> None:
        async with opened(redis_server.port, timeout=30.0) as kv:
            ns = kv.namespace("a")
            await ns.incr("n")
            descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

            async def work() -> None:
                for _ in range(5):
                    await ns.incr("n")

            await asyncio.gather(*(work() for _ in range(1000)))
            assert await ns.get("n") == b"5001"
            if descriptors:
                assert len(os.listdir("/proc/self/fd")) == descriptors

    asyncio.run(main())


def test_a_connection_that_stalls_takes_no_further_requests_and_others_go_on(redis_server: RedisServer) -> None:
    async def main() -> None:
        with lossy(
            redis_server.port,
        ) as link:
            async with opened(link.port, timeout=5.0) as kv:
                ns = kv.namespace("a")
                await ns.incr("n")
                link.lose("swallowed", 1)
                sums = await asyncio.gather(*(ns.incr("n") for _ in range(20)))
                assert sorted(sums) == list(range(2, 22))

    asyncio.run(main())


def test_an_engine_may_be_used_in_one_event_loop_after_the_other(redis_server: RedisServer) -> None:
    kv = opened(redis_server.port)
    for number in range(1, 4):
        assert asyncio.run(kv.namespace("a").incr("n")) == number  # type: ignore[arg-type]


def test_a_closed_engine_says_so(redis_server: RedisServer) -> None:
    async def main() -> None:
        kv = opened(redis_server.port)
        await kv.namespace("a").incr("n")
        await kv.close()
        await kv.close()
        with pytest.raises(ClosedError):
            await kv.namespace("a").get("n")

    asyncio.run(main())


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [False, True])
def test_a_client_of_the_callers_serves_as_it_is_and_stays_open(
    redis_server: RedisServer, protocol: int, decode: bool
) -> None:
    async def main() -> None:
        client = redis.asyncio.Redis(port=redis_server.port, protocol=protocol, decode_responses=decode)
        async with await connect_async(client, prefix=fresh()) as store:
            ns = store.kv.namespace("a")
            await ns.set("k", b"\xff\x00")
            await ns.hset("h", {"f": b"\xff"})
            await ns.zadd("z", {b"\xff": 0.1})
            assert await ns.get("k") == b"\xff\x00"
            assert await ns.hgetall("h") == {"f": b"\xff"}
            assert await ns.zrange("z") == [(b"\xff", 0.1)]
        assert await client.ping()
        await client.aclose()

    asyncio.run(main())


def test_a_client_of_the_other_kind_is_refused(redis_server: RedisServer) -> None:
    with redis.Redis(port=redis_server.port) as client, pytest.raises(ArgumentTypeError, match="one of asyncio"):
        asyncio.run(connect_async(client))  # type: ignore[arg-type]

    async def main() -> None:
        client = redis.asyncio.Redis(port=redis_server.port)
        with pytest.raises(ArgumentTypeError, match="not of asyncio"):
            connect(client)  # type: ignore[arg-type]
        await client.aclose()

    asyncio.run(main())


def test_closing_while_a_connection_opens_is_a_closed_store_for_who_waits_and_cancels_nobody() -> None:
    async def main() -> None:
        accepted = asyncio.Event()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set()
            await reader.read()
            writer.close()

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            # Who asks for a database waits for an answer to it before the connection is open.
            kv = AsyncRedisKV.from_url(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/1", prefix=fresh())
            asking = [asyncio.create_task(kv.namespace("a").get("k")) for _ in range(3)]
            await accepted.wait()
            asking[0].cancel()
            await kv.close()
            outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, ClosedError, ClosedError]

    asyncio.run(main())


def test_a_connection_that_just_failed_to_open_does_not_keep_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def opened(*_: Any) -> NoReturn:
        raise Lost(redis.exceptions.TimeoutError("too late"), sent=False)

    monkeypatch.setattr(Multiplexed, "_opened", opened)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def ask(kv: AsyncRedisKV, *, later: bool) -> None:
        if later:
            await asyncio.sleep(0)  # So that the connection has failed, and nobody has noted it yet.
        with pytest.raises(UnavailableError):
            await kv.namespace("a").get("k")

    async def main() -> None:
        async with AsyncRedisKV.from_url("redis://127.0.0.1:1", timeout=0.3) as kv:
            others = asyncio.create_task(turn())
            await asyncio.gather(ask(kv, later=False), ask(kv, later=True))
            others.cancel()

    asyncio.run(main())
    assert turns > 20
