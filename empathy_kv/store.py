"""A store: patterns, states, metrics and collections on one engine, which a URL names."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar
from urllib.parse import unquote, urlsplit

from empathy_kv.collection import Collection
from empathy_kv.errors import ArgumentError, ArgumentTypeError, DamagedError
from empathy_kv.kv.interface import KV
from empathy_kv.kv.operations import number, text
from empathy_kv.metrics import HISTORY, MetricsCollector
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.shared_patterns import SharedPatterns
from empathy_kv.states import StateManager

if TYPE_CHECKING:
    from redis import Redis

T = TypeVar("T")

DEFAULT_URL = "file:.empathy"


class Store:
    """What `connect` returns. Threads may share it; `close` it, or use it as a context manager.

    `patterns`, `states` and `metrics` are the domain; `kv` is the engine below, for data of your own.
    """

    patterns: PatternLibrary
    states: StateManager
    metrics: MetricsCollector
    kv: KV

    def __init__(self, kv: KV, *, history_limit: int = HISTORY) -> None:
        self.kv = kv
        self.patterns = PatternLibrary(SharedPatterns(), kv)
        self.states = StateManager(kv=kv)
        self.metrics = MetricsCollector(kv=kv, history_limit=history_limit)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kv!r})"

    def collection(self, name: str, kind: type[T]) -> Collection[T]:
        """Return the documents of a class under a name. It needs not exist, and costs nothing."""
        return Collection(name, kind, kv=self.kv)

    def checkpoint(self) -> None:
        """Bring the JSON documents of a store on files up to date. It happens by itself; elsewhere nothing is to do."""
        self.kv.checkpoint()

    def check(self) -> list[DamagedError]:
        """Read a whole store on files and return what is damaged or does not belong there, each with its `path`.

        It changes nothing. Empty if all is well, and on engines that keep no files.
        """
        return self.kv.check()

    def close(self) -> None:
        """Give back what the store holds. Closing twice is no error; using it afterwards is a `ClosedError`."""
        self.kv.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def connect(
    target: str | KV | Redis | None = None,
    *,
    durability: Literal["fsync", "os"] = "fsync",
    timeout: float = 5.0,
    prefix: str = "empathy",
    history_limit: int = HISTORY,
) -> Store:
    """Open a store.

    `target` is a URL, by default that of the environment variable `EMPATHY_KV_URL`, else `file:.empathy`:

    - `memory:` keeps everything in this process, and nothing after it
    - `file:DIR` keeps JSON files in a directory, which the first write makes; many processes may use it
    - `redis://host:port/db`, `rediss://...`, `unix:///path` use a Redis or Valkey server

    or an engine, or a client of redis-py or fakeredis, which stays the caller's to close.

    `durability` is that of files: "fsync" survives a power cut once a write returned, "os" the end of the process.
    `timeout`: seconds that a call may take, for a lock or a server. `prefix` keeps applications on one server or
    directory apart. `history_limit`: how many interactions of a user the metrics keep one by one; counters are for
    ever.
    """
    if target is None:
        target = os.environ.get("EMPATHY_KV_URL") or DEFAULT_URL
    if durability not in ("fsync", "os"):
        raise ArgumentError(f"durability must be 'fsync' or 'os', not {durability!r}", argument="durability")
    text(prefix, "prefix", 128)
    number(timeout, "timeout", 0.001, 3600.0)
    options: dict[str, Any] = {"timeout": timeout, "prefix": prefix}
    if isinstance(target, KV):
        kv = target
    elif isinstance(target, str):
        scheme = target.partition(":")[0].lower() if ":" in target else ""
        opener = _OPENERS.get(scheme)
        if opener is None:
            # Not the URL itself: it may hold a password.
            raise ArgumentError(
                f"target must be a URL that begins with one of {', '.join(f'{name}:' for name in _OPENERS)}; "
                f"a directory is file:DIR",
                argument="target",
            )
        kv = opener(target, durability, options)
    elif hasattr(target, "connection_pool") and not inspect.iscoroutinefunction(target.execute_command):
        from empathy_kv.kv.redis import RedisKV

        kv = RedisKV.from_client(target, **options)
    else:
        raise ArgumentTypeError(
            f"target must be a URL, an engine or a Redis client that is not of asyncio, not {type(target).__name__}",
            argument="target",
        )
    return Store(kv, history_limit=history_limit)


def _memory(url: str, durability: str, options: dict[str, Any]) -> KV:  # noqa: ARG001 - as the others
    from empathy_kv.kv.memory import MemoryKV

    if url[len("memory:") :].strip("/"):
        raise ArgumentError("target must be memory: with nothing behind it", argument="target")
    return MemoryKV()


def _files(url: str, durability: str, options: dict[str, Any]) -> KV:
    from empathy_kv.export import destination
    from empathy_kv.kv.files import FilesKV

    path = url[len("file:") :]
    if path.startswith("//"):
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise ArgumentError("target must name a directory of this machine, as file:///path", argument="target")
        path = unquote(parts.path)
    try:
        directory = destination(path)
    except ArgumentError:
        raise ArgumentError("target must name a directory, as file:.empathy", argument="target") from None
    return FilesKV(directory, durability=durability, **options)  # type: ignore[arg-type]


def _redis(url: str, durability: str, options: dict[str, Any]) -> KV:  # noqa: ARG001 - as the others
    from empathy_kv.kv.redis import RedisKV

    try:
        return RedisKV.from_url(url, **options)
    except ArgumentError as error:
        raise ArgumentError(str(error).replace("url", "target", 1), argument="target") from None


_OPENERS: dict[str, Callable[[str, str, dict[str, Any]], KV]] = {
    "memory": _memory,
    "file": _files,
    "redis": _redis,
    "rediss": _redis,
    "unix": _redis,
}
