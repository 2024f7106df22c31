"""The operations, as data.

A `Batch` names one namespace and holds operations, preconditions (`Check`) and, for a write, its `Token`. An engine
executes all of it or none of it. Everything is checked when it is built, so a batch that exists is well formed and
within the limits below, which are the same on every engine.

The words are those of Redis. Keys and fields are text, values and members of sorted sets are bytes, counters are
64-bit integers, scores are finite floats. A key that is absent, expired or deleted gives the same reply everywhere,
which each class states. A hash or sorted set that loses its last element is absent.

A namespace has a revision. It rises by one with each batch that was applied and has an operation that writes, be it the
deletion of an absent key; the version of a value is the revision that wrote it. What changes a key in place (`IncrBy`,
and all of hashes and sorted sets) keeps its expiry, `Set` replaces it, and `Expire` keeps the version.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Final, Literal, TypeAlias, TypeVar

from attrs import field as attribute
from attrs import frozen

from empathy_kv.errors import ArgumentError, ArgumentTypeError, LimitError

MAX_KEY: Final = 1024
"""Bytes of a key or a field, in UTF-8."""
MAX_NAME: Final = 512
"""Bytes of a namespace's name, in UTF-8, all parts together."""
MAX_VALUE: Final = 16 * 1024 * 1024
"""Bytes of a value, of a field's value, or of a member of a sorted set."""
MAX_OPERATIONS: Final = 10_000
"""Operations and preconditions of one batch; also fields or members of one operation."""
MAX_BATCH: Final = 64 * 1024 * 1024
"""Bytes of all keys, fields, members and values of one batch."""
PAGE: Final = 500
"""Items that one batch of a bulk call takes."""
MAX_TTL: Final = 100 * 366 * 86400.0
"""Seconds that a key may live; for longer, use None."""
INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**63 - 1
SCORE_MAX: Final = 2.0**53
"""The greatest score that `ZAppend` gives; above it, one more is no other number."""

Name: TypeAlias = tuple[str, ...]
"""The name of a namespace: one or more texts. (`"a"`, `"b/c"`) and (`"a/b"`, `"c"`) are two namespaces."""

Reply: TypeAlias = Any
"""What an operation answers; its class says the type."""

I = TypeVar("I")  # noqa: E741 - an item
K = TypeVar("K")
V = TypeVar("V")


_put: Final = object.__setattr__
"""What sets an attribute of a frozen object while it is made."""


# Checks of arguments: each returns what it was given, or raises.


def text(value: object, argument: str, limit: int = MAX_KEY) -> str:
    """Return `value` if it is a text of 1 to `limit` bytes that UTF-8 can express."""
    if type(value) is str and 0 < len(value) <= limit and value.isascii():
        return value  # What all of the following comes to for most.
    if not isinstance(value, str):
        raise ArgumentTypeError(f"{argument} must be a str, not {type(value).__name__}", argument=argument)
    if value.isascii():
        size = len(value)
    else:
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise ArgumentError(
                f"{argument} must be valid Unicode; {value!r} holds a lone surrogate", argument=argument
            ) from None
    if size == 0:
        raise ArgumentError(f"{argument} must not be empty", argument=argument)
    if size > limit:
        raise LimitError(
            f"{argument} must be at most {limit} bytes of UTF-8, not {size}", argument=argument, limit=limit
        )
    return value if type(value) is str else str.__str__(value)  # A member of an enumeration is its text.


def octets(value: object, argument: str) -> bytes:
    """Return `value` as bytes if it is bytes-like and at most `MAX_VALUE` long."""
    if type(value) is not bytes:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise ArgumentTypeError(f"{argument} must be bytes, not {type(value).__name__}", argument=argument)
        value = bytes(value)
    if len(value) > MAX_VALUE:
        raise LimitError(
            f"{argument} must be at most {MAX_VALUE} bytes, not {len(value)}",
            argument=argument,
            limit=MAX_VALUE,
        )
    return value


def integer(value: object, argument: str, minimum: int = INTEGER_MIN, maximum: int = INTEGER_MAX) -> int:
    """Return `value` if it is an int (a bool is none) from `minimum` to `maximum`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ArgumentTypeError(f"{argument} must be an int, not {type(value).__name__}", argument=argument)
    if not minimum <= value <= maximum:
        raise ArgumentError(f"{argument} must be from {minimum} to {maximum}, not {value}", argument=argument)
    return value if type(value) is int else int(value)


def number(
    value: object,
    argument: str,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    *,
    infinite: bool = False,
) -> float:
    """Return `value` as a float if it is a number from `minimum` to `maximum`, and finite unless `infinite`."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ArgumentTypeError(f"{argument} must be a number, not {type(value).__name__}", argument=argument)
    try:
        result = float(value)
    except OverflowError:
        result = math.nan
    if math.isnan(result) or not (infinite or math.isfinite(result)) or not minimum <= result <= maximum:
        bounds = "" if minimum == -math.inf and maximum == math.inf else f" from {minimum:g} to {maximum:g}"
        raise ArgumentError(f"{argument} must be a finite number{bounds}, not {value}", argument=argument)
    return result


def boolean(value: object, argument: str) -> bool:
    """Return `value` if it is a bool."""
    if not isinstance(value, bool):
        raise ArgumentTypeError(f"{argument} must be a bool, not {type(value).__name__}", argument=argument)
    return value


def seconds(value: object, argument: str = "ttl") -> float | None:
    """Return a time to live in seconds, rounded up to whole milliseconds, which is what engines keep.

    It must be more than 0 and at most `MAX_TTL`. None is no expiry; a timedelta is converted.
    """
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    result = number(value, argument)
    if not 0 < result <= MAX_TTL:
        raise ArgumentError(
            f"{argument} must be more than 0 and at most {MAX_TTL:g} seconds, or None, not {value}",
            argument=argument,
        )
    return milliseconds(result) / 1000


def milliseconds(ttl: float) -> int:
    """Return a time to live in whole milliseconds, rounded up, so that a short one never becomes 0."""
    # Not by `ceil(ttl * 1000)`: 16.1 * 1000 is a little more than 16100.
    whole = round(ttl * 1000)
    return whole if whole / 1000 >= ttl else whole + 1


def entries(value: object, argument: str) -> dict[Any, Any]:
    """Return a copy of `value` if it is a mapping of 1 to `MAX_OPERATIONS` entries."""
    if type(value) is not dict and not isinstance(value, Mapping):
        raise ArgumentTypeError(f"{argument} must be a mapping, not {type(value).__name__}", argument=argument)
    if not 1 <= len(value) <= MAX_OPERATIONS:
        raise LimitError(
            f"{argument} must hold 1 to {MAX_OPERATIONS} entries, not {len(value)}",
            argument=argument,
            limit=MAX_OPERATIONS,
        )
    return dict(value)


def several(value: object, argument: str) -> tuple[Any, ...]:
    """Return `value` as a tuple if it is an iterable (a str or bytes is none) of 1 to `MAX_OPERATIONS` items."""
    if isinstance(value, (str, bytes, bytearray)) or not isinstance(value, Iterable):
        raise ArgumentTypeError(f"{argument} must be a list, not {type(value).__name__}", argument=argument)
    result = tuple(value)
    if not 1 <= len(result) <= MAX_OPERATIONS:
        raise LimitError(
            f"{argument} must hold 1 to {MAX_OPERATIONS} items, not {len(result)}",
            argument=argument,
            limit=MAX_OPERATIONS,
        )
    return result


def _key(value: str) -> str:
    if type(value) is str and 0 < len(value) <= MAX_KEY and value.isascii():
        return value  # What `text` comes to: every operation has a key, and the call costs as much as the rest.
    return text(value, "key")


def _value(value: bytes) -> bytes:
    return octets(value, "value")


@functools.lru_cache(maxsize=1024)
def _checked(parts: Name) -> Name:
    parts = tuple(text(part, "namespace", MAX_NAME) for part in parts)
    size = sum(len(part.encode()) for part in parts)
    if size > MAX_NAME:
        raise LimitError(
            f"namespace must be at most {MAX_NAME} bytes of UTF-8, not {size}", argument="namespace", limit=MAX_NAME
        )
    return parts


def named(value: Name) -> Name:
    """Return the name of a namespace if it is one: a tuple of texts, `MAX_NAME` bytes in all."""
    if type(value) is not tuple or not value:
        raise ArgumentTypeError("namespace must be a tuple of one or more str", argument="namespace")
    try:
        return _checked(value)
    except TypeError:  # Something unhashable is among the parts.
        return _checked.__wrapped__(value)


def _listed(value: Iterable[I], argument: str) -> tuple[I, ...]:
    if not isinstance(value, Iterable):
        raise ArgumentTypeError(f"{argument} must be a list, not {type(value).__name__}", argument=argument)
    return tuple(value)


def _operations(value: Iterable[Operation | Settle]) -> tuple[Operation | Settle, ...]:
    return value if type(value) is tuple else _listed(value, "operations")


def _checks(value: Iterable[Check]) -> tuple[Check, ...]:
    checks = value if type(value) is tuple else _listed(value, "checks")
    for check in checks:
        if not isinstance(check, Check):
            raise ArgumentTypeError(f"checks must be checks, not {type(check).__name__}", argument="checks")
    return checks


# What has no order is put in one, so that the same content is the same bytes on every engine.


def _sorted(items: dict[K, V]) -> dict[K, V]:
    return items if len(items) == 1 else dict(sorted(items.items()))


def _fields(value: Mapping[str, bytes]) -> Mapping[str, bytes]:
    return _sorted({text(k, "field"): octets(v, "value") for k, v in entries(value, "fields").items()})


def _increments(value: Mapping[str, int]) -> Mapping[str, int]:
    items = entries(value, "increments")
    for k, v in items.items():
        # What `text` and `integer` come to: the calls cost more than counting.
        if not (
            type(k) is str
            and type(v) is int
            and k.isascii()
            and k
            and len(k) <= MAX_KEY
            and INTEGER_MIN <= v <= INTEGER_MAX
        ):
            items = {text(k, "field"): integer(v, "increment") for k, v in items.items()}
            break
    return _sorted(items)


def _scores(value: Mapping[bytes, float]) -> Mapping[bytes, float]:
    if type(value) is dict and len(value) == 1:
        ((member, score),) = value.items()
        if type(member) is bytes and len(member) <= MAX_VALUE and type(score) is int and abs(score) <= SCORE_MAX:
            return {member: float(score)}  # What the general way comes to, for a time, which most scores are.
    return _sorted({octets(k, "member"): _score(v) for k, v in entries(value, "members").items()})


def _score(value: float) -> float:
    return number(value, "score") + 0.0  # -0.0 becomes 0.0.


def _members(value: Iterable[bytes]) -> tuple[bytes, ...]:
    if type(value) is tuple and len(value) == 1 and type(value[0]) is bytes and len(value[0]) <= MAX_VALUE:
        return value  # What the general way comes to, for a record of one, which is most of them.
    return tuple(dict.fromkeys(octets(item, "member") for item in several(value, "members")))


def _member_set(value: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(sorted({octets(item, "member") for item in several(value, "members")}))


def _field_set(value: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({text(item, "field") for item in several(value, "fields")}))


def _member(value: bytes) -> bytes:
    return octets(value, "member")


def _optional_member(value: bytes | None) -> bytes | None:
    return None if value is None else octets(value, "member")


def _field(value: str) -> str:
    return text(value, "field")


def _increment(value: int) -> int:
    return integer(value, "increment")


def _bound(value: float) -> float:
    return number(value, "score", infinite=True) + 0.0


def _rank(value: int) -> int:
    return integer(value, "rank")


def _condition(value: object) -> Any:
    if value is None:
        return None
    if not isinstance(value, str) or value not in ("NX", "GT", "LT"):
        raise ArgumentError(f"only must be 'NX', 'GT', 'LT' or None, not {value!r}", argument="only")
    return str.__str__(value)


def _keep(value: int) -> int:
    return integer(value, "keep", 0)


def _limit(value: int | None) -> int | None:
    return None if value is None else integer(value, "limit", 1)


@frozen
class Operation:
    """What all operations have: the key, and two facts of their class.

    An operation is made canonical: what has no order (fields, increments, members) is sorted, a time to live is rounded
    up to whole milliseconds, and -0.0 is 0.0. So two that mean the same are equal. Its mappings are plain dicts, that
    it can be pickled; they must not be changed.
    """

    writes: ClassVar[bool] = False
    """Whether it may change the key."""
    kind: ClassVar[str | None] = None
    """What the key must hold, if anything: "string", "hash" or "zset". None: any."""

    key: str = attribute(converter=_key)


# Values


@frozen
class Get(Operation):
    """The value. Reply: bytes, or None if the key is absent."""

    kind: ClassVar[str | None] = "string"


@frozen
class Version(Operation):
    """The version of the value: the namespace's revision when it was last written. Reply: int, 0 if absent."""

    kind: ClassVar[str | None] = "string"


@frozen
class Set(Operation):
    """Store a value, whatever the key held, to live for `ttl` seconds or for ever. Reply: int, its version."""

    writes: ClassVar[bool] = True

    value: bytes = attribute(converter=_value)
    ttl: float | None = attribute(default=None, converter=seconds)


@frozen
class IncrBy(Operation):
    """Add to the value, a decimal integer; an absent one counts as 0. Its expiry stays. Reply: int, the sum."""

    writes: ClassVar[bool] = True
    kind: ClassVar[str | None] = "string"

    increment: int = attribute(default=1, converter=_increment)


# Any kind


@frozen
class Delete(Operation):
    """Remove the key, whatever it holds. Reply: bool, whether it was there; deleting twice is no error.

    Of an absent key it is a write like any other: the batch is applied, its token used, and the revision rises.
    """

    writes: ClassVar[bool] = True


@frozen
class Exists(Operation):
    """Whether the key is there. Reply: bool."""


@frozen
class TTL(Operation):
    """The time left to live. Reply: float, seconds; None if it does not expire; 0.0 if the key is absent."""


@frozen
class Expire(Operation):
    """Let the key live for `ttl` seconds from now, or for ever (None). Reply: bool, False if it is absent.

    The version of a value stays as it is.
    """

    writes: ClassVar[bool] = True

    ttl: float | None = attribute(converter=seconds)


# Hashes


@frozen
class HGet(Operation):
    """A field's value. Reply: bytes, or None if the field or the key is absent."""

    kind: ClassVar[str | None] = "hash"

    field: str = attribute(converter=_field)


@frozen
class HGetAll(Operation):
    """All fields. Reply: dict of str to bytes, in no particular order, empty if the key is absent."""

    kind: ClassVar[str | None] = "hash"


@frozen
class HSet(Operation):
    """Store fields beside those that are there. The key's expiry stays. Reply: int, how many of them are new."""

    writes: ClassVar[bool] = True
    kind: ClassVar[str | None] = "hash"

    fields: Mapping[str, bytes] = attribute(converter=_fields)


@frozen
class HDel(Operation):
    """Remove fields. Reply: int, how many of them were there."""

    writes: ClassVar[bool] = True
    kind: ClassVar[str | None] = "hash"

    fields: tuple[str, ...] = attribute(converter=_field_set)


@frozen
class HIncrBy(Operation):
    """Add to fields, decimal integers; an absent one counts as 0. The key's expiry stays.

    Reply: dict of str to int, the sums.
    """

    writes: ClassVar[bool] = True
    kind: ClassVar[str | None] = "hash"

    increments: Mapping[str, int] = attribute(converter=_increments)


# Sorted sets: members in order of score, those of equal score in the order of their bytes


@frozen
class ZAdd(Operation):
    """Give members their scores. Reply: int, how many of them are new.

    `only`: "NX" leaves members that are there as they are; "GT" and "LT" change the score of such a member only to a
    greater or a lesser one. New members are added in every case. The key's expiry stays.
    """

    writes: ClassVar[bool] = True
    kind: ClassVar[str | None] = "zset"

    members: Mapping[bytes, float] = attribute(converter=_scores)
    only: Literal["NX", "GT", "LT"] | None = attribute(default=None, converter=_condition)


@frozen
class ZAppend(Operation):
    """Put members at the end, in this order, each with the highest score plus 1; one that is there moves.

    Reply: float, the score of the last. The scores start at 1, so a set that is only appended to is a log. A highest
    score below -2**53 counts as -2**53. If a score would pass 2**53, `CounterOverflowError`; then the highest counts
    of those that the set has and those that the batch gives it, even if the batch removes that member first.
    """

    writes: ClassVar[bool] = True
    kind: ClassVar[str | None] = "zset"

    members: tuple[bytes, ...] = attribute(converter=_members)


@frozen
class ZRange(Operation):
    """Members by rank, from `start` to `stop` inclusive; negative ranks count from the end.

    Reply: list of (bytes, float), the member and its score; empty if the key is absent.
    """

    kind: ClassVar[str | None] = "zset"

    start: int = attribute(default=0, converter=_rank)
    stop: int = attribute(default=-1, converter=_rank)


@frozen
class ZRangeByScore(Operation):
    """Members with a score from `minimum` to `maximum` inclusive, the lowest `limit` of them.

    Reply: list of (bytes, float), the member and its score; empty if the key is absent.
    """

    kind: ClassVar[str | None] = "zset"

    minimum: float = attribute(default=-math.inf, converter=_bound)
    maximum: float = attribute(default=math.inf, converter=_bound)
    limit: int | None = attribute(default=None, converter=_limit)


@frozen
class ZScore(Operation):
    """A member's score. Reply: float, or None if the member or the key is absent."""

    kind: ClassVar[str | None] = "zset"

    member: bytes = attribute(converter=_member)


@frozen
class ZCard(Operation):
    """How many members there are. Reply: int, 0 if the key is absent."""

    kind: ClassVar[str | None] = "zset"


@frozen
class ZRem(Operation):
    """Remove members. Reply: int, how many of them were there."""

    writes: ClassVar[bool] = True
    kind: ClassVar[str | None] = "zset"

    members: tuple[bytes, ...] = attribute(converter=_member_set)


@frozen
class ZTrim(Operation):
    """Keep the `keep` members of the highest scores and remove the others. Reply: int, how many were removed."""

    writes: ClassVar[bool] = True
    kind: ClassVar[str | None] = "zset"

    keep: int = attribute(converter=_keep)


# Batches


def _expected(value: int | None) -> int | None:
    return None if value is None else integer(value, "version", 0)


@frozen
class Check:
    """A precondition, tested before anything of the batch is done: if it fails, `CheckError` and nothing happened.

    `version` 0: the key is absent. None: it is there. Another number: it holds a value of that version. With a
    `member`, the same of a member of a sorted set, by 0 or None. A version above 0 of what is no value, and a
    member of what is no sorted set, is a `WrongTypeError`.
    """

    key: str = attribute(converter=_key)
    version: int | None = attribute(default=None, converter=_expected)
    member: bytes | None = attribute(default=None, converter=_optional_member)

    def __attrs_post_init__(self) -> None:
        if self.member is not None and self.version:
            raise ArgumentError("version must be 0 or None for a member", argument="version")


_SESSION: Final = re.compile("[0-9a-f]{16}")


def _session(value: str) -> str:
    value = text(value, "session")
    if _SESSION.fullmatch(value) is None:
        raise ArgumentError(f"session must be 16 hexadecimal digits in lower case, not {value!r}", argument="session")
    return value


def _slot(value: int) -> int:
    return integer(value, "slot", 0, 10**9 - 1)  # Nine digits in the text form.


def _sequence(value: int) -> int:
    return integer(value, "sequence", 0, 2**53 - 1)  # Lua, which compares them on Redis, counts in doubles.


def _issued(value: int) -> int:
    return integer(value, "issued", 0, 2**53 - 1)


_TOKEN: Final = re.compile(r"([0-9a-f]{16})-(\d{1,9})-(\d{1,16})-(\d{1,16})-(.+)", re.ASCII | re.DOTALL)


@frozen
class Token:
    """Names one write for ever: the first batch that arrives with it is applied, a repetition gets its replies.

    A writer (`session`) numbers its writes in a `slot`, and the store keeps the last of each slot, so the memory of
    the store is bounded by the number of writers (NFSv4.1, RFC 8881 section 2.10.6, does the same for its requests).
    `issued`, milliseconds since 1970, lets a store refuse a token that is older than what it remembers, or that is so
    far ahead of its clock that it would outlive that. The text form (`str`, `parse`) may be kept and used by another
    process. `session` is 16 hexadecimal digits; `slot`, `sequence` and `issued` are 0 or more.
    """

    namespace: Name = attribute(converter=named)
    session: str = attribute(converter=_session)
    slot: int = attribute(converter=_slot)
    sequence: int = attribute(converter=_sequence)
    issued: int = attribute(converter=_issued)

    def __str__(self) -> str:
        name = "/".join(part.replace("~", "~0").replace("/", "~1") for part in self.namespace)
        return f"{self.session}-{self.slot}-{self.sequence}-{self.issued}-{name}"

    @classmethod
    def parse(cls, value: str) -> Token:
        """Read the text form back."""
        match = _TOKEN.fullmatch(text(value, "token", 4 * MAX_NAME))
        if match is None:
            raise ArgumentError(f"token must be the text form of a token, not {value!r}", argument="token")
        session, slot, sequence, issued, name = match.groups()
        parts = tuple(part.replace("~1", "/").replace("~0", "~") for part in name.split("/"))
        return cls(parts, session, int(slot), int(sequence), int(issued))

    @classmethod
    def unchecked(cls, namespace: Name, session: str, slot: int, sequence: int, issued: int) -> Token:
        """Make a token of what is known to be right, at half the cost: each write makes one."""
        token = object.__new__(cls)
        _put(token, "namespace", namespace)
        _put(token, "session", session)
        _put(token, "slot", slot)
        _put(token, "sequence", sequence)
        _put(token, "issued", issued)
        return token


def _token(value: Token) -> Token:
    if not isinstance(value, Token):
        raise ArgumentTypeError(f"token must be a Token, not {type(value).__name__}", argument="token")
    return value


def _optional_token(value: Token | None) -> Token | None:
    return None if value is None else _token(value)


TOKEN_LIFE: Final = 12 * 3600 * 1000
"""Milliseconds for which a token can be used."""
TOKEN_MEMORY: Final = 2 * TOKEN_LIFE
"""Milliseconds for which a store remembers a slot: longer than a token lives, for clocks that differ."""
TOKEN_AHEAD: Final = TOKEN_MEMORY - TOKEN_LIFE
"""Milliseconds that a token may be issued ahead of the store's clock: one from further ahead would outlive its slot."""


@frozen
class Settle:
    """The question whether the batch with this token was applied. Reply: bool.

    The answer is final: if it is False, the token is void from then on, so that a copy of the batch that is still under
    way is refused when it arrives. It stands alone in its batch.
    """

    writes: ClassVar[bool] = True

    token: Token = attribute(converter=_token)


def pages(items: Sequence[I], size: Callable[[I], int] | None = None) -> Iterator[Sequence[I]]:
    """Cut items into pieces that a batch can hold: at most 500, and 16 MiB if each has that `size` in bytes."""
    if size is None:
        for start in range(0, len(items), PAGE):
            yield items[start : start + PAGE]
        return
    start = total = 0
    for i, item in enumerate(items):
        if i > start and (i - start == PAGE or total + size(item) > MAX_VALUE):
            yield items[start:i]
            start, total = i, 0
        total += size(item)
    if start < len(items):
        yield items[start:]


def _length(value: str) -> int:
    return len(value) if value.isascii() else len(value.encode())


def _lengths(values: Iterable[str]) -> int:
    return len("".join(values).encode())


_SIZED: Final[dict[type, Any]] = {
    Set: lambda operation: len(operation.value),
    HGet: lambda operation: _length(operation.field),
    HSet: lambda operation: _lengths(operation.fields) + sum(map(len, operation.fields.values())),
    HDel: lambda operation: _lengths(operation.fields),
    HIncrBy: lambda operation: _lengths(operation.increments),
    ZAdd: lambda operation: sum(map(len, operation.members)),
    ZAppend: lambda operation: sum(map(len, operation.members)),
    ZScore: lambda operation: len(operation.member),
    ZRem: lambda operation: sum(map(len, operation.members)),
}
"""The bytes that an operation carries beside its key."""
_SEVERAL: Final[dict[type, Callable[[Any], Collection[Any]]]] = {
    HSet: operator.attrgetter("fields"),
    ZAdd: operator.attrgetter("members"),
    ZAppend: operator.attrgetter("members"),
    ZRem: operator.attrgetter("members"),
}
"""Operations that carry several values, which are limited one by one."""


@frozen
class Batch:
    """Operations on one namespace that are executed together: all of them, or none.

    The replies come in the order of the operations. An operation sees what those before it in the batch did. Which
    kind of value a key holds is decided before the first of them: a key that a batch empties keeps its kind in it. A
    `token` is for a batch that writes.
    """

    namespace: Name = attribute(converter=named)
    operations: tuple[Operation | Settle, ...] = attribute(converter=_operations)
    checks: tuple[Check, ...] = attribute(default=(), converter=_checks)
    token: Token | None = attribute(default=None, converter=_optional_token)
    writes: bool = attribute(init=False, eq=False, repr=False)
    """Whether any of it may change something."""

    def __attrs_post_init__(self) -> None:
        count = len(self.operations) + len(self.checks)
        if count > MAX_OPERATIONS:
            raise LimitError(
                f"operations must be at most {MAX_OPERATIONS} in one batch, not {count}",
                argument="operations",
                limit=MAX_OPERATIONS,
            )
        size = 0
        writes = False
        for operation in self.operations:
            if isinstance(operation, Operation):
                key = operation.key
                size += len(key) if key.isascii() else len(key.encode())
                measure = _SIZED.get(type(operation))
                if measure is not None:
                    size += measure(operation)
            elif not isinstance(operation, Settle):
                raise ArgumentTypeError(
                    f"operations must be operations, not {type(operation).__name__}", argument="operations"
                )
            elif count > 1 or self.token is not None:
                raise ArgumentError("a Settle must stand alone in its batch", argument="operations")
            else:
                self._require_own(operation.token)
            writes = writes or operation.writes
        for check in self.checks:
            size += _length(check.key) + len(check.member or b"")
        if size > MAX_BATCH:
            raise LimitError(
                f"operations must hold at most {MAX_BATCH} bytes in one batch, not {size}",
                argument="operations",
                limit=MAX_BATCH,
            )
        if self.token is not None:
            self._require_own(self.token)
            if not writes:
                raise ArgumentError("token must be None for a batch that writes nothing", argument="token")
        _put(self, "writes", writes)

    def _require_own(self, token: Token) -> None:
        if token.namespace != self.namespace:
            raise ArgumentError(f"token must be one of the namespace {self.namespace}", argument="token")

    @classmethod
    def of(cls, namespace: Name, operation: Operation) -> Batch:
        """Return a batch of one operation; `namespace` is the checked name of one."""
        several = _SEVERAL.get(type(operation))
        if several is not None and len(several(operation)) > 1:
            return cls(namespace, (operation,))  # Its members may be too large together.
        return cls._made(namespace, (operation,), (), None, operation.writes)

    @classmethod
    def _made(
        cls,
        namespace: Name,
        operations: tuple[Operation | Settle, ...],
        checks: tuple[Check, ...],
        token: Token | None,
        writes: bool,
    ) -> Batch:
        """Return a batch of what was checked before: checking it again costs more than a lookup."""
        made: Any = _Open()
        made.namespace = namespace
        made.operations = operations
        made.checks = checks
        made.token = token
        made.writes = writes
        made.__class__ = cls
        batch: Batch = made
        return batch

    @classmethod
    def gets(cls, namespace: Name, keys: Sequence[str]) -> Batch:
        """Return a batch that reads values; `namespace` and `keys`, at most `PAGE` of them, are checked ones."""
        operations = []
        for key in keys:
            operation: Get = object.__new__(Get)
            _put(operation, "key", key)
            operations.append(operation)
        return cls._made(namespace, tuple(operations), (), None, False)

    def signed(self, token: Token) -> Batch:
        """Return the same batch, which must be one that writes, with a token."""
        return self._made(self.namespace, self.operations, self.checks, token, self.writes)


class _Open(Batch):
    """A batch that is being made: its attributes are set as those of any object, which costs half of `_put`."""

    __slots__ = ()
    __setattr__ = object.__setattr__
    __init__ = object.__init__
