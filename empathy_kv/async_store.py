"""A store in an event loop: the same names as those of `Store`, as coroutines.

Nothing of the domain stands here: a method of these classes is the one of the class for threads, which runs the same
rules with another driver.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from empathy_kv.collection import CollectionRules
from empathy_kv.errors import DamagedError
from empathy_kv.kv.asynchronous import AsyncKV, run, start
from empathy_kv.kv.interface import Asynchronous, Bound, Durability, method
from empathy_kv.kv.operations import PAGE, Token
from empathy_kv.metrics import HISTORY, MetricRules, MetricsCollector
from empathy_kv.pattern_library import PatternLibrary, PatternRules, PatternView, Settings
from empathy_kv.shared_metrics import KVMetrics
from empathy_kv.shared_patterns import SharedPatterns
from empathy_kv.states import StateManager, StateRules

T = TypeVar("T")


class AsyncPatternLibrary(Settings, Asynchronous):
    """The patterns of a store in an event loop; as `PatternLibrary`."""

    def __init__(self, kv: AsyncKV) -> None:
        self._rules = PatternRules(SharedPatterns())
        self._run = functools.partial(start, kv)

    contribute_pattern = PatternLibrary.contribute_pattern
    contribute_patterns = PatternLibrary.contribute_patterns
    restore = PatternLibrary.restore
    get_pattern = PatternLibrary.get_pattern
    remove_pattern = PatternLibrary.remove_pattern
    remove_patterns = PatternLibrary.remove_patterns
    find_patterns = PatternLibrary.find_patterns
    query_patterns = PatternLibrary.query_patterns
    update_pattern = PatternLibrary.update_pattern
    repair = PatternLibrary.repair
    record_pattern_outcome = PatternLibrary.record_pattern_outcome
    link_patterns = PatternLibrary.link_patterns
    get_related_patterns = PatternLibrary.get_related_patterns
    get_agent_patterns = PatternLibrary.get_agent_patterns
    get_top_patterns = PatternLibrary.get_top_patterns
    get_library_stats = PatternLibrary.get_library_stats
    get_agent_contributions = PatternLibrary.get_agent_contributions
    get_links = PatternLibrary.get_links
    snapshot = PatternLibrary.snapshot

    _view = method(PatternRules.view)

    @property
    def patterns(self) -> Coroutine[Any, Any, PatternView]:
        """The patterns by id, to be awaited: `(await library.patterns)["id"]`. It loads the library."""
        return self._view()

    @property
    def agent_contributions(self) -> Coroutine[Any, Any, dict[str, list[str]]]:
        """The ids that each agent contributed, to be awaited."""
        return self.get_agent_contributions()


class AsyncStateManager(Asynchronous):
    """The collaboration states of a store in an event loop; as `StateManager`."""

    def __init__(self, kv: AsyncKV) -> None:
        self._rules = StateRules()
        self._run = functools.partial(start, kv)

    save_state = StateManager.save_state
    load_state = StateManager.load_state
    load_versioned = StateManager.load_versioned
    record = StateManager.record
    list_users = StateManager.list_users
    delete_state = StateManager.delete_state


class AsyncMetricsCollector(Asynchronous):
    """The metrics of a store in an event loop; as `MetricsCollector`."""

    def __init__(self, kv: AsyncKV, history_limit: int = HISTORY) -> None:
        self._rules = MetricRules(KVMetrics(kv.shards, history_limit))
        self._run = functools.partial(start, kv)

    record_interaction = MetricsCollector.record_interaction
    get_user_stats = MetricsCollector.get_user_stats
    get_global_stats = MetricsCollector.get_global_stats
    get_all_users = MetricsCollector.get_all_users
    get_history = MetricsCollector.get_history

    _rows = MetricsCollector._rows

    async def export_metrics(self, filepath: str | os.PathLike[str]) -> None:
        """Write the figures of every user and of all to a file; as `MetricsCollector.export_metrics`."""
        from empathy_kv.export import export

        await asyncio.to_thread(export, await self._rows(), filepath)


class AsyncCollection(Bound, Generic[T]):
    """Documents of one attrs class or dataclass in an event loop; as `Collection`."""

    def __init__(self, name: str, kind: type[T], *, kv: AsyncKV) -> None:
        self._rules = CollectionRules(name, kind)
        self._kv = kv

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._rules.namespace[1]!r})"

    async def put(
        self,
        id: str,
        document: T,
        ttl: float | timedelta | None = None,
        *,
        expected_version: int | None = None,
    ) -> int:
        """Store a document in the place of one that was there, and return its version; as `Collection.put`."""
        return await run(self._kv, self._rules.put(id, document, ttl, expected_version))

    async def get(self, id: str) -> T | None:
        """Return a document, None if it is absent or has expired."""
        return await run(self._kv, self._rules.get(id))

    async def get_versioned(self, id: str) -> tuple[T | None, int]:
        """Return a document and its version, for `put(..., expected_version=)`; (None, 0) if it is absent."""
        return await run(self._kv, self._rules.get_versioned(id))

    async def delete(self, id: str) -> bool:
        """Delete a document and return whether it was there; deleting twice is no error."""
        return await run(self._kv, self._rules.delete(id))

    async def get_many(self, ids: Iterable[str]) -> dict[str, T]:
        """Return those of the documents that are there, by id."""
        return await run(self._kv, self._rules.get_many(ids))

    async def put_many(self, documents: Mapping[str, T], ttl: float | timedelta | None = None) -> None:
        """Store documents by id; as `Collection.put_many`."""
        await run(self._kv, self._rules.put_many(documents, ttl))

    def keys(self) -> AsyncIterator[str]:
        """Yield the id of each document once, in no particular order."""
        return self._kv.keys(self._rules.namespace)

    async def items(self) -> AsyncIterator[tuple[str, T]]:
        """Yield ids and documents, in no particular order, without holding all of them in memory."""
        page: list[str] = []
        async for key in self.keys():
            page.append(key)
            if len(page) == PAGE:
                for item in (await self.get_many(page)).items():
                    yield item
                page.clear()
        for item in (await self.get_many(page)).items():
            yield item


class AsyncStore(Bound):
    """What `connect_async` returns. Tasks may share it; `await close()`, or use `async with`.

    `patterns`, `states` and `metrics` are the domain; `kv` is the engine below, for data of your own. All have the
    methods of those of a `Store`, as coroutines.
    """

    patterns: AsyncPatternLibrary
    states: AsyncStateManager
    metrics: AsyncMetricsCollector
    kv: AsyncKV

    def __init__(self, kv: AsyncKV, *, history_limit: int = HISTORY) -> None:
        self.kv = kv
        self.patterns = AsyncPatternLibrary(kv)
        self.states = AsyncStateManager(kv)
        self.metrics = AsyncMetricsCollector(kv, history_limit)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kv!r})"

    def collection(self, name: str, kind: type[T]) -> AsyncCollection[T]:
        """Return the documents of a class under a name. It needs not exist, and costs nothing."""
        return AsyncCollection(name, kind, kv=self.kv)

    async def durability(self) -> Durability:
        """Return what a write that returned survives; as `Store.durability`."""
        return await self.kv.durability()

    async def checkpoint(self) -> None:
        """Bring the JSON documents of a store on files up to date; as `Store.checkpoint`."""
        await self.kv.checkpoint()

    async def check(self) -> list[DamagedError]:
        """Read a whole store on files and return what is damaged; as `Store.check`."""
        return await self.kv.check()

    async def settle(self, token: Token | str) -> bool:
        """Return whether the write with this token was applied; as `Store.settle`."""
        return await self.kv.settle(token)

    async def close(self) -> None:
        """Give back what the store holds. Closing twice is no error; using it afterwards is a `ClosedError`."""
        await self.kv.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
