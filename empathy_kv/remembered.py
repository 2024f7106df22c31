"""The ids that callers gave to interactions: at least the newest `limit` of a user, so that one is counted once.

The newest are in a sorted set that stays small: when it is full, its older half moves into parts, by their hash. All of
it stands in the namespace of the user's shard::

    ids:<id>          sorted set of the newest ids, in the order in which they came
    ids_<n>:<id>      sorted set of older ones of one hash, with the scores that they had there
    parts:<id>        there if there are parts

An id is forgotten by its score, when `limit` others have come since. Those of a snapshot, which does not know in which
order they came, all have the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from empathy_kv.kv.interface import Several, Steps
from empathy_kv.kv.operations import (
    Batch,
    Check,
    Exists,
    Name,
    Operation,
    Set,
    ZAdd,
    ZAppend,
    ZCard,
    ZRange,
    ZRangeByScore,
    ZRem,
)
from empathy_kv.kv.refilling import Members

STAY: Final = 128
"""How many stay where they came, when the others move."""
PARTS: Final = 64
"""Into how many parts those go."""
_MOST: Final = 5_000
"""How many move at a time: so many that a store of before, which had no parts, is cut up soon."""
_FORGOTTEN: Final = 500
"""How many a part forgets at a time: more than can move into it, so that it stays small whatever ids are chosen."""
_OFTEN: Final = 16
"""With how many more another tries to move what one could not."""


class Remembered:
    """Remembers at least the newest `limit` ids of a user."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._stay = min(STAY, limit)

    def unknown(self, user: str, name: bytes) -> tuple[Check, ...]:
        """Return what holds if an id is not remembered."""
        return Check(f"ids:{user}", 0, name), Check(_part(user, name), 0, name)

    def add(self, user: str, name: bytes) -> list[Operation]:
        """Return what adds an id; the last reply is for `full`."""
        return [ZAppend(f"ids:{user}", (name,)), ZCard(f"ids:{user}")]

    def full(self, count: int) -> bool:
        """Return whether to `move`: of all who add, one is told so, and another soon after if that one fails."""
        return count >= 2 * self._stay and not (count - 2 * self._stay) % _OFTEN

    def move(self, shard: Name, user: str) -> Steps[None]:
        """Move all but the newest into parts, and forget what is too old. Two who do that at once do no harm."""
        (named,) = yield Batch(shard, (ZRange(f"ids:{user}"),))
        old = named[: max(0, len(named) - self._stay)][:_MOST]
        if not old:
            return
        past = named[-1][1] - self._limit
        parts = _parts(user, [(place, name) for name, place in old if place > past])
        operations: list[Operation] = [ZRem(f"ids:{user}", [name for name, _ in old])]
        if parts:
            found = yield Batch(shard, [ZRangeByScore(part, -1.0, past, limit=_FORGOTTEN) for part in parts])
            for (part, members), over in zip(parts.items(), found, strict=True):
                operations.append(ZAdd(part, {name: place for place, name in members}))
                if over:
                    operations.append(ZRem(part, [name for name, _ in over]))
            operations.append(Set(f"parts:{user}", b"1"))
        yield Batch(shard, operations)

    def whole(self, user: str, names: Sequence[bytes]) -> dict[str, bytes | Members]:
        """Return what the keys of a user hold that remember these ids, and nothing else."""
        place = 1.0
        stay = names if len(names) < 2 * self._stay else names[: self._stay]
        parts = _parts(user, [(place, name) for name in names[len(stay) :]])
        keys: dict[str, bytes | Members] = {part: sorted(members) for part, members in parts.items()}
        if stay:
            keys[f"ids:{user}"] = sorted((place, name) for name in stay)
        if parts:
            keys[f"parts:{user}"] = b"1"
        return keys


def read(shard: Name, users: Sequence[str]) -> Steps[list[list[str]]]:
    """Return the ids of each of at most 500 users that are remembered, in no particular order."""
    questions = [each for user in users for each in (ZRange(f"ids:{user}"), Exists(f"parts:{user}"))]
    (replies,) = yield Several([Batch(shard, questions)])
    named = dict(zip(users, replies[::2], strict=True))
    parted = [user for user, there in zip(users, replies[1::2], strict=True) if there]
    answers = yield Several([Batch(shard, [ZRange(f"ids_{n}:{user}") for n in range(PARTS)]) for user in parted])
    for user, parts in zip(parted, answers, strict=True):
        named[user] = [*named[user], *(each for part in parts for each in part)]
    return [[name.decode() for name, _ in named[user]] for user in users]


def _parts(user: str, ids: Iterable[tuple[float, bytes]]) -> dict[str, Members]:
    parts: dict[str, Members] = {}
    for place, name in ids:
        parts.setdefault(_part(user, name), []).append((place, name))
    return parts


def _part(user: str, name: bytes) -> str:
    # A hash that spreads whatever it is given: in ids that only count up, those for checksums leave parts empty.
    return f"ids_{hashlib.blake2b(name, digest_size=1).digest()[0] % PARTS}:{user}"
