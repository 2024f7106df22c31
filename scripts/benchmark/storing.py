"""What every store of documents does, wherever it keeps them: put, get, delete, list, by one process or several.

A function that is called `..._turns` yields the samples of one turn after the other of a store that it opens at a
place. A `Home` gives it the place: a directory, or the URL of a server.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

from documents import pattern
from harness import Contender, Goal, Room, expect, uncollected
from peers.shape import Documents, Peer

Turns = Iterator[Sequence[float]]
Home = Callable[[Callable[[str], Turns], Room], Turns]


def on_disk(turns: Callable[[str], Turns], room: Room) -> Turns:
    """Let a store take turns in a directory of its own."""
    yield from turns(str(room.own))


def row(
    peer: Peer,
    home: Home,
    turns: Callable[[str], Turns],
    way: str = "",
    goals: Sequence[Goal] = (),
    beside: str | None = None,
    among: str = "",
) -> Contender:
    """Return the row of a store in a job. Goals apply to this package with its own classes."""
    return Contender(
        peer.name,
        partial(home, turns),
        way,
        goals if peer.ours else (),
        beside,
        peer.missing,
        peer.role,
        peer.survives,
        among,
    )


@contextlib.contextmanager
def opened(peer: Peer, place: str) -> Iterator[Documents]:
    """Open a store, in a directory that is made if need be."""
    if "://" not in place:
        Path(place).mkdir(parents=True, exist_ok=True)
    with contextlib.closing(peer.open(place)) as store:
        yield store


def key(number: int) -> str:
    """Return the id of a document."""
    return f"pattern_{number:07}"


def documents(peer: Peer, numbers: Iterable[int]) -> list[tuple[str, Any]]:
    """Return documents with their ids, in the form that a store is given."""
    return [(key(number), peer.form(pattern(number))) for number in numbers]


# One process
#
# A turn that writes ends with a checkpoint of its store, after what is timed: what a store leaves to be done later must
# not be done in the turn of another. What that costs is in the jobs that time a store to its end.


def put_turns(peer: Peer, turn: int, place: str) -> Turns:
    with opened(peer, place) as store:
        for first in itertools.count(step=turn):
            some = documents(peer, range(first, first + turn))
            samples = store.time(store.put, some)
            _expect(peer, store, some[-1:])
            store.checkpoint()
            yield samples


def overwrite_turns(peer: Peer, keys: int, turn: int, place: str) -> Turns:
    dice = random.Random(1)
    with opened(peer, place) as store:
        store.fill(dict(documents(peer, range(keys))))
        store.checkpoint()
        while True:
            # Another document than the key has: its number is not that of the key.
            some = [
                (key(dice.randrange(keys)), document)
                for _, document in documents(peer, dice.choices(range(10_000), k=turn))
            ]
            samples = store.time(store.put, some)
            _expect(peer, store, some[-1:])
            store.checkpoint()
            yield samples


@contextlib.contextmanager
def _small(peer: Peer, keys: int, place: str) -> Iterator[Documents]:
    """Open a store that holds documents, which were brought to their place before and have been read once."""
    some = documents(peer, range(keys))
    if peer.keeps and "://" not in place:
        with opened(peer, place) as store:
            store.fill(dict(some))
            store.checkpoint()
    with opened(peer, place) as store:
        if not peer.keeps or not store.do(store.items, [name for name, _ in some]):
            store.time(store.put, some)  # What keeps nothing, or nothing when it is closed.
        for name, document in some:
            expect(not peer.keeps or store.do(store.get, name) == document, "return what was put")
        yield store


def get_turns(peer: Peer, keys: int, turn: int, place: str) -> Turns:
    """Get documents of a small store that were read before."""
    dice = random.Random(1)
    with _small(peer, keys, place) as store:
        while True:
            yield store.time(store.get, [(key(number),) for number in dice.choices(range(keys), k=turn)])


def written_get_turns(peer: Peer, keys: int, turn: int, place: str) -> Turns:
    """Get documents that were put just before: where a store keeps them apart, it still does."""
    dice = random.Random(1)
    with _small(peer, keys, place) as store:
        while True:
            names = [key(number) for number in dice.choices(range(keys), k=turn)]
            store.time(store.put, [(name, peer.form(pattern(number))) for number, name in enumerate(names)])
            samples = store.time(store.get, [(name,) for name in names])
            store.checkpoint()
            yield samples


def delete_turns(peer: Peer, turn: int, place: str) -> Turns:
    with opened(peer, place) as store:
        for first in itertools.count(step=turn):
            some = documents(peer, range(first, first + turn))
            store.time(store.put, some)
            samples = store.time(store.delete, [(name,) for name, _ in some])
            expect(not peer.keeps or store.do(store.get, some[-1][0]) is None, "delete")
            store.checkpoint()
            yield samples


def list_turns(peer: Peer, keys: int, place: str) -> Turns:
    """List a small store of documents that were read before."""
    names = [key(number) for number in range(keys)]
    with _small(peer, keys, place) as store:
        expect(not peer.keeps or len(dict(store.do(store.items, names))) == keys, "list all")
        while True:
            yield store.time(store.items, [(names,)])


def written_list_turns(peer: Peer, keys: int, place: str) -> Turns:
    """List a small store whose documents were all put just before."""
    names = [key(number) for number in range(keys)]
    some = documents(peer, range(keys))
    with _small(peer, keys, place) as store:
        while True:
            store.time(store.put, some)
            samples = store.time(store.items, [(names,)])
            store.checkpoint()
            yield samples


def _expect(peer: Peer, store: Documents, some: Iterable[tuple[str, Any]]) -> None:
    if peer.keeps:
        for name, document in some:
            expect(store.do(store.get, name) == document, "return what was put")


# Several processes

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


def process_rows(
    stores: Iterable[Peer], home: Home, seconds: float, apart: bool, least: float | None
) -> list[Contender]:
    """Return rows of stores that one, two and four processes write, and four at least so many times as fast as one.

    With `apart` each turn has a place of its own: a directory; a server is the same for all.
    """
    rows = []
    for peer in stores:
        alone = f"{peer.name}, 1 process"
        rows += [
            row(
                peer,
                home,
                partial(write_turns, peer, seconds, processes, apart),
                "1 process" if processes == 1 else f"{processes} processes",
                (Goal(least, alone, reach=True),) if least is not None and processes == max(PROCESSES) else (),
                None if processes == 1 else alone,
                f"{processes}",
            )
            for processes in PROCESSES
        ]
    return rows


def write_turns(peer: Peer, seconds: float, processes: int, apart: bool, place: str) -> Turns:
    for number in itertools.count():
        at = f"{place}/{number}" if apart else place
        with opened(peer, at) as store:  # So that nobody has to make it while others come.
            store.do(store.put, key(0), peer.form(pattern(0)))
        tasks = [_workers().submit(write, peer, at, worker, processes, seconds) for worker in range(1, processes + 1)]
        try:
            results = [task.result() for task in tasks]
        except Exception:
            _workers.cache_clear()  # Those that wait at the gate for one that failed will leave it broken.
            raise
        with opened(peer, at) as store:
            for _, last in results:
                expect(store.do(store.get, last) is not None, "keep what several processes write")
        yield [sum(rate for rate, _ in results)]


def write(peer: Peer, place: str, worker: int, processes: int, seconds: float) -> tuple[float, str]:
    """Put documents for some seconds, beginning with the others; return the puts a second and the last id.

    The time ends when the store has brought them to their place and is closed.
    """
    document = peer.form(pattern(worker))
    with uncollected():
        with opened(peer, place) as store:
            store.do(store.put, key(worker), document)
            store.checkpoint()
            _gates[processes].wait(60.0)
            start = time.perf_counter()
            name, count = "", 0
            while time.perf_counter() - start < seconds:
                count += 1
                name = f"{worker}_{count:07}"
                store.do(store.put, name, document)
            store.checkpoint()
        return count / (time.perf_counter() - start), name
