"""A whole library as a JSON document, in pieces: the form of `PatternPersistence`.

::

    patterns              an array of patterns, in the order of contribution
    agent_contributions   an object: by agent, the ids of the patterns that it contributed
    links                 an array of pairs of ids, if there are any
    metadata              saved_at, pattern_count, version

Writing formats some patterns at a time. Reading takes as many whole patterns as there are in what was read so far: up
to which place they are whole is guessed, and a guess is right if what stands before it is an array of JSON values once
it is closed, because JSON is read in one way only. A document for which that does not work out is read at once, which
takes more memory and says what is wrong with it.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec

from empathy_kv.codec import codec, parse
from empathy_kv.errors import ArgumentError, CodecError
from empathy_kv.index import Held, links
from empathy_kv.kv.operations import MAX_VALUE, octets, text
from empathy_kv.record_forms import StoredPattern
from empathy_kv.records import MAX_ID, Pattern, now

VERSION: Final = "1.0"
"""Of the form."""
Progress = Callable[[int, int], None]
_CODEC: Final = codec(Pattern)
_GROUP: Final = 1000
"""Patterns, or ids, that are formatted at once."""
_TRIES: Final = 16
"""Places at which the patterns of a piece are tried to be cut off."""

# Writing


def encode(library: Sequence[Held], progress: Progress | None = None) -> Iterator[bytes]:
    """Yield the document of a library, indented by two; `progress` is told how many patterns are done, and of how many.

    `CodecError` if a pattern cannot be stored any more; its `path` says which.
    """
    total = len(library)
    yield b'{\n  "patterns": ['
    for start in range(0, total, _GROUP):
        group = library[start : start + _GROUP]
        yield from _items([_document(held, start + i) for i, held in enumerate(group)], 1, start > 0)
        if progress is not None:
            progress(min(start + _GROUP, total), total)
    yield b'\n  ],\n  "agent_contributions": {' if total else b'],\n  "agent_contributions": {'
    agents: dict[str, list[str]] = {}
    for held in library:
        agents.setdefault(held.agent, []).append(held.id)
    for i, (agent, ids) in enumerate(agents.items()):
        yield b"%s\n    %s: [" % (b"," if i else b"", msgspec.json.encode(agent))
        yield from _array(map(msgspec.json.encode, ids), 2)
        yield b"\n    ]"
    yield b"\n  }," if agents else b"},"
    pairs = links(library)
    if pairs:
        yield b'\n  "links": ['
        yield from _array(map(msgspec.json.encode, pairs), 1)
        yield b"\n  ],"
    metadata = {
        "saved_at": now().replace(tzinfo=None).isoformat(),
        "pattern_count": total,
        "version": VERSION,
    }
    yield msgspec.json.format(msgspec.json.encode({"metadata": metadata}), indent=2)[1:] + b"\n"


def _document(held: Held, place: int) -> bytes:
    """Return the document of a pattern with what happened since it was contributed."""
    if not (held.succeeded or held.failed):
        return held.document
    try:
        return _CODEC.encode(held.pattern())
    except CodecError as error:
        path = f"$.patterns[{place}]{error.path.removeprefix('$')}"
        raise CodecError(f"{str(error).rpartition(' @ ')[0]} @ {path}", path=path) from error


def _array(items: Iterable[bytes], depth: int) -> Iterator[bytes]:
    """Yield the items of an array."""
    iterator = iter(items)
    later = False
    while group := list(itertools.islice(iterator, _GROUP)):
        yield from _items(group, depth, later)
        later = True


def _items(items: list[bytes], depth: int, later: bool) -> Iterator[bytes]:
    """Yield some items of an array that stands so deep, indented; `later` are those that follow others."""
    head, tail = b'{"":' * depth + b"[", b"]" + b"}" * depth
    frame = msgspec.json.format(head + b"0" + tail, indent=2)
    first = frame.index(b"0")
    indented = msgspec.json.format(head + b",".join(items) + tail, indent=2)
    start = frame.rindex(b"\n", 0, first)
    if later:
        yield b","
    yield indented[start : len(indented) - (len(frame) - first - 1)]


# Reading


class _Unusual(Exception):  # noqa: N818 - no error: it says that the document has to be read at once
    """Where the patterns of a document begin or end was not found out."""


class _Buffer:
    """What was read of a document and not used yet."""

    def __init__(self, pieces: Iterator[tuple[bytes, float]]) -> None:
        self._pieces = pieces
        self.data = b""
        self.share = 0.0
        """Of the file, how much was read."""

    def grow(self) -> None:
        """Read about as much as there is already, so that to look at all of it again costs no more than reading it."""
        size = len(self.data)
        pieces = [self.data]
        for piece, share in self._pieces:
            pieces.append(piece)
            self.share = share
            size -= len(piece)
            if size <= 0:
                break
        if len(pieces) == 1:
            raise _Unusual
        self.data = b"".join(pieces)

    def rest(self) -> bytes:
        """Read all that is left."""
        return b"".join([self.data, *(piece for piece, _ in self._pieces)])


_WHITE: Final = b" \t\r\n"
_START: Final = re.compile(rb'"patterns"\s*:\s*\[')
_FIRST: Final = re.compile(rb'\s*(?:\{\s*("(?:[^"\\]|\\.)*")|(\]))')
_TYPED: Final = msgspec.json.Decoder(list[StoredPattern])
_RAW: Final = msgspec.json.Decoder(list[msgspec.Raw])
_ENCODER: Final = msgspec.json.Encoder()


def decode(read: Callable[[], Iterator[tuple[bytes, float]]], progress: Progress | None = None) -> dict[str, Held]:
    """Return the library of a document by id, in the order of contribution; `CodecError` if it is none.

    `read` yields the document in pieces, each with the share of it that was read; it is called again if the document is
    to be read at once. `progress` is told how many patterns are done, and of about how many.
    """
    try:
        library = _streamed(_Buffer(read()), progress)
    except _Unusual:
        library = _at_once(b"".join(piece for piece, _ in read()))
    if progress is not None:
        progress(len(library), len(library))
    return library


def _at_once(data: bytes) -> dict[str, Held]:
    document = _expect(parse(data), dict, "$")
    if "patterns" not in document:
        raise CodecError("missing @ $.patterns", path="$.patterns")
    patterns = _Patterns()
    for item in _expect(document["patterns"], list, "$.patterns"):
        patterns.add_value(item)
    return _completed(patterns.held, document)


def _streamed(buffer: _Buffer, progress: Progress | None) -> dict[str, Held]:
    document = _begin(buffer)
    patterns = _Patterns()
    while (first := _FIRST.match(buffer.data)) is None:
        buffer.grow()
    whole = first[2] is not None
    if whole:
        buffer.data = buffer.data[first.end() :]
    else:
        # Another pattern begins as this one does, most probably.
        cut = re.compile(rb"\}\s*(?:,\s*(?=\{\s*" + re.escape(first[1]) + rb")|(\]))")
    while not whole:
        found = _cut(buffer.data, cut)
        if found is None:
            buffer.grow()
            continue
        items, end, whole = found
        patterns.extend(items)
        buffer.data = buffer.data[end:]
        if progress is not None:
            done = len(patterns.held)
            progress(done, max(done, round(done / buffer.share)))
    rest = buffer.rest().strip(_WHITE)
    if rest.startswith(b","):
        document |= _members(b"{" + rest[1:])
    elif rest != b"}":
        raise _Unusual
    return _completed(patterns.held, document)


def _begin(buffer: _Buffer) -> dict[str, Any]:
    """Go to the first pattern, and return the members of the document that stand before the patterns."""
    while True:
        for start in _START.finditer(buffer.data):
            before = buffer.data[: start.start()].strip(_WHITE)
            if before == b"{" or (before.startswith(b"{") and before.endswith(b",")):
                try:
                    members = _members(before.removesuffix(b",") + b"}")
                except _Unusual:
                    continue  # It is a text, or stands deeper.
                buffer.data = buffer.data[start.end() :]
                return members
        buffer.grow()


def _members(data: bytes) -> dict[str, Any]:
    try:
        members = parse(data)
    except CodecError:
        raise _Unusual from None
    if type(members) is not dict or "patterns" in members:
        raise _Unusual
    return members


Items: TypeAlias = list[Any]
"""Patterns that are as they are usually stored (`StoredPattern`), or any JSON values (`msgspec.Raw`)."""


def _cut(data: bytes, cut: re.Pattern[bytes]) -> tuple[Items, int, bool] | None:
    """Return the whole patterns at the beginning, where they end, and whether they were the last; None if unknown."""
    tried = 0
    window = 1 << 14
    end = len(data)
    while end > 0:
        start = max(0, end - window)
        # A little further than the window, because the place may lie across its end.
        for found in reversed(list(cut.finditer(data, start, min(len(data), end + 1024)))):
            if found.start() >= end:
                continue
            items = _whole(data[: found.start() + 1])
            if items is not None:
                return items, found.end(), found[1] is not None
            tried += 1
            if tried == _TRIES:
                return None
        end = start
        window *= 4
    return None


def _whole(data: bytes) -> Items | None:
    """Return the items of an array without its brackets, None if that is not what it is."""
    array = b"[%b]" % data
    try:
        return _TYPED.decode(array)
    except (msgspec.ValidationError, RecursionError):
        pass  # Something in it is not as usual.
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    try:
        return _RAW.decode(array)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class _Patterns:
    """Patterns that were read, in order."""

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}

    def extend(self, items: Items) -> None:
        """Add patterns, in the order of the document."""
        if isinstance(items[0], msgspec.Raw):
            for item in items:
                self.add_value(parse(bytes(item)))
            return
        documents = _ENCODER.encode_lines(items).split(b"\n")[:-1]
        ids, agents = [item.id for item in items], [item.agent_id for item in items]
        if _short(ids) and _short(set(agents)) and _usual_times(items) and max(map(len, documents)) <= MAX_VALUE:
            # All of it without a step of Python for each, which would take as long as to read and write them.
            count = len(self.held)
            self.held.update(zip(ids, map(Held, ids, agents, itertools.count(count + 1), documents), strict=False))
            if len(self.held) != count + len(ids):
                raise _Unusual
        else:
            for document in documents:
                self.add_value(parse(document))

    def add_value(self, value: Any) -> None:
        """Add the pattern that a JSON value is."""
        place = f"$.patterns[{len(self.held)}]"
        pattern = _CODEC.structure(value, place)
        _require_id(pattern.id, f"{place}.id")
        _require_id(pattern.agent_id, f"{place}.agent_id")
        if pattern.id in self.held:
            raise CodecError(f"expected every id once, not {pattern.id!r} again @ {place}.id", path=f"{place}.id")
        document = octets(_CODEC.encode(pattern), "pattern")
        self.held[pattern.id] = Held(pattern.id, pattern.agent_id, len(self.held) + 1, document)


_SHORT: Final = MAX_ID // 4
"""Characters of an id that are not too many bytes in any case."""
_MOMENTS: Final = re.compile(r"(?:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.(?!000000)\d{6})?\n)*", re.ASCII)
"""Times as we write them, a line each."""


def _short(ids: Collection[str]) -> bool:
    return min(map(len, ids)) > 0 and max(map(len, ids)) <= _SHORT


def _usual_times(items: Sequence[StoredPattern]) -> bool:
    """Return whether the times of patterns are there, and as we write them."""
    moments = [item.discovered_at for item in items]
    moments += [item.last_used for item in items if item.last_used is not None]
    if not _MOMENTS.fullmatch("\n".join((*moments, ""))):
        return False
    try:
        deque(map(datetime.fromisoformat, moments), 0)
    except ValueError:
        return False
    return True


def _completed(held: dict[str, Held], document: Mapping[str, Any]) -> dict[str, Held]:
    """Return the patterns with who contributed them, and with their links."""
    contributions = _expect(document.get("agent_contributions", {}), dict, "$.agent_contributions")
    for agent, ids in contributions.items():
        place = f"$.agent_contributions[{agent!r}]"
        _require_id(agent, place)
        _texts(ids, place)
    for agent, ids in reversed(contributions.items()):  # The first that names a pattern is who contributed it.
        for each in filter(None, map(held.get, ids)):
            each.agent = agent
    for agent in set(map(operator.attrgetter("agent"), held.values())):
        if not agent.strip():
            place = next(f"$.patterns[{i}].agent_id" for i, each in enumerate(held.values()) if each.agent == agent)
            raise CodecError(f"expected an agent that is not blank @ {place}", path=place)
    linked: dict[str, set[str]] = {}
    for i, pair in enumerate(_expect(document.get("links", []), list, "$.links")):
        place = f"$.links[{i}]"
        if len(set(_texts(pair, place))) != 2 or len(pair) != 2:
            raise CodecError(f"expected two ids @ {place}", path=place)
        one, other = pair
        # As with a contribution, a pattern that was taken out of the file by hand takes its links with it.
        if one in held and other in held:
            linked.setdefault(one, set()).add(other)
            linked.setdefault(other, set()).add(one)
    for pattern_id, others in linked.items():
        held[pattern_id].links = frozenset(others)
    return held


def _expect(value: Any, kind: type, place: str) -> Any:
    if type(value) is not kind:
        raise CodecError(f"expected {'object' if kind is dict else 'array'} @ {place}", path=place)
    return value


def _texts(value: Any, place: str) -> list[str]:
    for i, item in enumerate(_expect(value, list, place)):
        if type(item) is not str:
            raise CodecError(f"expected str @ {place}[{i}]", path=f"{place}[{i}]")
    return value  # type: ignore[no-any-return]


def _require_id(value: str, place: str) -> None:
    try:
        text(value, "an id", MAX_ID)
    except ArgumentError as error:
        raise CodecError(f"{error} @ {place}", path=place) from error
