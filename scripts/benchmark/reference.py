"""How the system that this package takes the place of does its jobs, written here from its description.

A state is a JSON file, rewritten by `open("w")`; an interaction is a row of SQLite, on a connection a call; figures are
computed by SQL from all rows, a question is answered by a look at each pattern.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from empathy_kv import Pattern
from empathy_kv.sql.schema import PATTERNS

FILES: Final = 'json + open("w")'
TABLE: Final = "sqlite3, a connection a call"
SCAN: Final = "scan, by hand"


class Files:
    """Objects of JSON, one a file: neither atomic nor durable."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def save(self, key: str, plain: Mapping[str, Any]) -> None:
        with (self._place / f"{key}.json").open("w") as file:
            json.dump(plain, file, indent=2)

    def load(self, key: str) -> dict[str, Any] | None:
        path = self._place / f"{key}.json"
        if not path.exists():
            return None
        with path.open() as file:
            plain: dict[str, Any] = json.load(file)
        return plain

    def delete(self, key: str) -> None:
        path = self._place / f"{key}.json"
        if path.exists():
            path.unlink()

    def ids(self) -> list[str]:
        return [path.stem for path in self._place.glob("*.json")]


SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS interactions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id TEXT NOT NULL,
    empathy_level INTEGER NOT NULL,
    success BOOLEAN NOT NULL,
    response_time_ms REAL,
    timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX IF NOT EXISTS idx_interactions_user ON interactions(user_id);
CREATE INDEX IF NOT EXISTS idx_interactions_timestamp ON interactions(timestamp);
"""
INSERT: Final = (
    "INSERT INTO interactions (user_id, empathy_level, success, response_time_ms, timestamp) VALUES (?, ?, ?, ?, ?)"
)
_FIGURES: Final = (
    "SELECT count(*), sum(success), avg(response_time_ms), min(timestamp), max(timestamp), count(DISTINCT user_id) "
    "FROM interactions"
)


class Table:
    """Interactions in the documented table."""

    def __init__(self, place: Path, pragmas: Sequence[str] = ()) -> None:
        self._path = place / "metrics.db"
        self._pragmas = pragmas
        with self._connection() as connection:
            connection.executescript(SCHEMA)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._path)) as connection, connection:
            for pragma in self._pragmas:
                connection.execute(pragma)
            yield connection

    def record(self, user_id: str, level: int, success: bool, response_time_ms: float) -> None:
        with self._connection() as connection:
            connection.execute(INSERT, (user_id, level, success, response_time_ms, datetime.now(UTC).isoformat()))

    def record_many(self, interactions: Iterable[tuple[Any, ...]]) -> None:
        """Record many in one transaction, which the system itself has no way to do."""
        now = datetime.now(UTC).isoformat()
        with self._connection() as connection:
            connection.executemany(INSERT, ((*each, now) for each in interactions))

    def count(self) -> int:
        with self._connection() as connection:
            count: int = connection.execute("SELECT count(*) FROM interactions").fetchone()[0]
        return count

    def user(self, user_id: str) -> dict[str, Any]:
        with self._connection() as connection:
            return figures(connection, user_id)

    def everyone(self) -> dict[str, Any]:
        with self._connection() as connection:
            return figures(connection)


def figures(connection: sqlite3.Connection, user_id: str | None = None) -> dict[str, Any]:
    """Return the figures of a user, or of all, from their rows."""
    where, values = ("", ()) if user_id is None else (" WHERE user_id = ?", (user_id,))
    count, success, mean, first, last, users = connection.execute(_FIGURES + where, values).fetchone()
    levels = connection.execute(
        f"SELECT empathy_level, count(*) FROM interactions{where} GROUP BY empathy_level", values
    ).fetchall()
    return {
        "total_operations": count,
        "total_interactions": count,
        "total_users": users,
        "success_rate": (success or 0) / count if count else 0.0,
        "avg_response_time_ms": mean or 0.0,
        "first_use": first,
        "last_use": last,
        **{f"level_{level}_count": number for level, number in levels},
    }


PATTERN_COLUMNS: Final = (
    *("id", "agent_id", "pattern_type", "name", "description", "context", "code", "confidence"),
    *("usage_count", "success_count", "failure_count", "tags", "discovered_at", "last_used"),
)
PUT_PATTERN: Final = (
    f"INSERT OR REPLACE INTO patterns ({', '.join(PATTERN_COLUMNS)}) VALUES ({', '.join('?' * len(PATTERN_COLUMNS))})"
)
COUNT_OUTCOME: Final = (
    "UPDATE patterns SET usage_count = usage_count + 1, success_count = success_count + ?, "
    "failure_count = failure_count + ?, last_used = ? WHERE id = ?"
)
NOTE_OUTCOME: Final = "INSERT INTO pattern_usage (pattern_id, agent_id, success) VALUES (?, 'agent', ?)"
_PATTERN_TABLES: Final = (
    PATTERNS.tables["patterns"],
    PATTERNS.tables["pattern_usage"],
    *(sql for name, sql in PATTERNS.indexes.items() if "contributions" not in name),
)


def make_pattern_tables(connection: sqlite3.Connection) -> None:
    """Make the documented tables of patterns."""
    for sql in _PATTERN_TABLES:
        connection.execute(sql)


def pattern_row(pattern: Pattern, json: Callable[[Any], str]) -> tuple[Any, ...]:
    """Return what stands in the columns of a pattern."""
    return (
        *(pattern.id, pattern.agent_id, pattern.pattern_type, pattern.name, pattern.description),
        *(json(pattern.context), pattern.code, pattern.confidence),
        *(pattern.usage_count, pattern.success_count, pattern.failure_count),
        *(json(pattern.tags), pattern.discovered_at.isoformat()),
        None if pattern.last_used is None else pattern.last_used.isoformat(),
    )


class PatternTable:
    """Patterns in the documented tables, each change on a connection of its own."""

    def __init__(self, place: Path) -> None:
        self._path = place / "patterns.db"
        with self.connection() as connection:
            make_pattern_tables(connection)

    @contextlib.contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._path)) as connection, connection:
            yield connection

    def contribute(self, _: str, pattern: Pattern) -> None:
        with self.connection() as connection:
            connection.execute(PUT_PATTERN, pattern_row(pattern, json.dumps))

    def outcome(self, pattern_id: str, success: bool) -> None:
        with self.connection() as connection:
            connection.execute(COUNT_OUTCOME, (success, not success, datetime.now(UTC).isoformat(), pattern_id))
            connection.execute(NOTE_OUTCOME, (pattern_id, success))


def query(patterns: Iterable[Pattern], context: Mapping[str, Any], min_confidence: float, limit: int) -> list[str]:
    """Return the ids of the best matches: the rule of relevance, applied to each pattern in turn, and a sort."""
    asked = set(context.get("tags", []))
    found: list[tuple[float, Pattern]] = []
    for pattern in patterns:
        if pattern.confidence < min_confidence:
            continue
        score = 0.0
        shared = set(pattern.context) & set(context)
        if shared:
            score += sum(pattern.context[key] == context[key] for key in shared) / len(shared) * 0.5
        if pattern.tags:
            score += len(asked & set(pattern.tags)) / len(pattern.tags) * 0.3
        if pattern.usage_count:
            score += pattern.success_count / pattern.usage_count * 0.2
        if score > 0.3:
            found.append((min(score, 1.0), pattern))
    found.sort(key=lambda match: match[0], reverse=True)
    return [pattern.id for _, pattern in found[:limit]]
