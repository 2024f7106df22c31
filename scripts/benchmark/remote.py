"""The jobs of the family "redis": a server on this machine, beside redis-py of the same version on the same server.

A function that is called `..._turns` is what `Contender.turns` says, once the size is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import redis
import redis.asyncio
from attrs import frozen
from documents import encode, pattern
from harness import Contender, Goal, Job, Room, expect, timed, uncollected

import empathy_kv
from empathy_kv import CollaborationState, Pattern

OURS: Final = "empathy_kv"
BARE: Final = "redis-py"
BARE_ASYNC: Final = "redis.asyncio"

DOCUMENTS: Final = 1000
TASKS: Final = 50
PLACES: Final = (os.environ.get("PATH", ""), str(Path(__file__).parents[2] / ".venv-test" / "bin"))
"""Where a server is looked for: `scripts/test` leaves one in the second."""


@frozen
class Size:
    """How much is done."""

    rounds: int
    turn: int
    """Operations of a contender in a round."""
    bulks: int
    """The same of those that take a thousand documents."""
    each: int
    """Calls of a task."""


SIZES: Final[Mapping[str, Size]] = {
    "full": Size(rounds=40, turn=300, bulks=5, each=40),
    "quick": Size(rounds=20, turn=150, bulks=3, each=20),
    "tiny": Size(rounds=2, turn=3, bulks=1, each=2),
}


def jobs(scale: str) -> list[Job]:
    """Return the jobs of this family."""
    size = SIZES[scale]
    return [
        _job("get", "get, object out", size, size.turn, get_turns, bare_get_turns, "GET of the bytes", 0.8),
        _job("load", "load_state", size, size.turn, load_turns, bare_get_turns, "GET of the bytes", 0.8),
        _job("record", "record_interaction", size, size.turn, record_turns, bare_multi_turns, "MULTI of 6", 0.6),
        _job(
            "bulk", "1,000 documents", size, size.bulks, bulk_turns, bare_bulk_turns, "MGET + msgspec", 1.1, unit="ms"
        ),
        _job("tasks", f"get by {TASKS} tasks", size, size.each, task_turns, bare_task_turns, "GET", 1 / 3, BARE_ASYNC),
        _job("users", "get_user_stats", size, size.turn, user_turns, bare_get_turns, "GET of the bytes", None),
        _job("global", "get_global_stats", size, size.bulks, global_turns, bare_shards_turns, "64 HGETALL", None),
    ]


def _job(
    name: str,
    title: str,
    size: Size,
    turn: int,
    ours: Callable[[int, str], Iterator[Sequence[float]]],
    bare: Callable[[int, str], Iterator[Sequence[float]]],
    way: str,
    limit: float | None,
    store: str = BARE,
    unit: str = "us",
) -> Job:
    other = f"{store}, {way}"
    goals = () if limit is None else (Goal(limit, other),)
    missing = None if _binary() is not None else "no redis-server or valkey-server in PATH"
    rows = [
        Contender(OURS, partial(_served, ours, turn), "", goals, other, missing),
        Contender(store, partial(_served, bare, turn), way, missing=missing),
    ]
    return Job(name, f"{title}, on a server", unit, size.rounds, rows)


def _binary() -> str | None:
    return next(
        (
            found
            for place in PLACES
            for name in ("redis-server", "valkey-server")
            if (found := shutil.which(name, path=place)) is not None
        ),
        None,
    )


def _served(turns: Callable[[int, str], Iterator[Sequence[float]]], turn: int, room: Room) -> Iterator[Sequence[float]]:
    with _server(room.shared) as url:
        yield from turns(turn, url)


_used = [0]


@contextlib.contextmanager
def _server(place: Path) -> Iterator[str]:
    """Give the URL of a server that all contenders share, and that ends with the last of them."""
    path = place / "redis.port"
    if not _used[0]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        binary = _binary()
        if binary is None:
            raise RuntimeError("there is no server")
        options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(place))
        process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
        path.write_text(str(port))
        _processes.append(process)
    _used[0] += 1
    try:
        url = f"redis://127.0.0.1:{path.read_text()}/0"
        deadline = time.monotonic() + 30
        with redis.Redis.from_url(url) as client:
            while True:
                try:
                    client.ping()
                except redis.exceptions.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                else:
                    break
        yield url
    finally:
        _used[0] -= 1
        if not _used[0]:
            process = _processes.pop()
            process.terminate()
            process.wait()
            path.unlink()


_processes: list[subprocess.Popen[bytes]] = []


# One at a time


def get_turns(turn: int, url: str) -> Iterator[Sequence[float]]:
    with empathy_kv.connect(url) as store:
        patterns = store.collection("patterns", Pattern)
        patterns.put_many({str(number): pattern(number) for number in range(DOCUMENTS)})
        dice = random.Random(1)
        while True:
            yield timed(patterns.get, [(str(dice.randrange(DOCUMENTS)),) for _ in range(turn)])
            expect(patterns.get("7") == pattern(7), "return what was put")


def load_turns(turn: int, url: str) -> Iterator[Sequence[float]]:
    with empathy_kv.connect(url) as store:
        store.states.save_state("user", CollaborationState())
        while True:
            yield timed(store.states.load_state, [("user",)] * turn)


def bare_get_turns(turn: int, url: str) -> Iterator[Sequence[float]]:
    with redis.Redis.from_url(url) as client:
        client.mset({f"document:{number}": encode(pattern(number)) for number in range(DOCUMENTS)})
        dice = random.Random(1)
        while True:
            yield timed(client.get, [(f"document:{dice.randrange(DOCUMENTS)}",) for _ in range(turn)])


def record_turns(turn: int, url: str) -> Iterator[Sequence[float]]:
    with empathy_kv.connect(url) as store:
        recorded = 0
        while True:
            yield timed(
                store.metrics.record_interaction, [(f"user{i % 7}", 1 + i % 5, True, 12.5) for i in range(turn)]
            )
            recorded += turn
            expect(store.metrics.get_global_stats()["total_interactions"] == recorded, "count each once")


def bare_multi_turns(turn: int, url: str) -> Iterator[Sequence[float]]:
    with redis.Redis.from_url(url) as client:

        def record(number: int) -> None:
            pipeline = client.pipeline(transaction=True)
            pipeline.hincrby("bare:user", "count", 1)
            pipeline.hincrby("bare:user", "time", 12500)
            pipeline.hincrby("bare:total", "count", 1)
            pipeline.zadd("bare:first", {"user": number}, lt=True)
            pipeline.zadd("bare:last", {"user": number}, gt=True)
            pipeline.zadd("bare:recent", {f"entry{number}": number})
            pipeline.execute()

        number = 0
        while True:
            yield timed(record, [(number + i,) for i in range(turn)])
            number += turn


def bulk_turns(turn: int, url: str) -> Iterator[Sequence[float]]:
    with empathy_kv.connect(url) as store:
        patterns = store.collection("patterns", Pattern)
        patterns.put_many({str(number): pattern(number) for number in range(DOCUMENTS)})
        ids = [str(number) for number in range(DOCUMENTS)]
        while True:
            yield timed(patterns.get_many, [(ids,)] * turn)
            expect(len(patterns.get_many(ids)) == DOCUMENTS, "return all of them")


def bare_bulk_turns(turn: int, url: str) -> Iterator[Sequence[float]]:
    with redis.Redis.from_url(url) as client:
        names = [f"document:{number}" for number in range(DOCUMENTS)]
        client.mset({name: encode(pattern(number)) for number, name in enumerate(names)})
        decode = msgspec.json.Decoder(Pattern).decode

        def read() -> dict[str, Any]:
            values = client.mget(names)
            return {name: decode(value) for name, value in zip(names, values, strict=True)}  # type: ignore[arg-type]

        while True:
            yield timed(read, [()] * turn)


def user_turns(turn: int, url: str) -> Iterator[Sequence[float]]:
    with empathy_kv.connect(url) as store:
        for number in range(100):
            store.metrics.record_interaction("counted", 1 + number % 5, True, float(number))
        while True:
            yield timed(store.metrics.get_user_stats, [("counted",)] * turn)


def global_turns(turn: int, url: str) -> Iterator[Sequence[float]]:
    with empathy_kv.connect(url) as store:
        for number in range(200):
            store.metrics.record_interaction(f"user{number}", 1 + number % 5, True, float(number))
        while True:
            yield timed(store.metrics.get_global_stats, [()] * turn)


def bare_shards_turns(turn: int, url: str) -> Iterator[Sequence[float]]:
    with redis.Redis.from_url(url) as client:
        for number in range(64):
            client.hset(f"bare:shard{number}", mapping={str(field): field for field in range(10)})

        def read() -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for number in range(64):
                pipeline.hgetall(f"bare:shard{number}")
            return pipeline.execute()

        while True:
            yield timed(read, [()] * turn)


# Many at once


def task_turns(turn: int, url: str) -> Iterator[Sequence[float]]:
    with asyncio.Runner() as runner:
        store = runner.run(empathy_kv.connect_async(url))
        try:
            patterns = store.collection("patterns", Pattern)
            runner.run(patterns.put_many({str(number): pattern(number) for number in range(DOCUMENTS)}))
            while True:
                yield [runner.run(_at_once(patterns.get, str, turn))]
        finally:
            runner.run(store.close())


def bare_task_turns(turn: int, url: str) -> Iterator[Sequence[float]]:
    with asyncio.Runner() as runner:
        client = redis.asyncio.Redis.from_url(url)
        try:
            runner.run(client.mset({f"document:{number}": encode(pattern(number)) for number in range(DOCUMENTS)}))
            while True:
                yield [runner.run(_at_once(client.get, "document:{}".format, turn))]
        finally:
            runner.run(client.aclose())


async def _at_once(get: Callable[[str], Awaitable[object]], name: Callable[[int], str], each: int) -> float:
    """Let tasks call at once and return the seconds that one call took of the whole."""

    async def task(first: int) -> None:
        for number in range(each):
            await get(name((first + number) % DOCUMENTS))

    with uncollected():
        start = time.perf_counter()
        await asyncio.gather(*(task(first) for first in range(TASKS)))
        return (time.perf_counter() - start) / (TASKS * each)
