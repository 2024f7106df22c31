"""What an engine is in an event loop (`AsyncKV`), and what is derived from it, as `interface` has it for threads.

Nothing is written twice: a method of a namespace is the function of `Namespace`, domain code the same generators.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar, cast

from empathy_kv.errors import DamagedError, EmpathyKVError, NotApplied, OutcomeUnknown
from empathy_kv.kv.interface import (
    KV,
    RESTORING,
    Collected,
    Durability,
    Keys,
    Namespace,
    Several,
    Steps,
    Writer,
    unfinished,
)
from empathy_kv.kv.operations import PAGE, Batch, Check, Name, Operation, Reply, Settle, Token

P = ParamSpec("P")
R = TypeVar("R")

_AGAIN: Final = 1.0
"""Seconds after which it is tried again to settle a write that was cancelled."""
_LAST: Final = 5.0
"""Seconds for which closing waits for that."""
_THREADS: Final = 16


class AsyncKV(Writer, ABC):
    """An engine in an event loop. Abstract: `execute`, `keys`, `close`. Derived from them: everything else.

    Many tasks may use it at once. A call that is cancelled leaves nothing behind: its write is settled in the
    background, so it was applied or never will be. Whoever wants to know which gives it a token of his own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._cancelled: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def execute(self, batch: Batch) -> list[Reply]:
        """Do all of the batch, or none of it; as `KV.execute`."""

    @abstractmethod
    def keys(self, namespace: Name) -> AsyncIterator[str]:
        """Yield each key of a namespace once; as `KV.keys`."""

    @abstractmethod
    async def close(self) -> None:
        """Give back what the engine holds. Closing twice is no error; using it afterwards is a `ClosedError`."""

    async def durability(self) -> Durability:
        """Return what the engine promises of a write that returned; as `KV.durability`."""
        return Durability("unknown", "unknown", "unknown", "unknown", None)

    async def checkpoint(self) -> None:
        """Bring everything that is committed to where it stays; as `KV.checkpoint`."""

    async def check(self) -> list[DamagedError]:
        """Read the whole store and return what is damaged; as `KV.check`."""
        return []

    async def several(self, batches: Sequence[Batch]) -> list[list[Reply]]:
        """Execute batches that only read, of any namespaces, and return the replies of each; as `KV.several`."""
        return [await self.execute(batch) for batch in batches]

    async def look(self) -> None:
        """Raise `UnfinishedError` if a restore into the store was not finished; as `KV.look`."""
        if (await self.execute(RESTORING))[0] is not None:
            raise unfinished()
        self.looked = True

    async def commit(self, batch: Batch) -> list[Reply]:
        """Execute the batch, with a token of this writer if it writes and has none, and the engine needs one."""
        if not batch.writes or self._certain or batch.token is not None:
            return await self.execute(batch)
        token = self._tokens.take(batch.namespace)
        try:
            replies = await self.execute(batch.signed(token))
        except OutcomeUnknown:
            raise  # The slot stays taken, as in `KV.commit`.
        except EmpathyKVError:
            self._tokens.give(token)
            raise
        except asyncio.CancelledError:
            self._settle_behind(token)
            raise
        self._tokens.give(token)
        return replies

    def _settle_behind(self, token: Token) -> None:
        task = asyncio.get_running_loop().create_task(self._settled(token))
        self._cancelled.add(task)
        task.add_done_callback(self._cancelled.discard)

    async def _settled(self, token: Token) -> None:
        while True:
            try:
                await self.settle(token)
            except (NotApplied, OutcomeUnknown):
                await asyncio.sleep(_AGAIN)  # The server is away.
            except EmpathyKVError:
                return
            else:
                return

    async def _finish(self) -> None:
        """Wait for what was cancelled, before the engine is closed."""
        if self._cancelled:
            await asyncio.wait(self._cancelled, timeout=_LAST)
        for task in self._cancelled:
            task.cancel()

    async def settle(self, token: Token | str) -> bool:
        """Return whether the batch with this token was applied. If it was not, it never will be; as `KV.settle`."""
        if not isinstance(token, Token):
            token = Token.parse(token)
        applied: bool = (await self.execute(Batch(token.namespace, (Settle(token),))))[0]
        self._tokens.give(token)
        return applied

    def namespace(self, *name: str) -> AsyncNamespace:
        """Return the namespace with this name, of one or more texts. It needs not exist, and costs nothing."""
        return AsyncNamespace(self, name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def awaited(
    function: Callable[Concatenate[Namespace, P], R],
) -> Callable[Concatenate[AsyncNamespace, P], Coroutine[Any, Any, R]]:
    """Return a method of `Namespace` as one of `AsyncNamespace`.

    It is the same function. It ends in `_do` or `_all`, and returns what those return: there, a coroutine, which has
    the name of the method.
    """

    @functools.wraps(function)
    def call(self: AsyncNamespace, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        coroutine: Any = function(self, *args, **kwargs)  # type: ignore[arg-type]
        coroutine.__qualname__ = name
        return coroutine  # type: ignore[no-any-return]

    name = call.__qualname__ = f"AsyncNamespace.{function.__name__}"
    return call  # type: ignore[return-value]


class AsyncNamespace:
    """One namespace of a store, as `Namespace`, whose methods are coroutines here."""

    def __init__(self, kv: AsyncKV, name: Iterable[str]) -> None:
        self._kv = kv
        self.name = Batch(cast(Name, tuple(name)), ()).namespace

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.name))})"

    async def _do(self, operation: Operation, *checks: Check) -> Reply:
        batch = Batch(self.name, (operation,), checks) if checks else Batch.of(self.name, operation)
        return (await self._kv.commit(batch))[0]

    async def _all(self, batch: Batch) -> list[Reply]:
        return await self._kv.commit(batch)

    get = awaited(Namespace.get)
    set = awaited(Namespace.set)
    delete = awaited(Namespace.delete)
    exists = awaited(Namespace.exists)
    version = awaited(Namespace.version)
    incr = awaited(Namespace.incr)
    ttl = awaited(Namespace.ttl)
    expire = awaited(Namespace.expire)
    hget = awaited(Namespace.hget)
    hgetall = awaited(Namespace.hgetall)
    hset = awaited(Namespace.hset)
    hdel = awaited(Namespace.hdel)
    hincrby = awaited(Namespace.hincrby)
    zadd = awaited(Namespace.zadd)
    zappend = awaited(Namespace.zappend)
    zrange = awaited(Namespace.zrange)
    zrangebyscore = awaited(Namespace.zrangebyscore)
    zscore = awaited(Namespace.zscore)
    zcard = awaited(Namespace.zcard)
    zrem = awaited(Namespace.zrem)
    ztrim = awaited(Namespace.ztrim)
    execute = awaited(Namespace.execute)

    def keys(self) -> AsyncIterator[str]:
        """Yield each key once, in no particular order."""
        return self._kv.keys(self.name)

    def batch(self) -> AsyncBatchBuilder:
        """Collect operations in an `async with` block; they are executed together at its end, or not at all."""
        return AsyncBatchBuilder(self)


class AsyncBatchBuilder(Collected):
    """What `AsyncNamespace.batch()` gives."""

    def __init__(self, namespace: AsyncNamespace) -> None:
        super().__init__()
        self._namespace = namespace

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None and (self._operations or self._checks):
            self.replies = await self._namespace.execute(*self._operations, checks=self._checks)


async def run(kv: AsyncKV, steps: Steps[R]) -> R:
    """Drive a piece of domain code on an engine in an event loop; as `interface.run`."""
    try:
        request = next(steps)
        if not kv.looked:
            await kv.look()
        while True:
            try:
                if type(request) is Batch:
                    replies: list[Any] = await kv.commit(request)
                elif isinstance(request, Keys):
                    replies = [key async for key in kv.keys(request.namespace)]
                else:
                    assert isinstance(request, Several)  # noqa: S101 - for the type checker
                    replies = await kv.several(request.batches)
            except EmpathyKVError as error:
                request = steps.throw(error)
            else:
                request = steps.send(replies)
    except StopIteration as stop:
        return cast(R, stop.value)


def start(kv: AsyncKV, steps: Steps[R]) -> Coroutine[Any, Any, R]:
    """Return the coroutine of `run`, under the name of the steps: if nobody awaits it, that is what is told."""
    return called(run(kv, steps), steps)


def called(coroutine: Coroutine[Any, Any, R], steps: Steps[Any]) -> Coroutine[Any, Any, R]:
    """Return a coroutine under the name of the steps that it drives."""
    coroutine.__name__ = coroutine.__qualname__ = steps.__name__  # type: ignore[attr-defined]
    return coroutine


class DirectKV(AsyncKV):
    """An engine whose calls never wait, as that in memory, in an event loop: they are just made."""

    def __init__(self, kv: KV) -> None:
        super().__init__()
        self._kv = kv
        self._tokens = kv._tokens
        self._certain = True
        self.shards = kv.shards  # type: ignore[misc]  # as that engine

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._kv!r})"

    async def execute(self, batch: Batch) -> list[Reply]:
        return self._kv.execute(batch)

    async def durability(self) -> Durability:
        return self._kv.durability()

    async def keys(self, namespace: Name) -> AsyncIterator[str]:
        for key in self._kv.keys(namespace):
            yield key

    async def close(self) -> None:
        self._kv.close()


class ThreadedKV(AsyncKV):
    """An engine whose calls may wait, for a lock or a disk, in an event loop: they are made in threads.

    A call that is cancelled goes on in its thread to its end, and takes a thread until then.
    """

    def __init__(self, kv: KV) -> None:
        super().__init__()
        self._kv = kv
        self._tokens = kv._tokens
        self._certain = kv._certain
        self.shards = kv.shards  # type: ignore[misc]  # as that engine
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="empathy_kv")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._kv!r})"

    async def _call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        call = functools.partial(function, *args, **kwargs)
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, call)
        except RuntimeError:  # The threads are gone: the engine is closed, and says so.
            return call()
        return await future

    async def execute(self, batch: Batch) -> list[Reply]:
        return await self._call(self._kv.execute, batch)

    async def commit(self, batch: Batch) -> list[Reply]:
        return await self._call(self._kv.commit, batch)

    async def settle(self, token: Token | str) -> bool:
        return await self._call(self._kv.settle, token)

    async def several(self, batches: Sequence[Batch]) -> list[list[Reply]]:
        return await self._call(self._kv.several, batches)

    async def keys(self, namespace: Name) -> AsyncIterator[str]:
        keys: Iterator[str] = self._kv.keys(namespace)
        while page := await self._call(list, itertools.islice(keys, PAGE)):
            for key in page:
                yield key

    async def durability(self) -> Durability:
        return await self._call(self._kv.durability)

    async def checkpoint(self) -> None:
        await self._call(self._kv.checkpoint)

    async def check(self) -> list[DamagedError]:
        return await self._call(self._kv.check)

    async def close(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._call(self._kv.close)
        self._threads.shutdown(wait=False)
