"""The snapshot of a store in a database: read in one transaction, and written in one."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import secrets
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Final, TypeAlias

from empathy_kv.codec import codec
from empathy_kv.errors import NotEmptyError
from empathy_kv.index import Held
from empathy_kv.records import CollaborationState
from empathy_kv.snapshot_lines import (
    Figures,
    Ids,
    Interactions,
    Item,
    PatternItem,
    Record,
    StateItem,
    encoded_item,
    history_lines,
    pattern_line,
    state_line,
    tally,
    user_lines,
)
from empathy_kv.spool import Spool
from empathy_kv.sql import states
from empathy_kv.sql.database import Database, Many, Reading, Replies, Row, Statement, Transaction
from empathy_kv.sql.metrics import add_carried
from empathy_kv.sql.pattern_rows import as_rows, from_row
from empathy_kv.sql.patterns import IN_ORDER, INSERT, LINK, SELECT
from empathy_kv.sql.schema import EVERYTHING, timestamp
from empathy_kv.sql.shared_patterns import CONTRIBUTE
from empathy_kv.sql.totals import dump, number, read, subtract
from empathy_kv.totals import Totals, microseconds, moment

_STATE: Final = codec(CollaborationState)
_SOURCE: Final = "the database"
_TOGETHER: Final = 1_000
"""Rows that are written at once."""
_RUN: Final = 20_000
"""Interactions that are sorted at once."""

_LINKS: Final = "SELECT pattern_id, related_id FROM pattern_links"
_CARRIED: Final = "SELECT user_id, first_at, last_at, totals FROM interaction_carried"
_FORGOTTEN: Final = """SELECT user_id, interaction_id FROM interaction_carried_ids
UNION ALL SELECT n.user_id, n.interaction_id FROM interaction_ids AS n
WHERE NOT EXISTS (SELECT 1 FROM interactions AS i WHERE i.id = n.row_id AND i.user_id = n.user_id)"""
_INTERACTIONS: Final = """SELECT i.id, i.user_id, i.empathy_level, i.success, i.response_time_ms, i.timestamp,
    n.interaction_id
FROM interactions AS i LEFT JOIN interaction_ids AS n ON n.row_id = i.id AND n.user_id = i.user_id
ORDER BY i.user_id, i.id"""

_THERE: Final = tuple(
    f"SELECT 1 FROM {table} LIMIT 1" for table in ("patterns", "states", "interactions", "interaction_carried")
)
_EMPTY: Final = (
    *(
        f"DELETE FROM {table}"
        for table in (
            *("pattern_usage", "pattern_links", "pattern_contributions", "patterns", "pattern_changes", "states"),
            *("interactions", "interaction_ids", "interaction_carried", "interaction_carried_ids"),
            "interaction_totals",
        )
    ),
    "UPDATE interaction_progress SET totals = '{}'",
)
_OTHER_LIBRARY: Final = "UPDATE pattern_feed SET epoch = ?, number = number + 1"
_NUMBERED: Final = "SELECT max(id) FROM state_versions"
_UNNUMBERED: Final = "DELETE FROM state_versions WHERE user_id = ?"
_RECORD: Final = """INSERT INTO interactions (user_id, empathy_level, success, response_time_ms, timestamp)
VALUES (?, ?, ?, ?, ?)"""
_LAST: Final = "SELECT max(id) FROM interactions"
_NAME: Final = """INSERT INTO interaction_ids
(row_id, user_id, interaction_id, empathy_level, success, response_time_ms) VALUES (?, ?, ?, ?, ?, ?)"""
_CARRY: Final = "INSERT INTO interaction_carried (user_id, first_at, last_at, totals) VALUES (?, ?, ?, ?)"
_CARRY_ID: Final = "INSERT INTO interaction_carried_ids (user_id, interaction_id) VALUES (?, ?)"

Writing: TypeAlias = Generator[Sequence[Statement], Replies, None]


class SQLContents:
    """What a store in a database holds, as records of a snapshot."""

    years: Final = None
    limit: Final = None

    def __init__(self, database: Database) -> None:
        self._database = database

    def others(self) -> int | None:
        """Return 0: a database has no collections."""
        return 0

    def lines(self) -> Generator[bytes, None, None]:
        """Yield the lines of all records, as they were at one moment."""
        with Spool() as spool:
            with self._database.reading(EVERYTHING) as rows:
                for line in itertools.chain(_patterns(rows), _states(rows), _metrics(rows)):
                    spool.append(line)
            yield from spool

    def fill(self, records: Callable[[], Iterator[Record]], sha256: str, replace: bool) -> None:  # noqa: ARG002
        """Make records all that the store holds. `NotEmptyError` if it holds others, unless they are to be replaced."""

        def then(replies: Replies) -> Writing:
            if any(replies):
                if not replace:
                    raise NotEmptyError(
                        "the store holds something already: restore into an empty one, or replace what it has"
                    )
                yield [(sql, ()) for sql in _EMPTY]
            yield ((_OTHER_LIBRARY, (secrets.token_hex(8),)),)
            yield from _Filling().fill(records())

        asked = [(sql, ()) for sql in _THERE]
        self._database.commit(
            Transaction(EVERYTHING, asked, then, lock="patterns", still="interactions", patient=True, afresh=True)
        )


# Reading


def _patterns(rows: Reading) -> Iterator[bytes]:
    links: dict[str, set[str]] = {}
    for one, other in rows(_LINKS):
        if one != other:
            links.setdefault(one, set()).add(other)
            links.setdefault(other, set()).add(one)
    before: set[str] = set()
    for order, row in enumerate(rows(f"{SELECT}\n{IN_ORDER}"), 1):
        held = from_row(row, order, _SOURCE)
        linked = links.get(held.id)
        earlier = [] if linked is None else sorted(linked & before)
        if linked is not None:
            before.add(held.id)
        yield pattern_line(held.document, held.agent, earlier)


def _states(rows: Reading) -> Iterator[bytes]:
    for row in rows(states.SELECT):
        state, _ = states.read(row)
        yield state_line(_STATE.encode(state))


def _metrics(rows: Reading) -> Iterator[bytes]:
    carried = {row[0]: row for row in rows(_CARRIED)}
    forgotten: dict[str, list[str]] = {}
    for user, name in rows(_FORGOTTEN):
        forgotten.setdefault(user, []).append(name)
    for user, found in itertools.groupby(rows(_INTERACTIONS), key=_user):
        yield from _lines(user, map(_item, found), carried.pop(user, None), forgotten.get(user, ()))
    for user, row in carried.items():
        yield from _lines(user, iter(()), row, forgotten.get(user, ()))


def _lines(user: str, items: Iterator[Item], carried: Row | None, forgotten: Sequence[str]) -> Iterator[bytes]:
    """Yield the lines of a user, of whom there may be more interactions than memory has place for."""
    totals = Totals()
    runs: list[tuple[array[int], array[int]]] = []  # When they were and where they stand: 16 bytes of each.
    count = 0
    with contextlib.ExitStack() as stack:
        spool: Spool | None = None
        while page := list(itertools.islice(items, _RUN)):
            page.sort(key=_at)  # Texts of several forms do not sort as the times that they mean.
            tally(totals, page)
            first, last = moment(page[0][0]), moment(page[-1][0])
            totals.first = first if totals.first is None else min(first, totals.first)
            totals.last = last if totals.last is None else max(last, totals.last)
            count += len(page)
            if len(page) == count < _RUN:
                break  # These are all.
            spool = spool or stack.enter_context(Spool())
            encoded = [encoded_item(item) for item in page]
            start = spool.append(b"\n".join(encoded))  # Together, in a third of the time.
            lengths = (len(item) + 1 for item in encoded[:-1])
            runs.append((array("q", map(_at, page)), array("q", itertools.accumulate(lengths, initial=start))))
        if carried is not None:
            add_carried(totals, [carried])
        if spool is None:
            yield from user_lines(user, totals, page, forgotten)
        else:
            yield from history_lines(user, totals, count, _merged(runs, spool), forgotten)


def _merged(runs: Sequence[tuple[array[int], array[int]]], spool: Spool) -> Iterator[bytes]:
    """Yield what is in a spool in the order of runs that are sorted."""
    if all(before[-1] <= after[0] for (before, _), (after, _) in itertools.pairwise(runs)):
        yield from spool  # As it nearly always is.
    else:
        for _, start in heapq.merge(*itertools.starmap(zip, runs), key=_at):
            yield spool.at(start)


def _user(row: Row) -> Any:
    return row[1]


def _at(item: Sequence[Any]) -> Any:
    return item[0]


def _item(row: Row) -> Item:
    interaction = read(row)
    # 0.0 is what stands for a response time that is not known.
    took = None if row[4] is None else interaction.response_time_ms + 0.0
    return microseconds(interaction.at), interaction.level, interaction.success, took, interaction.id


# Writing


class _Filling:
    """Writes records to tables that are empty, many with each statement."""

    def __init__(self) -> None:
        self._patterns: list[Held] = []
        self._links: list[Row] = []
        self._states: list[Row] = []
        self._items: list[tuple[str, Item]] = []
        self._carried: list[Row] = []
        self._ids: list[Row] = []
        self._figures: Figures | None = None
        self._tallied = Totals()

    def fill(self, records: Iterator[Record]) -> Writing:
        """Yield the statements that write all of them."""
        for record in records:
            if isinstance(record, Interactions):
                tally(self._tallied, record.items)
                self._items += [(record.user_id, item) for item in record.items]
            elif isinstance(record, PatternItem):
                self._patterns.append(Held(record.id, record.agent, 1, record.document))
                self._links += [(other, record.id) for other in record.links]
            elif isinstance(record, StateItem):
                self._states.append(states.as_row(_STATE.decode(record.document)))
            elif isinstance(record, Figures):
                self._carry()
                self._figures, self._tallied = record, Totals()
            elif isinstance(record, Ids):
                self._ids += [(record.user_id, name) for name in record.ids]
            yield from self._write(_TOGETHER)
        self._carry()
        yield from self._write(1)

    def _carry(self) -> None:
        """Note what of a user's figures does not come from rows."""
        figures = self._figures
        if figures is None:
            return
        left = figures.totals()
        subtract(left, self._tallied)
        if left.operations:
            left.first = None if figures.first is None else moment(figures.first)
            # The level of the last interaction is that of the last row, if there is one.
            left.last = None if figures.interactions or figures.last is None else moment(figures.last)
            self._carried.append((figures.user_id, number(left.first), number(left.last), dump(left)))

    def _write(self, enough: int) -> Writing:
        if len(self._patterns) >= enough or len(self._links) >= enough:
            rows = list(as_rows(self._patterns))
            others = [(row[0], agent, extra) for row, agent, extra in rows if agent or extra]
            yield (
                Many(INSERT, [row for row, _, _ in rows]),
                Many(CONTRIBUTE, others),
                Many(LINK, self._links),
            )
            self._patterns, self._links = [], []
        if len(self._states) >= enough:
            # No version is given twice to one user: the number of each is used for some of them.
            user = (self._states[0][0],)
            ((found,),) = (yield (states.NUMBER, user), (_NUMBERED, ()))[1:]
            yield Many(states.INSERT, [(*row, found[0]) for row in self._states]), (_UNNUMBERED, user)
            self._states = []
        while len(self._items) >= enough:
            page, self._items = self._items[:_TOGETHER], self._items[_TOGETHER:]
            yield from self._record(page)
        if len(self._carried) >= enough:
            yield (Many(_CARRY, self._carried),)
            self._carried = []
        if len(self._ids) >= enough:
            yield (Many(_CARRY_ID, self._ids),)
            self._ids = []

    def _record(self, page: Sequence[tuple[str, Item]]) -> Writing:
        rows = [(user, level, success, took, timestamp(moment(at))) for user, (at, level, success, took, _) in page]
        _, last = yield Many(_RECORD, rows), (_LAST, ())
        # Nobody else writes here, so their numbers follow each other.
        first = last[0][0] - len(page) + 1
        names = [
            (first + place, user, name, level, success, 0.0 if took is None else took)
            for place, (user, (_, level, success, took, name)) in enumerate(page)
            if name is not None
        ]
        if names:
            yield (Many(_NAME, names),)
