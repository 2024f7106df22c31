"""Jobs about stores of many documents: opening one, reading from it, and what memory and disk they take."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from documents import pattern
from harness import Contender, Goal, Job, Room, expect, timed
from peers.disk import LARGE
from peers.shape import Documents, Peer
from space import alone, on_linux, resident, taken
from storing import Turns, documents, key, opened


def jobs(rounds: int, repeats: int, turn: int, some: int, many: int, written: int) -> list[Job]:
    """Return the jobs: of a store of many documents, some of which are read, and of one where so many are written."""
    return [
        _first(rounds, turn, many),
        _open(rounds, many),
        _memory(repeats, some, many, written),
        _space(repeats, many),
    ]


def _library(peer: Peer, count: int, shared: Path) -> Path:
    """Return the directory of a large store, which is made once a run."""
    place = shared / f"{peer.name}-{count}"
    if not place.exists():
        draft = place.with_suffix(".new")
        with opened(peer, str(draft)) as store:
            for first in range(0, count, 10_000):
                store.fill(dict(documents(peer, range(first, min(first + 10_000, count)))))
            store.checkpoint()
        draft.rename(place)
    return place


def _row(
    peer: Peer, turns: Callable[[Room], Turns], way: str = "", goals: Sequence[Goal] = (), among: str = ""
) -> Contender:
    """Return the row of a store that needs to know what the jobs of the run share."""
    goals = goals if peer.ours else ()
    return Contender(peer.name, turns, way, goals, None, peer.missing, peer.role, survives=peer.survives, among=among)


def _first(rounds: int, turn: int, count: int) -> Job:
    rows = [_row(peer, partial(first_get_turns, peer, turn, count)) for peer in LARGE]
    return Job("first", f"get, each of {count:,} for the first time", "us", rounds, rows)


def first_get_turns(peer: Peer, turn: int, count: int, room: Room) -> Turns:
    """Get documents that this process has not got before: nothing but the system's cache of pages has them."""
    place = _library(peer, count, room.shared)
    while True:
        numbers = random.Random(1).sample(range(count), count)
        with opened(peer, str(place)) as store:
            for first in range(0, count - turn + 1, turn):
                asked = numbers[first : first + turn]
                yield store.time(store.get, [(key(number),) for number in asked])
                expect(store.get(key(asked[-1])) == peer.form(pattern(asked[-1])), "return what was put")


def _open(rounds: int, count: int) -> Job:
    rows = [_row(peer, partial(open_turns, peer, count), goals=(Goal(100.0),)) for peer in LARGE]
    return Job("open", f"open {count:,} documents and get one", "ms", rounds, rows)


def open_turns(peer: Peer, count: int, room: Room) -> Turns:
    place = str(_library(peer, count, room.shared))
    dice = random.Random(1)

    def first_get(name: str) -> None:
        stores.append(peer.open(place))
        found.append(stores[-1].get(name))

    while True:
        stores: list[Documents] = []
        found: list[Any] = []
        numbers = dice.choices(range(count), k=3)
        samples = []
        for number in numbers:
            samples += timed(first_get, [(key(number),)])
            stores[-1].close()
        expect(found == [peer.form(pattern(number)) for number in numbers], "return what was put")
        yield samples


def _memory(rounds: int, some: int, many: int, written: int) -> Job:
    rows = [
        _row(peer, turns, way, among=way)
        for peer in LARGE
        for way, turns in (
            (f"reading {some:,} of {many:,}", partial(reading_turns, peer, some, many)),
            (f"writing {written:,}", partial(writing_turns, peer, some, written)),
        )
    ]
    return Job("memory", "growth of a process", "MB", rounds, on_linux(rows), warm_up=0)


def reading_turns(peer: Peer, some: int, many: int, room: Room) -> Turns:
    place = _library(peer, many, room.shared)
    while True:
        yield [alone(read, peer, str(place), some, many)]


def read(peer: Peer, place: str, count: int, large: int) -> float:
    """Return by how many bytes reading documents from a large store lets this process grow.

    The first does not count.
    """
    numbers = random.Random(1).sample(range(large), count)
    with opened(peer, place) as store:
        store.get(key(numbers[0]))
        before = resident()
        for number in numbers:
            store.get(key(number))
        return resident() - before


def writing_turns(peer: Peer, first: int, written: int, room: Room) -> Turns:
    for number in itertools.count():
        yield [alone(grow, peer, str(room.own / str(number)), first, written)]


def grow(peer: Peer, place: str, first: int, count: int) -> float:
    """Return by how many bytes writing documents lets this process grow, with a checkpoint each fifth of them.

    The first do not count.
    """
    with opened(peer, place) as store:
        before = 0.0
        for number in range(count):
            store.put(key(number), peer.form(pattern(number)))
            if number == first - 1:
                before = resident()
            if number % (count // 5) == 0:
                store.checkpoint()
        store.checkpoint()
        return resident() - before


def _space(rounds: int, count: int) -> Job:
    rows = [_row(peer, partial(space_turns, peer, count)) for peer in LARGE]
    return Job("space", f"space on the disk a document, of {count:,}", "bytes", rounds, rows, warm_up=0)


def space_turns(peer: Peer, count: int, room: Room) -> Turns:
    place = _library(peer, count, room.shared)
    while True:
        yield [taken(place) / count]
