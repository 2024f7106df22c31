"""The jobs of the family "metrics": figures of one user and of all, beside rows that are summed at each question.

Each user has a hundredth of what was recorded, so a user has more of it, too. That the figures of a user do not get
slower by what others record is for `--growth` to show. SQLite tables of this package have a family of their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

import reference
from attrs import frozen
from harness import NOTHING, PACKAGE, POWER, PREFIX, Contender, Job, Room, expect, timed
from interactions import USERS, interactions, record_many
from reference import Table

import empathy_kv


@frozen
class Size:
    """How much is done."""

    rounds: int
    turn: int
    counts: Sequence[int]
    """How many interactions were recorded when figures are asked for."""
    in_memory: Sequence[int]
    """Of these counts, those that memory is filled with, for each job anew."""


SIZES: Final[Mapping[str, Size]] = {
    "full": Size(15, 50, (1_000, 10_000, 100_000, 1_000_000), (1_000, 100_000)),
    "quick": Size(5, 20, (1_000, 10_000), (1_000, 10_000)),
    "tiny": Size(2, 3, (20, 200), (20, 200)),
}
User = Callable[[str], Mapping[str, Any]]
All = Callable[[], Mapping[str, Any]]


def jobs(scale: str) -> list[Job]:
    """Return the jobs of this family."""
    size = SIZES[scale]
    return [
        Job("user", f"get_user_stats, one of {USERS} users", "us", size.rounds, _rows(size, user_turns), weight=4),
        Job("global", f"get_global_stats, {USERS} users", "us", size.rounds, _rows(size, global_turns), weight=2),
    ]


Turns = Iterator[Sequence[float]]
Filled = Callable[[int, Room], AbstractContextManager[tuple[User, All]]]


def _rows(size: Size, turns: Callable[[int, Filled, int, Room], Turns]) -> list[Contender]:
    rows = []
    for store, where, filled, counts, survives in (
        (PACKAGE, "in memory, ", in_memory, size.in_memory, NOTHING),
        (PACKAGE, "on files, ", on_files, size.counts, PREFIX),
        (reference.TABLE, "", in_table, size.counts, POWER),
    ):
        for count in counts:
            run = partial(turns, size.turn, filled, count)
            way, among = f"{where}{count:,} recorded", f"{count}"
            rows.append(Contender(store, run, way, survives=survives, among=among))
    return rows


@contextlib.contextmanager
def in_memory(count: int, _: Room) -> Iterator[tuple[User, All]]:
    """Give what returns the figures of a user, and of all, after so many interactions."""
    with empathy_kv.connect("memory:") as store:
        record_many(store, interactions(count))
        yield store.metrics.get_user_stats, store.metrics.get_global_stats


@contextlib.contextmanager
def on_files(count: int, room: Room) -> Iterator[tuple[User, All]]:
    """Give the same of a directory, which is made once a run."""
    place = room.shared / f"metrics-{count}"
    made = place.exists()
    with empathy_kv.connect(f"file:{place}", durability="os") as store:
        if not made:
            record_many(store, interactions(count))
        yield store.metrics.get_user_stats, store.metrics.get_global_stats


@contextlib.contextmanager
def in_table(count: int, room: Room) -> Iterator[tuple[User, All]]:
    """Give the same of rows, in a database that is made once a run."""
    place = room.shared / f"rows-{count}"
    made = place.exists()
    place.mkdir(exist_ok=True)
    table = Table(place)
    if not made:
        table.record_many(interactions(count))
    yield table.user, table.everyone


def user_turns(turn: int, filled: Filled, count: int, room: Room) -> Turns:
    with filled(count, room) as (of_user, _):
        expect(of_user("user_0")["total_operations"] == -(-count // USERS), "count each once")
        while True:
            yield timed(of_user, [(f"user_{n % USERS}",) for n in range(turn)])


def global_turns(turn: int, filled: Filled, count: int, room: Room) -> Turns:
    with filled(count, room) as (_, of_all):
        expect(of_all()["total_interactions"] == count, "count each once")
        while True:
            yield timed(of_all, [()] * turn)
