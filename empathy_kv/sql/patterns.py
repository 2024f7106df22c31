"""A library of patterns in the documented tables: saved whole, and loaded whole.

Every pattern goes through its codec, both ways. Databases of others are read as well, those of empathy-framework among
them: what is NULL is empty, a pattern that nobody contributed was contributed by its own agent, after the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from empathy_kv.codec import codec, parse
from empathy_kv.errors import ArgumentError, CodecError, DamagedError, MissingFileError
from empathy_kv.kv.operations import text
from empathy_kv.pattern_library import Contribution, PatternLibrary
from empathy_kv.records import MAX_ID, Pattern
from empathy_kv.sql.schema import PATTERNS, timestamp
from empathy_kv.sql.sqlite import Row, SQLite, Statement, Transaction

_CODEC: Final = codec(Pattern)

_COLUMNS: Final = (
    *("id", "agent_id", "pattern_type", "name", "description", "context", "code", "confidence"),
    *("usage_count", "success_count", "failure_count", "tags", "discovered_at", "last_used"),
)
_JSON: Final = frozenset({"context", "tags"})

_SAVE: Final = """INSERT INTO patterns (id, agent_id, pattern_type, name, description, context, code, confidence,
    usage_count, success_count, failure_count, tags, discovered_at, last_used)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    (agent_id, pattern_type, name, description, context, code, confidence,
    usage_count, success_count, failure_count, tags, discovered_at, last_used, updated_at)
    = (excluded.agent_id, excluded.pattern_type, excluded.name, excluded.description, excluded.context, excluded.code,
    excluded.confidence, excluded.usage_count, excluded.success_count, excluded.failure_count, excluded.tags,
    excluded.discovered_at, excluded.last_used, CURRENT_TIMESTAMP)
WHERE (agent_id, pattern_type, name, description, context, code, confidence,
    usage_count, success_count, failure_count, tags, discovered_at, last_used)
    IS NOT (excluded.agent_id, excluded.pattern_type, excluded.name, excluded.description, excluded.context,
    excluded.code, excluded.confidence, excluded.usage_count, excluded.success_count, excluded.failure_count,
    excluded.tags, excluded.discovered_at, excluded.last_used)"""
_CONTRIBUTE: Final = "INSERT INTO pattern_contributions (position, pattern_id, agent_id, extra) VALUES (?, ?, ?, ?)"
_LINK: Final = "INSERT INTO pattern_links (pattern_id, related_id) VALUES (?, ?)"

_FORGET: Final[Sequence[Statement]] = (
    ("DELETE FROM pattern_contributions", ()),
    ("DELETE FROM pattern_links", ()),
)
_REMOVE: Final[Sequence[Statement]] = (
    # SQLite lets an id be NULL.
    ("DELETE FROM patterns WHERE id IS NULL OR id NOT IN (SELECT pattern_id FROM pattern_contributions)", ()),
    ("DELETE FROM pattern_usage WHERE pattern_id NOT IN (SELECT id FROM patterns)", ()),
)

_SAVED: Final = "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND lower(name) = 'patterns'"
_LOAD: Final = """SELECT p.id, p.agent_id, p.pattern_type, p.name, p.description, p.context, p.code, p.confidence,
    p.usage_count, p.success_count, p.failure_count, p.tags, p.discovered_at, p.last_used,
    p.updated_at, c.agent_id, c.extra
FROM patterns AS p LEFT JOIN pattern_contributions AS c ON c.pattern_id = p.id
ORDER BY c.position IS NULL, c.position, p.rowid"""
_LINKS: Final = """SELECT pattern_id, related_id FROM pattern_links
WHERE pattern_id IN (SELECT id FROM patterns) AND related_id IN (SELECT id FROM patterns)
ORDER BY rowid"""


def save(library: PatternLibrary, path: Path) -> None:
    """Make the tables equal to a library, in one transaction.

    Patterns that the library does not have are removed, with the rows of their usage. Rows that are as they should be
    already stay untouched, and so do all other tables.
    """
    contributors = {
        pattern_id: agent for agent, pattern_ids in library.agent_contributions.items() for pattern_id in pattern_ids
    }
    view = library.patterns
    # With `get`: another thread may remove one meanwhile.
    patterns = [pattern for pattern_id in view if (pattern := view.get(pattern_id)) is not None]
    statements: list[Statement] = [*_FORGET]
    for position, pattern in enumerate(patterns, 1):
        row, extra = _row(pattern)
        agent = contributors.get(pattern.id, pattern.agent_id)
        statements += [(_SAVE, row), (_CONTRIBUTE, (position, pattern.id, agent, extra))]
    statements += _REMOVE
    saved = {pattern.id for pattern in patterns}
    statements += [(_LINK, pair) for pair in library.get_links() if saved.issuperset(pair)]
    # No write-ahead log: a library is one file, to be copied, and to be read where nothing can be written.
    with contextlib.closing(SQLite(path, wal=False)) as database:
        database.execute(Transaction(PATTERNS, statements))


def load(path: Path) -> PatternLibrary:
    """Return the library that was saved. `MissingFileError` (a FileNotFoundError) if none was."""
    with contextlib.closing(SQLite(path)) as database:
        saved, rows, pairs = database.execute(Transaction(PATTERNS, [(_SAVED, ()), (_LOAD, ()), (_LINKS, ())]))
    if not saved:
        raise MissingFileError(f"no patterns were saved to {path}", path=str(path))
    try:
        contributions = [_contribution(row, path) for row in rows]
    except CodecError as error:
        raise CodecError(f"{path}: {error}", path=error.path) from error
    library = PatternLibrary()
    library.restore(contributions, [(one, other) for one, other in pairs])
    return library


def _row(pattern: Pattern) -> tuple[Row, str | None]:
    """Return a pattern as its row, and the fields that have no column."""
    try:
        document = parse(_CODEC.encode(pattern))
    except CodecError as error:
        place = f"$.patterns[{pattern.id!r}]{error.path.removeprefix('$')}"
        raise CodecError(f"{str(error).rpartition(' @ ')[0]} @ {place}", path=place) from error
    document["discovered_at"] = timestamp(pattern.discovered_at)
    document["last_used"] = None if pattern.last_used is None else timestamp(pattern.last_used)
    for column in _JSON:
        document[column] = _text(document[column])
    row = tuple(document.pop(column) for column in _COLUMNS)
    return row, _text(document) if document else None


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _contribution(row: Row, path: Path) -> Contribution:
    """Return a row as who contributed what."""
    *values, updated_at, contributor, extra = row
    place = f"$.patterns[{row[0]!r}]"
    document = {column: value for column, value in zip(_COLUMNS, values, strict=True) if value is not None}
    if updated_at is not None:
        document.setdefault("discovered_at", updated_at)
    for column in _JSON & document.keys():
        document[column] = _value(document[column], f"{place}.{column}", path)
    unknown = {} if extra is None else _value(extra, f"{place}.extra", path)
    if type(unknown) is not dict:
        raise CodecError(f"expected object @ {place}.extra", path=f"{place}.extra")
    pattern = _CODEC.structure({**unknown, **document}, place)
    agent = pattern.agent_id if contributor is None else contributor
    for value, name in ((pattern.id, "id"), (pattern.agent_id, "agent_id"), (agent, "contributor")):
        try:
            text(value, name, MAX_ID)
        except ArgumentError as error:
            raise CodecError(f"{error} @ {place}.{name}", path=f"{place}.{name}") from error
    return agent, pattern


def _value(column: Any, place: str, path: Path) -> Any:
    if type(column) is not str:
        raise CodecError(f"expected text @ {place}", path=place)
    try:
        return parse(column.encode())
    except CodecError as error:
        raise DamagedError(f"{path} is damaged: {place} is no JSON", path=str(path)) from error
