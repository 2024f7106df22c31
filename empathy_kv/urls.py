"""URLs of stores: what opens the engine that one names, `connect` and `connect_async`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from attrs import frozen

from empathy_kv.errors import ArgumentError
from empathy_kv.kv.interface import KV
from empathy_kv.kv.operations import integer, number, text
from empathy_kv.metrics import HISTORY
from empathy_kv.paths import destination
from empathy_kv.store import Store

if TYPE_CHECKING:
    from redis import Redis, RedisCluster
    from redis.asyncio import Redis as AsyncRedis
    from redis.asyncio import RedisCluster as AsyncRedisCluster

    from empathy_kv.async_store import AsyncStore
    from empathy_kv.kv.asynchronous import AsyncKV
    from empathy_kv.sql.database import Database

E = TypeVar("E")

DEFAULT_URL: Final = "file:.empathy"
PREFIX: Final = "empathy"


def connect(
    target: str | KV | Redis | RedisCluster | None = None,
    *,
    durability: Literal["fsync", "os"] = "fsync",
    timeout: float = 5.0,
    prefix: str = PREFIX,
    replicas: int = 0,
    history_limit: int = HISTORY,
) -> Store:
    """Open a store.

    `target` is a URL, by default that of the environment variable `EMPATHY_KV_URL`, else `file:.empathy`:

    - `memory:` keeps everything in this process, and nothing after it
    - `file:DIR` keeps JSON files in a directory, which the first write makes; many processes may use it
    - `redis://host:port/db`, `rediss://...`, `unix:///path` use a Redis or Valkey server
    - `redis+sentinel://host:port,host:port/service/db` uses the master of a Sentinel group
    - `redis+cluster://host:port,host:port` uses a Redis Cluster; `valkey` and `valkeys` may stand for `redis` and
      `rediss`
    - `sqlite:///FILE` keeps the documented tables in a SQLite file (`sqlite:////FILE` from the root), which the first
      write makes; many processes may use it
    - `postgresql://user:password@host:port/db` keeps them in a PostgreSQL database; needs the extra `postgres`

    or an engine, or a client of redis-py or fakeredis, which stays the caller's to close.

    `durability` is that of files: "fsync" survives a power cut once a write returned, "os" the end of the process.
    A database has patterns, states and metrics, and neither `kv` nor collections; it keeps all interactions.
    `timeout`: seconds that a call may take, for a lock or a server. `prefix` keeps applications on one server or
    directory apart. `replicas`: on a server, how many replicas must have a write before it returns.
    `history_limit`: how many interactions of a user the metrics keep one by one; counters are for ever.
    """
    settings = _settings(durability, timeout, prefix, replicas, history_limit)
    if isinstance(target, KV):
        kv = target
    elif target is None or isinstance(target, str):
        url, scheme = _scheme(target)
        if scheme in SQL:
            from empathy_kv.sql.store import SQLStore

            return SQLStore(_database(url, scheme, settings))
        kv = _opened(url, settings)
    else:
        from empathy_kv.kv.redis import RedisKV

        kv = RedisKV.from_client(target, **settings.server)
    return Store(kv, history_limit=history_limit)


async def connect_async(
    target: str | AsyncKV | AsyncRedis | AsyncRedisCluster | None = None,
    *,
    durability: Literal["fsync", "os"] = "fsync",
    timeout: float = 5.0,
    prefix: str = PREFIX,
    replicas: int = 0,
    history_limit: int = HISTORY,
) -> AsyncStore:
    """Open a store for use in an event loop; as `connect`.

    A client is one of redis.asyncio, or of fakeredis. Calls on files are made in threads.
    """
    from empathy_kv.async_store import AsyncStore
    from empathy_kv.kv.asynchronous import AsyncKV, DirectKV, ThreadedKV

    settings = _settings(durability, timeout, prefix, replicas, history_limit)
    kv: AsyncKV
    if isinstance(target, AsyncKV):
        kv = target
    elif target is None or isinstance(target, str):
        url, scheme = _scheme(target)
        if scheme in REDIS:
            from empathy_kv.kv.redis import AsyncRedisKV

            kv = _named(AsyncRedisKV.from_url, url, settings)
        elif scheme in SQL:
            from empathy_kv.sql.async_store import AsyncSQLStore

            return AsyncSQLStore(_database(url, scheme, settings))
        elif scheme == "memory":
            kv = DirectKV(_opened(url, settings))
        else:
            kv = ThreadedKV(_opened(url, settings))
    else:
        from empathy_kv.kv.redis import AsyncRedisKV

        kv = AsyncRedisKV.from_client(target, **settings.server)
    return AsyncStore(kv, history_limit=history_limit)


@frozen
class _Settings:
    """What a store is opened with. `server`: what an engine on a server takes."""

    durability: Literal["fsync", "os"]
    server: dict[str, Any]


def _settings(
    durability: Literal["fsync", "os"], timeout: float, prefix: str, replicas: int, history_limit: int
) -> _Settings:
    if durability not in ("fsync", "os"):
        raise ArgumentError(f"durability must be 'fsync' or 'os', not {durability!r}", argument="durability")
    text(prefix, "prefix", 128)
    number(timeout, "timeout", 0.001, 3600.0)
    integer(replicas, "replicas", 0, 1000)
    integer(history_limit, "history_limit", 1)
    return _Settings(durability, {"timeout": timeout, "prefix": prefix, "replicas": replicas})


def names_store(url: str) -> bool:
    """Return whether a text is the URL of a store, by how it begins, and not a path."""
    return ":" in url and url.partition(":")[0].lower() in (*_OPENERS, *SQL)


def _scheme(target: str | None) -> tuple[str, str]:
    url = (os.environ.get("EMPATHY_KV_URL") or DEFAULT_URL) if target is None else target
    scheme = url.partition(":")[0].lower() if ":" in url else ""
    if scheme not in _OPENERS and scheme not in SQL:
        what = "EMPATHY_KV_URL in the environment" if target is None else "target"
        # Not the URL itself: it may hold a password.
        names = (f"{name}:" for name in (*_OPENERS, *SQL) if not name.startswith("valkey"))
        raise ArgumentError(
            f"{what} must be a URL that begins with one of {', '.join(names)}; "
            f"a directory is file:DIR, a file of SQLite's sqlite:///FILE",
            argument="target",
        )
    return url, scheme


def _opened(target: str | None, settings: _Settings) -> KV:
    url, scheme = _scheme(target)
    if settings.server["replicas"] and scheme not in REDIS:
        raise ArgumentError(f"replicas must be 0: {scheme}: has none", argument="replicas")
    return _OPENERS[scheme](url, settings)


def _memory(url: str, settings: _Settings) -> KV:  # noqa: ARG001 - as the others
    from empathy_kv.kv.memory import MemoryKV

    if url[len("memory:") :].strip("/"):
        raise ArgumentError("target must be memory: with nothing behind it", argument="target")
    return MemoryKV()


def _files(url: str, settings: _Settings) -> KV:
    from empathy_kv.kv.files import FilesKV

    path = directory(url)
    timeout, prefix = settings.server["timeout"], settings.server["prefix"]
    try:
        return FilesKV(path, durability=settings.durability, timeout=timeout, prefix=prefix)
    except ArgumentError as error:
        raise ArgumentError(str(error).replace("root", "target", 1), argument="target") from None


def place(url: str) -> Path | None:
    """Return the directory or the file of this machine that the URL of a store names, None if it names none.

    `ArgumentError` if the URL is wrong.
    """
    url, scheme = _scheme(url)
    if scheme == "file":
        return directory(url)
    return _file(url) if scheme == "sqlite" else None


def directory(url: str) -> Path:
    """Return the directory that a URL with `file:` names; `ArgumentError` if it names none of this machine."""
    path = url[len("file:") :]
    if path.startswith("//"):
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise ArgumentError("target must name a directory of this machine, as file:///path", argument="target")
        if parts.query or parts.fragment:
            raise ArgumentError(
                "target must be file:///path with neither ? nor # in it; write them as %3F and %23", argument="target"
            )
        path = unquote(parts.path)
    try:
        return destination(path)
    except ArgumentError:
        raise ArgumentError("target must name a directory, as file:.empathy", argument="target") from None


def _file(url: str) -> Path:
    # As SQLAlchemy has it: three slashes before a path, as it stands.
    if url[len("sqlite:") : len("sqlite:///")] == "///":
        with contextlib.suppress(ArgumentError):
            return destination(url[len("sqlite:///") :])
    raise _no_file()


def _no_file() -> ArgumentError:
    return ArgumentError("target must name a file, as sqlite:///patterns.db", argument="target")


def _redis(url: str, settings: _Settings) -> KV:
    from empathy_kv.kv.redis import RedisKV

    return _named(RedisKV.from_url, url, settings)


def _named(from_url: Callable[..., E], url: str, settings: _Settings) -> E:
    try:
        return from_url(url, **settings.server)
    except ArgumentError as error:
        raise ArgumentError(str(error).replace("url", "target", 1), argument="target") from None


def _database(url: str, scheme: str, settings: _Settings) -> Database:
    if settings.server["replicas"]:
        raise ArgumentError(f"replicas must be 0: {scheme}: has none", argument="replicas")
    if settings.server["prefix"] != PREFIX:
        raise ArgumentError(
            "prefix must not be given for a database, whose tables have the documented names; use another one",
            argument="prefix",
        )
    if scheme == "sqlite":
        from empathy_kv.sql.sqlite import SQLite

        try:
            return SQLite(_file(url), timeout=settings.server["timeout"], durability=settings.durability)
        except ArgumentError:
            raise _no_file() from None
    from empathy_kv.sql.database import postgres

    try:
        return postgres(url, timeout=settings.server["timeout"])
    except ArgumentError as error:
        raise ArgumentError(str(error).replace("url", "target", 1), argument="target") from None


SQL: Final = ("sqlite", "postgresql", "postgres")
"""The schemes of a URL that names a database."""
REDIS: Final = (
    *("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
    *("valkey", "valkeys", "valkey+sentinel", "valkeys+sentinel", "valkey+cluster", "valkeys+cluster"),
)
"""The schemes of a URL that names a server."""

_OPENERS: Final[dict[str, Callable[[str, _Settings], KV]]] = {
    "memory": _memory,
    "file": _files,
    **dict.fromkeys(REDIS, _redis),
}
