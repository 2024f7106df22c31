"""A state machine for Hypothesis that drives engines side by side with a model of plain dicts.

For an engine of your own::

    def opened() -> Opened:
        place = Path(tempfile.mkdtemp())
        return Opened(lambda: MyKV(place), reopens=True, clear=lambda: shutil.rmtree(place))

    TestMine = machine({"mine": opened}).TestCase

All engines, and the model, must give equal replies or the same error at every step.
"""

from __future__ import annotations

import copy
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final, Literal, TypeAlias

from attrs import define, evolve, field, frozen
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, precondition, rule

from empathy_kv.errors import (
    CheckError,
    CounterError,
    CounterOverflowError,
    EmpathyKVError,
    TokenError,
    WrongTypeError,
)
from empathy_kv.kv.interface import KV
from empathy_kv.kv.operations import (
    INTEGER_MAX,
    INTEGER_MIN,
    SCORE_MAX,
    TOKEN_AHEAD,
    TOKEN_LIFE,
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
    Name,
    Operation,
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
)
from empathy_kv.testing import strategies

__all__ = ["KVMachine", "Model", "Opened", "machine"]

# The model. It is written to be read beside the docstrings of the operations, not to be fast: a batch is done on a
# copy, which is thrown away if it is refused.


@define
class Item:
    """What a key holds: bytes, a dict of fields, or a dict of members to scores."""

    kind: str
    content: Any
    version: int
    ttl: float | None = None


@define
class Space:
    """A namespace."""

    revision: int = 0
    items: dict[str, Item] = field(factory=dict)
    slots: dict[tuple[str, int], tuple[int, Any, list[Reply] | None]] = field(factory=dict)
    """The last write of each slot: its sequence, its content, its replies; None if it was settled as not applied."""


@frozen
class Left:
    """The reply to `TTL`, which no two engines give at the same moment: a little less than `ttl` seconds."""

    ttl: float


class Model:
    """What a store does, in plain dicts. Nothing in it expires before `expire` is called."""

    def __init__(self) -> None:
        self.spaces: dict[Name, Space] = {}

    def space(self, name: Name) -> Space:
        return self.spaces.setdefault(name, Space())

    def keys(self, name: Name) -> list[str]:
        return sorted(self.space(name).items)

    def version(self, name: Name, key: str) -> int:
        """Return what a `Check` takes for the version of a key."""
        item = self.space(name).items.get(key)
        return 0 if item is None else item.version

    def expire(self, within: float) -> None:
        """Remove what was to live for less than `within` seconds."""
        for space in self.spaces.values():
            space.items = {k: item for k, item in space.items.items() if item.ttl is None or item.ttl >= within}

    def execute(self, batch: Batch, now: int) -> list[Reply]:
        space = self.space(batch.namespace)
        if batch.operations and isinstance(batch.operations[0], Settle):
            return [self._settle(space, batch.operations[0].token, now)]
        token = batch.token
        if token is not None:
            last, content, replies = space.slots.get((token.session, token.slot), (-1, None, None))
            if token.sequence == last and replies is not None and content == (batch.operations, batch.checks):
                return replies
            if token.sequence <= last or not self._current(token, now):
                raise TokenError("", token=token)
        for check in batch.checks:
            self._check(space, check)
        attempt = Space(space.revision + batch.writes, copy.deepcopy(space.items))
        kinds: dict[str, str | None] = {}
        tops: dict[str, float] = {}
        replies = [self._do(attempt, operation, kinds, tops) for operation in batch.operations]  # type: ignore[arg-type]
        space.revision, space.items = attempt.revision, attempt.items
        if token is not None:
            space.slots[token.session, token.slot] = token.sequence, (batch.operations, batch.checks), replies
        return replies

    def _settle(self, space: Space, token: Token, now: int) -> bool:
        last, _, replies = space.slots.get((token.session, token.slot), (-1, None, None))
        if token.sequence == last:
            return replies is not None
        if token.sequence < last or not self._current(token, now):
            raise TokenError("", token=token)
        space.slots[token.session, token.slot] = token.sequence, None, None
        return False

    @staticmethod
    def _current(token: Token, now: int) -> bool:
        return -TOKEN_AHEAD <= now - token.issued < TOKEN_LIFE

    def _check(self, space: Space, check: Check) -> None:
        item = space.items.get(check.key)
        if check.member is not None:
            if item is not None and item.kind != "zset":
                raise WrongTypeError("", key=check.key, kind=item.kind)
            there = item is not None and check.member in item.content
            holds = there is (check.version is None)
        elif check.version is None:
            holds = item is not None
        elif check.version == 0 or item is None:
            holds = check.version == 0 and item is None
        elif item.kind != "string":
            raise WrongTypeError("", key=check.key, kind=item.kind)
        else:
            holds = item.version == check.version
        if not holds:
            raise CheckError("", key=check.key, expected=check.version, actual=self._actual(item, check))

    @staticmethod
    def _actual(item: Item | None, check: Check) -> int:
        if item is None or (check.member is not None and check.member not in item.content):
            return 0
        return item.version if item.kind == "string" else -1

    def _do(self, space: Space, operation: Operation, kinds: dict[str, str | None], tops: dict[str, float]) -> Reply:
        key = operation.key
        item = space.items.get(key)
        held = kinds.setdefault(key, None if item is None else item.kind)
        if operation.kind is not None and held is not None and operation.kind != held:
            raise WrongTypeError("", key=key, kind=held)
        if item is None:
            item = Item(operation.kind or "", b"0" if operation.kind == "string" else {}, 0)
        self._foresee(operation, item, tops)
        reply = self._change(space, operation, item) if operation.writes else self._read(space, operation, item)
        if isinstance(operation, Set):
            kinds[key] = "string"
        elif isinstance(operation, Delete):
            kinds[key] = None
        elif key in space.items:
            kinds[key] = space.items[key].kind
        return reply

    @staticmethod
    def _foresee(operation: Operation, item: Item, tops: dict[str, float]) -> None:
        """Note the highest score of a sorted set; raise if an append would pass `SCORE_MAX`."""
        key = operation.key
        tops.setdefault(key, max(0.0, *item.content.values()) if item.kind == "zset" and item.content else 0.0)
        match operation:
            case Set() | Delete():
                tops[key] = 0.0
            case ZAdd():
                tops[key] = max(tops[key], *operation.members.values())
            case ZAppend():
                if tops[key] > SCORE_MAX - len(operation.members):
                    raise CounterOverflowError("", key=key, field=None)
                tops[key] += len(operation.members)

    def _read(self, space: Space, operation: Operation, item: Item) -> Reply:
        there = operation.key in space.items
        content = item.content
        match operation:
            case Get():
                return content if there else None
            case Version():
                return item.version
            case Exists():
                return there
            case TTL():
                return 0.0 if not there else None if item.ttl is None else Left(item.ttl)
            case HGet():
                return content.get(operation.field)
            case HGetAll():
                return dict(content)
            case ZScore():
                return content.get(operation.member)
            case ZCard():
                return len(content)
        order = self._order(content)
        match operation:
            case ZRange():
                first, last = (rank if rank >= 0 else rank + len(order) for rank in (operation.start, operation.stop))
                return [pair for rank, pair in enumerate(order) if first <= rank <= last]
            case ZRangeByScore():
                within = [pair for pair in order if operation.minimum <= pair[1] <= operation.maximum]
                return within if operation.limit is None else within[: operation.limit]
        raise NotImplementedError(operation)

    def _change(self, space: Space, operation: Operation, item: Item) -> Reply:
        key, content = operation.key, item.content
        there = key in space.items
        match operation:
            case Set():
                space.items[key] = Item("string", operation.value, space.revision, operation.ttl)
                return space.revision
            case Delete():
                space.items.pop(key, None)
                return there
            case Expire():
                item.ttl = operation.ttl
                return there
        space.items[key] = item
        item.version = space.revision
        reply = self._update(operation, item, content)
        if item.kind != "string" and not item.content:
            del space.items[key]
        return reply

    def _update(self, operation: Operation, item: Item, content: Any) -> Reply:
        match operation:
            case IncrBy():
                total = self._sum(content, operation.increment, operation.key, None)
                item.content = b"%d" % total
                return total
            case HSet():
                new = sum(name not in content for name in operation.fields)
                content.update(operation.fields)
                return new
            case HDel():
                return sum(content.pop(name, None) is not None for name in operation.fields)
            case HIncrBy():
                sums = {}
                for name, increment in operation.increments.items():
                    sums[name] = self._sum(content.get(name, b"0"), increment, operation.key, name)
                    content[name] = b"%d" % sums[name]
                return sums
            case ZAdd():
                new = sum(member not in content for member in operation.members)
                for member, score in operation.members.items():
                    old = content.get(member)
                    keep = {None: False, "NX": True, "GT": old is not None and old >= score}
                    if old is None or not keep.get(operation.only, old <= score):
                        content[member] = score
                return new
            case ZAppend():
                score = max(-SCORE_MAX, *content.values()) if content else 0.0
                for member in operation.members:
                    score += 1
                    content[member] = score
                return score
            case ZRem():
                return sum(content.pop(member, None) is not None for member in operation.members)
            case ZTrim():
                surplus = [member for member, _ in self._order(content)][: max(0, len(content) - operation.keep)]
                for member in surplus:
                    del content[member]
                return len(surplus)
        raise NotImplementedError(operation)

    @staticmethod
    def _order(content: Mapping[bytes, float]) -> list[tuple[bytes, float]]:
        return sorted(content.items(), key=lambda pair: (pair[1], pair[0]))

    @staticmethod
    def _sum(value: bytes, increment: int, key: str, name: str | None) -> int:
        text = value.decode("latin-1")
        if not re.fullmatch("0|-?[1-9][0-9]*", text) or not INTEGER_MIN <= int(text) <= INTEGER_MAX:
            raise CounterError("", key=key, field=name)
        total = int(text) + increment
        if not INTEGER_MIN <= total <= INTEGER_MAX:
            raise CounterOverflowError("", key=key, field=name)
        return total


# Comparing


def agree(expected: Any, actual: Any) -> bool:
    """Return whether an outcome is the expected one: equal replies of equal types, or the same error."""
    if isinstance(expected, Left):
        # A run that was stopped in a debugger for minutes is no failure.
        return type(actual) is float and expected.ttl - 1800 < actual <= expected.ttl + 0.001
    if type(expected) is not type(actual):
        return False
    if isinstance(expected, EmpathyKVError):
        names = ("key", "field", "kind", "expected", "actual")
        return all(getattr(expected, name, None) == getattr(actual, name, None) for name in names)
    if isinstance(expected, dict):
        return expected.keys() == actual.keys() and all(agree(expected[name], actual[name]) for name in expected)
    if isinstance(expected, (list, tuple)):
        return len(expected) == len(actual) and all(map(agree, expected, actual))
    return bool(expected == actual)


def told(outcome: Any) -> str:
    """Return the text of an outcome for a message."""
    if not isinstance(outcome, EmpathyKVError):
        return repr(outcome)
    attributes = (f"{name}={value!r}" for name, value in vars(outcome).items() if name != "message")
    return f"{type(outcome).__name__}({', '.join(attributes)})"


# The machine


@frozen
class Opened:
    """A fresh place for one run of the machine."""

    open: Callable[[], KV]
    """Open the engine there. It is called again after the engine was closed if it `reopens`."""
    reopens: bool = False
    """Whether what was written is there when the place is opened again."""
    clear: Callable[[], object] = lambda: None
    """Remove the place when the run is over."""


NAMES: Final[tuple[Name, ...]] = (("m",), ("m", "n"))
KEYS: Final = {
    "string": ("a", "A", "a", "any"),
    "hash": ("{a}/\0:é", "{a}/\0:e\u0301", "{a}/\0:é", "any"),
    "zset": ("z", "z ", "z", "any"),
}
"""Each kind of value has keys of its own, and one with the others, or most batches would meet a wrong kind."""
FIELDS: Final = ("f", "F", "\n")
MEMBERS: Final = (b"m", b"n", b"", b"\xff\0")
LONG: Final = (None, 3600.0, 86400.0)
SHORT: Final = (0.0004, 0.001, 0.002)

_names = st.sampled_from(NAMES)
_all = sorted({key for keys in KEYS.values() for key in keys})
_keys = st.sampled_from(_all)
_parts = strategies.Parts(
    keys=_keys,
    fields=st.sampled_from(FIELDS),
    members=st.sampled_from(MEMBERS),
    values=st.integers(-9, 9).map(b"%d".__mod__) | strategies.values(),
    scores=st.sampled_from([0.0, 1.0, 2.0, -0.0, 0.5, 0.1, 1e308, 5e-324, 2.0**53]) | strategies.scores(),
    ttls=st.sampled_from(LONG),
)


def _settled(operation: Operation) -> Operation:
    """Return the operation on a key of its kind of value."""
    own = KEYS.get("string" if isinstance(operation, Set) else operation.kind or "")
    return evolve(operation, key=own[_all.index(operation.key) % len(own)]) if own else operation


def _otherwise(operation: Any, less: float) -> Any:
    """Return the same operation, written in another order, with other zeros, and to live for a little less."""
    match operation:
        case HSet():
            return evolve(operation, fields=dict([*operation.fields.items()][::-1]))
        case HIncrBy():
            return evolve(operation, increments=dict([*operation.increments.items()][::-1]))
        case HDel():
            return evolve(operation, fields=operation.fields[::-1])
        case ZAdd():
            return evolve(operation, members={m: score or -0.0 for m, score in [*operation.members.items()][::-1]})
        case ZRem():
            return evolve(operation, members=operation.members[::-1])
        case Set() | Expire() if operation.ttl is not None:
            return evolve(operation, ttl=operation.ttl - less)
    return operation


_operations = st.lists(strategies.operations(_parts).map(_settled), min_size=1, max_size=6)
_writing = st.builds(
    lambda operations, last: [*operations, last],
    st.lists(strategies.operations(_parts).map(_settled), max_size=5),
    strategies.writes(_parts).map(_settled),
)

Want: TypeAlias = tuple[Literal["absent", "there", "as it is", "as read", "older"], str, bytes | None]
"""What a precondition asks for; which version that is, is known only when the machine runs."""
_wants: st.SearchStrategy[Sequence[Want]] = st.one_of(
    st.just(()),
    st.just(()),
    st.lists(
        st.tuples(st.sampled_from(["as it is", "as read", "there", "absent", "older"]), _keys, st.none())
        | st.tuples(st.sampled_from(["absent", "there"]), _keys, st.sampled_from(MEMBERS)),
        min_size=1,
        max_size=3,
    ),
)
SESSION: Final = "0123456789abcdef"


class KVMachine(RuleBasedStateMachine):
    """Drives the engines of `engines`, which `machine` fills in."""

    engines: ClassVar[Mapping[str, Callable[[], Opened]]] = {}

    sent = Bundle("sent")
    """Batches with tokens, which may be sent again."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.places = {name: make() for name, make in self.engines.items()}
        self.kvs = {name: place.open() for name, place in self.places.items()}
        self.read: dict[tuple[Name, str], int] = {}
        self.sequence = 0
        self.left = Counter(let_expire=3, look_at_all=4, reopen=4, checkpoint=4)
        self.agreed = True

    # What the rules are made of

    def all_do(self, what: object, expected: Any, do: Callable[[KV], Any]) -> Any:
        """Let each engine do something and compare its outcome with the expected one."""
        outcome: Any = None
        for name, kv in self.kvs.items():
            cause = None
            try:
                outcome = do(kv)
            except EmpathyKVError as error:
                outcome = cause = error
            if not agree(expected, outcome):
                self.agreed = False
                raise AssertionError(f"{name} gave {told(outcome)}, not {told(expected)}, for {what!r}") from cause
        return outcome

    def execute(self, batch: Batch, do: Callable[[KV], Any] | None = None) -> None:
        """Execute a batch, remember the versions that were read, and compare."""
        expected: Any
        try:
            expected = self.model.execute(batch, time.time_ns() // 1_000_000)
        except EmpathyKVError as error:
            expected = error
        replies = self.all_do(batch, expected, do or (lambda kv: kv.execute(batch)))
        if isinstance(replies, list):
            for operation, reply in zip(batch.operations, replies, strict=True):
                if isinstance(operation, (Set, Version)):
                    self.read[batch.namespace, operation.key] = reply

    def checks(self, name: Name, wants: Sequence[Want]) -> list[Check]:
        """Make preconditions of what is wanted."""
        checks = []
        for want, key, member in wants:
            last = self.read.get((name, key), 1)
            version = {
                "absent": 0,
                "there": None,
                "as it is": self.model.version(name, key),
                "as read": last,
                "older": max(0, last - 1),
            }[want]
            checks.append(Check(key, version, member))
        return checks

    def token(self, name: Name, slot: int, age: int = 0) -> Token:
        self.sequence += 1
        return Token(name, SESSION, slot, self.sequence, time.time_ns() // 1_000_000 - age)

    def look(self) -> None:
        """Compare everything that is stored."""
        reads: dict[str, list[Callable[[str], Operation]]] = {
            "string": [Get, Version, TTL],
            "hash": [HGetAll, TTL],
            "zset": [ZRange, ZCard, TTL],
        }
        for name in NAMES:
            keys = self.model.keys(name)
            self.all_do(("keys", name), keys, partial(self._list, name))
            items = self.model.space(name).items
            everything = [read(key) for key in keys for read in reads[items[key].kind]]
            self.execute(Batch(name, everything))

    @staticmethod
    def _list(name: Name, kv: KV) -> list[str]:
        return sorted(kv.keys(name))

    # The rules

    @rule(name=_names, operations=_operations, wants=_wants)
    def do(self, name: Name, operations: list[Operation], wants: Sequence[Want]) -> None:
        self.execute(Batch(name, operations, self.checks(name, wants)))

    @rule(name=_names, operations=_operations, wants=_wants)
    def commit(self, name: Name, operations: list[Operation], wants: Sequence[Want]) -> None:
        batch = Batch(name, operations, self.checks(name, wants))
        self.execute(batch, lambda kv: kv.commit(batch))

    @rule(target=sent, name=_names, operations=_writing, wants=_wants, slot=st.integers(0, 2), old=st.integers(0, 19))
    def send(self, name: Name, operations: list[Operation], wants: Sequence[Want], slot: int, old: int) -> Batch:
        token = self.token(name, slot, {18: -TOKEN_AHEAD - 60_000, 19: TOKEN_LIFE + 1000}.get(old, 0))
        batch = Batch(name, operations, self.checks(name, wants), token)
        self.execute(batch)
        return batch

    @rule(batch=sent)
    def send_again(self, batch: Batch) -> None:
        self.execute(batch)

    @rule(batch=sent, operations=_writing)
    def send_something_else(self, batch: Batch, operations: list[Operation]) -> None:
        self.execute(Batch(batch.namespace, operations, (), batch.token))

    @rule(batch=sent, ticks=st.integers(1, 9))
    def send_again_written_otherwise(self, batch: Batch, ticks: int) -> None:
        self.execute(
            evolve(batch, operations=[_otherwise(operation, ticks / 10_000) for operation in batch.operations])
        )

    @rule(batch=sent, text=st.booleans())
    def settle(self, batch: Batch, text: bool) -> None:
        token = batch.token
        assert token is not None
        question = Batch(batch.namespace, (Settle(token),))
        self.execute(question, lambda kv: [kv.settle(str(token) if text else token)])

    @rule(target=sent, name=_names, operations=_writing, slot=st.integers(0, 2))
    def settle_before_it_is_sent(self, name: Name, operations: list[Operation], slot: int) -> Any:
        token = self.token(name, slot)
        self.execute(Batch(name, (Settle(token),)))
        return Batch(name, operations, (), token)

    # What takes time is done a few times in a run. Counting it down shrinks well, other than "each fourth step" does.

    @precondition(lambda self: self.left["let_expire"] > 0)
    @rule(
        name=_names,
        operation=st.builds(Set, _keys, strategies.values(), st.sampled_from(SHORT))
        | st.builds(Expire, _keys, st.sampled_from(SHORT)),
    )
    def let_expire(self, name: Name, operation: Operation) -> None:
        self.left["let_expire"] -= 1
        self.execute(Batch(name, (operation,)))
        time.sleep(max(SHORT) + 0.002)
        self.model.expire(1.0)

    @precondition(lambda self: self.left["look_at_all"] > 0)
    @rule()
    def look_at_all(self) -> None:
        self.left["look_at_all"] -= 1
        self.look()

    @precondition(lambda self: self.left["checkpoint"] > 0)
    @rule()
    def checkpoint(self) -> None:
        self.left["checkpoint"] -= 1
        for kv in self.kvs.values():
            kv.checkpoint()

    @precondition(lambda self: self.left["reopen"] > 0 and any(place.reopens for place in self.places.values()))
    @rule()
    def reopen(self) -> None:
        self.left["reopen"] -= 1
        for name, place in self.places.items():
            if place.reopens:
                self.kvs[name].close()
                self.kvs[name] = place.open()

    def teardown(self) -> None:
        try:
            if self.agreed:
                self.look()
        finally:
            for name, place in self.places.items():
                self.kvs[name].close()
                place.clear()


def machine(engines: Mapping[str, Callable[[], Opened]]) -> type[KVMachine]:
    """Return a state machine that drives these engines; each function makes a fresh place for one run.

    Its `TestCase` is found by pytest and unittest; `hypothesis.stateful.run_state_machine_as_test` runs it too.
    """
    return type("Machine", (KVMachine,), {"engines": dict(engines)})
