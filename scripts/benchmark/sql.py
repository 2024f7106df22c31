"""The jobs of the family "sql": the documented tables on SQLite, beside the way of who opens a connection a call."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from attrs import frozen
from documents import pattern
from harness import POWER, PREFIX, Contender, Goal, Job, Room, expect, timed
from peers import OURS

from empathy_kv.metrics import MetricsCollector
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.persistence import PatternPersistence
from empathy_kv.records import Pattern
from empathy_kv.sql.schema import METRICS, PATTERNS


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
    "full": Size(rounds=20, turn=200, patterns=100_000, repeats=3, few=1_000, many=1_000_000),
    "quick": Size(rounds=10, turn=100, patterns=20_000, repeats=3, few=1_000, many=100_000),
    "tiny": Size(rounds=2, turn=5, patterns=50, repeats=1, few=20, many=100),
}
BY_CALL: Final = "sqlite3, a connection a call"

# A row stands beside the one that survives the same. Who opens a connection and sets nothing has FULL: what was
# committed survives a power cut, as with "fsync". With WAL NORMAL a power cut may take the last of it, as with "os".
FULL: Final = ("PRAGMA synchronous = FULL",)
NORMAL: Final = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL")


def jobs(scale: str) -> list[Job]:
    """Return the jobs of this family."""
    size = SIZES[scale]
    record = Job(
        "record",
        "record an interaction",
        "us",
        size.rounds,
        [
            Contender(BY_CALL, partial(_by_call_turns, size, FULL), "FULL", survives=POWER, among="fsync"),
            Contender(BY_CALL, partial(_by_call_turns, size, NORMAL), "WAL NORMAL", survives=PREFIX, among="os"),
            Contender(
                OURS.name,
                partial(_record_turns, "os", size),
                'durability "os"',
                goals=[Goal(1 / 20, f"{BY_CALL}, FULL"), Goal(1 / 20, f"{BY_CALL}, WAL NORMAL")],
                beside=f"{BY_CALL}, WAL NORMAL",
                survives=PREFIX,
                among="os",
            ),
            Contender(
                OURS.name,
                partial(_record_turns, "fsync", size),
                'durability "fsync"',
                beside=f"{BY_CALL}, FULL",
                survives=POWER,
                among="fsync",
            ),
        ],
    )
    save = Job(
        "save",
        f"save {size.patterns:,} patterns to a new file",
        "ms",
        size.repeats,
        [
            Contender(BY_CALL, partial(_save_by_hand_turns, size)),
            Contender(OURS.name, partial(_save_turns, size), goals=[Goal(1 / 3, BY_CALL)], beside=BY_CALL),
        ],
    )
    few, many = (f"{rows:,} rows" for rows in (size.few, size.many))
    figures = [
        Job(
            name,
            title,
            "us",
            size.rounds,
            [
                Contender(BY_CALL, partial(_figure_by_call_turns, name, size.many), many, among=many),
                Contender(OURS.name, partial(_figure_turns, name, size.few, size.turn), few, among=few),
                Contender(
                    OURS.name,
                    partial(_figure_turns, name, size.many, size.turn),
                    many,
                    goals=[Goal(2, f"{OURS.name}, {few}")],
                    beside=f"{OURS.name}, {few}",
                    among=many,
                ),
            ],
        )
        for name, title in (("user", "figures of a user with few rows"), ("global", "figures of all users"))
    ]
    return [record, save, *figures]


def _interactions() -> Iterator[tuple[Any, ...]]:
    return ((f"user_{n % 10}", 1 + n % 5, n % 8 != 0, 10.0 + n % 16 / 4) for n in itertools.count())


def _by_call_turns(size: Size, pragmas: Sequence[str], room: Room) -> Iterator[Sequence[float]]:
    path = room.own / "metrics.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for sql in (METRICS.tables["interactions"], *METRICS.indexes.values()):
            connection.execute(sql)

    def record(user: str, level: int, success: bool, took: float) -> None:
        connection = sqlite3.connect(path)
        for pragma in pragmas:
            connection.execute(pragma)
        connection.execute(
            "INSERT INTO interactions (user_id, empathy_level, success, response_time_ms, timestamp) "
            "VALUES (?, ?, ?, ?, ?)",
            (user, level, success, took, datetime.now(UTC).isoformat()),
        )
        connection.commit()
        connection.close()

    calls = _interactions()
    while True:
        yield timed(record, itertools.islice(calls, size.turn))


def _record_turns(durability: Literal["fsync", "os"], size: Size, room: Room) -> Iterator[Sequence[float]]:
    metrics = MetricsCollector(db_path=room.own / "metrics.db", durability=durability)
    calls = _interactions()
    for turns in itertools.count(1):
        yield timed(metrics.record_interaction, itertools.islice(calls, size.turn))
        expect(metrics.get_global_stats()["total_interactions"] == turns * size.turn, "count each once")


def _library(size: Size) -> tuple[PatternLibrary, list[Pattern]]:
    patterns = [pattern(number) for number in range(size.patterns)]
    library = PatternLibrary()
    library.restore([(each.agent_id, each) for each in patterns])
    return library, patterns


def _save_turns(size: Size, room: Room) -> Iterator[Sequence[float]]:
    library, _ = _library(size)
    for number in itertools.count():
        path = room.own / f"{number}.db"
        yield timed(PatternPersistence.save_to_sqlite, [(library, path)])
        expect(len(PatternPersistence.load_from_sqlite(path).patterns) == size.patterns, "keep all patterns")


def _save_by_hand_turns(size: Size, room: Room) -> Iterator[Sequence[float]]:
    _, patterns = _library(size)
    for number in itertools.count():
        yield timed(_save_by_hand, [(patterns, room.own / f"{number}.db")])


_COLUMNS: Final = (
    *("id", "agent_id", "pattern_type", "name", "description", "context", "code", "confidence"),
    *("usage_count", "success_count", "failure_count", "tags", "discovered_at", "last_used"),
)
_REPLACE: Final = f"INSERT OR REPLACE INTO patterns ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"


def _save_by_hand(patterns: Sequence[Pattern], path: Path) -> None:
    connection = sqlite3.connect(path)
    for sql in (PATTERNS.tables["patterns"], *list(PATTERNS.indexes.values())[:3]):
        connection.execute(sql)
    for each in patterns:
        connection.execute(
            _REPLACE,
            (
                *(each.id, each.agent_id, each.pattern_type, each.name, each.description, json.dumps(each.context)),
                *(each.code, each.confidence, each.usage_count, each.success_count, each.failure_count),
                *(json.dumps(each.tags), each.discovered_at.isoformat()),
                None if each.last_used is None else each.last_used.isoformat(),
            ),
        )
    connection.commit()
    connection.close()


def _figure_turns(name: str, rows: int, turn: int, room: Room) -> Iterator[Sequence[float]]:
    path = room.own / "metrics.db"
    metrics = MetricsCollector(db_path=path)
    metrics.record_interaction("ann", 1, True, 1.0)
    _fill(path, rows - 1)
    expect(metrics.get_global_stats()["total_interactions"] == rows, "count the rows of others")
    while True:
        if name == "user":
            yield timed(metrics.get_user_stats, itertools.repeat(("ann",), turn))
        else:
            yield timed(metrics.get_global_stats, itertools.repeat((), turn))


def _figure_by_call_turns(name: str, rows: int, room: Room) -> Iterator[Sequence[float]]:
    path = room.own / "metrics.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for sql in (METRICS.tables["interactions"], *METRICS.indexes.values()):
            connection.execute(sql)
    _fill(path, rows)
    where, values = ("WHERE user_id = ?", ("ann",)) if name == "user" else ("", ())
    totals = f"""SELECT count(*), count(DISTINCT user_id), sum(success), avg(response_time_ms), min(timestamp),
        max(timestamp) FROM interactions {where}"""
    levels = f"SELECT empathy_level, count(*) FROM interactions {where} GROUP BY empathy_level"

    def ask() -> None:
        connection = sqlite3.connect(path)
        connection.execute(totals, values).fetchall()
        connection.execute(levels, values).fetchall()
        connection.close()

    while True:
        yield timed(ask, [()] * 3)


def _fill(path: Path, rows: int) -> None:
    """Insert rows as another program does: twenty of one user, the others of many."""
    step = max(1, rows // 20)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO interactions (user_id, empathy_level, success, response_time_ms) VALUES (?, ?, ?, ?)",
            (
                ("ann" if n % step == 0 else f"user_{n % 97}", 1 + n % 5, n % 3 > 0, float(n % 1000))
                for n in range(rows)
            ),
        )
