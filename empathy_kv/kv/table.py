"""A namespace in the memory of one process: it applies batches, all or nothing.

The memory engine is one table a namespace; the file engine is a table over documents and a journal. Whether a batch
can be done is decided before the first change (`_admit`), so applying it cannot fail half way.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from attrs import Factory, define

from empathy_kv.errors import CheckError, CounterError, CounterOverflowError, TokenError, WrongTypeError
from empathy_kv.kv.operations import (
    INTEGER_MAX,
    INTEGER_MIN,
    SCORE_MAX,
    TOKEN_AHEAD,
    TOKEN_LIFE,
    TOKEN_MEMORY,
    TTL,
    Batch,
    Check,
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
    Reply,
    Set,
    Settle,
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


def decimal(value: bytes) -> int | None:
    """Return the integer that a counter's bytes are, as Redis writes it, or None if they are none."""
    try:
        result = int(value)
    except ValueError:
        return None
    # What `int` takes besides (spaces, signs, underscores, leading zeros) is written in another way than it came.
    return result if INTEGER_MIN <= result <= INTEGER_MAX and b"%d" % result == value else None


class SortedSet:
    """Members with scores, in the order of score, then bytes."""

    __slots__ = ("log", "order", "scores")

    def __init__(self, pairs: Sequence[tuple[float, bytes]] = ()) -> None:
        self.log: list[tuple[bytes, float | None]] | None = None
        """Members whose score changed, and what it was, while somebody may want them back."""
        self.order: list[tuple[float, bytes]] = sorted(pairs)
        self.scores: dict[bytes, float] = {member: score for score, member in self.order}

    def __len__(self) -> int:
        return len(self.order)

    def copy(self) -> SortedSet:
        """Return a set of its own."""
        twin = SortedSet()
        twin.order = self.order.copy()
        twin.scores = self.scores.copy()
        return twin

    def put(self, member: bytes, score: float) -> bool:
        """Give a member its score and return whether it is new."""
        old = self.scores.get(member)
        if old == score:
            return False
        if self.log is not None:
            self.log.append((member, old))
        if old is not None:
            del self.order[bisect_left(self.order, (old, member))]
        self.scores[member] = score
        insort(self.order, (score, member))
        return old is None

    def remove(self, member: bytes) -> bool:
        """Remove a member and return whether it was there."""
        score = self.scores.pop(member, None)
        if score is None:
            return False
        if self.log is not None:
            self.log.append((member, score))
        del self.order[bisect_left(self.order, (score, member))]
        return True

    def trim(self, keep: int) -> int:
        """Keep the last `keep` members and return how many were removed."""
        surplus = max(0, len(self.order) - keep)
        if self.log is not None:
            self.log.extend((member, score) for score, member in self.order[:surplus])
        for _, member in self.order[:surplus]:
            del self.scores[member]
        del self.order[:surplus]
        return surplus

    def undo(self, mark: int) -> None:
        """Take back what the log has from `mark` on."""
        log, self.log = self.log, None
        assert log is not None  # noqa: S101 - whoever has a mark has begun it
        while len(log) > mark:
            member, score = log.pop()
            if score is None:
                self.remove(member)
            else:
                self.put(member, score)
        self.log = log


Content: TypeAlias = bytes | dict[str, bytes] | SortedSet

KINDS: Final[dict[type, str]] = {bytes: "string", dict: "hash", SortedSet: "zset"}


@define
class Entry:
    """What a key holds; `expires` in milliseconds since 1970."""

    content: Content
    version: int
    expires: int | None = None

    @property
    def kind(self) -> str:
        """The name of the kind of content, in Redis's words."""
        return KINDS[type(self.content)]


@define
class Slot:
    """The last write of a slot. `replies` None: it was settled as not applied."""

    sequence: int
    digest: object
    replies: list[Reply] | None


@define
class Session:
    """The slots of one writer."""

    slots: dict[int, Slot]
    used: int


@define
class Foreseen:
    """What a batch will have made of a key, as far as that decides whether the rest of it can be done."""

    kind: str | None
    content: Content | None
    """What is left of what the key held before."""
    values: dict[str | None, bytes | None] = Factory(dict)
    """Fields that it changes (None is a value), and None for one that it removes."""
    highest: float = 0.0
    """A score that no member which it adds exceeds."""

    def set(self, operation: Set) -> None:
        self.kind, self.content, self.values, self.highest = "string", None, {None: operation.value}, 0.0

    def delete(self, _: Delete) -> None:
        self.kind, self.content, self.values, self.highest = None, None, {}, 0.0

    def hset(self, operation: HSet) -> None:
        self.kind = "hash"
        self.values.update(operation.fields)

    def hdel(self, operation: HDel) -> None:
        self.values.update(dict.fromkeys(operation.fields))

    def incrby(self, operation: IncrBy) -> None:
        self.kind = "string"
        self.values.update(sums(operation, self.values, self.content))

    def hincrby(self, operation: HIncrBy) -> None:
        self.kind = "hash"
        self.values.update(sums(operation, self.values, self.content))

    def zadd(self, operation: ZAdd) -> None:
        self.kind = "zset"
        self.highest = max(self.highest, *operation.members.values())

    def zappend(self, operation: ZAppend) -> None:
        self.kind = "zset"
        content: Any = self.content
        highest = max(self.highest, content.order[-1][0]) if content else self.highest
        if highest > SCORE_MAX - len(operation.members):
            raise exhausted(operation.key)
        self.highest = highest + len(operation.members)


class Writers:
    """What a namespace remembers of its writers: of each slot the last write. The caller serialises the calls."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}

    def recall(self, token: Token, now: int, digest: object) -> list[Reply] | None:
        """Return the replies of a batch that was executed, None for a new one."""
        slot = self._slot(token)
        if slot is None or slot.sequence < token.sequence:
            self._require_current(token, now)
            return None
        if slot.sequence > token.sequence:
            raise refused_token("passed", token)
        if slot.replies is None:
            raise refused_token("void", token)
        if slot.digest != digest:
            raise refused_token("reused", token)
        return _copies(slot.replies)

    def settle(self, token: Token, now: int) -> tuple[list[Reply], bool]:
        """Answer a `Settle`; return the replies and whether something is to be remembered that was not before."""
        slot = self._slot(token)
        if slot is not None and slot.sequence == token.sequence:
            return [slot.replies is not None], False
        if slot is not None and slot.sequence > token.sequence:
            raise refused_token("passed", token)
        self._require_current(token, now)
        self.remember(token, now, Slot(token.sequence, None, None))
        return [False], True

    def remember(self, token: Token, now: int, slot: Slot) -> None:
        """Keep the last write of a slot, and forget the writers that have been silent for `TOKEN_MEMORY`."""
        session = self.sessions.get(token.session)
        if session is None:
            self.forget(now)
            session = self.sessions[token.session] = Session({}, now)
        session.used = now
        session.slots[token.slot] = slot

    def forget(self, now: int) -> None:
        """Forget the writers that have been silent for `TOKEN_MEMORY`."""
        for name in [name for name, session in self.sessions.items() if session.used + TOKEN_MEMORY < now]:
            del self.sessions[name]

    def _slot(self, token: Token) -> Slot | None:
        session = self.sessions.get(token.session)
        return None if session is None else session.slots.get(token.slot)

    @staticmethod
    def _require_current(token: Token, now: int) -> None:
        if token.issued + TOKEN_LIFE <= now:
            raise refused_token("old", token)
        if token.issued > now + TOKEN_AHEAD:
            raise refused_token("ahead", token)


class Table(Writers):
    """The keys of a namespace, its revision, and what it remembers of its writers. The caller serialises the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.revision = 0
        self._entries: dict[str, Entry] = {}
        self._expiring: list[tuple[int, str]] = []
        self._due: dict[str, int] = {}

    # Where entries are kept: what a table over documents does in its own way.

    def find(self, key: str) -> Entry | None:
        """Return the entry of a key, expired or not."""
        return self._entries.get(key)

    def store(self, key: str, entry: Entry) -> None:
        """Keep an entry."""
        self._entries[key] = entry

    def drop(self, key: str) -> None:
        """Forget a key."""
        self._entries.pop(key, None)

    def replace(self, key: str, entry: Entry) -> None:
        """Keep an entry that was made without a look at what the key held."""
        self.store(key, entry)

    def erase(self, key: str) -> None:
        """Forget a key because it was deleted, without a look at what it held."""
        self.drop(key)

    def items(self) -> Iterator[tuple[str, Entry]]:
        """Yield the keys that are kept, expired or not, and their entries."""
        return iter(list(self._entries.items()))

    def copy(self) -> Table:
        """Return a table with the same keys, which changes of this one do not reach. It remembers no writers."""
        twin = Table()
        for key, entry in self._entries.items():
            content = entry.content
            twin._entries[key] = Entry(
                content if isinstance(content, bytes) else content.copy(), entry.version, entry.expires
            )
        return twin

    # Execution

    def live(self, key: str, now: int) -> Entry | None:
        """Return the entry of a key unless it has expired."""
        entry = self.find(key)
        return None if entry is None or (entry.expires is not None and entry.expires <= now) else entry

    def there(self, key: str, now: int) -> bool:
        """Return whether there is something to delete."""
        return self.live(key, now) is not None

    def execute(self, batch: Batch, now: int, digest: object) -> tuple[list[Reply], bool]:
        """Apply a batch at a time; return its replies and whether anything was written.

        `digest` stands for the content of the batch: equal for equal batches.
        """
        if batch.operations and isinstance(batch.operations[0], Settle):
            return self.settle(batch.operations[0].token, now)
        token = batch.token
        if token is not None:
            replies = self.recall(token, now, digest)
            if replies is not None:
                return replies, False
        self.admit(batch, now)
        if not batch.writes:
            return self.apply(batch.operations, now), False
        self.revision += 1
        replies = self.apply(batch.operations, now)
        if token is not None:
            self.remember(token, now, Slot(token.sequence, digest, _copies(replies)))
        return replies, True

    def apply(self, operations: Sequence[Any], now: int) -> list[Reply]:
        """Do operations that were admitted."""
        return [_APPLY[type(operation)](self, operation, now) for operation in operations]

    # Admission

    def admit(self, batch: Batch, now: int) -> None:
        """Raise if the batch cannot be done; otherwise applying it cannot fail."""
        operations: Any = batch.operations  # A Settle stands alone.
        if len(operations) == 1 and not batch.checks:
            self._admit(operations[0], now)
            return
        for check in batch.checks:
            self._test(check, now)
        once: set[str] = set()
        again: set[str] = set()
        for operation in operations:
            (again if operation.key in once else once).add(operation.key)
        foreseen: dict[str, Foreseen] = {}
        for operation in operations:
            if operation.key not in again:
                self._admit(operation, now)
                continue
            known = foreseen.get(operation.key)
            if known is None:
                known = foreseen[operation.key] = self._known(operation, now)
            if known.kind is not None and operation.kind is not None and known.kind != operation.kind:
                raise wrong_type(operation, known.kind)
            foresee = _FORESEE.get(type(operation))
            if foresee is not None:
                foresee(known, operation)

    def _admit(self, operation: Any, now: int) -> None:
        """Raise if an operation cannot be done that has its key for itself.

        It is what the general way comes to: to foresee costs as much again as all that counting one more does.
        """
        kind = type(operation)
        if kind is Set:
            return
        if kind is Delete:
            self.there(operation.key, now)
            return
        entry = self.live(operation.key, now)
        if entry is None:
            return  # Whatever is counted begins at 0, and an increment is within bounds.
        content: Any = entry.content
        if operation.kind is not None and operation.kind != entry.kind:
            raise wrong_type(operation, entry.kind)
        if kind is HIncrBy:
            if not all(map(plainly_counts, map(content.get, operation.increments), operation.increments.values())):
                sums(operation, {}, content)
        elif kind is IncrBy:
            if not plainly_counts(content, operation.increment):
                sums(operation, {}, content)
        elif kind is ZAppend and content.order and content.order[-1][0] > SCORE_MAX - len(operation.members):
            raise exhausted(operation.key)

    def _known(self, operation: Any, now: int) -> Foreseen:
        """Return what there is to know of a key before the first operation on it."""
        if type(operation) in _BLIND:
            if type(operation) is Delete:
                self.there(operation.key, now)  # What it has to look at is looked at before anything is written.
            return Foreseen(None, None)
        entry = self.live(operation.key, now)
        return Foreseen(None, None) if entry is None else Foreseen(entry.kind, entry.content)

    def _test(self, check: Check, now: int) -> None:
        entry = self.live(check.key, now)
        if check.member is not None:
            if entry is not None and not isinstance(entry.content, SortedSet):
                raise WrongTypeError(
                    f"{check.key!r} holds a {entry.kind}; a member is checked in a zset",
                    key=check.key,
                    kind=entry.kind,
                )
            actual = -int(entry is not None and check.member in entry.content.scores)  # type: ignore[union-attr]
        elif entry is None:
            actual = 0
        elif check.version and entry.kind != "string":
            raise WrongTypeError(
                f"{check.key!r} holds a {entry.kind}; only values have versions",
                key=check.key,
                kind=entry.kind,
            )
        else:
            actual = entry.version if entry.kind == "string" else -1
        if actual == 0 if check.version is None else actual != check.version:
            raise refused(check, actual)

    # What the operations do; each is a function of the table, the operation and the time

    def _get(self, operation: Get, now: int) -> Reply:
        entry = self.live(operation.key, now)
        return None if entry is None else entry.content

    def _version(self, operation: Version, now: int) -> Reply:
        entry = self.live(operation.key, now)
        return 0 if entry is None else entry.version

    def _set(self, operation: Set, now: int) -> Reply:
        expires = None
        if operation.ttl is not None:
            expires = now + milliseconds(operation.ttl)
            self._expire_later(operation.key, expires, now)
        elif self._due:
            self._never(operation.key)
        self.replace(operation.key, Entry(operation.value, self.revision, expires))
        return self.revision

    def _incrby(self, operation: IncrBy, now: int) -> Reply:
        entry = self._own(operation.key, bytes, b"0", now)
        total = int(entry.content) + operation.increment  # type: ignore[arg-type]
        entry.content = b"%d" % total
        return total

    def _delete(self, operation: Delete, now: int) -> Reply:
        there = self.there(operation.key, now)
        self._never(operation.key)
        self.erase(operation.key)
        return there

    def _exists(self, operation: Exists, now: int) -> Reply:
        return self.live(operation.key, now) is not None

    def _ttl(self, operation: TTL, now: int) -> Reply:
        entry = self.live(operation.key, now)
        if entry is None:
            return 0.0
        return None if entry.expires is None else (entry.expires - now) / 1000

    def _expire(self, operation: Expire, now: int) -> Reply:
        entry = self.live(operation.key, now)
        if entry is None:
            return False
        entry = self._own(operation.key, type(entry.content), entry.content, now, versioned=False)
        entry.expires = None
        if operation.ttl is not None:
            entry.expires = now + milliseconds(operation.ttl)
            self._expire_later(operation.key, entry.expires, now)
        else:
            self._never(operation.key)
        return True

    def _hget(self, operation: HGet, now: int) -> Reply:
        entry = self.live(operation.key, now)
        return None if entry is None else entry.content.get(operation.field)  # type: ignore[union-attr]

    def _hgetall(self, operation: HGetAll, now: int) -> Reply:
        entry = self.live(operation.key, now)
        return {} if entry is None else dict(entry.content)  # type: ignore[arg-type]

    def _hset(self, operation: HSet, now: int) -> Reply:
        fields: Any = self._own(operation.key, dict, {}, now).content
        before = len(fields)
        fields.update(operation.fields)
        return len(fields) - before

    def _hdel(self, operation: HDel, now: int) -> Reply:
        if self.live(operation.key, now) is None:
            return 0
        fields: Any = self._own(operation.key, dict, {}, now).content
        removed = sum(fields.pop(name, None) is not None for name in operation.fields)
        if not fields:
            self._remove(operation.key)
        return removed

    def _hincrby(self, operation: HIncrBy, now: int) -> Reply:
        fields: Any = self._own(operation.key, dict, {}, now).content
        sums = {}
        for name, increment in operation.increments.items():
            sums[name] = total = int(fields.get(name, b"0")) + increment
            fields[name] = b"%d" % total
        return sums

    def _zadd(self, operation: ZAdd, now: int) -> Reply:
        members: Any = self._own(operation.key, SortedSet, None, now).content
        added = 0
        for member, score in operation.members.items():
            old = members.scores.get(member)
            if (
                old is None
                or operation.only is None
                or (operation.only == "GT" and score > old)
                or (operation.only == "LT" and score < old)
            ):
                added += members.put(member, score)
        return added

    def _zappend(self, operation: ZAppend, now: int) -> Reply:
        members: Any = self._own(operation.key, SortedSet, None, now).content
        score = max(members.order[-1][0], -SCORE_MAX) if members.order else 0.0
        for member in operation.members:
            score += 1
            members.put(member, score)
        return score

    def _zrange(self, operation: ZRange, now: int) -> Reply:
        order = self._order(operation.key, now)
        start = max(0, operation.start + len(order) if operation.start < 0 else operation.start)
        stop = operation.stop + len(order) if operation.stop < 0 else operation.stop
        return [(member, score) for score, member in order[start : max(start, stop + 1)]]

    def _zrangebyscore(self, operation: ZRangeByScore, now: int) -> Reply:
        order = self._order(operation.key, now)
        start = bisect_left(order, operation.minimum, key=_score)
        stop = bisect_right(order, operation.maximum, key=_score)
        if operation.limit is not None:
            stop = min(stop, start + operation.limit)
        return [(member, score) for score, member in order[start:stop]]

    def _zscore(self, operation: ZScore, now: int) -> Reply:
        entry = self.live(operation.key, now)
        return None if entry is None else entry.content.scores.get(operation.member)  # type: ignore[union-attr]

    def _zcard(self, operation: ZCard, now: int) -> Reply:
        return len(self._order(operation.key, now))

    def _zrem(self, operation: ZRem, now: int) -> Reply:
        if self.live(operation.key, now) is None:
            return 0
        members: Any = self._own(operation.key, SortedSet, None, now).content
        removed = sum(members.remove(member) for member in operation.members)
        if not members:
            self._remove(operation.key)
        return removed

    def _ztrim(self, operation: ZTrim, now: int) -> Reply:
        if self.live(operation.key, now) is None:
            return 0
        members: Any = self._own(operation.key, SortedSet, None, now).content
        removed = members.trim(operation.keep)
        if not members:
            self._remove(operation.key)
        return removed

    def _order(self, key: str, now: int) -> list[tuple[float, bytes]]:
        entry = self.live(key, now)
        return [] if entry is None else entry.content.order  # type: ignore[union-attr]

    def _own(self, key: str, kind: type, initial: Any, now: int, *, versioned: bool = True) -> Entry:
        """Return the entry to be changed in place: the live one, or a new one."""
        entry = self.live(key, now)
        if entry is None:
            entry = Entry(kind() if initial is None else initial, self.revision)
        if versioned:
            entry.version = self.revision
        self.store(key, entry)
        return entry

    def _remove(self, key: str) -> None:
        self._never(key)
        self.drop(key)

    # Keys that are to expire, so that one that is never asked for again goes too. `_due` has each once, with a time not
    # after its expiry; `_expiring` is a heap of these, and of some that no longer hold. A table over documents notes
    # none: what it dropped besides what a batch says would be in no journal.

    def _never(self, key: str) -> None:
        """Note that a key does not expire."""
        if self._due.pop(key, None) is not None:
            self._tidy()

    def _expire_later(self, key: str, expires: int, now: int) -> None:
        """Drop a few keys that have expired, and note an expiry."""
        for _ in range(4):
            if not self._expiring or self._expiring[0][0] > now:
                break
            at, name = heapq.heappop(self._expiring)
            if self._due.get(name) != at:
                continue
            del self._due[name]
            entry = self.find(name)
            if entry is None or entry.expires is None:
                continue
            if expired(entry, now):
                self.drop(name)
            else:
                self._due_at(name, entry.expires)
        due = self._due.get(key)
        if due is None or expires < due:  # A later one is noted when this one is due.
            self._due_at(key, expires)

    def _due_at(self, key: str, at: int) -> None:
        self._due[key] = at
        heapq.heappush(self._expiring, (at, key))
        self._tidy()

    def _tidy(self) -> None:
        """Make the heap anew when most of it no longer holds."""
        if len(self._expiring) > 2 * len(self._due) + 64:
            self._expiring = [(at, key) for key, at in self._due.items()]
            heapq.heapify(self._expiring)


def _copies(replies: list[Reply]) -> list[Reply]:
    """Return replies that the caller may change without changing what is remembered."""
    return [reply.copy() if isinstance(reply, (dict, list)) else reply for reply in replies]


def expired(entry: Entry, now: int) -> bool:
    """Return whether an entry has expired."""
    return entry.expires is not None and entry.expires <= now


def plainly_counts(value: bytes | None, increment: int) -> bool:
    """Return whether a counter can certainly be raised, as most can; `sums`, which tells of all, costs more."""
    if value is None:
        return True
    return (
        len(value) < 18
        and value.isdigit()
        and (value[0] != 48 or value == b"0")  # 48 is the digit 0.
        and -_MODERATE < increment < _MODERATE
    )


_MODERATE: Final = 2**62
"""What may be added to a number of 17 digits, whatever it is."""


def sums(
    operation: IncrBy | HIncrBy, known: Mapping[str | None, bytes | None], content: Any
) -> dict[str | None, bytes | None]:
    """Return what the fields that are counted (None is a value) will be: `known` goes before the content.

    Raises `CounterError` and `CounterOverflowError`.
    """
    if isinstance(operation, IncrBy):
        increments: Mapping[Any, int] = {None: operation.increment}
        content = {None: content}
    else:
        increments = operation.increments
    result: dict[str | None, bytes | None] = {}
    for field, increment in increments.items():
        value = known[field] if field in known else None if content is None else content.get(field)
        number = 0 if value is None else decimal(value)
        if number is None:
            raise counter(operation.key, field)
        if not INTEGER_MIN <= number + increment <= INTEGER_MAX:
            raise overflow(operation.key, field)
        result[field] = b"%d" % (number + increment)
    return result


def wrong_type(operation: Any, kind: str) -> WrongTypeError:
    """Return the error of an operation on a key that holds something else."""
    return WrongTypeError(
        f"{operation.key!r} holds a {kind}; {type(operation).__name__} works on a {operation.kind}",
        key=operation.key,
        kind=kind,
    )


def refused(check: Check, actual: int, what: str = "") -> CheckError:
    """Return the error of a precondition that did not hold. `actual` -1: it is there, and has no version.

    `what`: what the caller takes the key for, as "document".
    """
    it = repr(check.key) if check.member is None else f"member {check.member!r} of {check.key!r}"
    it = f"{what} {it}".lstrip()
    there = f"has version {actual}" if actual > 0 else "is there"
    if check.version is None:
        message = f"{it} is absent, and was to be there"
    elif check.version == 0:
        message = f"{it} {there}, and was to be absent: somebody else wrote it"
    elif actual == 0:
        message = f"{it} is absent, and was to have version {check.version}: somebody else deleted it, or it expired"
    else:
        message = f"{it} {there}, not {check.version}: somebody else wrote it"
    return CheckError(message, key=check.key, expected=check.version, actual=actual)


def counter(key: str, field: str | None) -> CounterError:
    """Return the error of an increment of what is no integer."""
    where = repr(key) if field is None else f"field {field!r} of {key!r}"
    return CounterError(f"{where} does not hold a 64-bit integer", key=key, field=field)


def overflow(key: str, field: str | None) -> CounterOverflowError:
    """Return the error of an increment beyond 64 bits."""
    where = repr(key) if field is None else f"field {field!r} of {key!r}"
    return CounterOverflowError(f"{where} would leave the range of 64-bit integers", key=key, field=field)


def exhausted(key: str) -> CounterOverflowError:
    """Return the error of a `ZAppend` for which there are no scores left."""
    return CounterOverflowError(
        f"{key!r} would get a score above 2**53, where no next one is exact", key=key, field=None
    )


_TOKENS: Final = {
    "old": "the token is too old to be used; make the batch anew",
    "ahead": "the token was issued too far ahead of the store's clock",
    "passed": "the writer of the token went on with a later one",
    "void": "the token was settled as not applied; make the batch anew",
    "reused": "the token was used for another batch",
}


def refused_token(why: str, token: Token | None) -> TokenError:
    """Return the error of a token that cannot be used."""
    return TokenError(_TOKENS[why], token=token)


def _score(item: tuple[float, bytes]) -> float:
    return item[0]


_BLIND: Final = frozenset((Set, Delete))
"""Operations that need not know what the key holds."""
_FORESEE: Final[dict[type, Callable[[Foreseen, Any], None]]] = {
    Set: Foreseen.set,
    Delete: Foreseen.delete,
    HSet: Foreseen.hset,
    HDel: Foreseen.hdel,
    IncrBy: Foreseen.incrby,
    HIncrBy: Foreseen.hincrby,
    ZAdd: Foreseen.zadd,
    ZAppend: Foreseen.zappend,
}
_APPLY: Final[dict[type, Callable[[Table, Any, int], Reply]]] = {
    Get: Table._get,
    Version: Table._version,
    Set: Table._set,
    IncrBy: Table._incrby,
    Delete: Table._delete,
    Exists: Table._exists,
    TTL: Table._ttl,
    Expire: Table._expire,
    HGet: Table._hget,
    HGetAll: Table._hgetall,
    HSet: Table._hset,
    HDel: Table._hdel,
    HIncrBy: Table._hincrby,
    ZAdd: Table._zadd,
    ZAppend: Table._zappend,
    ZRange: Table._zrange,
    ZRangeByScore: Table._zrangebyscore,
    ZScore: Table._zscore,
    ZCard: Table._zcard,
    ZRem: Table._zrem,
    ZTrim: Table._ztrim,
}
