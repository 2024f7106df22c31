"""Metrics in the namespaces of a store, spread over shards of users.

A shard is the namespace `metrics`, `<number>`; how many there are was recorded in the store by whoever came first::

    user:<id>      hash of the counters of `Totals`           total   the same, of all users of the shard
    first          sorted set of the users, by the microsecond of their first interaction
    last           sorted set of `<level> <id>`, by the microsecond of a user's last interaction at a level

The interactions one by one are in the same namespace (`timelines`), and the ids that callers gave them (`remembered`).
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

from attrs import evolve

from empathy_kv.errors import CheckError, EmpathyKVError, IdempotencyError
from empathy_kv.kv.interface import Several, Steps
from empathy_kv.kv.operations import (
    Batch,
    Check,
    Get,
    HGetAll,
    HIncrBy,
    Name,
    Operation,
    Reply,
    Set,
    ZAdd,
    ZCard,
    ZRange,
    ZScore,
)
from empathy_kv.records import LEVELS, Interaction
from empathy_kv.remembered import Remembered
from empathy_kv.timelines import Kept, Timelines, decoded, encoded, read
from empathy_kv.totals import Totals, bucket, microseconds, moment

STORE: Final = ("store",)
SHARDS: Final = "metrics_shards"


class KVMetrics:
    """Metrics in the namespaces of a store."""

    def __init__(self, shards: int, history_limit: int) -> None:
        self._default = shards
        self._shards: int | None = None
        self._timelines = Timelines(history_limit)
        self._ids = Remembered(history_limit)
        self._writer = secrets.token_hex(4)
        self._count = itertools.count()

    def _settled(self) -> Steps[int]:
        """Return over how many shards this store spreads its users: whoever recorded first has settled it."""
        while self._shards is None:
            if (yield from self._known()) == 0:
                with contextlib.suppress(CheckError):  # Another was faster.
                    yield Batch(STORE, (Set(SHARDS, b"%d" % self._default),), (Check(SHARDS, 0),))
        return self._shards

    def _known(self) -> Steps[int]:
        """Return over how many shards this store spreads its users, 0 if nothing was recorded yet."""
        if self._shards is None:
            (kept,) = yield Batch(STORE, (Get(SHARDS),))
            if kept is None:
                return 0
            self._shards = int(kept)
        return self._shards

    def record(self, interaction: Interaction, dated: bool) -> Steps[bool]:
        user, at = interaction.user_id, microseconds(interaction.at)
        took = round(interaction.response_time_ms * 1000)
        increments = {
            "count": 1,
            "success": int(interaction.success),
            "time": took,
            f"level:{interaction.level}": 1,
            f"day:{interaction.at.date().isoformat()}": 1,
            f"ms:{bucket(took)}": 1,
        }
        operations: list[Operation] = [
            HIncrBy(f"user:{user}", increments),
            HIncrBy("total", increments),
            ZAdd("first", {user.encode(): at}, "LT"),
            ZAdd("last", {at_level(user, interaction.level): at}, "GT"),
            *self._timelines.add(user, at, self._kept(interaction)),
        ]
        count = len(operations)
        checks: tuple[Check, ...] = ()
        if interaction.id is not None:
            name = interaction.id.encode()
            operations += self._ids.add(user, name)
            checks = self._ids.unknown(user, name)
        shard = shard_of(user, (yield from self._settled()))
        try:
            replies = yield Batch(shard, operations, checks)
        except CheckError:
            yield from self._compare(interaction, dated)
            return False
        # It is counted, whatever comes of what follows: another will try again.
        if self._timelines.full(replies[count - 1]):
            with contextlib.suppress(EmpathyKVError):
                yield from self._timelines.move(shard, user)
        if checks and self._ids.full(replies[-1]):
            with contextlib.suppress(EmpathyKVError):
                yield from self._ids.move(shard, user)
        return True

    def _kept(self, interaction: Interaction) -> bytes:
        """Return what is kept of an interaction, unlike any other: two equal ones are two.

        It begins with when it was recorded, which decides the order of those of the same moment.
        """
        number = f"{time.time_ns():020d}-{self._writer}-{next(self._count):012d}"
        return encoded(number, interaction.level, interaction.success, interaction.response_time_ms, interaction.id)

    def _compare(self, interaction: Interaction, dated: bool) -> Steps[None]:
        """Raise if the id was used for another interaction, as far as that is still kept."""
        kept = yield from self.history(interaction.user_id)
        for other in kept:
            if other.id == interaction.id and other != (interaction if dated else evolve(interaction, at=other.at)):
                raise IdempotencyError(
                    f"the interaction_id {interaction.id!r} was used for another interaction", id=interaction.id
                )

    def user(self, user_id: str) -> Steps[Totals]:
        (totals,) = yield from self.each((user_id,))
        return totals

    def each(self, user_ids: Sequence[str]) -> Steps[list[Totals]]:
        shards = yield from self._known()
        if not shards:
            return [Totals() for _ in user_ids]
        replies = yield Several([_figures(user_id, shards) for user_id in user_ids])
        every = [_of_user(*reply) for reply in replies]
        tied = [number for number, totals in enumerate(every) if totals.last is not None and totals.level is None]
        if tied:
            # Only what is kept one by one knows which of several levels at one moment came last, and the recent ones
            # always have the last. Otherwise they are not read: they are many times as large as the figures.
            users = [user_ids[number] for number in tied]
            replies = yield Several([_figures(user, shards, ZRange(f"recent:{user}", -1, -1)) for user in users])
            for number, (*figures, ((member, _),)) in zip(tied, replies, strict=True):
                every[number] = totals = _of_user(*figures)
                totals.level = decoded(user_ids[number], member).level
        return every

    def everyone(self) -> Steps[tuple[int, Totals]]:
        users, totals = 0, Totals()
        for counters, count, first, last in (
            yield from self._everywhere(
                (HGetAll("total"), ZCard("first"), ZRange("first", 0, 0), ZRange("last", -1, -1))
            )
        ):
            users += count
            totals.merge(totals_of(counters, first[0][1] if first else None, last[0][1] if last else None))
        return users, totals

    def users(self) -> Steps[list[str]]:
        users: list[str] = []
        for (members,) in (yield from self._everywhere((ZRange("first"),))):
            users += [member.decode() for member, _ in members]
        return users

    def _everywhere(self, operations: tuple[Operation, ...]) -> Steps[list[list[Reply]]]:
        """Return what the shards answer to operations that only read."""
        shards = yield from self._known()
        replies: list[list[Reply]] = yield Several([Batch(numbered(shard), operations) for shard in range(shards)])
        return replies

    def history(self, user_id: str) -> Steps[list[Interaction]]:
        shards = yield from self._known()
        if not shards:
            return []
        (items,) = yield from read(shard_of(user_id, shards), [user_id])
        return [_interaction(user_id, at, kept) for at, kept in items]


def _figures(user_id: str, shards: int, *more: Operation) -> Batch:
    """Return what reads the figures of a user, and what else there is to read at the same moment."""
    lasts = (ZScore("last", member) for member in at_levels(user_id))
    operations = (HGetAll(f"user:{user_id}"), ZScore("first", user_id.encode()), *lasts, *more)
    return Batch(shard_of(user_id, shards), operations)


def _of_user(fields: Mapping[str, bytes], first: float | None, *lasts: float | None) -> Totals:
    """Return the figures that it read. Their level is None if interactions at several levels were the last."""
    times = [at for at in lasts if at is not None]
    totals = totals_of(fields, first, max(times, default=None))
    if times:
        newest = [level for level, at in zip(LEVELS, lasts, strict=True) if at == max(times)]
        totals.level = newest[0] if len(newest) == 1 else None
    return totals


def at_levels(user_id: str) -> list[bytes]:
    """Return the members of `last` of a user, a level each."""
    return [at_level(user_id, level) for level in LEVELS]


def at_level(user_id: str, level: int) -> bytes:
    """Return the member of `last` of a user at a level."""
    return f"{level} {user_id}".encode()


def counters(totals: Totals) -> dict[str, bytes]:
    """Return the fields of counters."""
    fields = {"count": totals.operations, "success": totals.successes, "time": totals.microseconds}
    fields.update((f"level:{level}", count) for level, count in totals.levels.items())
    fields.update((f"day:{day}", count) for day, count in totals.days.items())
    fields.update((f"ms:{index}", count) for index, count in totals.histogram.items())
    return {name: b"%d" % count for name, count in fields.items()}


def shard_of(user_id: str, shards: int) -> Name:
    """Return the namespace of a user: for ever, whatever hash Python uses."""
    return numbered(zlib.crc32(user_id.encode()) % shards)


def numbered(number: int) -> Name:
    """Return the namespace of a shard."""
    return "metrics", f"{number:02d}"


def totals_of(fields: Mapping[str, bytes], first: float | None, last: float | None) -> Totals:
    """Return the counters of fields, and the microseconds of the first and last interaction."""
    totals = Totals(first=None if first is None else moment(first), last=None if last is None else moment(last))
    levels, days, histogram = totals.levels, totals.days, totals.histogram
    # Most are buckets: to take each name apart, and match its kind, takes longer.
    for name, value in fields.items():
        if name.startswith("ms:"):
            histogram[int(name[3:])] = int(value)
        elif name.startswith("day:"):
            days[name[4:]] = int(value)
        elif name.startswith("level:"):
            levels[int(name[6:])] = int(value)
        elif name == "count":
            totals.operations = int(value)
        elif name == "success":
            totals.successes = int(value)
        elif name == "time":
            totals.microseconds = int(value)
    return totals


def _interaction(user_id: str, at: int, kept: Kept) -> Interaction:
    return Interaction(user_id, kept.level, kept.success, kept.response_time_ms or 0.0, moment(at), kept.id)
