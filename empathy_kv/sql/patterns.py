"""A library of patterns in the documented tables: saved whole, and loaded whole.

Every pattern goes through its codec, both ways. Databases of others are read as well, those of empathy-framework among
them: what is NULL is empty, a pattern that nobody contributed was contributed by its own agent, after the others.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from empathy_kv.errors import CodecError, MissingFileError
from empathy_kv.index import Held, links
from empathy_kv.kv.interface import Steps
from empathy_kv.pattern_library import Progress
from empathy_kv.sql.database import Many, Replies, Row, Statement, Transaction
from empathy_kv.sql.pattern_rows import COLUMNS, as_rows, as_stored, comparable, from_row
from empathy_kv.sql.schema import NOTHING, PATTERNS, SAVED

T = TypeVar("T")

_NOTHING: Final = (None, None, None)
"""What stands of a pattern in `pattern_contributions` that has no row there."""

_REPORT: Final = 1_000
"""After so many patterns progress is reported."""
_BULK: Final = 1_000
"""From so many patterns on, those of an empty table are indexed at the end, which takes half the time."""

_LIST: Final = ", ".join(COLUMNS)
_MARKS: Final = ", ".join("?" * len(COLUMNS))

INSERT: Final = f"INSERT INTO patterns ({_LIST}) VALUES ({_MARKS})"
UPDATE: Final = f"UPDATE patterns SET ({_LIST}, updated_at) = ({_MARKS}, CURRENT_TIMESTAMP) WHERE id = ?"
CONTRIBUTE: Final = """INSERT INTO pattern_contributions (pattern_id, position, agent_id, extra) VALUES (?, ?, ?, ?)
ON CONFLICT (pattern_id)
DO UPDATE SET position = excluded.position, agent_id = excluded.agent_id, extra = excluded.extra"""
LINK: Final = "INSERT INTO pattern_links (pattern_id, related_id) VALUES (?, ?)"
_UNLINK: Final = "DELETE FROM pattern_links WHERE pattern_id = ? AND related_id = ?"
REMOVE: Final = (
    "DELETE FROM pattern_usage WHERE pattern_id = ?",
    "DELETE FROM pattern_contributions WHERE pattern_id = ?",
    "DELETE FROM pattern_links WHERE pattern_id = ?",
    "DELETE FROM pattern_links WHERE related_id = ?",
    "DELETE FROM patterns WHERE id = ?",
)
"""What removes a pattern with all that is about it."""
_ORPHANS: Final = (
    # SQLite lets an id be NULL.
    "DELETE FROM patterns WHERE id IS NULL",
    "DELETE FROM pattern_usage WHERE pattern_id NOT IN (SELECT id FROM patterns)",
    "DELETE FROM pattern_contributions WHERE pattern_id NOT IN (SELECT id FROM patterns)",
)

SELECT: Final = f"""SELECT {", ".join(f"p.{column}" for column in COLUMNS)},
    p.updated_at, c.position, c.agent_id, c.extra
FROM patterns AS p LEFT JOIN pattern_contributions AS c ON c.pattern_id = p.id"""
IN_ORDER: Final = "ORDER BY c.position IS NULL, c.position, p.rowid"
_LOAD: Final = f"{SELECT}\n{IN_ORDER}"
_LINKS: Final = "SELECT pattern_id, related_id FROM pattern_links"
_WHOLE_LINKS: Final = f"""{_LINKS}
WHERE pattern_id IN (SELECT id FROM patterns) AND related_id IN (SELECT id FROM patterns)"""


def save(library: Sequence[Held], keeps_arrival: bool, progress: Progress | None = None) -> Steps[None]:
    """Make the tables equal to a library, in one transaction.

    Patterns that the library does not have are removed, with the rows of their usage. Rows that are as they should be
    already stay untouched, and so do all other tables. `keeps_arrival` is that of the database.
    """
    stored = as_stored(library)
    pairs = set(links(library))

    def then(replies: Replies) -> Generator[Sequence[Statement], Replies, None]:
        return _equalize(stored, pairs, replies, keeps_arrival, progress)

    yield Transaction(PATTERNS, ((_LOAD, ()), (_LINKS, ())), then, lock="patterns")


def _equalize(
    library: Sequence[Held],
    pairs: set[tuple[str, str]],
    replies: Replies,
    keeps_arrival: bool,
    progress: Progress | None,
) -> Generator[Sequence[Statement], Replies, None]:
    rows, linked = replies
    there = {row[0]: (comparable(row[: len(COLUMNS)]), row[-3:]) for row in rows if row[0] is not None}
    ids = [held.id for held in library]
    wanted = set(ids)
    stay = [pattern_id for pattern_id in there if pattern_id in wanted]
    new = len(ids) - len(stay)
    in_order = ids[: len(stay)] == stay
    last = max((position for _, (position, _, _) in there.values() if position is not None), default=0)
    changed: list[Row] = []
    contributions: list[Row] = []

    # Row by row, as they are inserted: to hold all of them at once takes longer, by what collects garbage.
    def inserted() -> Iterator[Row]:
        place = last
        for number, (row, agent, extra) in enumerate(as_rows(library), 1):
            before = there.get(row[0])
            if before is None:
                place += 1
                position = None if keeps_arrival else place
                kept = _NOTHING
                yield row
            else:
                if row != before[0]:
                    changed.append((*row, row[0]))
                kept = before[1]
                position = kept[0]
            if not in_order:
                position = number
            if kept != (position, agent, extra):
                contributions.append((row[0], position, agent, extra))

    indexes = PATTERNS.indexes if not there and new >= _BULK else {}
    yield [
        *(Many(sql, [(pattern_id,) for pattern_id in there if pattern_id not in wanted]) for sql in REMOVE),
        *((sql, ()) for sql in _ORPHANS),
        *((f"DROP INDEX {name}", ()) for name in indexes),
        Many(INSERT, _reported(inserted(), new, progress)),
        *((sql, ()) for sql in indexes.values()),
    ]
    before_links = set(linked)
    yield (
        Many(UPDATE, changed),
        Many(CONTRIBUTE, contributions),
        Many(_UNLINK, before_links - pairs),
        Many(LINK, sorted(pairs - before_links)),
    )


def load(source: str, progress: Progress | None = None) -> Steps[dict[str, Held]]:
    """Return the library that was saved, by id, in order. `MissingFileError` (a FileNotFoundError) if none was.

    `source` is what errors call the database.
    """
    # Apart, because what follows may make the tables.
    (saved,) = yield Transaction(NOTHING, ((SAVED, ()),))
    if not saved:
        raise MissingFileError(f"no patterns were saved to {source}", path=source)
    rows, pairs = yield Transaction(PATTERNS, ((_LOAD, ()), (_WHOLE_LINKS, ())))
    library: dict[str, Held] = {}
    try:
        for order, row in enumerate(_reported(rows, len(rows), progress), 1):
            held = from_row(row, order, source)
            library[held.id] = held
    except CodecError as error:
        raise CodecError(f"{source}: {error}", path=error.path) from error
    for one, other in pairs:
        if one != other:
            library[one].links |= {other}
            library[other].links |= {one}
    return library


def _reported(items: Iterable[T], total: int, progress: Progress | None) -> Iterator[T]:
    done = 0
    for done, item in enumerate(items, 1):
        yield item
        if progress is not None and done % _REPORT == 0:
            progress(done, total)
    if progress is not None and (done % _REPORT or not done):
        progress(done, total)
