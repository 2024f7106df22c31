"""A pattern as a row of the documented table, and back: through its stored form, so that nothing else gets in or out.

Rows of others are read as well: what is NULL is empty, times may be ISO 8601 of any kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec.structs import astuple

from empathy_kv.codec import codec, parse
from empathy_kv.errors import ArgumentError, CodecError, DamagedError
from empathy_kv.index import Held
from empathy_kv.kv.operations import MAX_VALUE, octets, text
from empathy_kv.record_forms import StoredPattern
from empathy_kv.records import MAX_ID, Pattern
from empathy_kv.sql.database import Row

COLUMNS: Final = (
    *("id", "agent_id", "pattern_type", "name", "description", "context", "code", "confidence"),
    *("usage_count", "success_count", "failure_count", "tags", "discovered_at", "last_used"),
)
_JSON: Final = frozenset({"context", "tags"})
_TIMES: Final = frozenset({"discovered_at", "last_used"})
_CONTEXT, _TAGS, _DISCOVERED, _LAST = map(COLUMNS.index, ("context", "tags", "discovered_at", "last_used"))
_CODEC: Final = codec(Pattern)
_SHORT: Final = MAX_ID // 4
"""Characters of an id that are not too many bytes in any case."""


class _Document(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The stored form of a pattern, whose JSON columns stay as they are."""

    id: str
    agent_id: str
    pattern_type: str
    name: str
    description: str
    context: msgspec.Raw
    code: str | None
    confidence: float
    usage_count: int
    success_count: int
    failure_count: int
    tags: msgspec.Raw
    discovered_at: str
    last_used: str | None


_READ: Final = msgspec.json.Decoder(_Document).decode
_READ_MANY: Final = msgspec.json.Decoder(list[_Document]).decode
_GROUP: Final = 50
"""How many documents are read at once: as many as a cache of the processor holds."""
_READ_STORED: Final = msgspec.json.Decoder(StoredPattern).decode
_WRITE: Final = msgspec.json.Encoder().encode


Wanted = tuple[Row, str | None, str | None]
"""A row, who contributed it if that was not its own agent, and the fields without a column."""


def as_stored(library: Sequence[Held]) -> list[Held]:
    """Return patterns with what was recorded since they were contributed as part of their documents.

    `CodecError` if one can no more be stored.
    """
    return [_stored(held) if held.succeeded or held.failed else held for held in library]


def _stored(held: Held) -> Held:
    try:
        return Held(held.id, held.agent, held.order, _CODEC.encode(held.pattern()), links=held.links)
    except CodecError as error:
        place = f"$.patterns[{held.id!r}]{error.path.removeprefix('$')}"
        raise CodecError(f"{str(error).rpartition(' @ ')[0]} @ {place}", path=place) from error


def as_rows(library: Sequence[Held]) -> Iterator[Wanted]:
    """Yield patterns of `as_stored` as rows, in order."""
    for start in range(0, len(library), _GROUP):
        group = library[start : start + _GROUP]
        data = [held.document for held in group]
        try:
            # Many at once, in half the time.
            found = _READ_MANY(b"[%b]" % b",".join(data))
        except msgspec.ValidationError:  # One has other fields.
            yield from map(_with_extra, group, data)
        else:
            for held, each in zip(group, found, strict=True):
                yield _row(each), None if held.agent == each.agent_id else held.agent, None


def _with_extra(held: Held, data: bytes) -> Wanted:
    document = parse(data)
    other = {name: document.pop(name) for name in list(document) if name not in COLUMNS}
    row = _row(_READ(_WRITE(document)))
    return row, None if held.agent == row[1] else held.agent, _WRITE(other).decode() if other else None


def _row(found: _Document) -> Row:
    values = list(astuple(found))
    values[_CONTEXT] = str(values[_CONTEXT], "utf-8")
    values[_TAGS] = str(values[_TAGS], "utf-8")
    values[_DISCOVERED] = _column(values[_DISCOVERED])
    if values[_LAST] is not None:
        values[_LAST] = _column(values[_LAST])
    return tuple(values)


def _column(moment: str) -> str:
    """Return a time of a document as it stands in a column: as `schema.timestamp` has it."""
    moment = moment.replace("T", " ")
    return moment if len(moment) == 26 else f"{moment}.000000"


def comparable(row: Row) -> Row:
    """Return the values of a row as `as_row` would have them: PostgreSQL gives times that are none of text."""
    return tuple(
        value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds") if type(value) is datetime else value
        for value in row
    )


def from_row(row: Row, order: int, source: str) -> Held:
    """Return what a library holds of a row: the columns, `updated_at`, position, contributor, fields without a column.

    `CodecError` if it is no pattern, `DamagedError` if what should be JSON is none; `source` is what that calls the
    database.
    """
    *values, updated_at, _, contributor, extra = row
    if extra is None:
        document = _usual(values)
        if document is not None and (contributor is None or 0 < len(contributor) <= _SHORT):
            return Held(values[0], contributor or values[1], order, document)
    pattern = _thorough(values, updated_at, extra, source)
    place = f"$.patterns[{row[0]!r}]"
    agent = pattern.agent_id if contributor is None else contributor
    for value, name in ((pattern.id, "id"), (pattern.agent_id, "agent_id"), (agent, "contributor")):
        try:
            text(value, name, MAX_ID)
        except ArgumentError as error:
            raise CodecError(f"{error} @ {place}.{name}", path=f"{place}.{name}") from error
    return Held(pattern.id, agent, order, octets(_CODEC.encode(pattern), "pattern"))


def _usual(values: list[Any]) -> bytes | None:
    """Return the document of a row as we write it, None if it is not as usual, or wrong."""
    if bytes in map(type, values):  # msgspec would make a text of it.
        return None
    columns = list(values)
    try:
        columns[_CONTEXT] = msgspec.Raw(columns[_CONTEXT].encode())
        columns[_TAGS] = msgspec.Raw(columns[_TAGS].encode())
        columns[_DISCOVERED] = _moment(columns[_DISCOVERED])
        if columns[_LAST] is not None:
            columns[_LAST] = _moment(columns[_LAST])
        document = _Document(*columns)
        stored = _READ_STORED(_WRITE(document))
        pattern = stored.record()  # The times are times.
        data = _WRITE(StoredPattern.of(pattern))
    except Exception:  # noqa: BLE001 - whatever is wrong, the thorough way says it
        return None
    if not 0 < len(pattern.id) <= _SHORT or not 0 < len(pattern.agent_id) <= _SHORT or len(data) > MAX_VALUE:
        return None
    return data


def _moment(value: Any) -> str:
    if type(value) is datetime:
        return value.astimezone(UTC).replace(tzinfo=None).isoformat()
    return value.replace(" ", "T", 1)  # type: ignore[no-any-return]


def _thorough(values: list[Any], updated_at: Any, extra: Any, source: str) -> Pattern:
    place = f"$.patterns[{values[0]!r}]"
    document = {column: value for column, value in zip(COLUMNS, values, strict=True) if value is not None}
    if updated_at is not None:
        document.setdefault("discovered_at", updated_at)
    for column in _TIMES & document.keys():
        if type(document[column]) is datetime:
            document[column] = document[column].isoformat()
    for column in _JSON & document.keys():
        document[column] = _value(document[column], f"{place}.{column}", source)
    unknown = {} if extra is None else _value(extra, f"{place}.extra", source)
    if type(unknown) is not dict:
        raise CodecError(f"expected object @ {place}.extra", path=f"{place}.extra")
    return _CODEC.structure({**unknown, **document}, place)


def _value(column: Any, place: str, source: str) -> Any:
    if type(column) is not str:
        raise CodecError(f"expected text @ {place}", path=place)
    try:
        return parse(column.encode())
    except CodecError as error:
        raise DamagedError(f"{source} is damaged: {place} is no JSON", path=source) from error
