"""The timelines of users: their interactions one by one, and the ids that were given, so that one more costs the same.

What is recorded comes into sorted sets that stay small: when one is full, its older half moves on. Interactions go into
pages, which no two times overlap, as the leaves of a B-tree. A page never changes; one that must is written anew, under
another number. Ids go into parts, by their hash. All of it stands in the namespace of the user's shard::

    recent:<id>       sorted set of a user's newest interactions, by microsecond, as JSON
    page:<n>:<id>     JSON array of older ones, oldest first: [microsecond, interaction]
    pages:<id>        which pages there are (`_Index`), as JSON
    ids:<id>          sorted set of the newest ids that the caller gave, in the order in which they came
    ids_<n>:<id>      sorted set of older ones, of a hash, in the same order
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from empathy_kv.errors import DamagedError
from empathy_kv.kv.interface import Several, Steps
from empathy_kv.kv.operations import (
    Batch,
    Check,
    Delete,
    Get,
    Name,
    Operation,
    Reply,
    Set,
    Version,
    ZAdd,
    ZAppend,
    ZCard,
    ZRange,
    ZRem,
    ZTrim,
    pages,
)
from empathy_kv.kv.refilling import Members

PAGE: Final = 128
"""Interactions of a page, and how many interactions and ids stay where they come, when the others move."""
PARTS: Final = 64
"""Into how many parts older ids go."""
_MOST: Final = 5_000
"""Interactions or ids that move at a time: so many that older stores, which had no pages, are cut up soon."""

Entry: TypeAlias = tuple[int, bytes]
"""An interaction as it is kept: its microsecond, and the rest as JSON."""


class Kept(msgspec.Struct, gc=False):
    """What is kept of an interaction beside its time."""

    n: str
    """What orders those of one moment, and tells equal ones apart."""
    level: int
    success: bool
    response_time_ms: float | None
    id: str | None


class _Page(msgspec.Struct, array_like=True, gc=False):
    number: int
    count: int
    first: int
    last: int


class _Index(msgspec.Struct, gc=False):
    """Which pages there are, oldest first. `limit` is that of whoever wrote it, `numbers` how many were given."""

    limit: int
    numbers: int = 0
    pages: list[_Page] = []
    parts: bool = False
    """Whether there are ids in parts."""


_ENCODE: Final = msgspec.json.Encoder().encode
KEPT: Final = msgspec.json.Decoder(Kept).decode
_INDEX: Final = msgspec.json.Decoder(_Index).decode
_ITEMS: Final = msgspec.json.Decoder(list[tuple[int, Kept]]).decode
_RAW: Final = msgspec.json.Decoder(list[tuple[int, msgspec.Raw]]).decode


def entry(number: str, level: int, success: bool, took: float | None, name: str | None) -> bytes:
    """Return what is kept of an interaction. The number orders those of one moment."""
    return _ENCODE(Kept(number, level, success, took, name))


class Timelines:
    """Timelines that keep the newest `limit` interactions of a user, and at least as many ids."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._page = min(PAGE, limit)
        self._full = 2 * self._page
        self._again = max(1, PAGE // 8)

    # Writing

    def add(self, user: str, at: int, kept: bytes, name: bytes | None) -> list[Operation]:
        """Return what adds an interaction, and last how many there are: for `full`."""
        recent = f"recent:{user}"
        if name is None:
            return [ZAdd(recent, {kept: at}), ZCard(recent)]
        ids = f"ids:{user}"
        return [ZAdd(recent, {kept: at}), ZAppend(ids, (name,)), ZCard(ids), ZCard(recent)]

    def unknown(self, user: str, name: bytes) -> tuple[Check, ...]:
        """Return what holds if an id was not given before."""
        return Check(f"ids:{user}", 0, name), Check(_part(user, name), 0, name)

    def full(self, counts: Iterable[Reply]) -> bool:
        """Return whether to `move`: of all who add, one is told so, and another soon after if that one fails."""
        return any(count >= self._full and not (count - self._full) % self._again for count in counts)

    def move(self, shard: Name, user: str) -> Steps[None]:
        """Move the older half of what is full. `CheckError` if another did meanwhile."""
        key = f"pages:{user}"
        text, version, recent, named = yield Batch(
            shard, (Get(key), Version(key), ZRange(f"recent:{user}"), ZRange(f"ids:{user}"))
        )
        index = _Index(self.limit) if text is None else _INDEX(text)
        index.limit = self.limit
        operations: list[Operation] = []
        if len(recent) >= self._full:
            count = min(len(recent) - self._page, _MOST)
            moved = [(int(at), member) for member, at in recent[:count]]
            stay = [int(at) for _, at in recent[count:]]
            operations += yield from self._insert(shard, user, index, moved, stay)
            operations.append(ZRem(f"recent:{user}", [member for _, member in moved]))
        if len(named) >= self._full:
            old = named[: min(len(named) - self._page, _MOST)]
            if self._page < self.limit:
                operations += self._parts(user, old)
                index.parts = True
            operations.append(ZRem(f"ids:{user}", [member for member, _ in old]))
        if operations:
            yield Batch(shard, (*operations, Set(key, _ENCODE(index))), (Check(key, version),))

    def _insert(
        self, shard: Name, user: str, index: _Index, moved: Sequence[Entry], stay: Sequence[int]
    ) -> Steps[list[Operation]]:
        """Return what puts interactions into pages and removes those that are too old, and change the index so.

        Both are in order; `stay` are the times of those that remain.
        """
        before = {page.number for page in index.pages}
        made = yield from self._merged(shard, user, index, moved)
        newer = sum(page.count for page in index.pages)
        while index.pages:
            oldest = index.pages[0]
            newer -= oldest.count
            # An eighth more: whoever reads has so much time before what he is about to read goes.
            if newer + len(stay) - bisect_left(stay, oldest.last) < self.limit + self.limit // 8:
                break
            del index.pages[0]
        there = {page.number for page in index.pages}
        operations: list[Operation] = [Delete(_key(user, number)) for number in sorted(before - there)]
        operations += (Set(_key(user, number), text) for number, text in made.items() if number in there)
        return operations

    def _merged(self, shard: Name, user: str, index: _Index, moved: Sequence[Entry]) -> Steps[Mapping[int, bytes]]:
        """Put interactions into the index, and return the pages that are new by their numbers."""
        lasts = [page.last for page in index.pages]
        into: dict[int, list[Entry]] = {}
        for each in moved:
            into.setdefault(bisect_right(lasts, each[0]), []).append(each)
        end = into.get(len(lasts), [])
        if lasts and 0 < len(end) < self._page // 2:
            into.setdefault(len(lasts) - 1, []).extend(into.pop(len(lasts)))  # Not a page of a few.
        changed = sorted(place for place in into if place < len(lasts))
        replies = []
        if changed:
            replies = yield Batch(shard, [Get(_key(user, index.pages[place].number)) for place in changed])
        for place, text in zip(changed, replies, strict=True):
            if text is None:
                raise _gone(user, index.pages[place])
            into[place] = sorted([*((at, bytes(raw)) for at, raw in _RAW(text)), *into[place]])
        made: dict[int, bytes] = {}
        every: list[_Page] = []
        for place in range(len(lasts) + 1):
            if place in into:
                every += self._cut(index, into[place], made)
            elif place < len(lasts):
                every.append(index.pages[place])
        index.pages = every
        return made

    def _cut(self, index: _Index, entries: Sequence[Entry], made: dict[int, bytes]) -> list[_Page]:
        """Return pages of interactions, about equally many, and what they hold in `made`."""
        found = []
        count = max(1, round(len(entries) / self._page))
        for piece in range(count):
            some = entries[piece * len(entries) // count : (piece + 1) * len(entries) // count]
            index.numbers += 1
            made[index.numbers] = b"[%b]" % b",".join([b"[%d,%b]" % each for each in some])
            found.append(_Page(index.numbers, len(some), some[0][0], some[-1][0]))
        return found

    def _parts(self, user: str, ids: Iterable[tuple[bytes, float]]) -> list[Operation]:
        parts: dict[str, dict[bytes, float]] = {}
        for name, place in ids:
            parts.setdefault(_part(user, name), {})[name] = place
        # Twice what falls to a part, and some: by no chance is one of the newest among those that go.
        keep = 2 * self.limit // PARTS + 64
        return [each for part, members in parts.items() for each in (ZAdd(part, members), ZTrim(part, keep))]

    def whole(self, user: str, entries: Sequence[Entry], ids: Sequence[bytes]) -> dict[str, bytes | Members]:
        """Return what the keys of a user hold with these interactions and ids, both in order, and nothing else."""
        keys: dict[str, bytes | Members] = {}
        index = _Index(self.limit)
        entries = entries[-self.limit :]
        places = list(enumerate(ids, 1))
        if len(entries) >= self._full:
            made: dict[int, bytes] = {}
            index.pages = self._cut(index, entries[: -self._page], made)
            keys.update((_key(user, number), text) for number, text in made.items())
            entries = entries[-self._page :]
        if len(places) >= self._full and self._page < self.limit:
            index.parts = True
            parts: dict[str, Members] = {}
            for place, name in places[: -self._page]:
                parts.setdefault(_part(user, name), []).append((place, name))
            keys.update(parts)
            places = places[-self._page :]
        if entries:
            keys[f"recent:{user}"] = [(float(at), kept) for at, kept in entries]
        if places:
            keys[f"ids:{user}"] = [(float(place), name) for place, name in places]
        if index.pages or index.parts:
            keys[f"pages:{user}"] = _ENCODE(index)
        return keys

    # Reading

    def read(self, shard: Name, users: Sequence[str]) -> Steps[list[list[tuple[int, Kept]]]]:
        """Return the interactions of each of at most 500 users that are kept, oldest first, with their microseconds."""
        found: dict[str, list[tuple[int, Kept]]] = {}
        seen: dict[str, _Index] = {}
        while waiting := [user for user in users if user not in found]:
            questions = [each for user in waiting for each in (Get(f"pages:{user}"), ZRange(f"recent:{user}"))]
            (replies,) = yield Several([Batch(shard, questions)])
            paged: list[tuple[str, int, _Index, list[tuple[int, Kept]]]] = []
            for user, text, members in zip(waiting, replies[::2], replies[1::2], strict=True):
                recent = [(int(at), KEPT(member)) for member, at in members]
                if text is None:
                    found[user] = recent[-self.limit :]
                else:
                    index = _INDEX(text)
                    limit = max(self.limit, index.limit)
                    paged.append((user, limit, _Index(limit, 0, _newest(index.pages, limit)), recent))
            keys = [_key(user, page.number) for user, _, index, _ in paged for page in index.pages]
            answers = yield Several([Batch.gets(shard, some) for some in pages(keys)])
            texts = iter([text for answer in answers for text in answer])
            for user, limit, index, recent in paged:
                some = [next(texts) for _ in index.pages]
                if None not in some:
                    found[user] = _joined(index.pages, some, recent)[-limit:]
                elif seen.get(user) == index:
                    raise _gone(user, index.pages[some.index(None)])
                else:
                    seen[user] = index  # It was there a moment ago: others record.
        return [found[user] for user in users]

    def ids(self, shard: Name, users: Sequence[str]) -> Steps[list[list[str]]]:
        """Return the newest ids of each of at most 500 users, as many as interactions are kept, oldest first."""
        questions = [each for user in users for each in (Get(f"pages:{user}"), ZRange(f"ids:{user}"))]
        (replies,) = yield Several([Batch(shard, questions)])
        indexes = {user: _INDEX(text) for user, text in zip(users, replies[::2], strict=True) if text is not None}
        parted = [user for user, index in indexes.items() if index.parts]
        parts = [Batch(shard, [ZRange(f"ids_{part}:{user}") for part in range(PARTS)]) for user in parted]
        answers = yield Several(parts)
        found = dict(zip(users, replies[1::2], strict=True))
        for user, answer in zip(parted, answers, strict=True):
            found[user] += (each for part in answer for each in part)
            found[user].sort(key=lambda each: each[1])
        limits = {user: max(self.limit, index.limit) for user, index in indexes.items()}
        return [[name.decode() for name, _ in found[user][-limits.get(user, self.limit) :]] for user in users]


def _newest(pages: Sequence[_Page], limit: int) -> list[_Page]:
    """Return the newest pages that have so many interactions together, or all."""
    count = 0
    for start in range(len(pages) - 1, -1, -1):
        count += pages[start].count
        if count >= limit:
            return list(pages[start:])
    return list(pages)


def _joined(pages: Sequence[_Page], texts: Sequence[bytes], recent: list[tuple[int, Kept]]) -> list[tuple[int, Kept]]:
    items = [item for text in texts for item in _ITEMS(text)]
    late = pages and recent and recent[0][0] < pages[-1].last
    items += recent
    return sorted(items, key=lambda item: (item[0], item[1].n)) if late else items


def _key(user: str, number: int) -> str:
    return f"page:{number}:{user}"


def _part(user: str, name: bytes) -> str:
    # A hash that spreads whatever it is given: in ids that only count up, those for checksums leave parts empty.
    return f"ids_{hashlib.blake2b(name, digest_size=1).digest()[0] % PARTS}:{user}"


def _gone(user: str, page: _Page) -> DamagedError:
    key = _key(user, page.number)
    return DamagedError(
        f"{page.count} interactions of the user {user!r} are gone: the store has no key {key!r}, where they were",
        path=key,
    )
