"""The jobs of the family "redis": a server on this machine, beside redis-py of the same version on the same server.

A function that is called `..._turns` is what `Contender.turns` says, once the size is given. All contenders of a job
use one server, each a prefix of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
import redis
import redis.asyncio
from attrs import evolve, frozen
from counting import counted_turns, counting_row
from documents import decode, encode, pattern
from harness import PACKAGE, RATE, SERVER, Contender, Goal, Job, Role, Room, expect, timed, uncollected
from peers import recording, server
from peers.server import Socket
from peers.shape import Peer, Recorder
from served import binary, on_server, running
from storing import Turns, delete_turns, documents, get_turns, key, list_turns, opened, process_rows, put_turns, row

import empathy_kv
from empathy_kv import CollaborationState, Pattern

BARE: Final = "redis-py"
BARE_ASYNC: Final = "redis.asyncio"
SOCKET: Final = "socket + hiredis"

DOCUMENTS: Final = 1000
TASKS: Final = 50


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
    seconds: float
    """For how long processes write side by side."""
    held: int
    """Documents that are held while the memory of the server is watched."""
    repeats: int
    """Rounds of what takes long."""
    keys: int = 1_000


SIZES: Final[Mapping[str, Size]] = {
    "full": Size(rounds=40, turn=200, bulks=5, each=40, seconds=0.2, held=5_000, repeats=5),
    "quick": Size(rounds=10, turn=50, bulks=1, each=4, seconds=0.03, held=500, repeats=2, keys=200),
    "tiny": Size(rounds=2, turn=3, bulks=1, each=2, seconds=0.02, held=50, repeats=1, keys=20),
}
RECORDED: Final = "MULTI of 6"
"""What recording an interaction takes with redis-py: it may count twice what a lost reply leaves in doubt."""


def jobs(scale: str) -> list[Job]:
    """Return the jobs of this family."""
    size = SIZES[scale]
    of_bytes = _row(BARE, get_bytes_turns, size.turn, "GET of the bytes", role="mark")
    at_most = (Goal(0.8, of_bytes.name),)
    load = [
        _row(PACKAGE, load_turns, size.turn, goals=at_most),
        _row(BARE, bare_load_turns, size.turn, "GET + msgspec"),
        of_bytes,
        _row(SOCKET, socket_get_turns, size.turn, "GET of the bytes", role="floor"),
    ]
    record = [
        _row(PACKAGE, record_turns, size.turn, goals=[Goal(0.6, f"{BARE}, {RECORDED}")]),
        _row(BARE, multi_turns, size.turn, RECORDED),
        _row(SOCKET, socket_multi_turns, size.turn, RECORDED, role="floor"),
    ]
    bulk = [
        _row(PACKAGE, bulk_turns, size.bulks, goals=[Goal(1.1, f"{BARE}, MGET + msgspec")]),
        _row(BARE, bare_bulk_turns, size.bulks, "MGET + msgspec"),
        row(server.KEY_VALUE, on_server, partial(many_turns, server.KEY_VALUE, size.bulks), "get_many"),
        row(server.BARE, on_server, partial(many_turns, server.BARE, size.bulks), "MGET"),
    ]
    write = [
        row(peer, on_server, partial(put_many_turns, peer, size.bulks), way)
        for peer, way in (
            (server.OURS, "put_many"),
            (server.OWN_CLASS, "put_many"),
            (server.REDIS_PY, "MSET"),
            (server.KEY_VALUE, "put_many"),
            (server.BARE, "MSET"),
        )
    ]
    tasks = [
        _row(PACKAGE, task_turns, size.each, goals=[Goal(1 / 3, BARE_ASYNC)]),
        _row(BARE_ASYNC, bare_task_turns, size.each),
        *(
            row(peer, on_server, partial(awaited_task_turns, peer, size.each))
            for peer in (server.KEY_VALUE, server.LITESTAR)
        ),
    ]
    users = [
        _row(PACKAGE, user_turns, size.turn),
        _row(BARE, bare_user_turns, size.turn, "HGETALL of 20 fields"),
        _row(SOCKET, socket_user_turns, size.turn, "HGETALL of 20 fields", role="floor"),
    ]
    everyone = [_row(PACKAGE, global_turns, size.bulks), _row(BARE, bare_shards_turns, size.bulks, "64 HGETALL")]
    counters = (recording.SERVER_INCR, recording.REDIS_PY_INCR, recording.SOCKET_INCR)
    writers = process_rows(
        (server.OURS, server.REDIS_PY, server.BARE), on_server, size.seconds, apart=False, least=None
    )
    singly: Sequence[tuple[str, str, str, Callable[[Peer], Callable[[str], Turns]]]] = (
        ("put", "put, a new key", "us", lambda peer: partial(put_turns, peer, size.turn)),
        ("get", "get, object out", "us", lambda peer: partial(get_turns, peer, size.keys, size.turn)),
        ("delete", "delete", "us", lambda peer: partial(delete_turns, peer, size.turn)),
        ("list", f"list {size.keys:,}", "ms", lambda peer: partial(list_turns, peer, size.keys)),
    )
    made = [
        Job(
            name,
            f"{title}, on a server",
            unit,
            min(size.rounds, 10) if unit == "ms" else size.rounds,
            [
                *(row(peer, on_server, turns(peer), goals=at_most if name == "get" else ()) for peer in server.EVERY),
                *([of_bytes] if name == "get" else []),
            ],
        )
        for name, title, unit, turns in singly
    ]
    made += [
        Job("count", "count, on a server", "us", size.rounds, _counting(counters, size.turn)),
        Job("load", "load_state, on a server", "us", size.rounds, load),
        Job("record", "record_interaction, on a server", "us", size.rounds, record),
        Job("bulk", f"get {DOCUMENTS:,} documents by one call, on a server", "ms", size.rounds, bulk),
        Job("write", f"put {DOCUMENTS:,} documents by one call, on a server", "ms", size.rounds, write),
        Job("tasks", f"get by {TASKS} tasks at once, on a server", "us", size.rounds, tasks),
        Job("users", "get_user_stats, on a server", "us", size.rounds, users),
        Job("global", "get_global_stats, on a server", "us", size.rounds, everyone),
        Job("processes", "put, by several processes, on a server", RATE, size.repeats, writers),
        Job(
            "space",
            f"memory of the server a document, of {size.held:,}",
            "bytes",
            size.repeats,
            [_space_row(peer, size.held) for peer in server.EVERY if peer.role != "floor"],
            warm_up=0,
        ),
    ]
    missing = None if binary() is not None else "no redis-server or valkey-server in PATH"
    return [
        evolve(job, contenders=[evolve(each, missing=each.missing or missing) for each in job.contenders])
        for job in made
    ]


def _row(
    store: str,
    turns: Callable[[int, str], Turns],
    turn: int,
    way: str = "",
    goals: Sequence[Goal] = (),
    role: Role = "peer",
) -> Contender:
    return Contender(store, partial(on_server, partial(turns, turn)), way, goals, role=role, survives=SERVER)


def _counting(ways: Sequence[Recorder], turn: int) -> list[Contender]:
    return [counting_row(each, on_server, partial(counted_turns, each, turn)) for each in ways]


# One at a time


def load_turns(turn: int, url: str) -> Turns:
    with empathy_kv.connect(url) as store:
        store.states.save_state("user", CollaborationState())
        while True:
            yield timed(store.states.load_state, [("user",)] * turn)


def bare_load_turns(turn: int, url: str) -> Turns:
    decode_state = msgspec.json.Decoder(CollaborationState).decode
    with redis.Redis.from_url(url) as client:
        client.set("bare:state", msgspec.json.encode(CollaborationState("user")))

        def load(name: str) -> CollaborationState:
            data: Any = client.get(name)
            return decode_state(data)

        while True:
            yield timed(load, [("bare:state",)] * turn)


def get_bytes_turns(turn: int, url: str) -> Turns:
    with redis.Redis.from_url(url) as client:
        client.mset({f"document:{number}": encode(pattern(number)) for number in range(DOCUMENTS)})
        dice = random.Random(1)
        while True:
            yield timed(client.get, [(f"document:{dice.randrange(DOCUMENTS)}",) for _ in range(turn)])


def record_turns(turn: int, url: str) -> Turns:
    with empathy_kv.connect(url) as store:
        recorded = 0
        while True:
            yield timed(
                store.metrics.record_interaction, [(f"user{i % 7}", 1 + i % 5, True, 12.5) for i in range(turn)]
            )
            recorded += turn
            expect(store.metrics.get_global_stats()["total_interactions"] == recorded, "count each once")


def multi_turns(turn: int, url: str) -> Turns:
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


def socket_get_turns(turn: int, url: str) -> Turns:
    with contextlib.closing(Socket(url)) as talk:
        for number in range(DOCUMENTS):
            talk.call("SET", f"bare:{number}", encode(pattern(number)))
        dice = random.Random(1)
        while True:
            yield timed(talk.call, [("GET", f"bare:{dice.randrange(DOCUMENTS)}") for _ in range(turn)])


def socket_multi_turns(turn: int, url: str) -> Turns:
    with contextlib.closing(Socket(url)) as talk:

        def record(number: int) -> None:
            talk.calls(
                [
                    ("MULTI",),
                    ("HINCRBY", "socket:user", "count", 1),
                    ("HINCRBY", "socket:user", "time", 12500),
                    ("HINCRBY", "socket:total", "count", 1),
                    ("ZADD", "socket:first", "LT", number, "user"),
                    ("ZADD", "socket:last", "GT", number, "user"),
                    ("ZADD", "socket:recent", number, f"entry{number}"),
                    ("EXEC",),
                ]
            )

        number = 0
        while True:
            yield timed(record, [(number + i,) for i in range(turn)])
            number += turn


def bulk_turns(turn: int, url: str) -> Turns:
    with empathy_kv.connect(url) as store:
        patterns = store.collection("patterns", Pattern)
        patterns.put_many({str(number): pattern(number) for number in range(DOCUMENTS)})
        ids = [str(number) for number in range(DOCUMENTS)]
        while True:
            yield timed(patterns.get_many, [(ids,)] * turn)
            expect(len(patterns.get_many(ids)) == DOCUMENTS, "return all of them")


def bare_bulk_turns(turn: int, url: str) -> Turns:
    with redis.Redis.from_url(url) as client:
        names = [f"document:{number}" for number in range(DOCUMENTS)]
        client.mset({name: encode(pattern(number)) for number, name in enumerate(names)})

        def read() -> dict[str, Any]:
            values = client.mget(names)
            return {name: decode(value) for name, value in zip(names, values, strict=True)}

        while True:
            yield timed(read, [()] * turn)


def many_turns(peer: Peer, turn: int, url: str) -> Turns:
    names = [key(number) for number in range(DOCUMENTS)]
    with opened(peer, url) as store:
        store.fill(dict(documents(peer, range(DOCUMENTS))))
        while True:
            yield store.time(store.items, [(names,)] * turn)
            expect(len(store.do(store.items, names)) == DOCUMENTS, "return all of them")


def put_many_turns(peer: Peer, turn: int, url: str) -> Turns:
    some = dict(documents(peer, range(DOCUMENTS)))
    last = key(DOCUMENTS - 1)
    with opened(peer, url) as store:
        assert store.bulk is not None
        while True:
            yield store.time(store.bulk, [(some,)] * turn)
            expect(store.do(store.get, last) == some[last], "return what was put")


def user_turns(turn: int, url: str) -> Turns:
    with empathy_kv.connect(url) as store:
        for number in range(100):
            store.metrics.record_interaction("counted", 1 + number % 5, True, float(number))
        while True:
            yield timed(store.metrics.get_user_stats, [("counted",)] * turn)


FIELDS: Final = {str(field): field for field in range(20)}


def bare_user_turns(turn: int, url: str) -> Turns:
    with redis.Redis.from_url(url) as client:
        client.hset("bare:counted", mapping=FIELDS)  # type: ignore[arg-type]
        while True:
            yield timed(client.hgetall, [("bare:counted",)] * turn)


def socket_user_turns(turn: int, url: str) -> Turns:
    with contextlib.closing(Socket(url)) as talk:
        talk.call("HSET", "socket:counted", *(word for pair in FIELDS.items() for word in pair))
        while True:
            yield timed(talk.call, [("HGETALL", "socket:counted")] * turn)


def global_turns(turn: int, url: str) -> Turns:
    with empathy_kv.connect(url) as store:
        for number in range(200):
            store.metrics.record_interaction(f"user{number}", 1 + number % 5, True, float(number))
        while True:
            yield timed(store.metrics.get_global_stats, [()] * turn)


def bare_shards_turns(turn: int, url: str) -> Turns:
    with redis.Redis.from_url(url) as client:
        for number in range(64):
            client.hset(f"bare:shard{number}", mapping={str(field): field for field in range(10)})

        def read() -> Any:
            pipeline = client.pipeline(transaction=False)
            for number in range(64):
                pipeline.hgetall(f"bare:shard{number}")
            return pipeline.execute()

        while True:
            yield timed(read, [()] * turn)


# Many at once


def task_turns(turn: int, url: str) -> Turns:
    with asyncio.Runner() as runner:
        store = runner.run(empathy_kv.connect_async(url))
        try:
            patterns = store.collection("patterns", Pattern)
            runner.run(patterns.put_many({str(number): pattern(number) for number in range(DOCUMENTS)}))
            while True:
                yield [runner.run(_at_once(patterns.get, str, turn))]
        finally:
            runner.run(store.close())


def bare_task_turns(turn: int, url: str) -> Turns:
    with asyncio.Runner() as runner:
        client = redis.asyncio.Redis.from_url(url)

        async def get(name: str) -> Pattern:
            return decode(await client.get(name))

        try:
            made = {f"document:{number}": encode(pattern(number)) for number in range(DOCUMENTS)}
            runner.run(_set(client, made))
            while True:
                yield [runner.run(_at_once(get, "document:{}".format, turn))]
        finally:
            runner.run(client.aclose())


def awaited_task_turns(peer: Peer, turn: int, url: str) -> Turns:
    with opened(peer, url) as store:
        assert store.runner is not None
        store.fill(dict(documents(peer, range(DOCUMENTS))))
        while True:
            yield [store.runner.run(_at_once(store.get, key, turn))]


async def _set(client: redis.asyncio.Redis, documents: Mapping[str, bytes]) -> None:
    await client.mset(documents)


async def _at_once(get: Callable[[Any], Awaitable[object]], name: Callable[[int], Any], each: int) -> float:
    """Let tasks call at once and return the seconds that one call took of the whole."""

    async def task(first: int) -> None:
        for number in range(each):
            await get(name((first + number) % DOCUMENTS))

    with uncollected():
        start = time.perf_counter()
        await asyncio.gather(*(task(first) for first in range(TASKS)))
        return (time.perf_counter() - start) / (TASKS * each)


# Memory


def _space_row(peer: Peer, count: int) -> Contender:
    return Contender(
        peer.name, partial(space_turns, peer, count), missing=peer.missing, role=peer.role, survives=SERVER
    )


def space_turns(peer: Peer, count: int, room: Room) -> Turns:
    # Others who are measured at the same time would be counted too; a job has one turn after the other.
    with running(room.shared) as url, redis.Redis.from_url(url) as client, opened(peer, url) as store:
        for first in itertools.count(step=count):
            before = _used_memory(client)
            store.fill(dict(documents(peer, range(first, first + count))))
            yield [(_used_memory(client) - before) / count]


def _used_memory(client: redis.Redis) -> int:
    about: Any = client.info("memory")
    return int(about["used_memory"])
