"""The jobs of the family "metrics": figures of one user and of all, beside rows that are summed at each question.

Each user has a hundredth of what was recorded, so a user has more of it, too. That the figures of a user do not get
slower by what others record is for `--growth` to show. SQLite tables of this package have a family of their own.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

import reference
from attrs import frozen
from harness import NOTHING, PACKAGE, PREFIX, SERVER, Contender, Job, Promise, Role, Room, expect, timed
from interactions import INSERT_ROW, USERS, interactions, record_many
from peers.disk import connect
from peers.tables import Interactions
from reference import Table
from served import binary, running

import empathy_kv


@frozen
class Size:
    """How much is done."""

    rounds: int
    turn: int
    counts: Sequence[int]
    """How many interactions were recorded when figures are asked for."""
    in_memory: Sequence[int]
    """Of these counts, those that other engines than files are filled with; memory and servers for each job anew."""


SIZES: Final[Mapping[str, Size]] = {
    "full": Size(15, 50, (1_000, 10_000, 100_000, 1_000_000), (1_000, 10_000)),
    "quick": Size(5, 20, (1_000, 5_000), (1_000,)),
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


@frozen
class Way:
    """Where interactions are kept, and in what way."""

    store: str
    where: str
    filled: Filled
    survives: Promise
    role: Role = "peer"
    server: bool = False

    def row(self, turns: Callable[[int, Filled, int, Room], Turns], turn: int, count: int) -> Contender:
        """Return its row at so many interactions."""
        return Contender(
            self.store,
            partial(turns, turn, self.filled, count),
            f"{self.where}{count:,} recorded",
            missing="no redis-server or valkey-server in PATH" if self.server and binary() is None else None,
            role=self.role,
            survives=self.survives,
            among=f"{count}, on a server" if self.server else f"{count}",
        )


def _rows(size: Size, turns: Callable[[int, Filled, int, Room], Turns]) -> list[Contender]:
    everywhere = (
        Way(PACKAGE, "on files, ", on_files, PREFIX),
        Way("sqlite3 NORMAL", "a covering index, ", in_covered_table, PREFIX),
        Way(reference.TABLE, "", in_table, PREFIX, role="reference"),
    )
    some = (
        Way(PACKAGE, "in memory, ", in_memory, NOTHING),
        Way(PACKAGE, "in SQLite, ", in_sqlite, PREFIX),
        Way(PACKAGE, "on a server, ", on_server, SERVER, server=True),
    )
    return [way.row(turns, size.turn, count) for way in everywhere for count in size.counts] + [
        way.row(turns, size.turn, count) for way in some for count in size.in_memory
    ]


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
    with connect(str(place)) as store:
        if not made:
            record_many(store, interactions(count))
        yield store.metrics.get_user_stats, store.metrics.get_global_stats


@contextlib.contextmanager
def in_sqlite(count: int, room: Room) -> Iterator[tuple[User, All]]:
    """Give the same of a database of this package, which is made once a run."""
    place = room.shared / f"metrics-{count}.db"
    made = place.exists()
    with empathy_kv.connect(f"sqlite:///{place}", durability="os") as store:
        if not made:
            first, *others = interactions(count)
            store.metrics.record_interaction(*first)  # It makes the table.
            with contextlib.closing(sqlite3.connect(place)) as connection, connection:
                connection.executemany(INSERT_ROW, others)
        yield store.metrics.get_user_stats, store.metrics.get_global_stats


@contextlib.contextmanager
def on_server(count: int, room: Room) -> Iterator[tuple[User, All]]:
    """Give the same of a server."""
    with running(room.shared) as url, empathy_kv.connect(url, prefix=f"metrics{count}") as store:
        record_many(store, interactions(count))
        yield store.metrics.get_user_stats, store.metrics.get_global_stats


@contextlib.contextmanager
def in_covered_table(count: int, room: Room) -> Iterator[tuple[User, All]]:
    """Give the same of rows in a database that is kept open and has an index for figures; it is made once a run."""
    place = room.shared / f"covered-{count}"
    made = place.exists()
    place.mkdir(exist_ok=True)
    with contextlib.closing(Interactions(str(place), "NORMAL", covered=True)) as table:
        if not made:
            table.record_many(interactions(count))
        yield table.user, table.everyone


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


MANY: Final = 100_000


def _each(turn: int, filled: Filled, count: int) -> int:
    """Return how often a turn asks: where rows are read at each question, a few times if they are many."""
    return min(turn, 3) if filled in (in_table, in_covered_table) and count >= MANY else turn


def user_turns(turn: int, filled: Filled, count: int, room: Room) -> Turns:
    with filled(count, room) as (of_user, _):
        expect(of_user("user_0")["total_operations"] == -(-count // USERS), "count each once")
        while True:
            yield timed(of_user, [(f"user_{n % USERS}",) for n in range(_each(turn, filled, count))])


def global_turns(turn: int, filled: Filled, count: int, room: Room) -> Turns:
    with filled(count, room) as (_, of_all):
        expect(of_all()["total_interactions"] == count, "count each once")
        while True:
            yield timed(of_all, [()] * _each(turn, filled, count))
