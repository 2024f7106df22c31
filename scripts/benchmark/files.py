"""The jobs of the family "files": stores on the disk of one machine, without a server.

A function that is called `..._turns` is what `Contender.turns` says, once peer and size are given.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

import peers
from attrs import evolve, frozen
from documents import pattern
from harness import RATE, Contender, Goal, Job, Room, expect, timed, uncollected
from peers import DISKCACHE, FLOOR, LMDB, LOG, OURS, PEERS, SQLITE, WAIST, Documents, Peer, Recorder


@frozen
class Size:
    """How much is done."""

    rounds: int
    turn: int
    """Operations of a contender in a round, where one takes microseconds."""
    durable_rounds: int
    durable_turn: int
    """The same where each waits for the disk."""
    repeats: int
    """Rounds of what takes long."""
    recorded: int
    """How often something was counted or recorded before, at the later of two looks."""
    large: int
    """Documents of the large store."""
    written: int
    """Documents that are written while memory is watched, which is done once."""
    seconds: float
    """For how long processes write side by side."""
    keys: int = 1_000
    """Documents of the small store, which is read, listed and overwritten, and what is recorded at the first look."""
    fill: int = 10_000
    """Documents of a store that is written from the beginning to its end."""


SIZES: Final[Mapping[str, Size]] = {
    "full": Size(
        rounds=30,
        turn=200,
        durable_rounds=50,
        durable_turn=20,
        repeats=3,
        recorded=1_000_000,
        large=100_000,
        written=50_000,
        seconds=0.4,
    ),
    "quick": Size(
        rounds=15,
        turn=100,
        durable_rounds=20,
        durable_turn=10,
        repeats=3,
        recorded=100_000,
        large=10_000,
        written=10_000,
        seconds=0.1,
    ),
    "tiny": Size(
        rounds=2,
        turn=5,
        durable_rounds=2,
        durable_turn=3,
        repeats=1,
        recorded=50,
        large=40,
        written=40,
        seconds=0.02,
        keys=20,
        fill=20,
    ),
}

EVERY: Final = (
    OURS,
    WAIST,
    DISKCACHE,
    LMDB,
    peers.SQLITE_OFF,
    SQLITE,
    LOG,
    peers.FILES,
    peers.SHELVE,
    peers.SQLITEDICT,
)
LARGE: Final = (OURS, DISKCACHE, LMDB, SQLITE)
"""Those that are measured where it takes long."""

JOURNAL: Final = "from the journal"
SETTLED: Final = "from documents"


def jobs(scale: str) -> list[Job]:
    """Return the jobs of this family."""
    size = SIZES[scale]
    return [
        _put(size),
        _overwrite(size),
        _get(size),
        _delete(size),
        _list(size),
        _fill(size),
        _counter(size),
        _timeline(size),
        _durable(size),
        _processes(size),
        _open(size),
        _memory(size),
    ]


def _row(
    peer: Peer,
    turns: Callable[[Room], Iterator[Sequence[float]]],
    way: str = "",
    goals: Sequence[Goal] = (),
    beside: str | None = DISKCACHE.name,
) -> Contender:
    return Contender(peer.name, turns, way, goals if peer.ours else (), beside, peer.missing)


@contextlib.contextmanager
def _opened(peer: Peer, place: Path) -> Iterator[Documents]:
    place.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(peer.open(place)) as store:
        yield store


def _key(number: int) -> str:
    return f"pattern_{number:07}"


def _documents(peer: Peer, numbers: Iterable[int]) -> list[tuple[str, Any]]:
    return [(_key(number), peer.form(pattern(number))) for number in numbers]


# One process, microseconds an operation

PUT_GOALS: Final = (Goal(1 / 6, DISKCACHE.name), Goal(1.3, LMDB.name))


def _put(size: Size) -> Job:
    rows = [_row(peer, partial(put_turns, peer, size.turn), goals=PUT_GOALS) for peer in (*EVERY, peers.OWN_CLASS)]
    return Job("put", "put, a new key", "us", size.rounds, rows)


def put_turns(peer: Peer, turn: int, room: Room) -> Iterator[Sequence[float]]:
    with _opened(peer, room.own) as store:
        for first in itertools.count(step=turn):
            documents = _documents(peer, range(first, first + turn))
            yield timed(store.put, documents)
            key, document = documents[-1]
            expect(store.get(key) == document, "return what was put")


def _overwrite(size: Size) -> Job:
    rows = [_row(peer, partial(overwrite_turns, peer, size), goals=PUT_GOALS) for peer in EVERY]
    return Job("overwrite", f"put, one of {size.keys:,} keys", "us", size.rounds, rows)


def overwrite_turns(peer: Peer, size: Size, room: Room) -> Iterator[Sequence[float]]:
    dice = random.Random(1)
    with _opened(peer, room.own) as store:
        store.fill(dict(_documents(peer, range(size.keys))))
        while True:
            # Another document than the key has: its number is not that of the key.
            documents = [
                (_key(dice.randrange(size.keys)), document)
                for _, document in _documents(peer, dice.choices(range(10_000), k=size.turn))
            ]
            yield timed(store.put, documents)
            key, document = documents[-1]
            expect(store.get(key) == document, "return what was put")


def _ways(peer: Peer) -> Sequence[tuple[str, bool]]:
    """Return how the documents of the small store may stand, and whether the store was reopened since they were put."""
    return ((JOURNAL, False), (SETTLED, True)) if peer.ours else (("", True),)


def _get(size: Size) -> Job:
    goals = (Goal(1 / 2, DISKCACHE.name), Goal(1.2, LMDB.name))
    rows = [
        _row(peer, partial(get_turns, peer, size, settled), way, goals)
        for peer in (*EVERY, peers.OWN_CLASS)
        for way, settled in _ways(peer)
    ]
    return Job("get", f"get, one of {size.keys:,}", "us", size.rounds, rows)


@contextlib.contextmanager
def _small(peer: Peer, size: Size, room: Room, settled: bool) -> Iterator[Documents]:
    """Open a store that holds documents: as they were just put, or put to their place before it was opened."""
    documents = _documents(peer, range(size.keys))
    if settled:
        with _opened(peer, room.own) as store:
            store.fill(dict(documents))
            store.checkpoint()
    with _opened(peer, room.own) as store:
        if not settled:
            for key, document in documents:
                store.put(key, document)
        for key, document in documents:
            expect(store.get(key) == document, "return what was put")
        yield store


def get_turns(peer: Peer, size: Size, settled: bool, room: Room) -> Iterator[Sequence[float]]:
    dice = random.Random(1)
    with _small(peer, size, room, settled) as store:
        while True:
            yield timed(store.get, [(_key(number),) for number in dice.choices(range(size.keys), k=size.turn)])


def _delete(size: Size) -> Job:
    rows = [_row(peer, partial(delete_turns, peer, size.turn)) for peer in EVERY]
    return Job("delete", "delete", "us", size.rounds, rows)


def delete_turns(peer: Peer, turn: int, room: Room) -> Iterator[Sequence[float]]:
    with _opened(peer, room.own) as store:
        for first in itertools.count(step=turn):
            documents = _documents(peer, range(first, first + turn))
            for key, document in documents:
                store.put(key, document)
            yield timed(store.delete, [(key,) for key, _ in documents])
            expect(store.get(documents[-1][0]) is None, "delete")


def _list(size: Size) -> Job:
    rows = [
        _row(peer, partial(list_turns, peer, size, settled), way, (Goal(8.0),))
        for peer in EVERY
        for way, settled in _ways(peer)
    ]
    return Job("list", f"list {size.keys:,}", "ms", size.rounds, rows)


def list_turns(peer: Peer, size: Size, settled: bool, room: Room) -> Iterator[Sequence[float]]:
    with _small(peer, size, room, settled) as store:
        expect(len(dict(store.items())) == size.keys, "list all")
        while True:
            yield timed(lambda: list(store.items()), [()])


def _fill(size: Size) -> Job:
    goals = (Goal(0.8, DISKCACHE.name),)
    rows = [_row(peer, partial(fill_turns, peer, size.fill), goals=goals) for peer in LARGE]
    return Job("fill", f"{size.fill:,} puts, checkpoint, close: a put", "us", size.repeats, rows, warm_up=0)


def fill_turns(peer: Peer, count: int, room: Room) -> Iterator[Sequence[float]]:
    documents = _documents(peer, range(count))
    for number in itertools.count():
        place = room.own / str(number)
        place.mkdir()
        with uncollected(), contextlib.closing(peer.open(place)) as store:
            start = time.perf_counter()
            for key, document in documents:
                store.put(key, document)
            store.checkpoint()
            store.close()
            took = time.perf_counter() - start
        yield [took / count]


# What is counted and recorded: the cost of one more must not grow with how many there are


def _counter(size: Size) -> Job:
    ours, others = (peers.HINCRBY, peers.INCR), (peers.DISKCACHE_INCR, peers.SQLITE_UPSERT)
    return Job("counter", "count", "us", size.rounds, _growth(ours, others, size))


def _timeline(size: Size) -> Job:
    ours, others = (peers.ZAPPEND, peers.RECORD), (peers.SQLITE_INSERT,)
    return Job("timeline", "record", "us", size.rounds, _growth(ours, others, size))


def _growth(ours: Sequence[Recorder], others: Sequence[Recorder], size: Size) -> list[Contender]:
    """Return rows of ours, each at first and later, and of others at first; the first of those has the ratio 1."""
    limit = Goal(12.0)
    way = f"the first {size.keys:,}"
    beside = f"{others[0].store}, {others[0].name}, {way}"
    rows = []
    for recorder in ours:
        first = Contender(
            recorder.store,
            partial(first_turns, recorder, size),
            f"{recorder.name}, {way}",
            (limit,),
            beside,
            recorder.missing,
        )
        late = evolve(
            first,
            turns=partial(late_turns, recorder, size),
            way=f"{recorder.name}, after {size.recorded:,}",
            goals=(limit, Goal(1.2, first.name)),
            beside=first.name,
        )
        rows += [first, late]
    for recorder in others:
        row = Contender(recorder.store, partial(first_turns, recorder, size), f"{recorder.name}, {way}")
        rows.append(evolve(row, beside=None if row.name == beside else beside, missing=recorder.missing))
    return rows


def first_turns(recorder: Recorder, size: Size, room: Room) -> Iterator[Sequence[float]]:
    for number in itertools.count():
        place = room.own / str(number)
        place.mkdir()
        with contextlib.closing(recorder.open(place)) as recording:
            recording.one(*recorder.arguments(0))  # This one makes directories and tables.
            yield timed(recording.one, [recorder.arguments(n) for n in range(1, size.keys)])
            expect(recording.count() == size.keys, "count")


def late_turns(recorder: Recorder, size: Size, room: Room) -> Iterator[Sequence[float]]:
    with contextlib.closing(recorder.open(room.own)) as recording:
        recording.many(map(recorder.arguments, range(size.recorded)))
        for first in itertools.count(size.recorded, size.turn):
            expect(recording.count() == first, "count")
            yield timed(recording.one, [recorder.arguments(n) for n in range(first, first + size.turn)])


# With the disk


def _durable(size: Size) -> Job:
    goals = (Goal(1.3, FLOOR.name),)
    stores = (peers.DURABLE, peers.DURABLE_LMDB, peers.DURABLE_SQLITE, peers.DURABLE_FILES)
    rows = [_row(peer, partial(put_turns, peer, size.durable_turn), goals=goals, beside=FLOOR.name) for peer in stores]
    rows.append(_row(FLOOR, partial(append_turns, size.durable_turn), beside=None))
    return Job("fsync", "put, a new key, on the disk when it returns", "us", size.durable_rounds, rows)


def append_turns(turn: int, room: Room) -> Iterator[Sequence[float]]:
    with _opened(FLOOR, room.own) as store:
        while True:
            yield timed(store.put, _documents(FLOOR, range(turn)))


# Many processes


def _processes(size: Size) -> Job:
    rows = []
    for peer in (OURS, DISKCACHE, LMDB, LOG):
        alone = f"{peer.name}, 1 process"
        rows += [
            _row(
                peer,
                partial(write_turns, peer, size.seconds, processes),
                "1 process" if processes == 1 else f"{processes} processes",
                (Goal(1.0, alone, reach=True),) if processes == max(PROCESSES) else (),
                None if processes == 1 else alone,
            )
            for processes in PROCESSES
        ]
    return Job("processes", "put, a new key, by several processes", RATE, size.repeats, rows, warm_up=0)


PROCESSES: Final = (1, 2, 4)
_gates: Mapping[int, Barrier] = {}


def _enter(gates: Mapping[int, Barrier]) -> None:
    global _gates  # A pool hands its workers what they share in no other way.
    _gates = gates


@functools.cache
def _workers() -> ProcessPoolExecutor:
    """Return processes for the rest of the run: starting one costs more than what it is to measure."""
    context = multiprocessing.get_context("spawn")  # A fork would inherit the stores that are open here.
    gates = {processes: context.Barrier(processes) for processes in PROCESSES}
    return ProcessPoolExecutor(max(PROCESSES), context, _enter, (gates,))


def write_turns(peer: Peer, seconds: float, processes: int, room: Room) -> Iterator[Sequence[float]]:
    for number in itertools.count():
        place = room.own / str(number)
        with _opened(peer, place) as store:  # So that nobody has to make it while others come.
            store.put(_key(0), peer.form(pattern(0)))
        tasks = [
            _workers().submit(write, peer.name, place, worker, processes, seconds) for worker in range(1, processes + 1)
        ]
        try:
            results = [task.result() for task in tasks]
        except Exception:
            _workers.cache_clear()  # Those that wait at the gate for one that failed will leave it broken.
            raise
        with _opened(peer, place) as store:
            for _, last in results:
                expect(store.get(last) is not None, "keep what several processes write")
        yield [sum(rate for rate, _ in results)]


def write(name: str, place: Path, worker: int, processes: int, seconds: float) -> tuple[float, str]:
    """Put documents for some seconds, beginning with the others; return the puts a second and the last key."""
    peer = PEERS[name]
    document = peer.form(pattern(worker))
    with contextlib.closing(peer.open(place)) as store, uncollected():
        store.put(_key(worker), document)
        _gates[processes].wait(60.0)
        start = now = time.perf_counter()
        key, count = "", 0
        while now - start < seconds:
            count += 1
            key = f"{worker}_{count:07}"
            store.put(key, document)
            now = time.perf_counter()
    return count / (now - start), key


# Large stores


def _library(peer: Peer, count: int, shared: Path) -> Path:
    """Return the directory of a large store, which is made once a run."""
    place = shared / f"{peer.name}-{count}"
    if not place.exists():
        draft = place.with_suffix(".new")
        with _opened(peer, draft) as store:
            for first in range(0, count, 10_000):
                store.fill(dict(_documents(peer, range(first, min(first + 10_000, count)))))
            store.checkpoint()
        draft.rename(place)
    return place


def _open(size: Size) -> Job:
    rows = [_row(peer, partial(open_turns, peer, size), goals=(Goal(100.0),)) for peer in LARGE]
    return Job("open", f"open {size.large:,} documents and get one", "ms", size.rounds, rows)


def open_turns(peer: Peer, size: Size, room: Room) -> Iterator[Sequence[float]]:
    place = _library(peer, size.large, room.shared)
    dice = random.Random(1)

    def first_get(key: str) -> None:
        opened.append(peer.open(place))
        found.append(opened[-1].get(key))

    while True:
        opened: list[Documents] = []
        found: list[Any] = []
        numbers = dice.choices(range(size.large), k=3)
        samples = []
        for number in numbers:
            samples += timed(first_get, [(_key(number),)])
            opened[-1].close()
        expect(found == [peer.form(pattern(number)) for number in numbers], "return what was put")
        yield samples


def _memory(size: Size) -> Job:
    rows = [
        _row(peer, turns, way, beside=None)
        for peer in LARGE
        for way, turns in (
            (f"reading {size.keys:,} of {size.large:,}", partial(reading_turns, peer, size)),
            (f"writing {size.written:,}", partial(writing_turns, peer, size)),
        )
    ]
    if not Path("/proc/self/statm").exists():
        rows = [evolve(row, missing="memory is measured on Linux only") for row in rows]
    return Job("memory", "growth of a process", "MB", 1, rows, warm_up=0)


def _alone(function: Callable[..., float], *arguments: Any) -> float:
    """Return what a function returns in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _resident() -> int:
    """Return the bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def reading_turns(peer: Peer, size: Size, room: Room) -> Iterator[Sequence[float]]:
    place = _library(peer, size.large, room.shared)
    while True:
        yield [_alone(read, peer.name, place, size.keys, size.large)]


def read(name: str, place: Path, count: int, large: int) -> float:
    """Return by how many bytes reading documents from a large store lets this process grow.

    The first does not count.
    """
    numbers = random.Random(1).sample(range(large), count)
    with contextlib.closing(PEERS[name].open(place)) as store:
        store.get(_key(numbers[0]))
        before = _resident()
        for number in numbers:
            store.get(_key(number))
        return _resident() - before


def writing_turns(peer: Peer, size: Size, room: Room) -> Iterator[Sequence[float]]:
    for number in itertools.count():
        yield [_alone(grow, peer.name, room.own / str(number), size.keys, size.written)]


def grow(name: str, place: Path, first: int, count: int) -> float:
    """Return by how many bytes writing documents lets this process grow, with a checkpoint each fifth of them.

    The first do not count.
    """
    peer = PEERS[name]
    with _opened(peer, place) as store:
        before = 0
        for number in range(count):
            store.put(_key(number), peer.form(pattern(number)))
            if number == first - 1:
                before = _resident()
            if number % (count // 5) == 0:
                store.checkpoint()
        store.checkpoint()
        return _resident() - before
