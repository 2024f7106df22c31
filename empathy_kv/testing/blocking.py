"""An engine of asyncio behind the blocking interface, so that the suite and the state machine can be run on it."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from empathy_kv.errors import DamagedError
from empathy_kv.kv.asynchronous import AsyncKV
from empathy_kv.kv.interface import KV, Durability
from empathy_kv.kv.operations import Batch, Name, Reply, Token

R = TypeVar("R")


class BlockingKV(KV):
    """An `AsyncKV` in an event loop in another thread. Every call is made there, and waited for here."""

    def __init__(self, make: Callable[[], AsyncKV]) -> None:
        super().__init__()
        self._loop = _loop()
        self.asynchronous = make()
        """The engine itself."""
        self._tokens = self.asynchronous._tokens
        self.shards = self.asynchronous.shards  # type: ignore[misc]  # as that engine

    def call(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine in the event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def execute(self, batch: Batch) -> list[Reply]:
        return self.call(self.asynchronous.execute(batch))

    def commit(self, batch: Batch) -> list[Reply]:
        return self.call(self.asynchronous.commit(batch))

    def several(self, batches: Sequence[Batch]) -> list[list[Reply]]:
        return self.call(self.asynchronous.several(batches))

    def settle(self, token: Token | str) -> bool:
        return self.call(self.asynchronous.settle(token))

    def keys(self, namespace: Name) -> Iterator[str]:
        keys = self.asynchronous.keys(namespace)
        while page := self.call(_page(keys)):
            yield from page

    def durability(self) -> Durability:
        return self.call(self.asynchronous.durability())

    def checkpoint(self) -> None:
        self.call(self.asynchronous.checkpoint())

    def check(self) -> list[DamagedError]:
        return self.call(self.asynchronous.check())

    def close(self) -> None:
        self.call(self.asynchronous.close())


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """Return an event loop that runs as long as the process, for all engines: calls come until the last moment."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


async def _page(keys: AsyncIterator[str]) -> list[str]:
    page: list[str] = []
    async for key in keys:
        page.append(key)
        if len(page) == 100:
            break
    return page
