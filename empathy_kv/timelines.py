"""The timelines of users: their newest interactions one by one. One more costs the same however many there are.

What is recorded comes into a sorted set that stays small: when it is full, its older half moves into pages. These
follow each other in time, as the leaves of a B-tree; neighbours may share the microsecond between them. A page never
changes: one that gets more is written anew, under another number. All of it is in the namespace of the user's shard::

    recent:<id>       sorted set of interactions, by microsecond, as JSON: the newest, and those that came late
    page:<n>:<id>     JSON array of older ones, oldest first: [microsecond, interaction]
    pages:<id>        which pages there are (`_Index`), as JSON
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import msgspec

from empathy_kv.errors import DamagedError
from empathy_kv.kv.interface import Several, Steps
from empathy_kv.kv.operations import (
    Batch,
    Check,
    Delete,
    Exists,
    Get,
    Name,
    Operation,
    Reply,
    Set,
    Version,
    ZAdd,
    ZCard,
    ZRange,
    ZRem,
    ZTrim,
    pages,
)
from empathy_kv.kv.refilling import Members

PAGE: Final = 128
"""Interactions of a page, and how many stay where they came, when the others move."""
_MOST: Final = 5_000
"""How many move at a time: so many that a store of before, which had no pages, is cut up soon."""
_TOUCHED: Final = 32
"""Pages that are written anew at a time, so that the largest of them fit into a batch."""
_DROPPED: Final = 1_000
"""Pages that are dropped at a time."""
_OFTEN: Final = 16
"""With how many more another tries to move what one could not."""

Timed: TypeAlias = tuple[int, bytes]
"""An interaction as it is kept: its microsecond, and the rest as JSON."""


class Kept(msgspec.Struct, gc=False):
    """What is kept of an interaction beside its time."""

    n: str
    """What orders those of one moment, and tells equal ones apart."""
    level: int
    success: bool
    response_time_ms: float | None
    id: str | None


class _Page(msgspec.Struct, array_like=True, gc=False, frozen=True):
    number: int
    count: int
    first: int
    last: int


class _Index(msgspec.Struct, gc=False):
    """Which pages there are, oldest first. `limit` is that of whoever wrote it, `number` the last that was given."""

    limit: int
    number: int = 0
    pages: list[_Page] = []


_ENCODE: Final = msgspec.json.Encoder().encode
_KEPT: Final = msgspec.json.Decoder(Kept)
_INDEX: Final = msgspec.json.Decoder(_Index)
_ITEMS: Final = msgspec.json.Decoder(list[tuple[int, Kept]])
_RAW: Final = msgspec.json.Decoder(list[tuple[int, msgspec.Raw]])


def encoded(number: str, level: int, success: bool, took: float | None, name: str | None) -> bytes:
    """Return what is kept of an interaction. The number orders those of one moment."""
    return _ENCODE(Kept(number, level, success, took, name))


def decoded(user: str, kept: bytes) -> Kept:
    """Return what is kept of an interaction of a user, which stands among the recent ones."""
    found: Kept = _decode(_KEPT, kept, f"recent:{user}")
    return found


class Timelines:
    """Timelines that keep the newest `limit` interactions of a user."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._short = limit <= 2 * PAGE
        """Whether there are no pages: what is recorded stays where it comes."""

    # Writing

    def add(self, user: str, at: int, kept: bytes) -> list[Operation]:
        """Return what adds an interaction; the last reply is for `full`."""
        recent = f"recent:{user}"
        if self._short:
            return [ZAdd(recent, {kept: at}), ZTrim(recent, self.limit), Exists(f"pages:{user}")]
        return [ZAdd(recent, {kept: at}), ZCard(recent)]

    def full(self, reply: Reply) -> bool:
        """Return whether to `move`: of all who add, one is told so, and another soon after if that one fails."""
        if self._short:
            return bool(reply)  # Somebody had a larger limit.
        return bool(reply >= 2 * PAGE and not (reply - 2 * PAGE) % _OFTEN)

    def move(self, shard: Name, user: str) -> Steps[None]:
        """Move all but the newest into pages, and drop what is too old. `CheckError` if another did meanwhile."""
        key = f"pages:{user}"
        text, version, recent = yield Batch(shard, (Get(key), Version(key), ZRange(f"recent:{user}")))
        index = _Index(self.limit) if text is None else _index(user, text)
        stay = len(recent) if self._short else min(len(recent), PAGE)
        waiting = [(int(at), member) for member, at in recent[: len(recent) - stay][:_MOST]]
        every, made, moved = yield from _merged(shard, user, index, waiting)
        surplus = self._surplus(every, [int(at) for _, at in recent[len(recent) - stay :]])
        after = _Index(self.limit, index.number + len(made), every[surplus:])
        if after == index:
            return
        there = {page.number for page in after.pages}
        operations: list[Operation] = [Delete(_key(user, page)) for page in index.pages if page.number not in there]
        operations += (Set(_key(user, page), text) for page, text in made.items() if page.number in there)
        if moved:
            operations.append(ZRem(f"recent:{user}", [member for _, member in moved]))
        operations.append(Set(key, _ENCODE(after)) if after.pages else Delete(key))
        yield Batch(shard, operations, (Check(key, version),))

    def _surplus(self, every: Sequence[_Page], stay: Sequence[int]) -> int:
        """Return how many of the pages, the oldest, may go. `stay` are the times of what stays beside them."""
        # An eighth more is kept: whoever reads has so much time before what he is about to read goes.
        kept = self.limit if self._short else self.limit + self.limit // 8
        newer = sum(page.count for page in every)
        for count, page in enumerate(every):
            newer -= page.count
            if count == _DROPPED or newer + len(stay) - bisect_left(stay, page.last) < kept:
                return count
        return len(every)

    def whole(self, user: str, entries: Sequence[Timed]) -> dict[str, bytes | Members]:
        """Return what the keys of a user hold that has these interactions, oldest first, and no others."""
        keys: dict[str, bytes | Members] = {}
        entries = entries[-self.limit :]
        if not self._short and len(entries) >= 2 * PAGE:
            made = _cut(entries[:-PAGE], 0)
            entries = entries[-PAGE:]
            keys.update((_key(user, page), text) for page, text in made.items())
            keys[f"pages:{user}"] = _ENCODE(_Index(self.limit, len(made), list(made)))
        if entries:
            keys[f"recent:{user}"] = [(float(at), kept) for at, kept in entries]
        return keys


# Reading


def read(shard: Name, users: Sequence[str]) -> Steps[list[list[tuple[int, Kept]]]]:
    """Return the interactions of each of at most 500 users that are kept, oldest first, with their microseconds.

    How many that are was said by who recorded them.
    """
    found: dict[str, list[tuple[int, Kept]]] = {}
    missed: dict[str, list[_Page]] = {}
    while waiting := [user for user in users if user not in found]:
        questions = [each for user in waiting for each in (Get(f"pages:{user}"), ZRange(f"recent:{user}"))]
        (replies,) = yield Several([Batch(shard, questions)])
        indexes = {
            user: _Index(0) if text is None else _index(user, text)  # 0: all there is.
            for user, text in zip(waiting, replies[::2], strict=True)
        }
        asked = [(user, page) for user, index in indexes.items() for page in _newest(index)]
        batches = [Batch.gets(shard, keys) for keys in pages([_key(*each) for each in asked])]
        answers = yield Several(batches)
        texts = dict(zip(asked, itertools.chain(*answers), strict=True))
        for (user, index), members in zip(indexes.items(), replies[1::2], strict=True):
            some = _newest(index)
            gone = [page for page in some if texts[user, page] is None]
            if not gone:
                recent = [(int(at), decoded(user, member)) for member, at in members]
                found[user] = _joined(user, [(page, texts[user, page]) for page in some], recent)[-index.limit :]
            elif missed.get(user) == some:
                raise _lost(user, gone[0])
            else:
                missed[user] = some  # It was there a moment ago: others record.
    return [found[user] for user in users]


# What they are made of


def _merged(
    shard: Name, user: str, index: _Index, waiting: Sequence[Timed]
) -> Steps[tuple[list[_Page], dict[_Page, bytes], list[Timed]]]:
    """Return what pages there are with some more interactions, what the new ones hold, and which of those they have."""
    lasts = [page.last for page in index.pages]
    into: dict[int, list[Timed]] = {}
    for each in waiting:
        into.setdefault(bisect_right(lasts, each[0]), []).append(each)
    end = into.pop(len(lasts), [])
    if lasts and 0 < len(end) < PAGE // 2:
        into.setdefault(len(lasts) - 1, []).extend(end)  # Not a page of a few.
        end = []
    places = sorted(into)[-_TOUCHED:]
    texts = []
    if places:
        texts = yield Batch(shard, [Get(_key(user, index.pages[place])) for place in places])
    changed: dict[int, list[Timed]] = {}
    moved = list(end)
    for place, text in zip(places, texts, strict=True):
        if text is None:
            continue  # What belongs there stays where it is; the page is missed by who reads.
        old = _decode(_RAW, text, _key(user, index.pages[place]))
        changed[place] = sorted([*((at, bytes(raw)) for at, raw in old), *into[place]])
        moved += into[place]
    every: list[_Page] = []
    made: dict[_Page, bytes] = {}
    for place, page in enumerate(index.pages):
        new = _cut(changed[place], index.number + len(made)) if place in changed else {}
        made |= new
        every += new or [page]
    new = _cut(end, index.number + len(made))
    return [*every, *new], made | new, moved


def _cut(entries: Sequence[Timed], number: int) -> dict[_Page, bytes]:
    """Return pages of interactions, about equally many, numbered from the one after that, and what they hold."""
    made: dict[_Page, bytes] = {}
    count = max(1, round(len(entries) / PAGE)) if entries else 0
    for piece in range(count):
        some = entries[piece * len(entries) // count : (piece + 1) * len(entries) // count]
        page = _Page(number + piece + 1, len(some), some[0][0], some[-1][0])
        made[page] = b"[%b]" % b",".join([b"[%d,%b]" % each for each in some])
    return made


def _newest(index: _Index) -> list[_Page]:
    """Return the newest pages that have as many interactions together as are kept, or all."""
    count = 0
    for place in range(len(index.pages) - 1, -1, -1):
        count += index.pages[place].count
        if count >= index.limit:
            return index.pages[place:]
    return index.pages


def _joined(user: str, paged: Sequence[tuple[_Page, bytes]], recent: list[tuple[int, Kept]]) -> list[tuple[int, Kept]]:
    items = [item for page, text in paged for item in _decode(_ITEMS, text, _key(user, page))]
    ends = [(page.first, page.last) for page, _ in paged]
    ends += [(at, at) for at, _ in recent[:1]]
    items += recent
    if any(before[1] >= after[0] for before, after in itertools.pairwise(ends)):
        items.sort(key=lambda item: (item[0], item[1].n))
    return items


def _key(user: str, page: _Page) -> str:
    return f"page:{page.number}:{user}"


def _index(user: str, text: bytes) -> _Index:
    index: _Index = _decode(_INDEX, text, f"pages:{user}")
    return index


def _decode(decoder: msgspec.json.Decoder[Any], text: bytes, key: str) -> Any:
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedError(f"the key {key!r} is damaged: {error}", path=key) from error


def _lost(user: str, page: _Page) -> DamagedError:
    key = _key(user, page)
    return DamagedError(
        f"{page.count} interactions of the user {user!r} are gone: the store has no key {key!r}, where they were",
        path=key,
    )
