"""Metrics in the documented table: a row an interaction, and every figure a sum over rows.

Rows of others are read as well: with the times that CURRENT_TIMESTAMP writes, or ISO 8601, and without a response time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, NoReturn

from empathy_kv.errors import CodecError, IdempotencyError
from empathy_kv.kv.interface import Steps
from empathy_kv.metrics import MAX_RESPONSE_TIME, Totals
from empathy_kv.records import Interaction, utc
from empathy_kv.sql.schema import METRICS, timestamp
from empathy_kv.sql.sqlite import Row, Transaction

_PAGE: Final = 10_000
"""Rows that are in memory at a time."""

_INSERT: Final = """INSERT INTO interactions (user_id, empathy_level, success, response_time_ms, timestamp)
VALUES (?, ?, ?, ?, ?)"""
_INSERT_NEW: Final = """INSERT INTO interactions (user_id, empathy_level, success, response_time_ms, timestamp)
SELECT ?, ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM interaction_ids WHERE user_id = ? AND interaction_id = ?)"""
_INSERT_ID: Final = """INSERT INTO interaction_ids
(row_id, user_id, interaction_id, empathy_level, success, response_time_ms)
SELECT last_insert_rowid(), ?, ?, ?, ?, ?
WHERE NOT EXISTS (SELECT 1 FROM interaction_ids WHERE user_id = ? AND interaction_id = ?)"""
_SELECT_ID: Final = """SELECT n.empathy_level, n.success, n.response_time_ms, n.row_id, i.timestamp
FROM interaction_ids AS n LEFT JOIN interactions AS i ON i.id = n.row_id AND i.user_id = n.user_id
WHERE n.user_id = ? AND n.interaction_id = ?"""

_LAST: Final = "SELECT max(id) FROM interactions"
_USERS: Final = "SELECT DISTINCT user_id FROM interactions"
_COUNT_USERS: Final = "SELECT count(DISTINCT user_id) FROM interactions"
_ALL: Final = """SELECT id, user_id, empathy_level, success, response_time_ms, timestamp FROM interactions
WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"""
_OF_USER: Final = """SELECT id, user_id, empathy_level, success, response_time_ms, timestamp FROM interactions
WHERE user_id = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?"""
_HISTORY: Final = """SELECT i.id, i.user_id, i.empathy_level, i.success, i.response_time_ms, i.timestamp,
    n.interaction_id
FROM interactions AS i LEFT JOIN interaction_ids AS n ON n.row_id = i.id AND n.user_id = i.user_id
WHERE i.user_id = ? AND i.id > ? AND i.id <= ? ORDER BY i.id LIMIT ?"""


class SQLMetrics:
    """Metrics in the table `interactions`."""

    def record(self, interaction: Interaction, dated: bool) -> Steps[bool]:
        user, level, success = interaction.user_id, interaction.level, interaction.success
        took, at = interaction.response_time_ms, timestamp(interaction.at)
        if interaction.id is None:
            yield Transaction(METRICS, [(_INSERT, (user, level, success, took, at))])
            return True
        name = (user, interaction.id)
        kept, _, _ = yield Transaction(
            METRICS,
            [
                (_SELECT_ID, name),
                (_INSERT_NEW, (user, level, success, took, at, *name)),
                (_INSERT_ID, (*name, level, success, took, *name)),
            ],
        )
        if not kept:
            return True
        *content, row, when = kept[0]
        # When it was stands in the row of the interaction alone, which the user may have deleted.
        moved = dated and when is not None and _time(when, f"$.interactions[{row}].timestamp") != interaction.at
        if content != [level, success, took] or moved:
            raise IdempotencyError(
                f"the interaction_id {interaction.id!r} was used for another interaction", id=interaction.id
            )
        return False

    def user(self, user_id: str) -> Steps[Totals]:
        count = _Count()
        ((newest,),) = yield Transaction(METRICS, [(_LAST, ())])
        yield from _each(_OF_USER, (user_id,), newest[0], count)
        return count.totals

    def everyone(self) -> Steps[tuple[int, Totals]]:
        count = _Count()
        (newest,), (users,) = yield Transaction(METRICS, [(_LAST, ()), (_COUNT_USERS, ())])
        yield from _each(_ALL, (), newest[0], count)
        count.totals.level = None
        return users[0], count.totals

    def users(self) -> Steps[list[str]]:
        (rows,) = yield Transaction(METRICS, [(_USERS, ())])
        return [user if type(user) is str else _refuse("expected str", "$.interactions.user_id") for (user,) in rows]

    def history(self, user_id: str) -> Steps[list[Interaction]]:
        found: list[Interaction] = []
        ((newest,),) = yield Transaction(METRICS, [(_LAST, ())])
        yield from _each(_HISTORY, (user_id,), newest[0], lambda row: found.append(_read(row)))
        # Texts of several forms do not sort as the times that they mean. Of one time, the order is that of the rows.
        found.sort(key=lambda interaction: interaction.at)
        return found


def _each(sql: str, parameters: Row, newest: int | None, take: Callable[[Row], None]) -> Steps[None]:
    """Take the rows of a query one by one, up to the newest: what is recorded meanwhile has greater numbers."""
    last = -(2**63)
    while newest is not None:
        (rows,) = yield Transaction(METRICS, [(sql, (*parameters, last, newest, _PAGE))])
        for row in rows:
            take(row)
        if len(rows) < _PAGE:
            break
        last = rows[-1][0]


class _Count:
    """Counts rows, in the order in which they were recorded: of two at the same moment the later one is the last."""

    def __init__(self) -> None:
        self.totals = Totals()

    def __call__(self, row: Row) -> None:
        interaction = _read(row)
        if row[4] is None:
            self.totals.merge(_untimed(interaction))
        else:
            self.totals.add(interaction)


def _untimed(interaction: Interaction) -> Totals:
    """Return an interaction whose response time is not known: it is in no bucket of the histogram."""
    at, level = interaction.at, interaction.level
    return Totals(1, int(interaction.success), 0, {level: 1}, {at.date().isoformat(): 1}, {}, at, at, level)


def _read(row: Row) -> Interaction:
    """Return the interaction of a row. A response time that is not known is 0.0."""
    number, user, level, success, took, at, *given = row
    place = f"$.interactions[{number}]"
    if type(user) is not str:
        _refuse("expected str", f"{place}.user_id")
    if type(level) is not int:
        _refuse("expected int", f"{place}.empathy_level")
    if type(success) is not int:
        _refuse("expected bool", f"{place}.success")
    if took is None:
        took = 0.0
    elif type(took) is not float or not math.fabs(took) <= MAX_RESPONSE_TIME:
        _refuse("expected float of milliseconds", f"{place}.response_time_ms")
    return Interaction(user, level, bool(success), took, _time(at, f"{place}.timestamp"), *given)


def _time(value: Any, place: str) -> datetime:
    if type(value) is not str:
        _refuse("expected datetime as text", place)
    try:
        return utc(datetime.fromisoformat(value))
    except (ValueError, OverflowError):
        _refuse("expected datetime in ISO 8601", place)


def _refuse(what: str, place: str) -> NoReturn:
    raise CodecError(f"{what} @ {place}", path=place)
