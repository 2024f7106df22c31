"""A Redis or Valkey server, a Sentinel group or a Cluster as an engine: with blocking calls, and in an event loop."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, ClassVar, Self

from empathy_kv.kv.asynchronous import AsyncKV
from empathy_kv.kv.interface import KV, Durability
from empathy_kv.kv.operations import Batch, Name, Reply
from empathy_kv.kv.redis import address
from empathy_kv.kv.redis.connections import Connections
from empathy_kv.kv.redis.multiplexed import Multiplexed
from empathy_kv.kv.redis.server import Server
from empathy_kv.kv.redis.snapshots import ServerSnapshot
from empathy_kv.kv.redis.topology import Topology


class RedisKV(KV):
    """Namespaces on a server, under a prefix. Two prefixes on one server never see each other.

    `timeout`: seconds after which a call gives up; until then it is repeated when no answer comes. A write is repeated
    with its token, so it happens once. `replicas`: how many must confirm a write before it returns (WAIT).
    """

    shards: ClassVar[int] = 64

    def __init__(self, topology: Topology, *, prefix: str = "empathy", timeout: float = 5.0, replicas: int = 0) -> None:
        super().__init__()
        self._server = Server(topology, prefix=prefix, timeout=timeout, replicas=replicas)
        self._connections = Connections()

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "empathy", timeout: float = 5.0, replicas: int = 0) -> Self:
        """Open what a URL names, as `empathy_kv.kv.redis.address` has it. Nothing is sent yet."""
        topology = address.from_url(url, asynchronous=False)
        return cls(topology, prefix=prefix, timeout=timeout, replicas=replicas)

    @classmethod
    def from_client(cls, client: Any, *, prefix: str = "empathy", timeout: float = 5.0, replicas: int = 0) -> Self:
        """Connect as a client of redis-py's or fakeredis's does, one of a Sentinel group or a Cluster too.

        The connections are the engine's own. The client stays open, and may be closed.
        """
        topology = address.from_client(client, asynchronous=False)
        return cls(topology, prefix=prefix, timeout=timeout, replicas=replicas)

    def __repr__(self) -> str:
        # Nothing of the URL: it may hold a password.
        return f"{type(self).__name__}(prefix={self._server.prefix!r})"

    def execute(self, batch: Batch) -> list[Reply]:
        return self._connections.run(self._server.execute(batch))

    def several(self, batches: Sequence[Batch]) -> list[list[Reply]]:
        return self._connections.run(self._server.several(batches))

    def keys(self, namespace: Name) -> Iterator[str]:
        after: bytes | None = None
        while True:
            keys, after = self._connections.run(self._server.page(namespace, after))
            yield from keys
            if after is None:
                return

    @contextlib.contextmanager
    def snapshot(self, namespaces: Sequence[Name]) -> Iterator[ServerSnapshot]:
        """Return a snapshot, which is one moment when it was caught up with while the writers were still.

        On a cluster it is the same moment everywhere.
        """

        def ask(verb: str, who: str, milliseconds: int, revisions: Sequence[int]) -> list[Any]:
            return self._connections.run(self._server.watch(namespaces, verb, who, milliseconds, revisions))

        snapshot = ServerSnapshot(self, namespaces, ask, self._server.keys_of)
        with contextlib.closing(snapshot):
            yield snapshot

    def durability(self) -> Durability:
        return self._connections.run(self._server.durability())

    def close(self) -> None:
        self._connections.close()


class AsyncRedisKV(AsyncKV):
    """The same in an event loop: tasks share connections, and what they send at one moment goes out in one piece."""

    shards: ClassVar[int] = 64

    def __init__(self, topology: Topology, *, prefix: str = "empathy", timeout: float = 5.0, replicas: int = 0) -> None:
        super().__init__()
        self._server = Server(topology, prefix=prefix, timeout=timeout, replicas=replicas)
        self._connections = Multiplexed()

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "empathy", timeout: float = 5.0, replicas: int = 0) -> Self:
        """Open what a URL names, as `empathy_kv.kv.redis.address` has it. Nothing is sent yet."""
        topology = address.from_url(url, asynchronous=True)
        return cls(topology, prefix=prefix, timeout=timeout, replicas=replicas)

    @classmethod
    def from_client(cls, client: Any, *, prefix: str = "empathy", timeout: float = 5.0, replicas: int = 0) -> Self:
        """Connect as a client of redis.asyncio's or fakeredis's does; as `RedisKV.from_client`."""
        topology = address.from_client(client, asynchronous=True)
        return cls(topology, prefix=prefix, timeout=timeout, replicas=replicas)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(prefix={self._server.prefix!r})"

    async def execute(self, batch: Batch) -> list[Reply]:
        return await self._connections.run(self._server.execute(batch))

    async def several(self, batches: Sequence[Batch]) -> list[list[Reply]]:
        return await self._connections.run(self._server.several(batches))

    async def keys(self, namespace: Name) -> AsyncIterator[str]:
        after: bytes | None = None
        while True:
            keys, after = await self._connections.run(self._server.page(namespace, after))
            for key in keys:
                yield key
            if after is None:
                return

    async def durability(self) -> Durability:
        return await self._connections.run(self._server.durability())

    async def close(self) -> None:
        await self._finish()
        await self._connections.close()
