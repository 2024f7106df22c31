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
from empathy_kv.sql.pattern_rows import COLUMNS, as_row, comparable, from_row
from empathy_kv.sql.schema import NOTHING, PATTERNS, SAVED

T = TypeVar("T")

_REPORT: Final = 1_000
"""After so many patterns progress is reported."""
_BULK: Final = 1_000
"""From so many patterns on, those of an empty table are indexed at the end, which takes half the time."""

_LIST: Final = ", ".join(COLUMNS)
_MARKS: Final = ", ".join("?" * len(COLUMNS))

INSERT: Final = f"INSERT INTO patterns ({_LIST}) VALUES ({_MARKS})"
_UPDATE: Final = f"UPDATE patterns SET ({_LIST}, updated_at) = ({_MARKS}, CURRENT_TIMESTAMP) WHERE id = ?"
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
    wanted = {held.id: as_row(held) for held in library}
    pairs = set(links(library))

    def then(replies: Replies) -> Generator[Sequence[Statement], Replies, None]:
        return _equalize(wanted, pairs, replies, keeps_arrival, progress)

    yield Transaction(PATTERNS, ((_LOAD, ()), (_LINKS, ())), then, lock="patterns")


def _equalize(
    wanted: dict[str, tuple[Row, str | None, str | None]],
    pairs: set[tuple[str, str]],
    replies: Replies,
    keeps_arrival: bool,
    progress: Progress | None,
) -> Generator[Sequence[Statement], Replies, None]:
    rows, linked = replies
    there = {row[0]: (comparable(row[: len(COLUMNS)]), row[-3:]) for row in rows if row[0] is not None}
    stay = [pattern_id for pattern_id in there if pattern_id in wanted]
    new = [pattern_id for pattern_id in wanted if pattern_id not in there]
    in_order = list(wanted) == [*stay, *new]
    last = max((position for _, (position, _, _) in there.values() if position is not None), default=0)

    yield [Many(sql, [(i,) for i in there if i not in wanted]) for sql in REMOVE] + [(sql, ()) for sql in _ORPHANS]
    changed = [(*row, i) for i in stay if (row := wanted[i][0]) != there[i][0]]
    indexes = PATTERNS.indexes if not there and len(new) >= _BULK else {}
    inserts = _reported((wanted[i][0] for i in new), len(new), progress)
    yield [
        Many(_UPDATE, changed),
        *((f"DROP INDEX {name}", ()) for name in indexes),
        Many(INSERT, inserts),
        *((sql, ()) for sql in indexes.values()),
    ]

    contributions: list[Row] = []
    for number, (pattern_id, (_, agent, extra)) in enumerate(wanted.items(), 1):
        _, before = there.get(pattern_id, (None, (None, None, None)))
        if not in_order:
            position: int | None = number
        elif pattern_id in there or keeps_arrival:
            position = before[0]
        else:
            position = last = last + 1
        if before != (position, agent, extra):
            contributions.append((pattern_id, position, agent, extra))
    before_links = set(linked)
    yield (
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
