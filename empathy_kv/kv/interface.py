"""What an engine is (`KV`), and what is derived from its one method: namespaces, batches, tokens, the driver.

Domain code is sans-I/O: a method that needs the store is a generator (`Steps`) that yields batches and is sent their
replies. `run` drives it on a `KV`. `method` makes an ordinary method of such a generator function.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Concatenate,
    Final,
    Literal,
    NoReturn,
    ParamSpec,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
    cast,
    overload,
)

from attrs import frozen

from empathy_kv.errors import (
    ArgumentTypeError,
    DamagedError,
    EmpathyKVError,
    OutcomeUnknown,
    UnfinishedError,
    UnsupportedError,
)
from empathy_kv.kv.operations import (
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
    integer,
    named,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from empathy_kv.kv.refilling import Refill
    from empathy_kv.kv.snapshots import Snapshot

P = ParamSpec("P")
R = TypeVar("R")

Steps: TypeAlias = Generator[Any, Any, R]
"""A piece of domain code: it yields batches (or what else its engine executes), is sent replies, and returns an R."""


@frozen
class Durability:
    """What an engine promises of a write that returned. A server tells it, as far as it lets itself be asked.

    `survives`: "nothing" (the end of the process that has the data loses it), "process" (kill -9, not a power cut),
    "power" (a power cut), or "unknown". Of a server: `aof` is "always", "everysec", "no" (how often its append-only
    file is synced), "off" or "unknown"; `rdb` is "on" (snapshots), "off" or "unknown"; `eviction` is its
    maxmemory-policy, or "unknown"; `replicas` is how many it has, None if unknown. Of several, the weakest counts.
    """

    survives: Literal["nothing", "process", "power", "unknown"]
    aof: str = "off"
    rdb: str = "off"
    eviction: str = "noeviction"
    replicas: int | None = 0

    def __str__(self) -> str:
        if self.survives == "unknown":
            return "unknown"
        return f"survives {self.survives} (AOF {self.aof}, RDB {self.rdb}, eviction {self.eviction})"


class EvictionWarning(UserWarning):
    """The server removes keys when its memory is full: data is lost, or what makes a repeated write happen once."""


class Bound:
    """What belongs to its process, with connections, files or threads: the base of stores, engines and collections."""

    def __reduce__(self) -> NoReturn:
        raise ArgumentTypeError(
            f"{type(self).__name__} can be neither pickled nor copied: open the store by its URL in each process",
            argument="store",
        )


class Writer(Bound):
    """What engines of both kinds are: a writer, which numbers its writes."""

    looked: bool = False
    """Whether it is known that no restore into the store was left unfinished."""
    shards: ClassVar[int] = 1
    """Over how many namespaces a new store spreads what must scale past one; above 1 where each has its own place."""

    def __init__(self) -> None:
        self._tokens = Tokens()
        self._certain = False
        """Whether no write of this engine ends in `OutcomeUnknown`, so that none needs a token of this writer."""

    def token(self, *name: str) -> Token:
        """Return a new token for one write to a namespace, to be given to its `execute`.

        Whoever makes a write with a token of his own can find out what became of it, whatever happened meanwhile: by
        `settle(token)`, or by the same write again. A token that was not settled is remembered until it is too old.
        """
        return self._tokens.take(named(name))


class Doubts:
    """The tokens of writes that ended here in `OutcomeUnknown`, the latest of them.

    A later call with such a token that does nothing may not say that nothing was done: the earlier one may have been.
    """

    def __init__(self) -> None:
        self._tokens: dict[Token, None] = {}

    def __contains__(self, token: Token | None) -> bool:
        return bool(self._tokens) and token in self._tokens

    def add(self, token: Token | None) -> None:
        """Note a write whose outcome is not known."""
        if token is not None:
            self._tokens[token] = None
            while len(self._tokens) > _DOUBTS:
                self._tokens.pop(next(iter(self._tokens)), None)

    def discard(self, token: Token | None) -> None:
        """Note that the outcome is known."""
        if self._tokens:
            self._tokens.pop(token, None)  # type: ignore[arg-type]  # None is none of them


_DOUBTS: Final = 10_000
"""How many are remembered: whoever neither settles nor repeats his writes would fill the memory."""

RESTORING: Final = Batch.of(("store",), Get("restore"))
"""Asks for what says that a restore began; it is taken back when that is finished."""


def unfinished() -> UnfinishedError:
    """Return the error of a store that holds a part of what was to be restored."""
    return UnfinishedError(
        "a restore into this store was not finished: run it again, or restore another snapshot, before it is used"
    )


class KV(Writer, ABC):
    """An engine. Abstract: `execute`, `keys`, `close`. Derived from them: everything else.

    An engine may be used by many threads at once.
    """

    @abstractmethod
    def execute(self, batch: Batch) -> list[Reply]:
        """Do all of the batch, or none of it, and return a reply an operation.

        A batch with a token that was executed before is not done again: its first replies are returned.

        Raises `CheckError` and the other kinds of `NotApplied` if nothing was done, `OutcomeUnknown` if it cannot be
        known, `TokenError` if the token cannot be used, `DamagedError` if what is stored cannot be read.
        """

    @abstractmethod
    def keys(self, namespace: Name) -> Iterator[str]:
        """Yield each key of a namespace once, in no particular order. What they hold is never all in memory.

        A key that is there from the first step to the last is among them; one that comes or goes meanwhile may be.
        A namespace that nothing was written to has no keys.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what the engine holds. Closing twice is no error; using it afterwards is a `ClosedError`."""

    def durability(self) -> Durability:
        """Return what the engine promises of a write that returned; "unknown" unless it overrides this."""
        return Durability("unknown", "unknown", "unknown", "unknown", None)

    def checkpoint(self) -> None:
        """Bring everything that is committed to where it stays: on files, from the journals into the documents.

        No write is lost without it. Nothing to do is no error.
        """

    def others(self, known: Sequence[Name]) -> int | None:  # noqa: ARG002 - of an engine that knows
        """Return how many namespaces there are beside some; None where nobody knows, as on a server."""
        return None

    def check(self) -> list[DamagedError]:
        """Read the whole store and return what is damaged or does not belong there, each with its path.

        It changes nothing, and damage is returned, not raised. Empty if all is well, and on engines that keep no files.
        """
        return []

    def snapshot(self, namespaces: Sequence[Name]) -> AbstractContextManager[Snapshot]:
        """Return a snapshot of namespaces, to be used in a `with` block, while others write.

        `UnsupportedError` unless the engine overrides this.
        """
        raise UnsupportedError(f"{self!r} cannot show {len(namespaces)} namespaces at one moment")

    def refill(self, namespaces: Sequence[Name]) -> AbstractContextManager[Refill]:
        """Return what makes namespaces hold only what is put into it in a `with` block.

        It is no batch: until the block ends, or if it is left by an error, they hold a part. Nobody else should use
        them meanwhile; what other engines on the same store remember of them may not be true any more.
        """
        from empathy_kv.kv.refilling import Batches

        return Batches(self, namespaces)

    def commit(self, batch: Batch) -> list[Reply]:
        """Execute the batch, with a token of this writer if it writes and has none, and the engine needs one."""
        if not batch.writes or self._certain or batch.token is not None:
            return self.execute(batch)
        token = self._tokens.take(batch.namespace)
        try:
            replies = self.execute(batch.signed(token))
        except OutcomeUnknown:
            # The slot stays taken: its next write would overwrite what `settle` has to find.
            raise
        except BaseException as error:
            if isinstance(error, EmpathyKVError):
                self._tokens.give(token)
            raise
        self._tokens.give(token)
        return replies

    def several(self, batches: Sequence[Batch]) -> list[list[Reply]]:
        """Execute batches that only read, of any namespaces, and return the replies of each.

        Each sees whole batches of its namespace, as always; what is written meanwhile, some may see and others not. An
        engine that is far away needs one round trip for all.
        """
        return [self.execute(batch) for batch in batches]

    def settle(self, token: Token | str) -> bool:
        """Return whether the batch with this token was applied. If it was not, it never will be.

        Raises `TokenError` if that is not known any more: it is too old, or its writer went on with a later one.
        """
        if not isinstance(token, Token):
            token = Token.parse(token)
        applied: bool = self.execute(Batch(token.namespace, (Settle(token),)))[0]
        self._tokens.give(token)
        return applied

    def look(self) -> None:
        """Raise `UnfinishedError` if a restore into the store was begun and not finished; `looked` if it was not.

        The domain looks once, before it first uses an engine, and so does not take a part of a store for all of it.
        """
        if self.execute(RESTORING)[0] is not None:
            raise unfinished()
        self.looked = True

    def namespace(self, *name: str) -> Namespace:
        """Return the namespace with this name, of one or more texts. It needs not exist, and costs nothing."""
        return Namespace(self, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Tokens:
    """The slots of one writer. A slot is taken for one write and given back when its outcome is known."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._session = secrets.token_hex(8)
        self._sequence = itertools.count(1)
        self._slots = itertools.count()
        self._taken: dict[int, int] = {}
        self._free: list[int] = []
        self._lock = threading.Lock()

    def take(self, namespace: Name) -> Token:
        """Take a slot for a write; a process that was forked is a writer of its own."""
        if os.getpid() != self._process:
            self.__init__()  # type: ignore[misc]
        with self._lock:
            slot = self._free.pop() if self._free else next(self._slots)
            self._taken[slot] = sequence = next(self._sequence)
        return Token.unchecked(namespace, self._session, slot, sequence, time.time_ns() // 1_000_000)

    def give(self, token: Token) -> None:
        """Take the slot back. A token of another writer, or one that was given back before, is none of ours."""
        if os.getpid() != self._process:
            return  # Nor is one of the parent, whose thread may have held the lock.
        with self._lock:
            if token.session == self._session and self._taken.get(token.slot) == token.sequence:
                del self._taken[token.slot]
                self._free.append(token.slot)


class Namespace:
    """One namespace of a store: the unit of atomicity. Its methods are batches of one operation.

    Each returns what the class of the same name in `empathy_kv.kv.operations` says of its reply.
    """

    def __init__(self, kv: KV, name: Iterable[str]) -> None:
        self._kv = kv
        self.name = Batch(cast(Name, tuple(name)), ()).namespace

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.name))})"

    # All of the methods below end in one of these two, so those of an AsyncNamespace are the same functions. What they
    # return is told by a variable: `typing.cast` is a call, and makes its type anew each time.

    def _do(self, operation: Operation, *checks: Check) -> Reply:
        batch = Batch(self.name, (operation,), checks) if checks else Batch.of(self.name, operation)
        return self._kv.commit(batch)[0]

    def _all(self, batch: Batch) -> list[Reply]:
        return self._kv.commit(batch)

    def get(self, key: str) -> bytes | None:
        """Return the value, None if it is absent."""
        reply: bytes | None = self._do(Get(key))
        return reply

    def set(
        self,
        key: str,
        value: bytes,
        *,
        ttl: float | timedelta | None = None,
        expected_version: int | None = None,
    ) -> int:
        """Store a value and return its version.

        `ttl`: seconds or a timedelta; None is for ever. `expected_version`: store it only if the key has this version
        (0: only if it is absent), else raise `CheckError`.
        """
        write = Set(key, value, ttl)
        reply: int
        if expected_version is None:
            reply = self._do(write)
        else:
            reply = self._do(write, Check(key, integer(expected_version, "expected_version", 0)))
        return reply

    def delete(self, key: str) -> bool:
        """Remove the key and return whether it was there."""
        reply: bool = self._do(Delete(key))
        return reply

    def exists(self, key: str) -> bool:
        """Return whether the key is there."""
        reply: bool = self._do(Exists(key))
        return reply

    def version(self, key: str) -> int:
        """Return the version of the value, 0 if it is absent."""
        reply: int = self._do(Version(key))
        return reply

    def incr(self, key: str, by: int = 1) -> int:
        """Add to the value, an integer, and return the sum; an absent one counts as 0."""
        reply: int = self._do(IncrBy(key, by))
        return reply

    def ttl(self, key: str) -> float | None:
        """Return the seconds left to live, None if it does not expire, 0.0 if the key is absent."""
        reply: float | None = self._do(TTL(key))
        return reply

    def expire(self, key: str, ttl: float | timedelta | None) -> bool:
        """Let the key live for `ttl` seconds, None is for ever. Return False if it is absent."""
        reply: bool = self._do(Expire(key, ttl))
        return reply

    def hget(self, key: str, field: str) -> bytes | None:
        """Return a field of a hash, None if it is absent."""
        reply: bytes | None = self._do(HGet(key, field))
        return reply

    def hgetall(self, key: str) -> dict[str, bytes]:
        """Return all fields of a hash, empty if it is absent."""
        reply: dict[str, bytes] = self._do(HGetAll(key))
        return reply

    def hset(self, key: str, fields: Mapping[str, bytes]) -> int:
        """Store fields and return how many are new."""
        reply: int = self._do(HSet(key, fields))
        return reply

    def hdel(self, key: str, *fields: str) -> int:
        """Remove fields and return how many were there."""
        reply: int = self._do(HDel(key, fields))
        return reply

    def hincrby(self, key: str, increments: Mapping[str, int]) -> dict[str, int]:
        """Add to fields and return the sums."""
        reply: dict[str, int] = self._do(HIncrBy(key, increments))
        return reply

    def zadd(self, key: str, members: Mapping[bytes, float], *, only: Literal["NX", "GT", "LT"] | None = None) -> int:
        """Give members their scores and return how many are new."""
        reply: int = self._do(ZAdd(key, members, only))
        return reply

    def zappend(self, key: str, *members: bytes) -> float:
        """Put members at the end and return the score of the last."""
        reply: float = self._do(ZAppend(key, members))
        return reply

    def zrange(self, key: str, start: int = 0, stop: int = -1) -> list[tuple[bytes, float]]:
        """Return members and scores by rank, both ends inclusive."""
        reply: list[tuple[bytes, float]] = self._do(ZRange(key, start, stop))
        return reply

    def zrangebyscore(
        self, key: str, minimum: float, maximum: float, *, limit: int | None = None
    ) -> list[tuple[bytes, float]]:
        """Return members and scores by score, both ends inclusive."""
        reply: list[tuple[bytes, float]] = self._do(ZRangeByScore(key, minimum, maximum, limit))
        return reply

    def zscore(self, key: str, member: bytes) -> float | None:
        """Return a member's score, None if it is absent."""
        reply: float | None = self._do(ZScore(key, member))
        return reply

    def zcard(self, key: str) -> int:
        """Return how many members there are."""
        reply: int = self._do(ZCard(key))
        return reply

    def zrem(self, key: str, *members: bytes) -> int:
        """Remove members and return how many were there."""
        reply: int = self._do(ZRem(key, members))
        return reply

    def ztrim(self, key: str, keep: int) -> int:
        """Keep the members of the highest scores and return how many were removed."""
        reply: int = self._do(ZTrim(key, keep))
        return reply

    def keys(self) -> Iterator[str]:
        """Yield each key once, in no particular order."""
        return self._kv.keys(self.name)

    def execute(self, *operations: Operation, checks: Iterable[Check] = (), token: Token | None = None) -> list[Reply]:
        """Execute operations as one batch and return their replies in order."""
        return self._all(Batch(self.name, operations, tuple(checks), token))

    def batch(self) -> BatchBuilder:
        """Collect operations in a `with` block; they are executed together at its end, or not at all if it raises."""
        return BatchBuilder(self)


class Collected:
    """Operations that will be one batch. `replies` is theirs, in order, once the `with` block was left."""

    def __init__(self) -> None:
        self._operations: list[Operation] = []
        self._checks: list[Check] = []
        self.replies: list[Reply] = []

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._operations)} operations, {len(self._checks)} checks)"

    def add(self, *operations: Operation) -> Self:
        """Add operations as they stand in `empathy_kv.kv.operations`."""
        self._operations.extend(operations)
        return self

    def check(self, key: str, version: int | None = None) -> Self:
        """Require that the key is there (None), is absent (0), or has this version; else the batch is refused."""
        self._checks.append(Check(key, version))
        return self

    def get(self, key: str) -> Self:
        """Add a `Get`."""
        return self.add(Get(key))

    def set(self, key: str, value: bytes, *, ttl: float | timedelta | None = None) -> Self:
        """Add a `Set`."""
        return self.add(Set(key, value, ttl))

    def delete(self, key: str) -> Self:
        """Add a `Delete`."""
        return self.add(Delete(key))

    def incr(self, key: str, by: int = 1) -> Self:
        """Add an `IncrBy`."""
        return self.add(IncrBy(key, by))

    def expire(self, key: str, ttl: float | timedelta | None) -> Self:
        """Add an `Expire`."""
        return self.add(Expire(key, ttl))

    def hset(self, key: str, fields: Mapping[str, bytes]) -> Self:
        """Add an `HSet`."""
        return self.add(HSet(key, fields))

    def hdel(self, key: str, *fields: str) -> Self:
        """Add an `HDel`."""
        return self.add(HDel(key, fields))

    def hincrby(self, key: str, increments: Mapping[str, int]) -> Self:
        """Add an `HIncrBy`."""
        return self.add(HIncrBy(key, increments))

    def zadd(self, key: str, members: Mapping[bytes, float], *, only: Literal["NX", "GT", "LT"] | None = None) -> Self:
        """Add a `ZAdd`."""
        return self.add(ZAdd(key, members, only))

    def zappend(self, key: str, *members: bytes) -> Self:
        """Add a `ZAppend`."""
        return self.add(ZAppend(key, members))

    def zrem(self, key: str, *members: bytes) -> Self:
        """Add a `ZRem`."""
        return self.add(ZRem(key, members))

    def ztrim(self, key: str, keep: int) -> Self:
        """Add a `ZTrim`."""
        return self.add(ZTrim(key, keep))


class BatchBuilder(Collected):
    """What `Namespace.batch()` gives."""

    def __init__(self, namespace: Namespace) -> None:
        super().__init__()
        self._namespace = namespace

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None and (self._operations or self._checks):
            self.replies = self._namespace.execute(*self._operations, checks=self._checks)


@frozen
class Keys:
    """A step that asks for all keys of a namespace; it is sent a list of str."""

    namespace: Name


@frozen
class Several:
    """A step that asks for batches that only read, of any namespaces; it is sent a list of their lists of replies."""

    batches: Sequence[Batch]


class Engine(Protocol):
    """What executes what domain code yields: a `KV` batches, a database transactions."""

    looked: bool

    def look(self) -> None:
        """Raise `UnfinishedError` if what it has is a part of what was to be restored."""

    def commit(self, request: Any, /) -> list[Any]:
        """Execute all of it, or none of it."""


def run(kv: Engine | None, steps: Steps[R]) -> R:
    """Drive a piece of domain code on an engine. An error of the engine is raised at the `yield` that caused it.

    Code that has no I/O to do, and so yields nothing, needs no engine.
    """
    try:
        request = next(steps)
        assert kv is not None  # noqa: S101 - for the type checker: this code yields
        if not kv.looked:
            kv.look()
        while True:
            try:
                replies = kv.commit(request) if type(request) is Batch else asked(kv, request)
            except EmpathyKVError as error:
                request = steps.throw(error)
            else:
                request = steps.send(replies)
    except StopIteration as stop:
        result: R = stop.value
        return result


def asked(kv: Any, request: Any) -> list[Any]:
    """Return what a step that is no batch asks of an engine."""
    if isinstance(request, Keys):
        return list(kv.keys(request.namespace))
    replies: list[Any] = kv.several(request.batches) if isinstance(request, Several) else kv.commit(request)
    return replies


class Asynchronous:
    """The base of what is used in an event loop: the methods of the domain are coroutines there."""

    _run: functools.partial[Any]
    """The driver, given what it runs steps on."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._run.args[0]!r})"


class Method(Protocol[P, R]):
    """A method of a domain class: a coroutine on what is `Asynchronous`, an ordinary method on others."""

    @overload
    def __get__(self, instance: None, owner: type) -> Method[P, R]: ...

    @overload
    def __get__(self, instance: Asynchronous, owner: type | None = None) -> Callable[P, Coroutine[Any, Any, R]]: ...

    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Callable[P, R]: ...


def method(function: Callable[Concatenate[Any, P], Steps[R]]) -> Method[P, R]:
    """Make a method of a generator function of the domain: same name, arguments and docstring.

    The class that gets it has the rules in `_rules` and the driver in `_run`. That is all a domain class has, so the
    rules stand once for every way of running them: with a driver of coroutines, the same method returns one.
    """
    # What Python calls it in a TypeError about its arguments: the caller knows no rules.
    function.__qualname__ = function.__name__

    @functools.wraps(function)
    def call(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self._run(function(self._rules, *args, **kwargs))
        return result

    # What `help`, notebooks and editors show: what the caller gets, not the steps to it. `wraps` shares the mapping.
    returned = function.__annotations__["return"].removeprefix("Steps[").removesuffix("]")
    call.__annotations__ = {**function.__annotations__, "return": returned}
    call.__signature__ = inspect.signature(function).replace(return_annotation=returned)  # type: ignore[attr-defined]
    return cast(Method[P, R], call)
