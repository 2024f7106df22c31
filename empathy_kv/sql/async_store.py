"""A store on a database in an event loop: calls are made in threads."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NoReturn, TypeVar

from empathy_kv.async_store import AsyncMetricsCollector, AsyncPatternLibrary, AsyncStateManager, AsyncStore
from empathy_kv.errors import DamagedError
from empathy_kv.kv.asynchronous import called
from empathy_kv.kv.interface import Durability, Steps
from empathy_kv.kv.operations import Token
from empathy_kv.metrics import MetricRules
from empathy_kv.pattern_library import PatternRules
from empathy_kv.sql.database import Database
from empathy_kv.sql.metrics import SQLMetrics
from empathy_kv.sql.shared_patterns import SQLPatterns
from empathy_kv.sql.states import SQLStates
from empathy_kv.sql.store import unsupported
from empathy_kv.states import StateRules

R = TypeVar("R")

_THREADS: Final = 16


class _Threads:
    """Runs domain code on a database, each call in a thread. One that is cancelled goes on there to its end."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="empathy_kv")

    def __repr__(self) -> str:
        return repr(self.database)

    async def call(self, function: Callable[..., R], *arguments: Any) -> R:
        call = functools.partial(function, *arguments)
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, call)
        except RuntimeError:  # The threads are gone: the database is closed, and says so.
            return call()
        return await future

    async def close(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self.call(self.database.close)
        self._threads.shutdown(wait=False)


def _start(threads: _Threads, steps: Steps[R]) -> Coroutine[Any, Any, R]:
    return called(threads.call(threads.database.run, steps), steps)


class _Patterns(AsyncPatternLibrary):
    def __init__(self, threads: _Threads) -> None:
        self._rules = PatternRules(SQLPatterns())
        self._run = functools.partial(_start, threads)


class _States(AsyncStateManager):
    def __init__(self, threads: _Threads) -> None:
        self._rules = StateRules(SQLStates())
        self._run = functools.partial(_start, threads)


class _Metrics(AsyncMetricsCollector):
    def __init__(self, threads: _Threads) -> None:
        self._rules = MetricRules(SQLMetrics())
        self._run = functools.partial(_start, threads)


class AsyncSQLStore(AsyncStore):
    """What `connect_async` returns for the URL of a database; as `SQLStore`."""

    def __init__(self, database: Database) -> None:
        self._threads = _Threads(database)
        self.patterns = _Patterns(self._threads)
        self.states = _States(self._threads)
        self.metrics = _Metrics(self._threads)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._threads.database!r})"

    @property
    def kv(self) -> NoReturn:  # type: ignore[override]
        """Raise `UnsupportedError`."""
        raise unsupported("key-value interface")

    def collection(self, name: str, kind: type[Any]) -> NoReturn:  # noqa: ARG002
        """Raise `UnsupportedError`."""
        raise unsupported("collections")

    async def durability(self) -> Durability:
        """Return what a write that returned survives; as `SQLStore.durability`."""
        return await self._threads.call(self._threads.database.durability)

    async def checkpoint(self) -> None:
        """Do nothing: a database has its tables up to date."""

    async def check(self) -> list[DamagedError]:
        """Return nothing: a database looks after its files itself."""
        return []

    async def settle(self, token: Token | str) -> bool:
        """Return whether the write with this token was applied; as `SQLStore.settle`."""
        return await self._threads.call(self._threads.database.settle, token)

    async def close(self) -> None:
        """Close the connections; as `SQLStore.close`."""
        await self._threads.close()
