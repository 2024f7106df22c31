"""The operations as arguments of the script or as commands of Redis, and what comes back as replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import hiredis
from attrs import frozen

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

Argument: TypeAlias = bytes | str


class Layout:
    """Where a namespace stands on the server: all of it under one hash tag, so in one slot of a cluster.

    A key is the tag, a colon and the key's own name; what the engine keeps beside them has `#` in that place. The parts
    of the tag are quoted, so that no namespace is the prefix of another.
    """

    __slots__ = ("index", "prefix", "revision", "tag")

    def __init__(self, prefix: str, namespace: Name) -> None:
        self.tag = ("{" + ":".join(quote(part, safe="") for part in (prefix, *namespace)) + "}").encode()
        self.prefix = self.tag + b":"
        self.revision = self.tag + b"#revision"
        self.index = self.tag + b"#keys"

    def key(self, key: str) -> bytes:
        return self.prefix + key.encode()

    def slots(self, session: str) -> bytes:
        return self.tag + b"#writer:" + session.encode()


def score(value: float) -> str:
    """Return a score as Redis reads it, without loss."""
    return {float("inf"): "+inf", float("-inf"): "-inf"}.get(value) or repr(value)


def _pairs(reply: Sequence[Any]) -> list[tuple[bytes, float]]:
    if reply and isinstance(reply[0], list):  # RESP3 nests what RESP2 lists flat.
        return [(member, float(value)) for member, value in reply]
    return [(reply[i], float(reply[i + 1])) for i in range(0, len(reply), 2)]


def _hash(reply: Any) -> dict[str, bytes]:
    if isinstance(reply, dict):  # RESP3
        return {name.decode(): value for name, value in reply.items()}
    return {reply[i].decode(): reply[i + 1] for i in range(0, len(reply), 2)}


def _ttl(operation: Set | Expire) -> str:
    return "" if operation.ttl is None else str(milliseconds(operation.ttl))


def _value(reply: bytes | None) -> bytes | None:
    return None if reply is None else reply[reply.index(b" ") + 1 :]


def _seconds(reply: int) -> float | None:
    return {-2: 0.0, -1: None}.get(reply, reply / 1000)


def _flat(pairs: dict[Any, Any]) -> list[Any]:
    return [item for pair in pairs.items() for item in pair]


@frozen
class Form:
    """How an operation is sent and its reply read."""

    name: str
    arguments: Callable[[Any], list[Argument]] = lambda _: []
    reply: Callable[[Any, Any], Reply] = lambda _, reply: reply
    command: Callable[[Any], list[Argument]] | None = None
    """The arguments after the key, if the same thing can be had by a plain command called `name`."""


FORMS: Final[dict[type[Operation], Form]] = {
    Get: Form("get", reply=lambda _, r: _value(r), command=lambda _: []),
    Version: Form("version", reply=lambda _, r: int(r)),
    Set: Form("set", lambda o: [o.value, _ttl(o)], lambda _, r: int(r)),
    IncrBy: Form("incrby", lambda o: ["", str(o.increment)], lambda _, r: int(r)),
    Delete: Form("del", reply=lambda _, r: bool(r)),
    Exists: Form("exists", reply=lambda _, r: bool(r), command=lambda _: []),
    TTL: Form("ttl", reply=lambda _, r: _seconds(r)),
    Expire: Form("expire", lambda o: [_ttl(o)], lambda _, r: bool(r)),
    HGet: Form("hget", lambda o: [o.field], command=lambda o: [o.field]),
    HGetAll: Form("hgetall", reply=lambda _, r: _hash(r), command=lambda _: []),
    HSet: Form("hset", lambda o: _flat(o.fields)),
    HDel: Form("hdel", lambda o: list(o.fields)),
    HIncrBy: Form(
        "hincrby",
        lambda o: _flat({name: str(increment) for name, increment in o.increments.items()}),
        lambda o, r: dict(zip(o.increments, map(int, r), strict=True)),
    ),
    ZAdd: Form(
        "zadd",
        lambda o: [o.only or "", *(item for member, value in o.members.items() for item in (score(value), member))],
    ),
    ZAppend: Form("zappend", lambda o: list(o.members), lambda _, r: float(r)),
    ZRange: Form(
        "zrange",
        lambda o: [str(o.start), str(o.stop)],
        lambda _, r: _pairs(r),
        lambda o: [str(o.start), str(o.stop), "WITHSCORES"],
    ),
    ZRangeByScore: Form(
        "zrangebyscore",
        lambda o: [score(o.minimum), score(o.maximum), "" if o.limit is None else str(o.limit)],
        lambda _, r: _pairs(r),
    ),
    ZScore: Form("zscore", lambda o: [o.member], lambda _, r: None if r is None else float(r)),
    ZCard: Form("zcard", command=lambda _: []),
    ZRem: Form("zrem", lambda o: list(o.members)),
    ZTrim: Form("ztrim", lambda o: [str(o.keep)]),
}


def body(batch: Batch, layout: Layout) -> tuple[list[bytes], list[Argument]]:
    """Return the batch's own keys, and its checks and operations as the script reads them."""
    keys: list[bytes] = []
    places: dict[str, str] = {}

    def place(key: str) -> str:
        if key not in places:
            keys.append(layout.key(key))
            places[key] = str(len(keys) + 3)
        return places[key]

    arguments: list[Argument] = [str(len(batch.checks))]
    for check in batch.checks:
        arguments += [
            place(check.key),
            "" if check.version is None else str(check.version),
            "" if check.member is None else "m",
            check.member or b"",
        ]
    for operation in batch.operations:
        form = FORMS[type(operation)]  # type: ignore[index]  # a Settle stands alone
        own = form.arguments(operation)
        arguments += [form.name, place(operation.key), str(len(own)), *own]  # type: ignore[union-attr]
    return keys, arguments


def read(batch: Batch, replies: Sequence[Any]) -> list[Reply]:
    """Return the replies of a batch from what the script returned."""
    return [
        FORMS[type(operation)].reply(operation, reply)  # type: ignore[index]
        for operation, reply in zip(batch.operations, replies, strict=True)
    ]


def parse(text: bytes) -> list[Any]:
    """Read replies that the script kept as RESP text."""
    reader = hiredis.Reader()
    reader.feed(text)
    replies: list[Any] = reader.gets()
    return replies
