"""The engines under test: how each is opened, in one table for all tests."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import fakeredis
import pytest
import redis
from attrs import field, frozen

from empathy_kv.kv.asynchronous import DirectKV, ThreadedKV
from empathy_kv.kv.files import FilesKV
from empathy_kv.kv.interface import KV
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.kv.redis import AsyncRedisKV, RedisKV
from empathy_kv.sql.database import Database
from empathy_kv.sql.postgres import Postgres
from empathy_kv.sql.sqlite import SQLite
from empathy_kv.testing.blocking import BlockingKV


@frozen
class Place:
    """Where a test keeps its data: a directory, and a prefix on a server. Nothing is there yet."""

    directory: Path
    url: str = ""
    client: fakeredis.FakeRedis | None = None
    prefix: str = field(factory=lambda: f"test-{secrets.token_hex(6)}")


@frozen
class Engine:
    """One row of the table; `reopens` and `shares` as `KVConformance` says."""

    open: Callable[[Place], KV]
    reopens: bool = False
    shares: bool = False
    server: str | None = None
    """The fixture of the server that it needs."""


def _fakeredis(place: Place) -> KV:
    assert place.client is not None
    return RedisKV.from_client(place.client, prefix=place.prefix)


def _fakeredis_async(place: Place) -> KV:
    assert place.client is not None
    server = place.client.connection_pool.connection_kwargs["server"]
    return BlockingKV(lambda: AsyncRedisKV.from_client(fakeredis.FakeAsyncRedis(server=server), prefix=place.prefix))


@functools.cache
def _client(url: str, protocol: int, decode: bool) -> redis.Redis:
    return redis.Redis.from_url(url, protocol=protocol, decode_responses=decode)


def _of_a_client(protocol: int, decode: bool) -> Engine:
    return Engine(
        lambda place: RedisKV.from_client(_client(place.url, protocol, decode), prefix=place.prefix, timeout=10.0),
        reopens=True,
        shares=True,
        server="redis_server",
    )


ENGINES: Final[Mapping[str, Engine]] = {
    "memory": Engine(lambda place: MemoryKV()),
    "files": Engine(lambda place: FilesKV(place.directory, durability="os"), reopens=True, shares=True),
    "files, fsync": Engine(lambda place: FilesKV(place.directory, durability="fsync"), reopens=True, shares=True),
    "fakeredis": Engine(_fakeredis, reopens=True, shares=True),
    "redis": Engine(
        lambda place: RedisKV.from_url(place.url, prefix=place.prefix, timeout=10.0),
        reopens=True,
        shares=True,
        server="redis_server",
    ),
    "memory, asyncio": Engine(lambda place: BlockingKV(lambda: DirectKV(MemoryKV()))),
    "files, asyncio": Engine(
        lambda place: BlockingKV(lambda: ThreadedKV(FilesKV(place.directory, durability="os"))),
        reopens=True,
        shares=True,
    ),
    "fakeredis, asyncio": Engine(_fakeredis_async, reopens=True, shares=True),
    "redis, asyncio": Engine(
        lambda place: BlockingKV(lambda: AsyncRedisKV.from_url(place.url, prefix=place.prefix, timeout=10.0)),
        reopens=True,
        shares=True,
        server="redis_server",
    ),
    "redis, client with RESP2": _of_a_client(2, decode=False),
    "redis, client with RESP2 that decodes": _of_a_client(2, decode=True),
    "redis, client with RESP3": _of_a_client(3, decode=False),
    "redis, client with RESP3 that decodes": _of_a_client(3, decode=True),
    "redis, least privilege": Engine(
        lambda place: RedisKV.from_url(place.url, prefix=place.prefix, timeout=10.0),
        reopens=True,
        shares=True,
        server="redis_restricted",
    ),
    "cluster": Engine(
        lambda place: RedisKV.from_url(place.url, prefix=place.prefix, timeout=10.0),
        reopens=True,
        shares=True,
        server="redis_cluster",
    ),
    "cluster, asyncio": Engine(
        lambda place: BlockingKV(lambda: AsyncRedisKV.from_url(place.url, prefix=place.prefix, timeout=10.0)),
        reopens=True,
        shares=True,
        server="redis_cluster",
    ),
    "sentinel": Engine(
        lambda place: RedisKV.from_url(place.url, prefix=place.prefix, timeout=10.0),
        reopens=True,
        shares=True,
        server="redis_sentinels",
    ),
}


@frozen
class DatabaseEngine:
    """A database that keeps the domain's tables."""

    open: Callable[[Place], Database]
    reopens: bool = True
    shares: bool = True
    server: str | None = None
    """The fixture of the server that it needs."""


DATABASES: Final[Mapping[str, DatabaseEngine]] = {
    "sqlite": DatabaseEngine(lambda place: SQLite(place.directory / "store.db", durability="os")),
    "postgresql": DatabaseEngine(lambda place: Postgres(place.url, timeout=20.0), server="postgres_server"),
}


def place(engine: Engine, directory: Path, request: pytest.FixtureRequest) -> Place:
    """Return a fresh place for an engine."""
    url = request.getfixturevalue(engine.server).url if engine.server else ""
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer())
    client.ping()  # Threads that connect first at the same moment get databases of their own from it.
    return Place(directory, url, client)
