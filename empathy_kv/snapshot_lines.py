"""The lines of a snapshot: what each of them holds, and how it is written, read and checked.

::

    {"format": "empathy-kv", "version": 1, "created_at": "2025-01-20T10:30:00"}     the header
    {"pattern": {...}, "agent": "agent_1", "links": ["retry"]}
    {"state": {...}}
    {"metrics": {"user_id": "ada", "operations": 2, "successes": 1, "microseconds": 150500,
        "levels": {"3": 2}, "days": {"2025-01-20": 2}, "histogram": {"352": 1, "423": 1},
        "first": 1737369000000000, "last": 1737369060000000, "interactions": 2}}
    {"ids": ["request-1"], "of": "ada"}
    {"interactions": [[1737369000000000, 3, true, 50.5, null], [1737369060000000, 3, false, 100.0, "request-2"]],
        "of": "ada"}
    {"end": {"patterns": 1, "states": 1, "users": 1, "interactions": 2, "sha256": "..."}}

each of them one line. In a file each ends in a newline, which `dump` does not yield and `restore` does not need; one
that was written as `\\r\\n` is none of the line either. Patterns and states are in the form of their codec. Patterns
come in the order of contribution; `agent` contributed it, `links` are those before it that it is linked with. A user's
figures are followed by the interactions that are kept one by one, oldest first, in pieces: when (microseconds since
1970), level, success, response time in milliseconds (null: not known), the id that the caller gave. `ids` are those of
interactions that are not kept any more, but whose ids are. The SHA-256 is that of all lines before the last, each with
`\\n` as its end.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from attrs import frozen

from empathy_kv.codec import codec
from empathy_kv.errors import ArgumentError, ArgumentTypeError, CodecError
from empathy_kv.kv.operations import INTEGER_MAX, INTEGER_MIN, octets, text
from empathy_kv.records import MAX_ID, CollaborationState, Pattern, now
from empathy_kv.totals import MAX_RESPONSE_TIME, Totals, bucket, microseconds

FORMAT: Final = "empathy-kv"
VERSION: Final = 1
PIECE: Final = 1 << 19
"""Bytes of interactions or ids after which a piece ends."""
_LONGEST: Final = 1 << 26
"""Bytes of a line that are looked at: more than the largest pattern has."""

_PATTERNS: Final = codec(Pattern)
_STATES: Final = codec(CollaborationState)
_ENCODE: Final = msgspec.json.Encoder().encode

_Int = Annotated[int, msgspec.Meta(ge=INTEGER_MIN, le=INTEGER_MAX)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=INTEGER_MAX)]

Item: TypeAlias = tuple[int, int, bool, float | None, str | None]
"""An interaction: when, level, success, response time, id."""


@frozen
class Counts:
    """How much a snapshot holds. `users` are those with metrics, `interactions` those that are kept one by one."""

    patterns: int = 0
    states: int = 0
    users: int = 0
    interactions: int = 0


# What a line holds, once it was checked


class PatternItem(msgspec.Struct, gc=False):
    """A pattern as its codec has it, and what it is linked with of those before it and of those after it."""

    id: str
    document: bytes
    agent: str
    links: list[str]
    later: list[str] = []


class StateItem(msgspec.Struct, gc=False):
    """A state as its codec has it."""

    user_id: str
    document: bytes


class Figures(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What a user's interactions come to, and how many of them follow one by one."""

    user_id: str
    operations: _Count
    successes: _Count
    microseconds: _Int
    levels: dict[str, _Count]
    days: dict[str, _Count]
    histogram: dict[str, _Count]
    first: _Int | None
    last: _Int | None
    interactions: _Count

    @classmethod
    def of(cls, user_id: str, totals: Totals, interactions: int) -> Figures:
        """Return the figures of a user; `CodecError` if a sum is no number of 64 bits."""
        if not INTEGER_MIN <= totals.microseconds <= INTEGER_MAX:
            place = f"$.metrics[{user_id!r}].microseconds"
            raise CodecError(f"expected int of 64 bits @ {place}", path=place)
        return cls(
            user_id,
            totals.operations,
            totals.successes,
            totals.microseconds,
            {str(level): count for level, count in sorted(totals.levels.items()) if count},
            {day: count for day, count in sorted(totals.days.items()) if count},
            {str(index): count for index, count in sorted(totals.histogram.items()) if count},
            None if totals.first is None else microseconds(totals.first),
            None if totals.last is None else microseconds(totals.last),
            interactions,
        )

    def totals(self) -> Totals:
        """Return the counters, without the times."""
        return Totals(
            self.operations,
            self.successes,
            self.microseconds,
            {int(level): count for level, count in self.levels.items()},
            dict(self.days),
            {int(index): count for index, count in self.histogram.items()},
        )


class Ids(msgspec.Struct, gc=False):
    """Some ids of a user's interactions that are not kept any more."""

    user_id: str
    ids: list[str]


class Interactions(msgspec.Struct, gc=False):
    """Some of a user's interactions."""

    user_id: str
    items: list[Item]


Record: TypeAlias = PatternItem | StateItem | Figures | Ids | Interactions


# Writing


def header() -> bytes:
    """Return the first line."""
    created = now().replace(tzinfo=None).isoformat()
    return _ENCODE({"format": FORMAT, "version": VERSION, "created_at": created})


def pattern_line(document: bytes, agent: str, links: Sequence[str]) -> bytes:
    """Return the line of a pattern."""
    end = b',"links":%b}' % _ENCODE(links) if links else b"}"
    return b'{"pattern":%b,"agent":%b%b' % (document, _ENCODE(agent), end)


def state_line(document: bytes) -> bytes:
    """Return the line of a state."""
    return b'{"state":%b}' % document


def user_lines(user_id: str, totals: Totals, items: Sequence[Item], forgotten: Iterable[str]) -> Iterator[bytes]:
    """Yield the lines of a user's metrics. `items` are the interactions that are kept, oldest first."""
    return history_lines(user_id, totals, len(items), map(_ENCODE, items), forgotten)


def history_lines(
    user_id: str, totals: Totals, count: int, encoded: Iterable[bytes], forgotten: Iterable[str]
) -> Iterator[bytes]:
    """Yield the lines of a user's metrics, with so many interactions as `encoded_item` has them, oldest first."""
    yield b'{"metrics":%b}' % _ENCODE(Figures.of(user_id, totals, count))
    of = _ENCODE(user_id)
    for piece in _pieces(map(_ENCODE, sorted(forgotten))):
        yield b'{"ids":[%b],"of":%b}' % (piece, of)
    for piece in _pieces(encoded):
        yield b'{"interactions":[%b],"of":%b}' % (piece, of)


def encoded_item(item: Item) -> bytes:
    """Return an interaction as it stands in a line."""
    return _ENCODE(item)


def _pieces(encoded: Iterable[bytes]) -> Iterator[bytes]:
    piece: list[bytes] = []
    size = 0
    for item in encoded:
        piece.append(item)
        size += len(item) + 1
        if size >= PIECE:
            yield b",".join(piece)
            piece, size = [], 0
    if piece:
        yield b",".join(piece)


def end_line(counts: Counts, sha256: str) -> bytes:
    """Return the last line."""
    return _ENCODE({"end": _End(counts.patterns, counts.states, counts.users, counts.interactions, sha256)})


def tally(totals: Totals, items: Sequence[Item]) -> None:
    """Count interactions in totals: all but the times."""
    if not items:
        return
    ats, levels, successes, times, _ = zip(*items, strict=True)
    totals.operations += len(items)
    totals.successes += sum(successes)
    took = [round(time * 1000) for time in times if time is not None]  # What is not known is in no bucket.
    totals.microseconds += sum(took)
    for counters, found in (
        (totals.levels, Counter(levels)),
        (totals.histogram, Counter(map(bucket, took))),
        (totals.days, {_day(day): count for day, count in Counter(at // _DAY for at in ats).items()}),
    ):
        counts: dict[Any, int] = counters
        for key, count in found.items():
            counts[key] = counts.get(key, 0) + count


_DAY: Final = 86_400_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _day(number: int) -> str:
    return (_EPOCH + timedelta(days=number)).date().isoformat()


# Reading


class _Header(msgspec.Struct):
    format: str
    version: int


class _End(msgspec.Struct, forbid_unknown_fields=True):
    patterns: _Count
    states: _Count
    users: _Count
    interactions: _Count
    sha256: str


class _Line(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Any of the lines but the first: which of them, the fields say that it has."""

    pattern: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    agent: str | msgspec.UnsetType = msgspec.UNSET
    links: list[str] | msgspec.UnsetType = msgspec.UNSET
    state: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    metrics: Figures | msgspec.UnsetType = msgspec.UNSET
    ids: list[str] | msgspec.UnsetType = msgspec.UNSET
    interactions: list[tuple[_Int, _Int, bool, float | None, str | None]] | msgspec.UnsetType = msgspec.UNSET
    of: str | msgspec.UnsetType = msgspec.UNSET
    end: _End | msgspec.UnsetType = msgspec.UNSET


_KINDS: Final = (("pattern", "agent"), ("state",), ("metrics",), ("ids", "of"), ("interactions", "of"), ("end",))
_READ_HEADER: Final = msgspec.json.Decoder(_Header).decode
_READ: Final = msgspec.json.Decoder(_Line).decode
_FIRST: Final = microseconds(datetime.min.replace(tzinfo=UTC))
_LAST: Final = microseconds(datetime.max.replace(tzinfo=UTC))


class _Wrong(ValueError):  # noqa: N818 - what a line is
    """A line is not what it has to be; `place` says where."""

    def __init__(self, message: str, place: str = "$") -> None:
        super().__init__(message)
        self.place = place


def bare(line: bytes) -> bytes:
    """Return a line without its end, if it has one: as `dump` yields it, and no file that it was read from.

    `ArgumentTypeError` if it is no bytes. The text that a file gives which was not opened as "rb" would be taken by the
    decoder, and nothing be found wrong with it before the checksum is.
    """
    if not isinstance(line, bytes):
        raise ArgumentTypeError(
            f"lines must be bytes, as of a file that was opened with 'rb', not {type(line).__name__}", argument="lines"
        )
    if line.endswith(b"\n"):
        return line[:-2] if line.endswith(b"\r\n") else line[:-1]
    return line


class Check:
    """Reads the lines of a snapshot in order, and checks each by itself and against those before it.

    `years`: when interactions may have been, because a store takes no others. Ids are kept until the end.
    """

    def __init__(self, years: range | None = None) -> None:
        self.counts: Counts | None = None
        """What the last line says, once it was read and is right."""
        self.sha256 = ""
        """And what it says of all lines before it."""
        self._earliest = _FIRST if years is None else microseconds(datetime(years[0], 1, 1, tzinfo=UTC))
        self._latest = _LAST if years is None else microseconds(datetime(years[-1] + 1, 1, 1, tzinfo=UTC)) - 1
        self._digest = hashlib.sha256()
        self._number = 0
        self._patterns: set[str] = set()
        self._states: set[str] = set()
        self._users: set[str] = set()
        self._interactions = 0
        self._figures: Figures | None = None
        """Those of the user whose interactions are still to come."""
        self._left = 0
        self._last_at = 0
        self._counted = Totals()
        self._names: set[str] = set()

    def read(self, line: bytes) -> Record | None:
        """Return what a line holds, None of the first and the last; `CodecError` if it is not as it has to be.

        It comes without its end (see `bare`).
        """
        self._number += 1
        try:
            record = self._read(line)
        except _Wrong as error:
            raise self._refused(str(error), error.place) from error
        except CodecError as error:
            raise self._refused(str(error).rpartition(" @ ")[0] or str(error), error.path) from error
        except ArgumentError as error:
            raise self._refused(str(error), f"$.{error.argument}") from error
        except msgspec.ValidationError as error:
            what, _, place = str(error).partition(" - at `")
            raise self._refused(what.replace("`", ""), place.rstrip("`") or "$") from error
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise self._refused(f"expected JSON: {error}", "$") from error
        if self.counts is None:
            self._digest.update(line)
            self._digest.update(b"\n")
        return record

    def finish(self) -> Counts:
        """Return what the snapshot holds; `CodecError` if its last line was not read."""
        if self.counts is None:
            raise self._refused("the snapshot is cut: its last line is missing", "$.end")
        return self.counts

    def _refused(self, what: str, place: str) -> CodecError:
        what = what[:1].lower() + what[1:]
        return CodecError(f"line {self._number} of the snapshot: {what} @ {place}", path=place, line=self._number)

    def _read(self, line: bytes) -> Record | None:
        if self.counts is not None:
            raise _Wrong("expected nothing after the last line")
        if len(line) > _LONGEST:
            raise _Wrong(f"expected at most {_LONGEST} bytes")
        if self._number == 1:
            self._read_header(line)
            return None
        found = _READ(line)
        kind = next((kind for kind in _KINDS if getattr(found, kind[0]) is not msgspec.UNSET), None)
        if kind is None:
            raise _Wrong("expected a pattern, a state, metrics, ids, interactions or the end")
        for name in found.__struct_fields__:
            there = getattr(found, name) is not msgspec.UNSET
            if there != (name in kind) and not (name == "links" and kind[0] == "pattern"):
                raise _Wrong(f"expected {'no' if there else 'a'} field {name!r}")
        if kind[0] not in ("ids", "interactions"):
            self._require_complete()
        record: Record | None = getattr(self, f"_read_{kind[0]}")(found)
        return record

    def _read_header(self, line: bytes) -> None:
        if b"}{" in line:  # Of lines that were written without an end, the first is all of them.
            raise _Wrong("expected a newline behind it, which each line of a file needs")
        found = _READ_HEADER(line)
        if found.format != FORMAT:
            raise _Wrong(f"expected {FORMAT!r}", "$.format")
        if found.version != VERSION:
            raise _Wrong(f"expected {VERSION}, not {found.version}: a newer empathy_kv wrote it", "$.version")

    def _read_pattern(self, found: Any) -> PatternItem:
        pattern = _decoded(_PATTERNS, found.pattern, "$.pattern")
        _new(self._patterns, text(pattern.id, "pattern.id", MAX_ID), "$.pattern.id")
        text(pattern.agent_id, "pattern.agent_id", MAX_ID)
        text(found.agent, "agent", MAX_ID)
        links = [] if found.links is msgspec.UNSET else found.links
        for place, other in enumerate(links):
            if other not in self._patterns or other == pattern.id:
                raise _Wrong("expected the id of a pattern before this one", f"$.links[{place}]")
        document = octets(_PATTERNS.encode(pattern), "pattern")
        return PatternItem(pattern.id, document, found.agent, links)

    def _read_state(self, found: Any) -> StateItem:
        state = _decoded(_STATES, found.state, "$.state")
        _new(self._states, text(state.user_id, "state.user_id", MAX_ID), "$.state.user_id")
        return StateItem(state.user_id, octets(_STATES.encode(state), "state"))

    def _read_metrics(self, found: Any) -> Figures:
        figures: Figures = found.metrics
        _new(self._users, text(figures.user_id, "metrics.user_id", MAX_ID), "$.metrics.user_id")
        for name in ("levels", "histogram"):
            for key in getattr(figures, name):
                if str(_integer(key)) != key:
                    raise _Wrong(f"expected an integer as key, not {key!r}", f"$.metrics.{name}")
        for day in figures.days:
            if not _is_day(day):
                raise _Wrong(f"expected a day as key, not {day!r}", "$.metrics.days")
        if figures.successes > figures.operations or figures.interactions > figures.operations:
            raise _Wrong("expected at most as many as operations", "$.metrics")
        if sum(figures.levels.values()) != figures.operations or sum(figures.days.values()) != figures.operations:
            raise _Wrong("expected levels and days of as many operations", "$.metrics")
        if (figures.first is None or figures.last is None) != (figures.operations == 0):
            raise _Wrong("expected first and last of what there is", "$.metrics.first")
        for name in ("first", "last"):
            at = getattr(figures, name)
            if at is not None and not self._earliest <= at <= self._latest:
                raise _Wrong("expected a time that the store takes", f"$.metrics.{name}")
        self._figures = figures
        self._left = figures.interactions
        self._last_at = _FIRST
        self._counted = Totals()
        self._names = set()
        return figures

    def _current(self, found: Any) -> Figures:
        figures = self._figures
        if figures is None or figures.user_id != found.of:
            raise _Wrong("expected the user whose metrics stand before", "$.of")
        return figures

    def _read_ids(self, found: Any) -> Ids:
        figures = self._current(found)
        for place, name in enumerate(found.ids):
            self._name(name, f"$.ids[{place}]")
        return Ids(figures.user_id, found.ids)

    def _name(self, name: str, place: str) -> None:
        try:
            text(name, "id", MAX_ID)
        except ArgumentError as error:
            raise _Wrong(str(error), place) from error
        _new(self._names, name, place)

    def _read_interactions(self, found: Any) -> Interactions:
        figures = self._current(found)
        items: list[Item] = found.interactions
        self._left -= len(items)
        if self._left < 0:
            raise _Wrong(f"expected {figures.interactions} in all", "$.interactions")
        last = self._last_at
        for place, (at, _, _, took, name) in enumerate(items):
            if at < last:
                raise _Wrong("expected the oldest first", f"$.interactions[{place}][0]")
            last = at
            if took is not None and not math.fabs(took) <= MAX_RESPONSE_TIME:
                raise _Wrong("expected milliseconds", f"$.interactions[{place}][3]")
            if name is not None:
                self._name(name, f"$.interactions[{place}][4]")
        if items and not (self._earliest <= items[0][0] and items[-1][0] <= self._latest):
            raise _Wrong("expected times that the store takes", "$.interactions")
        self._last_at = last
        self._interactions += len(items)
        tally(self._counted, items)
        return Interactions(figures.user_id, items)

    def _require_complete(self) -> None:
        figures, self._figures = self._figures, None
        if figures is None:
            return
        if self._left:
            raise _Wrong(f"expected {self._left} more interactions of {figures.user_id!r}")
        whole, counted = figures.totals(), self._counted
        if (
            counted.successes > whole.successes
            or any(count > whole.levels.get(level, 0) for level, count in counted.levels.items())
            or any(count > whole.days.get(day, 0) for day, count in counted.days.items())
            or any(count > whole.histogram.get(index, 0) for index, count in counted.histogram.items())
            or (whole.operations == counted.operations and whole.microseconds != counted.microseconds)
        ):
            raise _Wrong(f"expected figures of {figures.user_id!r} that its interactions can come to")

    def _read_end(self, found: Any) -> None:
        end: _End = found.end
        counts = Counts(len(self._patterns), len(self._states), len(self._users), self._interactions)
        if counts != Counts(end.patterns, end.states, end.users, end.interactions):
            raise _Wrong(f"expected the counts of the lines before, {counts}", "$.end")
        if end.sha256 != self._digest.hexdigest():
            raise _Wrong("the lines are not those that were written: their checksum does not fit", "$.end.sha256")
        self.counts, self.sha256 = counts, end.sha256


class _Id(msgspec.Struct):
    id: str


class _User(msgspec.Struct):
    user_id: str


_ID: Final = msgspec.json.Decoder(_Id).decode
_USER: Final = msgspec.json.Decoder(_User).decode


def checked(record: Record, line: bytes) -> bytes:
    """Return what is kept of a line that was read, for `reread`."""
    if isinstance(record, PatternItem):
        return pattern_line(record.document, record.agent, record.links)
    return state_line(record.document) if isinstance(record, StateItem) else line


def reread(line: bytes) -> Record:
    """Return the record of what was kept, without looking whether it is right: a third of what `Check` takes."""
    found = _READ(line)
    if isinstance(found.interactions, list):
        return Interactions(found.of, found.interactions)  # type: ignore[arg-type]  # it was checked
    if isinstance(found.metrics, Figures):
        return found.metrics
    if isinstance(found.pattern, msgspec.Raw):
        links = found.links if isinstance(found.links, list) else []
        return PatternItem(_ID(found.pattern).id, bytes(found.pattern), found.agent, links)  # type: ignore[arg-type]
    if isinstance(found.state, msgspec.Raw):
        return StateItem(_USER(found.state).user_id, bytes(found.state))
    return Ids(found.of, found.ids)  # type: ignore[arg-type]


def _decoded(kind: Any, data: msgspec.Raw, place: str) -> Any:
    try:
        return kind.decode(bytes(data))
    except CodecError as error:
        path = place + error.path.removeprefix("$")
        raise CodecError(f"{str(error).rpartition(' @ ')[0] or error} @ {path}", path=path) from error


def _new(ids: set[str], value: str, place: str) -> None:
    if value in ids:
        raise _Wrong(f"expected each id once, not {value!r} again", place)
    ids.add(value)


def _integer(value: str) -> int | None:
    try:
        return int(value)
    except ValueError:
        return None


def _is_day(value: str) -> bool:
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False
