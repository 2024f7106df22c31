"""Ways of counting and recording: on disk, and on a server."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import redis
import reference
from harness import PACKAGE, POWER, PREFIX, SERVER

import empathy_kv
from empathy_kv import Store
from empathy_kv.kv.interface import Namespace
from peers.disk import DISKCACHE, SQLITE, connect, sqlite_connection
from peers.server import Socket
from peers.shape import Recorder, Recording

# This package


def _in_namespace(store: Store, method: str, count: Callable[[Namespace], int]) -> Recording:
    """Return what records by a method of a namespace, which a batch has as well."""
    namespace = store.kv.namespace("recorded")

    def bulk(arguments: Sequence[tuple[Any, ...]]) -> None:
        with namespace.batch() as batch:
            for each in arguments:
                getattr(batch, method)(*each)

    return Recording(getattr(namespace, method), lambda: count(namespace), store.close, bulk)


def _hincrby(place: str) -> Recording:
    return _in_namespace(connect(place), "hincrby", lambda namespace: int(namespace.hgetall("totals")["count"]))


def _incr(place: str) -> Recording:
    return _in_namespace(connect(place), "incr", lambda namespace: int(namespace.get("count") or 0))


def _incr_on_server(url: str) -> Recording:
    return _in_namespace(empathy_kv.connect(url), "incr", lambda namespace: int(namespace.get("count") or 0))


def _zappend(place: str) -> Recording:
    return _in_namespace(connect(place), "zappend", lambda namespace: namespace.zcard("timeline"))


def _metrics(durability: Literal["fsync", "os"], place: str) -> Recording:
    store = connect(place, durability)
    metrics = store.metrics
    return Recording(
        metrics.record_interaction, lambda: metrics.get_user_stats("user_1")["total_operations"], store.close
    )


# Others


def _diskcache(place: str) -> Recording:
    import diskcache

    cache = diskcache.Cache(place)
    return Recording(cache.incr, lambda: cache["count"], cache.close)


def _insert(place: str) -> Recording:
    connection = sqlite_connection(place, "NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS timeline (number INTEGER PRIMARY KEY, entry BLOB NOT NULL)")

    def one(_: str, entry: bytes) -> None:
        connection.execute("INSERT INTO timeline (entry) VALUES (?)", (entry,))

    def count() -> int:
        total: int = connection.execute("SELECT count(*) FROM timeline").fetchone()[0]
        return total

    return Recording(one, count, connection.close)


def _upsert(place: str) -> Recording:
    connection = sqlite_connection(place, "NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, count INTEGER NOT NULL)")

    def one(name: str) -> int:
        upsert = "INSERT INTO counters VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET count = count + 1 RETURNING count"
        count: int = connection.execute(upsert, (name,)).fetchone()[0]
        return count

    def count() -> int:
        total: int = connection.execute("SELECT count FROM counters").fetchone()[0]
        return total

    return Recording(one, count, connection.close)


def _table(place: str) -> Recording:
    table = reference.Table(Path(place))
    return Recording(table.record, lambda: int(table.everyone()["total_interactions"]), lambda: None)


def _append(sync: bool, place: str) -> Recording:
    file = os.open(f"{place}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    data = b"x" * 79 + b"\n"
    synced = getattr(os, "fdatasync", os.fsync)

    def one(*_: Any) -> None:
        os.write(file, data)
        if sync:
            synced(file)

    return Recording(one, lambda: os.fstat(file).st_size // len(data), lambda: os.close(file))


def _redis_py(url: str) -> Recording:
    client = redis.Redis.from_url(url)
    return Recording(client.incr, lambda: int(client.get("count") or 0), client.close)


def _socket(url: str) -> Recording:
    server = Socket(url)

    def one(name: str) -> int:
        count: int = server.call("INCR", f"bare:{name}")
        return count

    return Recording(one, lambda: int(server.call("GET", "bare:count") or 0), server.close)


# What is recorded


def _name(_: int) -> tuple[str]:
    return ("count",)


def _field(_: int) -> tuple[str, dict[str, int]]:
    return "totals", {"count": 1}


def _entry(number: int) -> tuple[str, bytes]:
    return "timeline", b"%010d user_1 level 3 success 12.5 ms, one entry of a timeline of about eighty bytes" % number


def _interaction(number: int) -> tuple[str, int, bool, float]:
    return "user_1", 3, number % 8 != 0, 10.0 + number % 16 / 4


HINCRBY: Final = Recorder(PACKAGE, "ns.hincrby", _hincrby, _field, PREFIX)
INCR: Final = Recorder(PACKAGE, "ns.incr", _incr, _name, PREFIX)
ZAPPEND: Final = Recorder(PACKAGE, "ns.zappend", _zappend, _entry, PREFIX)
RECORD: Final = Recorder(PACKAGE, "record_interaction", partial(_metrics, "os"), _interaction, PREFIX, slow=True)
DURABLE_RECORD: Final = Recorder(PACKAGE, "record_interaction", partial(_metrics, "fsync"), _interaction, POWER)
DISKCACHE_INCR: Final = Recorder(DISKCACHE.name, "incr", _diskcache, _name, PREFIX, DISKCACHE.missing)
SQLITE_UPSERT: Final = Recorder(SQLITE.name, "upsert", _upsert, _name, PREFIX)
SQLITE_INSERT: Final = Recorder(SQLITE.name, "insert", _insert, _entry, PREFIX)
REFERENCE_INSERT: Final = Recorder(reference.TABLE, "insert", _table, _interaction, POWER)
APPEND: Final = Recorder("append", "80 bytes", partial(_append, False), _interaction, PREFIX, role="floor")
SYNCED_APPEND: Final = Recorder(
    "append + fdatasync", "80 bytes", partial(_append, True), _interaction, POWER, role="floor"
)

SERVER_INCR: Final = Recorder(PACKAGE, "ns.incr", _incr_on_server, _name, SERVER)
REDIS_PY_INCR: Final = Recorder("redis-py", "INCR", _redis_py, _name, SERVER)
SOCKET_INCR: Final = Recorder("socket + hiredis", "INCR", _socket, _name, SERVER, role="floor")
