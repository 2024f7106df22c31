"""The patterns of a library in a namespace of a store that workers share.

Each worker has an index of its own, which follows the change feed: before it answers, it asks in one round trip for the
ids that changed since. Writes go to the store, counters as increments. The namespace `patterns` holds, beside a hash a
pattern::

    p:<id>    doc: the pattern as it was contributed, in JSON   agent: who contributed it
              success, failure: what was recorded since         last_used: when, the last time
              link:<id>: one for each linked pattern
    order     sorted set of the ids, in the order of contribution
    changes   sorted set of the ids, each by the number of its last change: the feed, of which the end is kept
    epoch     says which library this is: another one if the store lost the first, as a server without persistence does
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, TypeAlias

from empathy_kv.codec import codec
from empathy_kv.errors import CheckError
from empathy_kv.index import Held, Index
from empathy_kv.kv.interface import Steps
from empathy_kv.kv.operations import (
    PAGE,
    Batch,
    Check,
    Delete,
    Get,
    HGetAll,
    HIncrBy,
    HSet,
    Operation,
    Reply,
    Set,
    ZAppend,
    ZCard,
    ZRange,
    ZRangeByScore,
    ZRem,
    ZScore,
    ZTrim,
    octets,
    pages,
)
from empathy_kv.pattern_library import Contribution, missing, taken
from empathy_kv.records import Pattern

_NAMESPACE: Final = ("patterns",)
_FEED: Final = 100_000
"""How many changed ids the feed keeps; a worker that slept through more loads the library afresh."""
_CODEC: Final = codec(Pattern)

Place: TypeAlias = tuple[bytes | None, float]
"""Which library, by its epoch, and the number of its last change."""


class SharedPatterns:
    """The patterns in a namespace of a store."""

    def __init__(self) -> None:
        self.index = Index()
        self._place: Place | None = None
        """What the index holds; None is nothing yet. It changes with the index, under its lock."""

    def pull(self) -> Steps[None]:
        while True:
            place = self._place
            if place is None:
                yield from self._load(place)
                return
            known, since = place
            epoch, first, last, changed, count = yield Batch(
                _NAMESPACE,
                (
                    Get("epoch"),
                    ZRange("changes", 0, 0),
                    ZRange("changes", -1, -1),
                    ZRangeByScore("changes", since + 1, limit=PAGE),
                    ZCard("changes"),
                ),
            )
            newest = last[0][1] if last else 0.0
            cut_off = count >= _FEED and first[0][1] > since + 1
            if epoch != known or newest < since or cut_off:
                yield from self._load(place)
                return
            if not changed:
                return
            ids = [member.decode() for member, _ in changed]
            holds = yield from self._fetch(ids)
            reached = changed[-1][1]
            # Another thread may have been faster, with less: then from there.
            if self._apply(place, (epoch, reached), zip(ids, holds, strict=True)) and reached >= newest:
                return

    def _load(self, place: Place | None) -> Steps[None]:
        """Read the whole library, page by page, in the place of what is known; what changes meanwhile is fed after."""
        epoch, last, order = yield Batch(_NAMESPACE, (Get("epoch"), ZRange("changes", -1, -1), ZRange("order")))
        loaded: dict[str, Held | None] = {}
        for page in pages(order):
            ids = [member.decode() for member, _ in page]
            loaded.update(zip(ids, (yield from self._fetch(ids)), strict=True))
        with self.index.lock:
            gone = {held.id: None for held in self.index if held.id not in loaded}
        self._apply(place, (epoch, last[0][1] if last else 0.0), {**gone, **loaded}.items())
        yield from self.pull()

    def _fetch(self, ids: Sequence[str]) -> Steps[list[Held | None]]:
        operations: list[Operation] = []
        for pattern_id in ids:
            operations += [HGetAll(f"p:{pattern_id}"), ZScore("order", pattern_id.encode())]
        replies = yield Batch(_NAMESPACE, operations)
        return [_held(pattern_id, *replies[2 * i : 2 * i + 2]) for i, pattern_id in enumerate(ids)]

    def _apply(self, old: Place | None, new: Place, holds: Iterable[tuple[str, Held | None]]) -> bool:
        """Bring the index from one place to another; return False if it is not at the first any more."""
        with self.index.lock:
            if self._place != old:
                return False
            for pattern_id, held in holds:
                if held is None:
                    self.index.remove(pattern_id)
                else:
                    self.index.put(held)
            self._place = new
            return True

    def _write(self, operations: Sequence[Operation], checks: Sequence[Check] = ()) -> Steps[list[Reply]]:
        """Do what changes patterns, in a library that has an epoch."""
        while True:
            try:
                replies: list[Reply] = yield Batch(_NAMESPACE, operations, (Check("epoch"), *checks))
            except CheckError as error:
                if error.key != "epoch":
                    raise
            else:
                return replies
            with contextlib.suppress(CheckError):  # Another was faster.
                yield Batch(_NAMESPACE, (Set("epoch", secrets.token_hex(8).encode()),), (Check("epoch", 0),))

    def add(self, contributions: Sequence[Contribution]) -> Steps[None]:
        documents = [(agent, pattern.id, octets(_CODEC.encode(pattern), "pattern")) for agent, pattern in contributions]
        for page in pages(documents, lambda document: len(document[2])):
            ids = [pattern_id.encode() for _, pattern_id, _ in page]
            fields = [HSet(f"p:{p}", {"doc": document, "agent": agent.encode()}) for agent, p, document in page]
            try:
                yield from self._write(
                    (*fields, ZAppend("order", ids), *_changed(*ids)),
                    [Check(f"p:{pattern_id}", 0) for _, pattern_id, _ in page],
                )
            except CheckError as error:
                raise taken(error.key.removeprefix("p:")) from error

    def remove(self, ids: Sequence[str]) -> Steps[list[bool]]:
        removed: list[bool] = []
        for page in pages(ids):
            members = [pattern_id.encode() for pattern_id in page]
            replies = yield from self._write(
                (*(Delete(f"p:{i}") for i in page), ZRem("order", members), *_changed(*members))
            )
            removed += replies[: len(page)]
        return removed

    def bump(self, pattern_id: str, success: bool, at: datetime) -> Steps[None]:
        key = f"p:{pattern_id}"
        try:
            yield from self._write(
                (
                    HIncrBy(key, {"success" if success else "failure": 1}),
                    HSet(key, {"last_used": at.isoformat().encode()}),
                    *_changed(pattern_id.encode()),
                ),
                [Check(key)],
            )
        except CheckError as error:
            raise missing(pattern_id) from error

    def link(self, pairs: Sequence[tuple[str, str]]) -> Steps[None]:
        for page in pages(pairs):
            ends = [(a, b) for one, other in page for a, b in ((one, other), (other, one))]
            try:
                yield from self._write(
                    (
                        *(HSet(f"p:{a}", {f"link:{b}": b"1"}) for a, b in ends),
                        *_changed(*(a.encode() for a, _ in ends)),
                    ),
                    [Check(f"p:{a}") for a, _ in ends],
                )
            except CheckError as error:
                raise missing(error.key.removeprefix("p:")) from error


def _changed(*ids: bytes) -> tuple[Operation, ...]:
    return ZAppend("changes", ids), ZTrim("changes", _FEED)


def _held(pattern_id: str, fields: Mapping[str, bytes], order: float | None) -> Held | None:
    """Return a pattern of the store with what was recorded since it was contributed."""
    if "doc" not in fields or order is None:
        return None
    last_used = fields.get("last_used")
    return Held(
        pattern_id,
        fields["agent"].decode(),
        int(order),
        fields["doc"],
        int(fields.get("success", b"0")),
        int(fields.get("failure", b"0")),
        None if last_used is None else datetime.fromisoformat(last_used.decode()),
        frozenset(name.removeprefix("link:") for name in fields if name.startswith("link:")),
    )
