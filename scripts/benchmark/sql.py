"""The jobs of the family "sql": the documented tables on SQLite, beside who writes and asks them by hand."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import reference
import saving
from attrs import evolve, frozen
from counting import counted_turns, counting_row
from harness import PACKAGE, POWER, PREFIX, Contender, Goal, Job, Room, expect, timed
from interactions import INSERT_ROW
from peers.shape import Recorder, Recording
from peers.tables import Interactions
from storing import on_disk

from empathy_kv.metrics import MetricsCollector


@frozen
class Size:
    """How much is done."""

    rounds: int
    turn: int
    """Interactions that are recorded in a round."""
    patterns: int
    repeats: int
    """Rounds of what takes long."""
    few: int
    many: int
    """Rows of the table when figures are asked for."""


SIZES: Final[Mapping[str, Size]] = {
    "full": Size(rounds=20, turn=200, patterns=30_000, repeats=5, few=1_000, many=200_000),
    "quick": Size(rounds=10, turn=20, patterns=2_000, repeats=2, few=1_000, many=10_000),
    "tiny": Size(rounds=2, turn=5, patterns=50, repeats=1, few=20, many=100),
}


def jobs(scale: str) -> list[Job]:
    """Return the jobs of this family."""
    size = SIZES[scale]
    return [
        _record(size),
        *saving.sqlite_jobs(size.patterns, size.repeats),
        _figures("user", "figures of a user with few rows", size),
        _figures("global", "figures of all users", size),
    ]


# One at a time

PLAIN, WAL = "as it comes", "WAL NORMAL"


def _record(size: Size) -> Job:
    """Return the job about recording: what survives the same stands side by side, each with a way of the reference."""

    def rows(among: str, *recorders: Recorder) -> list[Contender]:
        return [
            evolve(counting_row(each, on_disk, partial(counted_turns, each, size.turn)), among=among)
            for each in recorders
        ]

    goals = [Goal(1 / 20, f"{reference.TABLE}, {way}") for way in (PLAIN, WAL)]
    ours, *others = rows(
        "os",
        Recorder(PACKAGE, 'durability "os"', partial(_ours, "os"), _interaction, PREFIX),
        Recorder("sqlite3 NORMAL", "a kept connection", partial(_kept, "NORMAL"), _interaction, PREFIX),
        Recorder(reference.TABLE, WAL, partial(_by_call, NORMAL), _interaction, PREFIX, role="reference"),
    )
    synced = rows(
        "fsync",
        Recorder(PACKAGE, 'durability "fsync"', partial(_ours, "fsync"), _interaction, POWER),
        Recorder("sqlite3 FULL", "a kept connection", partial(_kept, "FULL"), _interaction, POWER),
        Recorder(reference.TABLE, PLAIN, partial(_by_call, ()), _interaction, PREFIX, role="reference"),
    )
    stores = [evolve(ours, goals=goals), *others, *synced]
    return Job("record", "record an interaction in a table", "us", size.rounds, stores)


NORMAL: Final = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL")


def _interaction(number: int) -> tuple[Any, ...]:
    return f"user_{number % 10}", 1 + number % 5, number % 8 != 0, 10.0 + number % 16 / 4


def _ours(durability: Literal["fsync", "os"], place: str) -> Recording:
    metrics = MetricsCollector(db_path=f"{place}/metrics.db", durability=durability)
    return Recording(
        metrics.record_interaction, lambda: int(metrics.get_global_stats()["total_interactions"]), lambda: None
    )


def _kept(synchronous: str, place: str) -> Recording:
    table = Interactions(place, synchronous)
    return Recording(table.record, table.count, table.close)


def _by_call(pragmas: Sequence[str], place: str) -> Recording:
    table = reference.Table(Path(place), pragmas)
    return Recording(table.record, table.count, lambda: None)


# Figures

Turns = Iterator[Sequence[float]]


def _figures(name: str, title: str, size: Size) -> Job:
    few, many = (f"{rows:,} rows" for rows in (size.few, size.many))
    grown = f"{PACKAGE}, {few}"
    rows = [
        Contender(PACKAGE, partial(_our_turns, name, size.few, size.turn), few, among=few),
        Contender(PACKAGE, partial(_our_turns, name, size.many, size.turn), many, [Goal(2, grown)], grown, among=many),
        Contender("sqlite3", partial(_covered_turns, name, size.many), f"a covering index, {many}", among=many),
        Contender(reference.TABLE, partial(_by_call_turns, name, size.many), many, role="reference", among=many),
    ]
    return Job(name, title, "us", size.rounds, rows)


def _asked(name: str, user: Callable[[str], object], everyone: Callable[[], object], turn: int) -> Turns:
    while True:
        yield timed(user, [("ann",)] * turn) if name == "user" else timed(everyone, [()] * turn)


def _our_turns(name: str, rows: int, turn: int, room: Room) -> Turns:
    path = room.shared / f"collector-{rows}.db"
    made = path.exists()
    metrics = MetricsCollector(db_path=path)
    if not made:
        metrics.record_interaction("ann", 1, True, 1.0)  # It makes the table.
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.executemany(INSERT_ROW, _rows(rows - 1))
    expect(metrics.get_global_stats()["total_interactions"] == rows, "count the rows of others")
    return _asked(name, metrics.get_user_stats, metrics.get_global_stats, turn)


def _covered_turns(name: str, rows: int, room: Room) -> Turns:
    place = room.shared / f"few-covered-{rows}"
    made = place.exists()
    place.mkdir(exist_ok=True)
    with contextlib.closing(Interactions(str(place), "NORMAL", covered=True)) as table:
        if not made:
            table.record_many(_rows(rows))
        yield from _asked(name, table.user, table.everyone, 3)


def _by_call_turns(name: str, rows: int, room: Room) -> Turns:
    place = room.shared / f"few-{rows}"
    made = place.exists()
    place.mkdir(exist_ok=True)
    table = reference.Table(place)
    if not made:
        table.record_many(_rows(rows))
    return _asked(name, table.user, table.everyone, 3)


def _rows(count: int) -> Iterator[tuple[Any, ...]]:
    """Yield interactions: twenty of one user, the others of many."""
    step = max(1, count // 20)
    for n in range(count):
        yield "ann" if n % step == 0 else f"user_{n % 97}", 1 + n % 5, n % 3 > 0, float(n % 1000)
