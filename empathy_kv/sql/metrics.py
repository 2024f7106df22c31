"""Metrics in the documented table: a row an interaction.

To record is to insert a row, and nothing else. When rows have become many they are counted, all at once, and what they
come to is kept (`interaction_progress`, `interaction_totals`); a figure is that, and the rows that came since. So what
it costs does not grow with the rows, and no two that record wait for each other's totals. Rows that others inserted are
counted as ours are. What others change or delete makes the user's figures stale (triggers see to that): then the rows
of that user are counted anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Final

from empathy_kv.errors import CodecError, EmpathyKVError, IdempotencyError, NotApplied, OutcomeUnknown
from empathy_kv.kv.interface import Steps
from empathy_kv.records import Interaction
from empathy_kv.sql.database import Many, Replies, Row, Statement, Transaction
from empathy_kv.sql.schema import HIGHEST, LOWEST, METRICS, timestamp
from empathy_kv.sql.totals import COLUMNS, add, dump, number, parse, read, refuse, subtract, when
from empathy_kv.totals import Totals

_PAGE: Final = 10_000
"""Rows that are in memory at a time."""
_OWN: Final = 500
"""How many interactions this worker records before it counts what has come."""
_TAIL: Final = 100
"""How many rows a figure looks at one by one; if there are more, they are counted first."""

_INSERT: Final = """INSERT INTO interactions (user_id, empathy_level, success, response_time_ms, timestamp)
VALUES (?, ?, ?, ?, ?)"""
_INSERT_ID: Final = """INSERT INTO interaction_ids
(row_id, user_id, interaction_id, empathy_level, success, response_time_ms)
VALUES (last_insert_rowid(), ?, ?, ?, ?, ?)"""
_SELECT_ID: Final = """SELECT n.empathy_level, n.success, n.response_time_ms, n.row_id, i.timestamp
FROM interaction_ids AS n LEFT JOIN interactions AS i ON i.id = n.row_id AND i.user_id = n.user_id
WHERE n.user_id = ? AND n.interaction_id = ?"""

_SELECT_CARRIED_ID: Final = """SELECT 1 FROM interaction_carried_ids
WHERE user_id = ? AND interaction_id = ?"""

_CARRIED: Final = "SELECT user_id, first_at, last_at, totals FROM interaction_carried"
_CARRIED_OF: Final = f"{_CARRIED} WHERE user_id = ?"
_CARRIED_ALONE: Final = """SELECT count(*) FROM interaction_carried AS c
WHERE NOT EXISTS (SELECT 1 FROM interactions AS i WHERE i.user_id = c.user_id)"""

_COUNTED: Final = "SELECT counted, totals FROM interaction_progress"
_LAST: Final = "SELECT max(id) FROM interactions"
_KEPT: Final = "SELECT stale, first_at, last_at, totals FROM interaction_totals WHERE user_id = ?"
_STALE: Final = "SELECT user_id FROM interaction_totals WHERE stale = 1 LIMIT 1"
_SPAN: Final = "SELECT count(*), min(first_at), max(last_at) FROM interaction_totals"
_NOTHING: Final = (0, None, None, None)
"""What is kept of a user of whom nothing was counted."""
_DISTINCT: Final = "SELECT DISTINCT user_id FROM interactions"
_USERS: Final = "SELECT user_id FROM interaction_totals"
_KNOWN: Final = """SELECT user_id FROM interaction_totals
WHERE user_id IN (SELECT user_id FROM interactions WHERE id > ?)"""
_ALL: Final = f"SELECT {COLUMNS} FROM interactions WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
_OF_USER: Final = f"SELECT {COLUMNS} FROM interactions WHERE user_id = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?"
_HISTORY: Final = """SELECT i.id, i.user_id, i.empathy_level, i.success, i.response_time_ms, i.timestamp,
    n.interaction_id
FROM interactions AS i LEFT JOIN interaction_ids AS n ON n.row_id = i.id AND n.user_id = i.user_id
WHERE i.user_id = ? AND i.id > ? AND i.id <= ? ORDER BY i.id LIMIT ?"""

_KEEP_PROGRESS: Final = "UPDATE interaction_progress SET counted = ?, totals = ?"
_KEEP: Final = """INSERT INTO interaction_totals (user_id, stale, first_at, last_at, totals) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (user_id) DO UPDATE SET stale = excluded.stale, first_at = excluded.first_at,
    last_at = excluded.last_at, totals = excluded.totals"""
_DROP: Final = "DELETE FROM interaction_totals WHERE user_id = ?"
_KEPT_OF_PAGE: Final = """SELECT user_id, stale, first_at, last_at, totals FROM interaction_totals
WHERE user_id IN (SELECT user_id FROM interactions WHERE id > ? AND id <= ?)"""


class SQLMetrics:
    """Metrics in the table `interactions`."""

    def __init__(self) -> None:
        self._recorded = 0
        self._counted = LOWEST
        """Up to which row all were counted, when that was last seen."""

    def record(self, interaction: Interaction, dated: bool) -> Steps[bool]:
        user, level, success = interaction.user_id, interaction.level, interaction.success
        took, at = interaction.response_time_ms, timestamp(interaction.at)
        insert = (_INSERT, (user, level, success, took, at))
        if interaction.id is None:
            yield Transaction(METRICS, (insert,))
            new = True
        else:
            name = (user, interaction.id)

            def then(replies: Replies) -> Generator[Sequence[Statement], Replies, None]:
                if replies[0]:
                    _require_same(replies[0][0], interaction, dated)
                elif not replies[1]:
                    yield insert, (_INSERT_ID, (*name, level, success, took))

            asked = (_SELECT_ID, name), (_SELECT_CARRIED_ID, name)
            replies = yield Transaction(METRICS, asked, then, lock=f"interaction {name!r}")
            new = not replies[0] and not replies[1]
        self._recorded += 1
        if self._recorded >= _OWN:
            self._recorded = 0
            with contextlib.suppress(EmpathyKVError):  # What was recorded is recorded; others will count it.
                yield from _count_page()
        return new

    def user(self, user_id: str) -> Steps[Totals]:
        def asked(counted: int) -> Sequence[Statement]:
            return (
                (_CARRIED_OF, (user_id,)),
                (_KEPT, (user_id,)),
                (_OF_USER, (user_id, counted, HIGHEST, _PAGE)),
            )

        counted, newest, _, (carried, kept, rows) = yield from self._look(asked)
        if kept and kept[0][0] and (yield from _possibly(_recount(user_id))):
            counted, newest, _, (carried, kept, rows) = yield from self._look(asked)
        stale, first, last, text = kept[0] if kept else _NOTHING
        if stale:  # What was counted anew cannot be written down.
            totals = Totals()
            yield from _add(totals, _OF_USER, (user_id,), LOWEST, newest)
        else:
            totals = parse(text, f"$.interaction_totals[{user_id!r}]", first, last)
            yield from _add(totals, _OF_USER, (user_id,), counted, newest, rows)
        add_carried(totals, carried)
        return totals

    def each(self, user_ids: Sequence[str]) -> Steps[list[Totals]]:
        every: list[Totals] = []
        for user_id in user_ids:
            totals = yield from self.user(user_id)
            every.append(totals)
        return every

    def everyone(self) -> Steps[tuple[int, Totals]]:
        def asked(counted: int) -> Sequence[Statement]:
            return (
                *((_CARRIED, ()), (_CARRIED_ALONE, ())),
                *((_STALE, ()), (_SPAN, ()), (_KNOWN, (counted,)), (_ALL, (counted, HIGHEST, _PAGE))),
            )

        while True:
            counted, newest, progress, replies = yield from self._look(asked)
            carried, ((alone,),), stale, ((users, first, last),), known, rows = replies
            if not stale or not (yield from _possibly(_recount(*stale[0]))):
                break
        if stale:
            totals = Totals()
            yield from _add(totals, _ALL, (), LOWEST, newest)
        else:
            totals = parse(progress, "$.interaction_progress.totals", first, last)
            yield from _add(totals, _ALL, (), counted, newest, rows)
        if stale or len(rows) == _PAGE:
            users = len((yield from self._distinct()))
        else:
            users += len({row[1] for row in rows} - {user for (user,) in known})
        add_carried(totals, carried)
        totals.level = None
        return users + alone, totals

    def users(self) -> Steps[list[str]]:
        def asked(counted: int) -> Sequence[Statement]:
            return (_CARRIED, ()), (_STALE, ()), (_USERS, ()), (_ALL, (counted, HIGHEST, _PAGE))

        _, _, _, (carried, stale, known, rows) = yield from self._look(asked)
        if stale or len(rows) == _PAGE:
            there = set((yield from self._distinct()))
        else:
            there = {user for (user,) in known} | {row[1] for row in rows}
        return _texts(there | {user for user, *_ in carried})

    def _distinct(self) -> Steps[list[str]]:
        (rows,) = yield Transaction(METRICS, ((_DISTINCT, ()),))
        return _texts({user for (user,) in rows})

    def history(self, user_id: str) -> Steps[list[Interaction]]:
        found: list[Interaction] = []
        ((newest,),) = yield Transaction(METRICS, ((_LAST, ()),))
        last, rows = LOWEST, None
        while newest[0] is not None and (rows is None or len(rows) == _PAGE):
            (rows,) = yield Transaction(METRICS, ((_HISTORY, (user_id, last, newest[0], _PAGE)),))
            found += map(read, rows)
            last = rows[-1][0] if rows else last
        # Texts of several forms do not sort as the times that they mean. Of one time, the order is that of the rows.
        found.sort(key=lambda interaction: interaction.at)
        return found

    def _look(self, asked: Callable[[int], Sequence[Statement]]) -> Steps[tuple[int, int, str, Replies]]:
        """Ask, in one transaction, for what was counted and for the rows that came since.

        Returns up to which row all were counted, the number of the last row, what all that were counted come to, and
        the replies to what is asked of the rows after that number.
        """
        tried = False
        while True:
            guess = self._counted
            kept, newest, *replies = yield Transaction(METRICS, ((_COUNTED, ()), (_LAST, ()), *asked(guess)))
            counted, text = kept[0] if kept else (LOWEST, "{}")
            last = LOWEST if newest[0][0] is None else newest[0][0]
            if counted != guess:
                self._counted = counted
            elif last - max(counted, 0) > _TAIL and not tried:
                tried = not (yield from _possibly(_count()))
            else:
                return counted, last, text, replies


def add_carried(totals: Totals, carried: Sequence[Row]) -> None:
    """Add what interactions come to of which there are no rows."""
    for user, first, last, text in carried:
        totals.merge(parse(text, f"$.interaction_carried[{user!r}]", first, last))


def _possibly(steps: Steps[None]) -> Steps[bool]:
    """Do what saves work later; return whether that was possible."""
    try:
        yield from steps
    except (NotApplied, OutcomeUnknown):  # Nothing may be written here, or others keep the table busy.
        return False
    return True


def _add(
    totals: Totals, sql: str, parameters: Row, last: int, newest: int, rows: Sequence[Row] | None = None
) -> Steps[None]:
    """Add the rows of a query to totals, from one number up to another; the first page of them may be at hand.

    What is recorded meanwhile has greater numbers.
    """
    while True:
        if rows is None:
            (rows,) = yield Transaction(METRICS, ((sql, (*parameters, last, newest, _PAGE)),))
        for row in rows:
            add(totals, row)
        if len(rows) < _PAGE:
            return
        last, rows = rows[-1][0], None


def _texts(users: Iterable[Any]) -> list[str]:
    return [user if type(user) is str else refuse("expected str", "$.interactions.user_id") for user in users]


def _count() -> Steps[None]:
    """Count the rows that have come, page by page."""
    while len((yield from _count_page())) == _PAGE:
        pass


def _count_page() -> Steps[Sequence[Row]]:
    """Count the next rows, and return them."""

    def then(replies: Replies) -> Generator[Sequence[Statement], Replies, None]:
        ((counted, text),) = replies[0]
        (rows,) = yield ((_ALL, (counted, HIGHEST, _PAGE)),)
        if not rows:
            return
        newest = rows[-1][0]
        (kept,) = yield ((_KEPT_OF_PAGE, (counted, newest)),)
        before = {user: values for user, *values in kept}
        come: dict[Any, Totals] = {}
        stale = {user for user, values in before.items() if values[0]}
        for row in rows:
            user = row[1]
            if user not in stale:
                try:
                    add(come.setdefault(user, Totals()), row)
                except CodecError:  # It is named when the figures are asked for, and each time, until it is put right.
                    stale.add(user)
        everyone = parse(text, "$.interaction_progress.totals")
        writes: list[Row] = []
        for user, more in come.items():
            _, first, last, kept_text = before.get(user, _NOTHING)
            if user in stale:
                writes.append((user, 1, first, last, kept_text))
                continue
            totals = parse(kept_text, f"$.interaction_totals[{user!r}]", first, last)
            totals.merge(more)
            everyone.merge(more)
            writes.append((user, 0, number(totals.first), number(totals.last), dump(totals)))
        yield Many(_KEEP, writes), (_KEEP_PROGRESS, (newest, dump(everyone)))

    replies = yield Transaction(METRICS, ((_COUNTED, ()),), then, still="interactions")
    return replies[1]  # type: ignore[no-any-return]


def _recount(user_id: str) -> Steps[None]:
    """Count the rows of a user anew, as far as all rows are counted."""

    def then(replies: Replies) -> Generator[Sequence[Statement], Replies, None]:
        ((counted, text),), kept = replies
        totals, rows, at = Totals(), None, LOWEST
        while rows is None or len(rows) == _PAGE:
            (rows,) = yield ((_OF_USER, (user_id, at, counted, _PAGE)),)
            for row in rows:
                add(totals, row)
            at = rows[-1][0] if rows else at
        everyone = parse(text, "$.interaction_progress.totals")
        for _, _, _, before in kept:
            subtract(everyone, parse(before, f"$.interaction_totals[{user_id!r}]"))
        everyone.merge(totals)
        if totals.operations:
            keep: Statement = _KEEP, (user_id, 0, number(totals.first), number(totals.last), dump(totals))
        else:
            keep = _DROP, (user_id,)
        yield keep, (_KEEP_PROGRESS, (counted, dump(everyone)))

    yield Transaction(METRICS, ((_COUNTED, ()), (_KEPT, (user_id,))), then, still="interactions")


def _require_same(kept: Row, interaction: Interaction, dated: bool) -> None:
    *content, row, at = kept
    # When it was stands in the row of the interaction alone, which the user may have deleted.
    moved = dated and at is not None and when(at, f"$.interactions[{row}].timestamp") != interaction.at
    if content != [interaction.level, interaction.success, interaction.response_time_ms] or moved:
        raise IdempotencyError(
            f"the interaction_id {interaction.id!r} was used for another interaction", id=interaction.id
        )
