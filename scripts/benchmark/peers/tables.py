"""The documented tables in SQLite by hand, as who knows it does it: a connection that is kept, and a log."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

import reference

from peers.disk import sqlite_connection

COVERING: Final = (
    "CREATE INDEX IF NOT EXISTS covering ON interactions(user_id, success, response_time_ms, timestamp, empathy_level)"
)


class Interactions:
    """Rows of interactions."""

    def __init__(self, place: str, synchronous: str, covered: bool = False) -> None:
        """Open them. With an index that covers what figures are made from, no figure reads a row."""
        self.connection = sqlite_connection(place, synchronous)
        self.connection.executescript(reference.SCHEMA + (COVERING if covered else ""))

    def record(self, user_id: str, level: int, success: bool, took: float) -> None:
        self.connection.execute(reference.INSERT, (user_id, level, success, took, datetime.now(UTC).isoformat()))

    def record_many(self, interactions: Iterable[tuple[Any, ...]]) -> None:
        now = datetime.now(UTC).isoformat()
        self.connection.execute("BEGIN")
        self.connection.executemany(reference.INSERT, ((*each, now) for each in interactions))
        self.connection.execute("COMMIT")

    def count(self) -> int:
        count: int = self.connection.execute("SELECT count(*) FROM interactions").fetchone()[0]
        return count

    def user(self, user_id: str) -> dict[str, Any]:
        return reference.figures(self.connection, user_id)

    def everyone(self) -> dict[str, Any]:
        return reference.figures(self.connection)

    def close(self) -> None:
        self.connection.close()
