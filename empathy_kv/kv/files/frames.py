"""What stands in a journal: committed batches in the order of their commits, each a checksummed frame.

A frame is a mark, the length of its payload, that length inverted, and the CRC-32 of the payload, little-endian; then
the payload in MessagePack. The first frame is the head: the revision and the writers' slots at which the journal
begins. An empty frame is the end: the next number takes over, and nobody may append here again.

What a crash leaves. Killing the process leaves at most a frame that is cut short, at the end: it was never committed.
A power cut may leave the file longer than what of it reached the disk, so what follows is believed only as long as the
machine runs that wrote it (`Head.boot`): after that, bad bytes at the end are what was not committed durably. Anywhere
else they are damage. The length stands there twice so that a flipped bit in it is not taken for a frame cut short.
"""

from __future__ import annotations

import operator
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
from attrs import fields, frozen

from empathy_kv.errors import DamagedError
from empathy_kv.kv.operations import (
    Batch,
    Delete,
    Expire,
    HDel,
    HIncrBy,
    HSet,
    IncrBy,
    Operation,
    Reply,
    Set,
    Settle,
    ZAdd,
    ZAppend,
    ZRem,
    ZTrim,
)
from empathy_kv.kv.table import Session, Slot

_MARK: Final = b"\xe5K"
_FRAME: Final = struct.Struct("<2sIII")
HEADER: Final = _FRAME.size
"""Bytes of a frame before its payload."""
_INVERT: Final = 0xFFFFFFFF
FORMAT: Final = 1

# The codes stand in files: they are for ever.
_CODES: Final[dict[type[Operation], str]] = {
    Set: "set",
    IncrBy: "incrby",
    Delete: "del",
    Expire: "expire",
    HSet: "hset",
    HDel: "hdel",
    HIncrBy: "hincrby",
    ZAdd: "zadd",
    ZAppend: "zappend",
    ZRem: "zrem",
    ZTrim: "ztrim",
}
_CLASSES: Final = {code: kind for kind, code in _CODES.items()}


def _form(kind: type[Operation], code: str) -> Callable[[Operation], tuple[Any, ...]]:
    """Return what makes the code and the fields of an operation into a tuple."""
    names = [item.name for item in fields(kind)]
    if len(names) == 1:
        return lambda operation: (code, operation.key)
    values = operator.attrgetter(*names)
    return lambda operation: (code, *values(operation))


_FORMS: Final[dict[type, Callable[[Any], tuple[Any, ...]]]] = {kind: _form(kind, code) for kind, code in _CODES.items()}


class Line(msgspec.Struct, array_like=True):
    """A committed batch: its revision, when, its operations that write, and its token with what is remembered of it."""

    revision: int
    at: int
    durable: bool
    """Whether it was synced before anything was appended after it."""
    operations: list[list[Any]]
    session: str = ""
    slot: int = 0
    sequence: int = 0
    digest: bytes | None = None
    replies: list[Any] | None = None
    bases: dict[str, int] = {}
    """Versions of the documents that it is the first to change, 0 for one that was not there."""

    def replay(self) -> list[Operation]:
        """Return the operations."""
        try:
            return [_CLASSES[item[0]](*item[1:]) for item in self.operations]
        except (KeyError, IndexError, TypeError) as error:
            raise DamagedError(f"the journal holds an operation that is not known: {error}", path="") from error

    def kept(self) -> Slot:
        """Return what is remembered of the token."""
        return Slot(self.sequence, self.digest, _tuples(self.replies))


class Head(msgspec.Struct):
    """The first frame of a journal."""

    format: int
    boot: str
    revision: int
    sessions: dict[str, tuple[int, dict[int, tuple[int, bytes | None, list[Any] | None]]]]
    waiting: list[Line] = []
    """What earlier journals had for documents that are damaged, done if they are put right; and keys that are deleted,
    whose documents may still be there."""
    at: int | None = None
    """The time by which it was decided which keys had expired. Whoever goes on from the journal before decides by it,
    too: by his own clock he might keep what has no document."""
    due: int | None = 0
    """A time before which no document expires; None: none ever does."""

    @classmethod
    def of(
        cls, revision: int, sessions: dict[str, Session], boot: str, waiting: list[Line], at: int, due: int | None
    ) -> Head:
        """Return the head of a journal that begins."""
        return cls(
            FORMAT,
            boot,
            revision,
            {
                name: (
                    session.used,
                    {place: (slot.sequence, slot.digest, slot.replies) for place, slot in session.slots.items()},  # type: ignore[misc]
                )
                for name, session in sessions.items()
            },
            waiting,
            at,
            due,
        )

    def restored(self) -> dict[str, Session]:
        """Return the writers' slots."""
        return {
            name: Session({place: Slot(slot[0], slot[1], _tuples(slot[2])) for place, slot in slots.items()}, used)
            for name, (used, slots) in self.sessions.items()
        }


class _Stamp(msgspec.Struct, array_like=True):
    """The beginning of a line, which is enough to know that none is missing."""

    revision: int
    at: int
    durable: bool
    operations: list[msgspec.Raw]


_ENCODER: Final = msgspec.msgpack.Encoder()
_STAMPS: Final = msgspec.msgpack.Decoder(_Stamp)
_HEADS: Final = msgspec.msgpack.Decoder(Head)
_LINES: Final = msgspec.msgpack.Decoder(Line)


def _tuples(replies: list[Any] | None) -> list[Reply] | None:
    """Give ranges of sorted sets their tuples back, which MessagePack does not know."""
    if replies is None:
        return None
    return [[tuple(pair) for pair in reply] if isinstance(reply, list) else reply for reply in replies]


# Writing


def frame(data: bytes) -> bytes:
    """Return a payload as it stands in the file."""
    length = len(data)
    return _FRAME.pack(_MARK, length, length ^ _INVERT, zlib.crc32(data)) + data


END: Final = frame(b"")
"""The frame after which a journal goes on in the next number. No other is so short."""


def head(
    revision: int, sessions: dict[str, Session], boot: str, waiting: list[Line], at: int, due: int | None
) -> bytes:
    """Return the frame with which a journal begins."""
    return frame(_ENCODER.encode(Head.of(revision, sessions, boot, waiting, at, due)))


def digest(batch: Batch) -> bytes:
    """Return what stands for the content of a batch: equal for equal batches."""
    content = [_FORMS[type(item)](item) if type(item) in _FORMS else _parts(item) for item in batch.operations]
    checks = [[check.key, check.version, check.member] for check in batch.checks]
    return zlib.crc32(_ENCODER.encode([content, checks])).to_bytes(4, "little")


def _parts(operation: Any) -> list[Any]:
    kind = type(operation)
    return [kind.__name__, *(getattr(operation, field.name) for field in fields(kind))]


def line(revision: int, at: int, durable: bool, batch: Batch, slot: Slot | None, bases: Mapping[str, int]) -> bytes:
    """Return the frame of a batch, with what is to be remembered of its token."""
    operations = [
        _FORMS[type(operation)](operation)
        for operation in batch.operations
        if type(operation) in _FORMS  # Else it writes nothing that is replayed.
    ]
    if slot is None:
        if not bases:
            return frame(_ENCODER.encode((revision, at, durable, operations)))
        return frame(_ENCODER.encode((revision, at, durable, operations, "", 0, 0, None, None, bases)))
    first = batch.operations[0] if batch.operations else None
    token = first.token if isinstance(first, Settle) else batch.token
    assert token is not None  # noqa: S101 - it has a slot
    kept = (token.session, token.slot, token.sequence, slot.digest, slot.replies)
    return frame(_ENCODER.encode((revision, at, durable, operations, *kept, bases)))


# Reading


def following(start: bytes) -> int:
    """Return how many bytes belong to the frame that begins so; 0 if these bytes begin none."""
    if len(start) < HEADER:
        return 0
    mark, length, inverted, _ = _FRAME.unpack(start)
    return length if mark == _MARK and length ^ inverted == _INVERT else 0


def read_head(data: bytes, path: str) -> Head:
    """Read the frame with which a journal begins."""
    payload = data[HEADER:]
    if data != frame(payload):
        raise DamagedError(f"{path} is damaged: its head is not what was written", path=path)
    try:
        head = _HEADS.decode(payload)
    except msgspec.DecodeError as error:
        raise DamagedError(f"{path} is damaged: it does not begin with a head", path=path) from error
    if head.format != FORMAT:
        raise DamagedError(f"{path} has the unknown format {head.format}", path=path)
    return head


@frozen
class Part:
    """What stands in a piece of a journal: whole payloads, and where in the file they end."""

    payloads: list[bytes]
    end: int
    ended: bool
    """Whether the end was reached: the next number goes on."""
    cut: bool
    """Whether bytes follow that were never committed."""


def parse(data: bytes, path: str, offset: int, *, booted: bool) -> Part:
    """Take a piece of a journal apart; `offset` is where in the file it begins, at a frame.

    `booted`: whether the machine was started since it was written. Raises `DamagedError`.
    """
    payloads: list[bytes] = []
    at = 0
    while at < len(data):
        if len(data) - at < HEADER:
            return Part(payloads, offset + at, False, True)
        mark, length, inverted, checksum = _FRAME.unpack_from(data, at)
        sound = mark == _MARK and length ^ inverted == _INVERT
        end = at + HEADER + length
        if sound and end > len(data):
            return Part(payloads, offset + at, False, True)
        payload = data[at + HEADER : end]
        if not sound or zlib.crc32(payload) != checksum:
            if booted and not any(_durable(later) for later in _later(data, at + 1)):
                return Part(payloads, offset + at, False, True)
            raise DamagedError(f"{path} is damaged: the frame at {offset + at} is not what was written", path=path)
        at = end
        if not length:
            return Part(payloads, offset + at, True, at < len(data))
        payloads.append(payload)
    return Part(payloads, offset + at, False, False)


def _later(data: bytes, at: int) -> Iterator[bytes]:
    """Yield the payloads of whole frames anywhere in `data` from `at` on."""
    while (at := data.find(_MARK, at)) >= 0 and len(data) - at >= HEADER:
        _, length, inverted, checksum = _FRAME.unpack_from(data, at)
        payload = data[at + HEADER : at + HEADER + length]
        if length ^ inverted == _INVERT and len(payload) == length and zlib.crc32(payload) == checksum:
            yield payload
            at += HEADER + length
        else:
            at += 1


def _durable(payload: bytes) -> bool:
    try:
        return _LINES.decode(payload).durable
    except msgspec.DecodeError:
        return False


def revision(payload: bytes, before: int, path: str) -> int:
    """Return the revision of a line that follows one of the revision `before`. It costs a third of reading it."""
    try:
        stamp = _STAMPS.decode(payload)
    except msgspec.DecodeError as error:
        raise DamagedError(f"{path} is damaged: {error}", path=path) from error
    if stamp.revision != before + bool(stamp.operations):
        raise DamagedError(f"{path} is damaged: a batch is missing or in the wrong place", path=path)
    return stamp.revision


def read(payload: bytes, path: str) -> Line:
    """Read a line."""
    try:
        return _LINES.decode(payload)
    except msgspec.DecodeError as error:
        raise DamagedError(f"{path} is damaged: {error}", path=path) from error
