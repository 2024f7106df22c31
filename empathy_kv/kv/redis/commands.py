"""Batches as calls of a script or as commands of Redis, and what comes back as replies."""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import hiredis
from attrs import define, frozen

from empathy_kv.errors import WrongTypeError
from empathy_kv.kv.operations import (
    TTL,
    Batch,
    Delete,
    Exists,
    Expire,
    Get,
    HDel,
    HGet,
    HGetAll,
    HIncrBy,
    HSet,
    IncrBy,
    Name,
    Operation,
    Reply,
    Set,
    Token,
    Version,
    ZAdd,
    ZAppend,
    ZCard,
    ZRange,
    ZRangeByScore,
    ZRem,
    ZScore,
    ZTrim,
    milliseconds,
)
from empathy_kv.kv.redis.script import PAGE, SETTLE, WRITE, Script, watching
from empathy_kv.kv.table import counter, exhausted, overflow, refused, refused_token

Argument: TypeAlias = bytes | str | int

_HASH_SLOTS: Final = 16384


def pack(*arguments: Argument) -> bytes:
    """Return a command as it goes over the wire (RESP)."""
    packed: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type]  # its type says: of one string
    return packed


def _strings(*arguments: Argument) -> bytes:
    """Return the arguments alone, without how many there are."""
    packed = pack(*arguments)
    return packed[packed.index(b"\n") + 1 :]


class Layout:
    """Where a namespace stands on the server: all of it under one hash tag, so in one slot of a cluster.

    A key is the tag, a colon and the key's own name; what the engine keeps beside them has `#` in that place. The parts
    of the tag are quoted, so that no namespace is the prefix of another.
    """

    __slots__ = ("_system", "hash_slot", "prefix", "tag")

    def __init__(self, prefix: str, namespace: Name) -> None:
        inner = ":".join(quote(part, safe="") for part in (prefix, *namespace)).encode()
        self.tag = b"{" + inner + b"}"
        self.prefix = self.tag + b":"
        self.hash_slot = binascii.crc_hqx(inner, 0) % _HASH_SLOTS  # CRC16-XMODEM, of what is between the braces.
        self._system: dict[tuple[str, int], bytes] = {}

    def key(self, key: str) -> bytes:
        return self.prefix + key.encode()

    def name(self, key: bytes) -> str:
        return key[len(self.prefix) :].decode()

    @property
    def revision(self) -> bytes:
        return self.tag + b"#revision"

    @property
    def watch(self) -> bytes:
        return self.tag + b"#watch"

    @property
    def written(self) -> bytes:
        return self.tag + b"#written"

    @property
    def index(self) -> bytes:
        return self.tag + b"#keys"

    @property
    def expiries(self) -> bytes:
        return self.tag + b"#expiries"

    def slot(self, session: str, number: int) -> bytes:
        return b"%b#writer:%b:%d" % (self.tag, session.encode(), number)

    def system(self, session: str, slot: int) -> bytes:
        """Return the first keys of a write, as they go over the wire."""
        known = self._system.get((session, slot))
        if known is None:
            slot_key = self.slot(session, slot)
            known = _strings(self.revision, self.index, self.expiries, slot_key, self.watch, self.written)
            if len(self._system) >= 8:  # Of many threads, or tokens of other writers, which somebody kept.
                self._system.clear()
            self._system[session, slot] = known
        return known


@define
class Call:
    """What is asked of the server that has a namespace. `size`, of a script: how many strings its command has."""

    hash_slot: int
    data: bytes
    """The packed commands; of a script, what follows its name or source."""
    script: Script | None = None
    size: int = 0
    count: int = 1
    """How many replies come; of a transaction the last is that of all."""
    token: Token | None = None
    writes: bool = False
    doubtful: bool = False
    """Whether a try that was sent without a reply may still arrive."""

    @property
    def repeatable(self) -> bool:
        """Whether sending it again changes nothing."""
        return self.token is not None or not self.writes

    def named(self) -> bytes:
        """Return what is sent: of a script, with its digest."""
        if self.script is None:
            return self.data
        return b"*%d\r\n%b%b" % (self.size, self.script.named, self.data)

    def whole(self) -> bytes:
        """Return what is sent to a server that does not know the script: its source."""
        if self.script is None:
            return self.data
        return b"*%d\r\n%b%b" % (self.size, self.script.whole, self.data)


_MULTI: Final = pack("MULTI")
_EXEC: Final = pack("EXEC")
_NO_TOKEN: Final = _strings("", "", 0)


def score(value: float) -> str:
    """Return a score as Redis reads it, without loss."""
    text = repr(value)
    return "+inf" if text == "inf" else text


def _pairs(reply: Sequence[Any]) -> list[tuple[bytes, float]]:
    return [(reply[i], float(reply[i + 1])) for i in range(0, len(reply), 2)]


def _hash(reply: Sequence[bytes]) -> dict[str, bytes]:
    return {reply[i].decode(): reply[i + 1] for i in range(0, len(reply), 2)}


def _ttl(operation: Set | Expire) -> Argument:
    return "" if operation.ttl is None else milliseconds(operation.ttl)


def value(reply: bytes | None) -> bytes | None:
    """Return a value without the version that stands before it."""
    return None if reply is None else reply[reply.index(b" ") + 1 :]


def _version(_: Version, reply: bytes | int) -> int:
    return int(reply.partition(b" ")[0] or 0) if isinstance(reply, bytes) else reply


def _seconds(reply: int) -> float | None:
    return {-2: 0.0, -1: None}.get(reply, reply / 1000)


def _flat(pairs: Mapping[Any, Any]) -> list[Any]:
    return [item for pair in pairs.items() for item in pair]


@frozen
class Form:
    """How an operation is sent and its reply read."""

    name: str
    """What the script calls it."""
    arguments: Callable[[Any], Sequence[Argument]] = lambda _: ()
    reply: Callable[[Any, Any], Reply] = lambda _, reply: reply
    command: str = ""
    """Of what only reads: the command of Redis that does the same, with the same arguments."""
    follows: bool = True
    """Whether what it does may follow from operations on the same key before it."""


FORMS: Final[dict[type[Operation], Form]] = {
    Get: Form("vget", reply=lambda _, r: value(r), command="GET"),
    # As much as a version and its space take, at most.
    Version: Form("vversion", reply=_version, arguments=lambda _: (0, 24), command="GETRANGE"),
    Set: Form("set", lambda o: (o.value, _ttl(o)), lambda _, r: int(r)),
    IncrBy: Form("vincrby", lambda o: (o.increment,), lambda _, r: int(r)),
    Delete: Form("del", reply=lambda _, r: bool(r)),
    Exists: Form("exists", reply=lambda _, r: bool(r), command="EXISTS"),
    TTL: Form("ttl", reply=lambda _, r: _seconds(r), command="PTTL"),
    Expire: Form("expire", lambda o: (_ttl(o),), lambda _, r: bool(r)),
    HGet: Form("hget", lambda o: (o.field,), command="HGET"),
    HGetAll: Form("hgetall", reply=lambda _, r: _hash(r), command="HGETALL"),
    HSet: Form("hset", lambda o: _flat(o.fields)),
    HDel: Form("hdel", lambda o: o.fields),
    HIncrBy: Form(
        "hincrby",
        lambda o: (*o.increments, *o.increments.values()),
        # The script returns what the fields were.
        lambda o, r: {field: int(old) + by for (field, by), old in zip(o.increments.items(), r.split(), strict=True)},
    ),
    ZAdd: Form(
        "zadd",
        lambda o: (o.only or "", *(item for member, value in o.members.items() for item in (score(value), member))),
    ),
    ZAppend: Form("zappend", lambda o: o.members, lambda _, r: float(r)),
    ZRange: Form("zrange", lambda o: (o.start, o.stop, "WITHSCORES"), reply=lambda _, r: _pairs(r), command="ZRANGE"),
    ZRangeByScore: Form(
        "zrangebyscore",
        lambda o: (
            *(score(o.minimum), score(o.maximum), "WITHSCORES"),
            *("LIMIT", 0, -1 if o.limit is None else o.limit),
        ),
        reply=lambda _, r: _pairs(r),
        command="ZRANGEBYSCORE",
    ),
    ZScore: Form("zscore", lambda o: (o.member,), lambda _, r: None if r is None else float(r), command="ZSCORE"),
    ZCard: Form("zcard", command="ZCARD"),
    ZRem: Form("zrem", lambda o: o.members),
    ZTrim: Form("ztrim", lambda o: (o.keep,), follows=False),
}


def looked_up(batch: Batch, layout: Layout) -> Call:
    """Return what reads a batch that only reads: one command, or a transaction."""
    operations: Sequence[Any] = batch.operations
    if len(operations) == 1:
        return Call(layout.hash_slot, _command(operations[0], layout))
    if all(type(operation) is Get for operation in operations):
        keys = [layout.prefix + operation.key.encode() for operation in operations]
        return Call(layout.hash_slot, pack("MGET", *keys))
    commands = [_command(operation, layout) for operation in operations]
    return Call(layout.hash_slot, b"".join((_MULTI, *commands, _EXEC)), count=len(commands) + 2)


def _command(operation: Operation, layout: Layout) -> bytes:
    form = FORMS[type(operation)]
    key = layout.prefix + operation.key.encode()
    # Not by `pack`, which is a call more for the hottest of all; what only reads always has a command.
    packed: bytes = hiredis.pack_command((form.command, key, *form.arguments(operation)))  # type: ignore[arg-type]
    return packed


def kind_of(key: str, layout: Layout) -> Call:
    """Return the command that tells what a key holds."""
    return Call(layout.hash_slot, pack("TYPE", layout.key(key)))


def written(batch: Batch, layout: Layout, token: Token | None) -> Call:
    """Return the script call of a batch that writes or has preconditions."""
    keys: list[bytes] = []
    places: dict[str, int] = {}
    prefix = layout.prefix
    arguments: list[Argument] = ["w" if batch.writes else "r", "0", len(batch.checks)]
    for check in batch.checks:
        place = places.get(check.key)
        if place is None:
            keys.append(prefix + check.key.encode())
            place = places[check.key] = len(keys) + 6
        arguments += (
            place,
            "" if check.version is None else check.version,
            "" if check.member is None else "m",
            check.member or b"",
        )
    written: set[str] = set()
    for operation in batch.operations:
        form = FORMS[type(operation)]  # type: ignore[index]  # a Settle stands alone
        key: str = operation.key  # type: ignore[union-attr]
        place = places.get(key)
        if place is None:
            keys.append(prefix + key.encode())
            place = places[key] = len(keys) + 6
        elif form.follows and key in written:
            arguments[1] = "1"
        written.add(key)
        own = form.arguments(operation)
        arguments += (form.name, place, len(own))
        arguments += own
    count = len(keys) + 6
    body = _strings(*keys, *arguments)
    if token is None:
        system, end = layout.system("", 0), _NO_TOKEN
    else:
        system = layout.system(token.session, token.slot)
        digest = hashlib.blake2b(body, digest_size=8).hexdigest()
        end = _strings(token.sequence, digest, token.issued)
    data = b"".join((_strings(count), system, body, end))
    return Call(layout.hash_slot, data, WRITE, 3 + count + len(arguments) + 3, 1, token, batch.writes)


def settled(token: Token, layout: Layout) -> Call:
    """Return the script call that settles a token."""
    data = _strings(1, layout.slot(token.session, token.slot), token.sequence, token.issued)
    return Call(layout.hash_slot, data, SETTLE, 6, 1, token, writes=True)


def watch(layout: Layout, verb: str, who: str, milliseconds: int, revision: int, *, load: bool = False) -> Call:
    """Return the script call of one who takes a snapshot. Repeating it changes nothing.

    A server that does not know the script answers NOSCRIPT, unless it is to `load` it.
    """
    data = _strings(3, layout.watch, layout.written, layout.revision, verb, who, milliseconds, revision)
    call = Call(layout.hash_slot, data, watching(who), 10)
    return call if load else Call(layout.hash_slot, call.named())


def page(layout: Layout, after: bytes | None, size: int) -> Call:
    """Return the script call for the next keys of a namespace."""
    start = b"-" if after is None else b"(" + after
    return Call(layout.hash_slot, _strings(2, layout.index, layout.expiries, start, size), PAGE, 7)


def require_done(said: Any, batch: Batch, layout: Layout, token: Token | None) -> None:
    """Raise what a script refused with, if it did."""
    if type(said) is not list:
        return
    status = said[0]
    if status == b"check":
        raise refused(batch.checks[int(said[1])], int(said[2]))
    if status == b"token":
        raise refused_token(said[1].decode(), token)
    key = layout.name(said[1])
    if status == b"kind":
        raise wrong(key, said[2].decode())
    if status == b"exhausted":
        raise exhausted(key)
    field = said[2].decode() or None
    raise counter(key, field) if status == b"counter" else overflow(key, field)


def wrong(key: str, kind: str) -> WrongTypeError:
    """Return the error of a key that holds something else than the operation works on."""
    return WrongTypeError(f"{key!r} holds a {kind}, which the operation does not work on", key=key, kind=kind)


def parsed(text: bytes) -> list[Any]:
    """Return the replies that a script returned as RESP text."""
    reader = hiredis.Reader()
    reader.feed(text)
    replies: list[Any] = reader.gets()
    return replies


def read(batch: Batch, replies: Sequence[Any]) -> list[Reply]:
    """Return the replies of a batch from what the server returned."""
    return [
        FORMS[type(operation)].reply(operation, reply)  # type: ignore[index]
        for operation, reply in zip(batch.operations, replies, strict=True)
    ]
