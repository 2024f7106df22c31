"""Stores with a past: a copy of every file after every batch, and what each key answered then."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from attrs import Factory, define, frozen
from faults.trees import Tree, files, read_tree

from empathy_kv.kv.files import FilesKV
from empathy_kv.kv.interface import KV, Namespace
from empathy_kv.kv.operations import (
    TTL,
    Batch,
    Delete,
    Get,
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
)

SPACE: Final[Name] = ("a",)
NEIGHBOUR: Final[Name] = ("b",)
"""Another namespace of the same store, with one key, `k`."""
NEIGHBOURS: Final = b"of another namespace"
"""What `k` of it holds."""

KINDS: Final[Mapping[str, str]] = {
    "value": "string",
    "quiet": "string",
    "total": "string",
    "gone": "string",
    "fresh": "string",
    "hash": "hash",
    "zset": "zset",
}
"""The keys of `SPACE`. Each is its own file name: the document of `quiet` is `quiet.json`."""

_STEPS: Final[tuple[Sequence[Sequence[Operation]], ...]] = (
    (
        [Set("value", b"zeroth")],
        [HIncrBy("hash", {"count": 1, "other": -5}), IncrBy("total", 1)],
        [ZAdd("zset", {b"low": 1.5, b"high": 1e9, b"\xfe": -0.25})],
    ),
    (
        [Set("value", b'{"text": "first",  "n": 1}')],
        [Set("quiet", b"\x00\xff raw")],
        [Set("gone", b"not for long")],
        [HIncrBy("hash", {"count": 20}), HSet("hash", {"name": b"Ada", "raw": b"\xff"}), IncrBy("total", 20)],
        [ZAdd("zset", {b"middle": 7.0})],
    ),
    (
        [Set("value", b'{"text": "second"}')],
        [HIncrBy("hash", {"count": 300})],
        [ZAppend("zset", [b"appended"])],
        [Delete("gone")],
        [Set("fresh", b"only in the journal", 5000.0)],
        [IncrBy("total", 300), Set("value", b'{"text": "third"}'), HSet("hash", {"name": b"Grace"})],
        [IncrBy("total", 4000)],
    ),
)

State: TypeAlias = Mapping[str, Any]
"""What each key answers; None for one that is absent."""


def opened(root: Path) -> FilesKV:
    """Open a store as a process of its own would, without waiting for disks."""
    return FilesKV(root, durability="os")


def answer(ns: Namespace, key: str) -> Any:
    """Return all that a key says of itself."""
    if KINDS[key] == "hash":
        return ns.hgetall(key) or None
    if KINDS[key] == "zset":
        return ns.zrange(key) or None
    content, version, left = ns.execute(Get(key), Version(key), TTL(key))
    return None if content is None else (content, version, None if left is None else left > 1000)


@frozen
class Moment:
    """A store after a batch: its files, what each key answers, the batch, and its replies."""

    tree: Tree
    state: State
    batch: Batch
    replies: list[Reply]


@define
class History:
    """What a store went through: two times it was closed, then batches of which no document knows yet."""

    moments: list[list[Moment]] = Factory(list)
    """After each batch, of each of the three times that the store was open."""
    settled: Tree = Factory(dict)
    """The files after it was closed for the last time: everything stands in documents."""

    @property
    def newest(self) -> Moment:
        """The store as a crash after the last batch leaves it: documents, and a journal."""
        return self.moments[-1][-1]

    @property
    def journal(self) -> str:
        """The file that the last batch was appended to."""
        before, after = (files(moment.tree) for moment in self.moments[-1][-2:])
        (name,) = [name for name, content in after.items() if content != before[name]]
        assert after[name].startswith(before[name])
        return name

    def directory(self) -> str:
        """The directory of `SPACE`."""
        (name,) = [name for name in self.newest.tree if name.endswith("/quiet.json")]
        return name.removesuffix("/quiet.json")

    def document(self, key: str) -> str:
        """The document of a key."""
        return f"{self.directory()}/{key}.json"

    def after_a_cut(self, left: int) -> State:
        """Return the state of the last batch that is whole if the journal has only so many bytes left."""
        whole = files(self.newest.tree)[self.journal]
        found = self.moments[-2][-1].state
        for moment in self.moments[-1]:
            content = files(moment.tree).get(self.journal, b"")
            if len(content) <= left and whole.startswith(content):
                found = moment.state
        return found

    def ever(self, key: str) -> list[Any]:
        """Return what a key has answered at any time."""
        return [None, *(moment.state[key] for opened in self.moments for moment in opened)]


def write_history(root: Path) -> History:
    """Make the store and return its history; what is at `root` afterwards is the store, closed."""
    history = History()
    number = 0
    for steps in _STEPS:
        moments = []
        with opened(root) as kv:
            for operations in steps:
                number += 1
                token = Token(SPACE, "0123456789abcdef", 1, number, time.time_ns() // 1_000_000)
                moments.append(_moment(root, kv, Batch(SPACE, operations, token=token)))
            if len(history.moments) == 0:
                kv.namespace(*NEIGHBOUR).set("k", NEIGHBOURS)
        history.moments.append(moments)
    history.settled = read_tree(root)
    return history


def _moment(root: Path, kv: KV, batch: Batch) -> Moment:
    replies = kv.execute(batch)
    ns = kv.namespace(*SPACE)
    return Moment(read_tree(root), {key: answer(ns, key) for key in KINDS}, batch, replies)
