"""The journal: committed batches in the order of their commits, each a checksummed frame. Appending one is the commit.

A frame is the length of its payload and a CRC-32 of length and payload, four bytes each, little-endian, then the
payload in MessagePack. The first frame is the head: the revision and the writers' slots at which the journal begins. A
frame that is cut short at the end was never committed; one whose checksum does not fit is damage.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from attrs import fields

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
    Token,
    ZAdd,
    ZAppend,
    ZRem,
    ZTrim,
)
from empathy_kv.kv.table import Session, Slot

_FRAME: Final = struct.Struct("<II")

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
_FIELDS: Final = {kind: tuple(item.name for item in fields(kind)) for kind in _CODES}


class Line(msgspec.Struct, array_like=True, omit_defaults=True):
    """A committed batch: its revision, when, its operations that write, and its token with what is remembered of it."""

    revision: int
    at: int
    operations: list[list[Any]]
    session: str = ""
    slot: int = 0
    sequence: int = 0
    digest: bytes | None = None
    replies: list[Any] | None = None

    def replay(self) -> list[Operation]:
        """Return the operations."""
        return [_CLASSES[item[0]](*item[1:]) for item in self.operations]

    def kept(self) -> Slot:
        """Return what is remembered of the token."""
        return Slot(self.sequence, self.digest, _tuples(self.replies))


class Head(msgspec.Struct):
    """The first frame of a journal."""

    format: int
    revision: int
    sessions: dict[str, tuple[int, dict[int, tuple[int, bytes | None, list[Any] | None]]]]

    @classmethod
    def of(cls, revision: int, sessions: dict[str, Session]) -> Head:
        """Return the head of a journal that begins now."""
        return cls(
            1,
            revision,
            {
                name: (
                    session.used,
                    {place: (slot.sequence, slot.digest, slot.replies) for place, slot in session.slots.items()},  # type: ignore[misc]
                )
                for name, session in sessions.items()
            },
        )

    def restored(self) -> dict[str, Session]:
        """Return the writers' slots."""
        return {
            name: Session({place: Slot(slot[0], slot[1], _tuples(slot[2])) for place, slot in slots.items()}, used)
            for name, (used, slots) in self.sessions.items()
        }


_ENCODER: Final = msgspec.msgpack.Encoder()
_HEADS: Final = msgspec.msgpack.Decoder(Head)
_LINES: Final = msgspec.msgpack.Decoder(Line)


def _tuples(replies: list[Any] | None) -> list[Reply] | None:
    """Give ranges of sorted sets their tuples back, which MessagePack does not know."""
    if replies is None:
        return None
    return [[tuple(pair) for pair in reply] if isinstance(reply, list) else reply for reply in replies]


def digest(batch: Batch) -> bytes:
    """Return what stands for the content of a batch."""
    content = [
        [type(item).__name__, *(getattr(item, name) for name in _names(type(item)))] for item in batch.operations
    ]
    checks = [[check.key, check.version, check.member] for check in batch.checks]
    return zlib.crc32(_ENCODER.encode([content, checks])).to_bytes(4, "little")


def _names(kind: type) -> tuple[str, ...]:
    return _FIELDS.get(kind) or tuple(item.name for item in fields(kind))


def frame(payload: msgspec.Struct) -> bytes:
    """Return a head or a line as it stands in the file."""
    data = _ENCODER.encode(payload)
    length = len(data).to_bytes(4, "little")
    return _FRAME.pack(len(data), zlib.crc32(data, zlib.crc32(length))) + data


def line(
    revision: int,
    at: int,
    batch: Batch | None,
    token: Token | None,
    kept: Slot | None,
) -> Line:
    """Return the line of a batch; of None if only what is remembered of a token changed."""
    operations = []
    if batch is not None:
        for operation in batch.operations:
            code = _CODES.get(type(operation))  # type: ignore[arg-type]
            if code is not None:
                operations.append([code, *(getattr(operation, name) for name in _FIELDS[type(operation)])])  # type: ignore[index]
    if token is None or kept is None:
        return Line(revision, at, operations)
    seal: Any = kept.digest
    return Line(revision, at, operations, token.session, token.slot, token.sequence, seal, kept.replies)


def payloads(data: bytes, path: str, offset: int) -> Iterator[tuple[bytes, int]]:
    """Yield each whole payload of `data` and where in the file the next frame begins; stop at one that is cut short.

    `offset` is where in the file `data` begins. Raises `DamagedError` for a frame whose checksum does not fit.
    """
    at = 0
    while at + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, at)
        end = at + _FRAME.size + length
        if end > len(data):
            return
        payload = data[at + _FRAME.size : end]
        if zlib.crc32(payload, zlib.crc32(data[at : at + 4])) != checksum:
            if not any(data[at:]):
                return  # The file grew, and what was to stand there never reached the disk.
            raise DamagedError(f"{path} is damaged: the frame at {offset + at} does not fit its checksum", path=path)
        at = end
        yield payload, offset + end


def head(payload: bytes, path: str) -> Head:
    """Read a head."""
    try:
        result = _HEADS.decode(payload)
    except msgspec.DecodeError as error:
        raise DamagedError(f"{path} is damaged: it does not begin with a head", path=path) from error
    if result.format != 1:
        raise DamagedError(f"{path} has the unknown format {result.format}", path=path)
    return result


def read(payload: bytes, path: str) -> Line:
    """Read a line."""
    try:
        return _LINES.decode(payload)
    except msgspec.DecodeError as error:
        raise DamagedError(f"{path} is damaged: {error}", path=path) from error
