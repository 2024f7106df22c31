"""The patterns of a library in a namespace of a store that workers share.

Each worker has a copy of its own, an index that follows the change feed. Before it answers, it asks for the `stamp`,
which every change makes another: that is the small round trip, and mostly all there is. If the stamp is new, the feed
says which ids changed since, and those are read again. Writes go to the store, counters as increments. The namespace
`patterns` holds, beside a hash a pattern::

    p:<id>    doc: the pattern as it was contributed, in JSON   agent: who contributed it
              success, failure: what was recorded since         last_used: when, the last time
              link:<id>: one for each linked pattern
    order     sorted set of the ids, in the order of contribution
    changes   sorted set of the ids, each by the number of its last change: the feed, of which the end is kept
    stamp     a random value, another one after each change
    epoch     says which library this is: another one if the store lost the first, as a server without persistence does
"""

from __future__ import annotations

import contextlib
import itertools
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, TypeAlias

from attrs import define

from empathy_kv.codec import codec
from empathy_kv.errors import CheckError, DamagedError
from empathy_kv.index import Held, Index
from empathy_kv.kv.interface import Keys, Steps
from empathy_kv.kv.operations import (
    PAGE,
    Batch,
    Check,
    Delete,
    Exists,
    Get,
    HGet,
    HGetAll,
    HIncrBy,
    HSet,
    Operation,
    Reply,
    Set,
    Version,
    ZAppend,
    ZCard,
    ZRange,
    ZRangeByScore,
    ZRem,
    ZScore,
    ZTrim,
    pages,
)
from empathy_kv.pattern_library import Contribution, Progress, encoded, missing, taken, updated
from empathy_kv.records import Pattern

NAMESPACE: Final = ("patterns",)
_FEED: Final = 100_000
"""How many changed ids the feed keeps; a worker that slept through more loads the library afresh."""

_CODEC: Final = codec(Pattern)
_ASK: Final = Batch.of(NAMESPACE, Get("stamp"))

Place: TypeAlias = tuple[bytes | None, float]
"""Which library, by its epoch, and the number of its last change."""
_NOTHING: Final[Place] = (None, 0.0)


@define(eq=False)
class Copy:
    """What this worker knows of the library. All of it changes together, under the lock of the index."""

    index: Index
    place: Place
    """What the index holds."""
    stamp: bytes | None = None
    """The stamp of the library that the index holds; None if that is not known."""
    asked: float = -math.inf
    """When it was last known to be up to date, by the monotonic clock."""


class SharedPatterns:
    """The patterns in a namespace of a store."""

    def __init__(self) -> None:
        self.on_load: Progress | None = None
        self._copy: Copy | None = None
        self._wrote = -math.inf
        """When this worker last changed the library, by the monotonic clock."""

    def pull(self, max_staleness: float) -> Steps[Index]:
        copy = self._copy
        if copy is not None and max_staleness > 0 and self._fresh(copy, max_staleness):
            return copy.index
        while True:
            copy = self._copy
            if copy is None:
                copy = yield from self._load(None)
            at = time.monotonic()
            (stamp,) = yield _ASK
            # No stamp is one, too, of a library to which nobody has written; else it is one that is not known.
            if stamp == copy.stamp and (stamp is not None or copy.place == _NOTHING):
                copy.asked = max(copy.asked, at)
                return copy.index
            if (yield from self._follow(copy, at)):
                return copy.index

    def pull_known(self) -> Steps[Index | None]:
        if self._copy is None:
            return None
        index = yield from self.pull(0.0)
        return index

    def _fresh(self, copy: Copy, max_staleness: float) -> bool:
        return copy.asked > self._wrote and time.monotonic() - copy.asked <= max_staleness

    def _follow(self, copy: Copy, at: float) -> Steps[bool]:
        """Bring the copy nearer to the library, or replace it; return whether it is what the library was at a time."""
        place = copy.place
        known, since = place
        epoch, stamp, first, last, changed, count = yield Batch(
            NAMESPACE,
            (
                Get("epoch"),
                Get("stamp"),
                ZRange("changes", 0, 0),
                ZRange("changes", -1, -1),
                ZRangeByScore("changes", since + 1, limit=PAGE),
                ZCard("changes"),
            ),
        )
        newest = last[0][1] if last else 0.0
        cut_off = count >= _FEED and first[0][1] > since + 1
        if epoch != known or newest < since or cut_off:
            yield from self._load(copy)
            return False
        ids = [member.decode() for member, _ in changed]
        holds = (yield from self._fetch(ids)) if ids else []
        reached = changed[-1][1] if changed else since
        with copy.index.lock:
            if self._copy is not copy or copy.place != place:
                return False  # Another thread was faster, with less or with more.
            for pattern_id, held in zip(ids, holds, strict=True):
                if held is None:
                    copy.index.remove(pattern_id)
                else:
                    copy.index.put(held)
            copy.place = (epoch, reached)
            if reached < newest:
                copy.stamp = None
                return False
            copy.stamp = stamp
            copy.asked = max(copy.asked, at)
            return True

    def _load(self, old: Copy | None) -> Steps[Copy]:
        """Read the whole library, page by page, in the place of a copy; what changes meanwhile is to be fed after."""
        epoch, stamp, last, total, page = yield Batch(
            NAMESPACE, (Get("epoch"), Get("stamp"), ZRange("changes", -1, -1), ZCard("order"), _page(-math.inf))
        )
        if last and not page:
            # All were removed, or the order was lost: then those that changed last are there.
            (changed,) = yield Batch.of(NAMESPACE, ZRange("changes", -PAGE, -1))
            ids = [member.decode() for member, _ in changed]
            for pattern_id in unplaced(ids, (yield Batch(NAMESPACE, places(ids)))):
                raise unlisted(pattern_id)
        index = Index()
        done = 0
        while page:
            documents = [HGetAll(f"p:{member.decode()}") for member, _ in page]
            *found, following = yield Batch(NAMESPACE, (*documents, _page(page[-1][1] + 1)))
            for (member, order), fields in zip(page, found, strict=True):
                held = held_of(member.decode(), fields, order)
                if held is not None:
                    index.put(held)
            done += len(page)
            if self.on_load is not None:
                self.on_load(done, max(total, done))
            page = following
        if self._copy is old:  # Else another thread was faster.
            self._copy = Copy(index, (epoch, last[0][1] if last else 0.0), stamp)
        assert self._copy is not None  # noqa: S101 - for the type checker: there is no way back to none
        return self._copy

    def get(self, pattern_id: str, max_staleness: float) -> Steps[Held | None]:
        if self._copy is not None:
            index = yield from self.pull(max_staleness)
            return index.get(pattern_id)
        (held,) = yield from self._fetch([pattern_id])
        return held

    def count(self) -> Steps[int]:
        if self._copy is not None:
            return len((yield from self.pull(0.0)))
        (total,) = yield Batch.of(NAMESPACE, ZCard("order"))
        return total  # type: ignore[no-any-return]

    def there(self, ids: Sequence[str]) -> Steps[set[str]]:
        found: set[str] = set()
        for page in pages(ids):
            replies = yield Batch(NAMESPACE, [Exists(f"p:{pattern_id}") for pattern_id in page])
            found.update(itertools.compress(page, replies))
        return found

    def _fetch(self, ids: Sequence[str]) -> Steps[list[Held | None]]:
        operations: list[Operation] = []
        for pattern_id in ids:
            operations += [HGetAll(f"p:{pattern_id}"), ZScore("order", pattern_id.encode())]
        replies = yield Batch(NAMESPACE, operations)
        return [held_of(pattern_id, *replies[2 * i : 2 * i + 2]) for i, pattern_id in enumerate(ids)]

    def _write(self, operations: Sequence[Operation], checks: Sequence[Check] = ()) -> Steps[list[Reply]]:
        """Do what changes patterns, in a library that has an epoch."""
        while True:
            try:
                replies: list[Reply] = yield Batch(NAMESPACE, operations, (Check("epoch"), *checks))
            except CheckError as error:
                if error.key != "epoch":
                    raise
            else:
                return replies
            finally:
                self._wrote = time.monotonic()  # Also if it is not known whether it was done.
            with contextlib.suppress(CheckError):  # Another was faster.
                yield Batch(NAMESPACE, (Set("epoch", secrets.token_hex(8).encode()),), (Check("epoch", 0),))

    def add(self, contributions: Sequence[Contribution]) -> Steps[None]:
        documents = [(agent, pattern.id, encoded(pattern)) for agent, pattern in contributions]
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

    def update(self, pattern: Pattern) -> Steps[None]:
        key = f"p:{pattern.id}"
        while True:
            fields, order, version = yield Batch(
                NAMESPACE, (HGetAll(key), ZScore("order", pattern.id.encode()), Version("stamp"))
            )
            held = held_of(pattern.id, fields, order)
            if held is None:
                raise missing(pattern.id)
            write = HSet(key, {"doc": updated(held, pattern)})
            try:
                # A hash has no version. Whoever changes any pattern changes the stamp.
                yield from self._write((write, *_changed(pattern.id.encode())), [Check(key), Check("stamp", version)])
            except CheckError:
                continue
            return

    def repair(self) -> Steps[int]:
        broken = False
        for look in (ZCard("order"), ZCard("changes"), Get("epoch"), Get("stamp")):
            try:
                yield Batch.of(NAMESPACE, look)
            except DamagedError:
                broken = True
                yield Batch.of(NAMESPACE, Delete(look.key))
        lost = yield from self.lost()
        found: list[tuple[datetime, str]] = []
        for page in pages(lost):
            documents = yield Batch(NAMESPACE, [HGet(f"p:{pattern_id}", "doc") for pattern_id in page])
            found += ((_CODEC.decode(doc).discovered_at, i) for i, doc in zip(page, documents, strict=True) if doc)
        for page in pages([pattern_id for _, pattern_id in sorted(found)]):
            members = [pattern_id.encode() for pattern_id in page]
            yield from self._write((ZAppend("order", members), *_changed(*members)))
        if broken or found:
            # What others know of the feed may not be true of this one: they load the library afresh.
            yield Batch.of(NAMESPACE, Set("epoch", secrets.token_hex(8).encode()))
        return len(found)

    def lost(self) -> Steps[list[str]]:
        """Return the ids of the patterns that are there, and that the order of the library lacks."""
        lost: list[str] = []
        keys: list[str] = yield Keys(NAMESPACE)
        for page in pages(sorted(key.removeprefix("p:") for key in keys if key.startswith("p:"))):
            lost += unplaced(page, (yield Batch(NAMESPACE, places(page))))
        return lost

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
    return ZAppend("changes", ids), ZTrim("changes", _FEED), Set("stamp", secrets.token_bytes(8))


def unlisted(pattern_id: str) -> DamagedError:
    """Return the error of a library that has lost the order of its patterns, of which one is certainly there."""
    return DamagedError(
        f"the pattern {pattern_id!r} is in the store, and missing in the order of the library, which is damaged: "
        "patterns.repair() finds it again",
        path="patterns/order",
    )


def places(ids: Sequence[str]) -> list[Operation]:
    """Return what asks, of patterns, which are there, and which place each has, for `unplaced`: at one moment."""
    return [each for i in ids for each in (Exists(f"p:{i}"), ZScore("order", i.encode()))]


def unplaced(ids: Sequence[str], replies: Sequence[Reply]) -> list[str]:
    """Return those of the patterns that are there and have no place."""
    found = zip(ids, replies[::2], replies[1::2], strict=True)
    return [pattern_id for pattern_id, there, place in found if there and place is None]


def _page(first: float) -> ZRangeByScore:
    """Ask for the next ids in the order of contribution: by place, since ranks move when one is removed meanwhile."""
    return ZRangeByScore("order", first, limit=PAGE)


def held_of(pattern_id: str, fields: Mapping[str, bytes], order: float | None) -> Held | None:
    """Return a pattern of the store with what was recorded since it was contributed, None if it is not there."""
    if "doc" not in fields:
        return None
    if order is None:
        raise unlisted(pattern_id)
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
