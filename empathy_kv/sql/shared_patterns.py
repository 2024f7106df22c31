"""The patterns of a library in the documented tables of a database that workers share.

Each worker has a copy of its own, an index that follows the feed: the number of the last change, and the patterns that
changed, each with the number of its last change. Triggers write it, so it also has what others change in the tables by
hand. Writes go to the tables, outcomes as one UPDATE and a row of `pattern_usage`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from datetime import datetime
from typing import Final, TypeAlias

from attrs import define
from msgspec.structs import replace

from empathy_kv.errors import CounterOverflowError, NotApplied, OutcomeUnknown
from empathy_kv.index import Held, Index
from empathy_kv.kv.interface import Steps
from empathy_kv.kv.operations import INTEGER_MAX, pages
from empathy_kv.pattern_library import Contribution, Progress, encoded, missing, taken, updated
from empathy_kv.records import PROVEN, Pattern
from empathy_kv.sql.database import Many, Replies, Row, Statement, Transaction
from empathy_kv.sql.pattern_rows import COLUMNS, as_rows, from_row
from empathy_kv.sql.patterns import IN_ORDER, INSERT, REMOVE, SELECT, UPDATE
from empathy_kv.sql.schema import LIBRARY, timestamp

_FEED: Final = 100_000
"""How many changes the feed keeps; a worker that slept through more loads the library afresh."""
_REPORT: Final = 1_000
_LOCK: Final = "patterns"
_SOURCE: Final = "the database"
_POSITION: Final = len(COLUMNS) + 1

_ASK: Final = "SELECT epoch, number FROM pattern_feed"
_MAKE_FEED: Final = "UPDATE pattern_feed SET number = number"
_COUNT: Final = "SELECT count(*) FROM patterns"
_ALL: Final = f"{SELECT}\n{IN_ORDER}"
_ALL_LINKS: Final = "SELECT pattern_id, related_id FROM pattern_links"
_CHANGED: Final = "SELECT pattern_id FROM pattern_changes WHERE number > ?"
_CHANGED_ROWS: Final = f"{SELECT}\nWHERE p.id IN ({_CHANGED}) {IN_ORDER}"
_CHANGED_LINKS: Final = f"{_ALL_LINKS} WHERE pattern_id IN ({_CHANGED}) OR related_id IN ({_CHANGED})"
_ONE: Final = f"{SELECT}\nWHERE p.id = ?"
_ONE_LINKS: Final = f"{_ALL_LINKS} WHERE pattern_id = ? OR related_id = ?"
_PRUNE: Final = f"DELETE FROM pattern_changes WHERE number <= (SELECT number FROM pattern_feed) - {_FEED}"

CONTRIBUTE: Final = """INSERT INTO pattern_contributions (pattern_id, agent_id, extra) VALUES (?, ?, ?)
ON CONFLICT (pattern_id) DO UPDATE SET agent_id = excluded.agent_id, extra = excluded.extra"""
_LINK: Final = """INSERT INTO pattern_links (pattern_id, related_id)
SELECT CAST(? AS TEXT), CAST(? AS TEXT) WHERE NOT EXISTS (
    SELECT 1 FROM pattern_links
    WHERE (pattern_id = ? AND related_id = ?) OR (pattern_id = ? AND related_id = ?)
)"""
_COUNTED: Final = "SELECT agent_id, usage_count, success_count, failure_count FROM patterns WHERE id = ?"
_BUMP: Final = f"""UPDATE patterns SET
    confidence = CASE
        WHEN coalesce(usage_count, 0) + 1 < {PROVEN} THEN confidence
        WHEN coalesce(success_count, 0) + ? > coalesce(usage_count, 0) + 1 THEN 1.0
        ELSE CAST(coalesce(success_count, 0) + ? AS DOUBLE PRECISION)
            / CAST(coalesce(usage_count, 0) + 1 AS DOUBLE PRECISION)
    END,
    usage_count = coalesce(usage_count, 0) + 1,
    success_count = coalesce(success_count, 0) + ?,
    failure_count = coalesce(failure_count, 0) + ?,
    last_used = ?,
    updated_at = CURRENT_TIMESTAMP
WHERE id = ?"""
_USE: Final = "INSERT INTO pattern_usage (pattern_id, agent_id, success, used_at) VALUES (?, ?, ?, ?)"

Place: TypeAlias = tuple[str | None, int]
"""Which library, by its epoch, and the number of its last change."""
_NOTHING: Final[Place] = (None, 0)


@define(eq=False)
class Copy:
    """What this worker knows of the library. All of it changes together, under the lock of the index."""

    index: Index
    place: Place
    asked: float = -math.inf
    """When it was last known to be up to date, by the monotonic clock."""


class SQLPatterns:
    """The patterns in the tables of a database."""

    def __init__(self) -> None:
        self.on_load: Progress | None = None
        self._copy: Copy | None = None
        self._wrote = -math.inf
        """When this worker last changed the library, by the monotonic clock."""

    def pull(self, max_staleness: float) -> Steps[Index]:
        copy = self._copy
        if copy is not None and max_staleness > 0 and self._fresh(copy, max_staleness):
            return copy.index
        tried = False
        while True:
            copy = self._copy
            if copy is None:
                copy = yield from self._load(None)
            at = time.monotonic()
            feed, ((count,),) = yield Transaction(LIBRARY, ((_ASK, ()), (_COUNT, ())))
            if feed and feed[0] == copy.place:
                copy.asked = max(copy.asked, at)
                return copy.index
            if feed:
                yield from self._follow(copy, *feed[0])
            elif not count and not len(copy.index):
                return copy.index
            elif tried:  # Nobody can tell what changed, because nothing may be written here.
                return (yield from self._load(copy)).index
            else:
                tried = True
                try:
                    yield Transaction(LIBRARY, ((_MAKE_FEED, ()),))
                except (NotApplied, OutcomeUnknown):
                    continue

    def pull_known(self) -> Steps[Index | None]:
        if self._copy is None:
            return None
        index = yield from self.pull(0.0)
        return index

    def _fresh(self, copy: Copy, max_staleness: float) -> bool:
        return copy.asked > self._wrote and time.monotonic() - copy.asked <= max_staleness

    def _follow(self, copy: Copy, epoch: str, newest: int) -> Steps[None]:
        """Bring a copy up to date, or replace it."""
        place = copy.place
        known, since = place
        if epoch != known or not since <= newest <= since + _FEED:
            yield from self._load(copy)
            return
        feed, changed, rows, pairs = yield Transaction(
            LIBRARY, ((_ASK, ()), (_CHANGED, (since,)), (_CHANGED_ROWS, (since,)), (_CHANGED_LINKS, (since, since)))
        )
        if not feed or feed[0][0] != known or feed[0][1] > since + _FEED:
            return  # Now it is another one.
        links = _linked(pairs)
        there = {row[0]: row for row in rows}
        with copy.index.lock:
            if self._copy is not copy or copy.place != place:
                return  # Another thread was faster.
            for (pattern_id,) in changed:
                if pattern_id not in there:
                    copy.index.remove(pattern_id)
            for pattern_id, row in there.items():
                order = row[_POSITION]
                if order is None:  # Its place was taken from it by hand.
                    held = copy.index.get(pattern_id)
                    order = copy.index.last + 1 if held is None else held.order
                held = from_row(row, order, _SOURCE)
                held.links = links.get(pattern_id, frozenset())
                copy.index.put(held)
            copy.place = feed[0]

    def _load(self, old: Copy | None) -> Steps[Copy]:
        """Read the whole library, in the place of a copy."""
        feed, rows, pairs = yield Transaction(LIBRARY, ((_ASK, ()), (_ALL, ()), (_ALL_LINKS, ())))
        links = _linked(pairs)
        library: dict[str, Held] = {}
        last = 0
        for done, row in enumerate(rows, 1):
            last = max(last + 1, row[_POSITION] or 0)
            held = from_row(row, last, _SOURCE)
            held.links = links.get(held.id, frozenset())
            library[held.id] = held
            if self.on_load is not None and (done % _REPORT == 0 or done == len(rows)):
                self.on_load(done, len(rows))
        if self._copy is old:  # Else another thread was faster.
            self._copy = Copy(Index.of(library), feed[0] if feed else _NOTHING)
        assert self._copy is not None  # noqa: S101 - for the type checker: there is no way back to none
        return self._copy

    def get(self, pattern_id: str, max_staleness: float) -> Steps[Held | None]:
        if self._copy is not None:
            index = yield from self.pull(max_staleness)
            return index.get(pattern_id)
        rows, pairs = yield Transaction(LIBRARY, ((_ONE, (pattern_id,)), (_ONE_LINKS, (pattern_id, pattern_id))))
        if not rows:
            return None
        held = from_row(rows[0], rows[0][_POSITION] or 1, _SOURCE)
        held.links = _linked(pairs).get(pattern_id, frozenset())
        return held

    def count(self) -> Steps[int]:
        if self._copy is not None:
            return len((yield from self.pull(0.0)))
        (((total,),),) = yield Transaction(LIBRARY, ((_COUNT, ()),))
        return total  # type: ignore[no-any-return]

    def there(self, ids: Sequence[str]) -> Steps[set[str]]:
        found: set[str] = set()
        for page in pages(ids):
            (rows,) = yield Transaction(LIBRARY, (_among(page),))
            found.update(pattern_id for (pattern_id,) in rows)
        return found

    def _write(self, transaction: Transaction) -> Steps[Replies]:
        try:
            replies: Replies = yield transaction
        finally:
            self._wrote = time.monotonic()  # Also if it is not known whether it was done.
        return replies

    def add(self, contributions: Sequence[Contribution]) -> Steps[None]:
        holds = [Held(pattern.id, agent, 1, encoded(pattern)) for agent, pattern in contributions]
        for page in pages(holds, lambda held: len(held.document)):
            yield from self._add(page)

    def _add(self, page: Sequence[Held]) -> Steps[None]:
        rows = list(as_rows(page))
        # What may be left of one with the same id that was deleted by hand.
        ids: list[Row] = [(held.id,) for held in page]
        before = [Many(sql, ids) for sql in REMOVE[:-1]]

        def then(replies: Replies) -> Generator[Sequence[Statement], Replies, None]:
            there = {pattern_id for (pattern_id,) in replies[0]}
            for held in page:
                if held.id in there:
                    raise taken(held.id)
            yield (
                *before,
                Many(INSERT, [row for row, _, _ in rows]),
                Many(CONTRIBUTE, [(row[0], agent, extra) for row, agent, extra in rows if agent or extra]),
                (_PRUNE, ()),
            )

        yield from self._write(Transaction(LIBRARY, (_among([held.id for held in page]),), then, lock=_LOCK))

    def remove(self, ids: Sequence[str]) -> Steps[list[bool]]:
        removed: list[bool] = []
        for page in pages(ids):
            deletions = [Many(sql, [(pattern_id,) for pattern_id in page]) for sql in REMOVE]
            replies = yield from self._write(Transaction(LIBRARY, (_among(page), *deletions), lock=_LOCK))
            there = {pattern_id for (pattern_id,) in replies[0]}
            removed += [pattern_id in there for pattern_id in page]
        return removed

    def bump(self, pattern_id: str, success: bool, at: datetime) -> Steps[None]:
        won, lost, moment = int(success), int(not success), timestamp(at)

        def then(replies: Replies) -> Generator[Sequence[Statement], Replies, None]:
            if not replies[0]:
                raise missing(pattern_id)
            agent, *counts = replies[0][0]
            if any(type(count) is int and count >= INTEGER_MAX for count in counts):
                raise CounterOverflowError(
                    f"the outcomes of {pattern_id!r} would leave the 64-bit integers", key=pattern_id, field=None
                )
            yield (
                (_BUMP, (won, won, won, lost, moment, pattern_id)),
                (_USE, (pattern_id, agent, success, moment)),
            )

        yield from self._write(Transaction(LIBRARY, ((_COUNTED, (pattern_id,)),), then, lock=_LOCK))

    def update(self, pattern: Pattern) -> Steps[None]:
        def then(replies: Replies) -> Generator[Sequence[Statement], Replies, None]:
            if not replies[0]:
                raise missing(pattern.id)
            held = from_row(replies[0][0], 1, _SOURCE)
            ((row, agent, extra),) = as_rows([replace(held, document=updated(held, pattern))])
            yield ((UPDATE, (*row, pattern.id)), (CONTRIBUTE, (pattern.id, agent, extra)))

        yield from self._write(Transaction(LIBRARY, ((_ONE, (pattern.id,)),), then, lock=_LOCK))

    def repair(self) -> Steps[int]:
        yield from ()
        return 0  # A table has its rows, whatever became of others.

    def link(self, pairs: Sequence[tuple[str, str]]) -> Steps[None]:
        for page in pages(pairs):
            ends = list(dict.fromkeys(end for pair in page for end in pair))
            yield from self._link(page, ends)

    def _link(self, page: Sequence[tuple[str, str]], ends: Sequence[str]) -> Steps[None]:
        def then(replies: Replies) -> Generator[Sequence[Statement], Replies, None]:
            there = {pattern_id for (pattern_id,) in replies[0]}
            for end in ends:
                if end not in there:
                    raise missing(end)
            yield (Many(_LINK, [(one, other, one, other, other, one) for one, other in page]),)

        yield from self._write(Transaction(LIBRARY, (_among(ends),), then, lock=_LOCK))


def _among(ids: Sequence[str]) -> Statement:
    """Ask which of these ids are taken."""
    return f"SELECT id FROM patterns WHERE id IN ({', '.join('?' * len(ids))})", tuple(ids)


def _linked(pairs: Sequence[Row]) -> dict[str, frozenset[str]]:
    """Return the ids that each is linked with."""
    linked: dict[str, set[str]] = {}
    for one, other in pairs:
        if one != other:
            linked.setdefault(one, set()).add(other)
            linked.setdefault(other, set()).add(one)
    return {pattern_id: frozenset(others) for pattern_id, others in linked.items()}
