"""Ways of counting and recording: on disk, and on a server."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import redis
import reference
from harness import KILL, PACKAGE, POWER, PREFIX, SERVER
from interactions import record_many

import empathy_kv
from empathy_kv import Store
from empathy_kv.kv.interface import Namespace
from peers.disk import DISKCACHE, LMDB, SQLITE, connect, lmdb_environment, sqlite_checkpoint, sqlite_connection
from peers.server import Socket
from peers.shape import Recorder, Recording
from peers.tables import Interactions

# This package


def _in_namespace(store: Store, method: str, count: Callable[[Namespace], int]) -> Recording:
    """Return what records by a method of a namespace, which a batch has as well."""
    namespace = store.kv.namespace("recorded")

    def bulk(arguments: Sequence[tuple[Any, ...]]) -> None:
        with namespace.batch() as batch:
            for each in arguments:
                getattr(batch, method)(*each)

    return Recording(getattr(namespace, method), lambda: count(namespace), store.close, store.checkpoint, bulk)


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
        metrics.record_interaction,
        lambda: metrics.get_user_stats("user_1")["total_operations"],
        store.close,
        store.checkpoint,
        partial(record_many, store),
    )


# Others


def _diskcache(place: str) -> Recording:
    import diskcache

    cache = diskcache.Cache(place)

    def bulk(arguments: Sequence[tuple[Any, ...]]) -> None:
        with cache.transact():
            for each in arguments:
                cache.incr(*each)

    return Recording(cache.incr, lambda: cache["count"], cache.close, bulk=bulk)


def _lmdb_incr(place: str) -> Recording:
    environment = lmdb_environment(place, sync=False)
    number = struct.Struct("<q")

    def one(name: str) -> int:
        key = name.encode()
        with environment.begin(write=True) as transaction:
            held = transaction.get(key)
            count: int = 1 if held is None else number.unpack(held)[0] + 1
            transaction.put(key, number.pack(count))
        return count

    def count() -> int:
        with environment.begin() as transaction:
            held: int = number.unpack(transaction.get(b"count"))[0]
        return held

    return Recording(one, count, environment.close, partial(environment.sync, True))


def _lmdb_append(place: str) -> Recording:
    environment = lmdb_environment(place, sync=False)

    def one(_: str, entry: bytes) -> None:
        with environment.begin(write=True) as transaction:
            transaction.put(transaction.stat()["entries"].to_bytes(8, "big"), entry, append=True)

    def bulk(arguments: Sequence[tuple[Any, ...]]) -> None:
        with environment.begin(write=True) as transaction:
            first = transaction.stat()["entries"]
            for number, (_, entry) in enumerate(arguments, first):
                transaction.put(number.to_bytes(8, "big"), entry, append=True)

    return Recording(
        one, lambda: int(environment.stat()["entries"]), environment.close, partial(environment.sync, True), bulk
    )


def _insert(place: str) -> Recording:
    connection = sqlite_connection(place, "NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS timeline (number INTEGER PRIMARY KEY, entry BLOB NOT NULL)")
    insert = "INSERT INTO timeline (entry) VALUES (?)"

    def one(_: str, entry: bytes) -> None:
        connection.execute(insert, (entry,))

    def bulk(arguments: Sequence[tuple[Any, ...]]) -> None:
        connection.execute("BEGIN")
        connection.executemany(insert, [(entry,) for _, entry in arguments])
        connection.execute("COMMIT")

    def count() -> int:
        total: int = connection.execute("SELECT count(*) FROM timeline").fetchone()[0]
        return total

    return Recording(one, count, connection.close, partial(sqlite_checkpoint, connection), bulk)


def _upsert(place: str) -> Recording:
    connection = sqlite_connection(place, "NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, count INTEGER NOT NULL)")
    upsert = "INSERT INTO counters VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET count = count + 1 RETURNING count"

    def one(name: str) -> int:
        count: int = connection.execute(upsert, (name,)).fetchone()[0]
        return count

    def bulk(arguments: Sequence[tuple[Any, ...]]) -> None:
        connection.execute("BEGIN")
        for each in arguments:
            one(*each)
        connection.execute("COMMIT")

    def count() -> int:
        total: int = connection.execute("SELECT count FROM counters").fetchone()[0]
        return total

    return Recording(one, count, connection.close, partial(sqlite_checkpoint, connection), bulk)


def _row(synchronous: str, place: str) -> Recording:
    table = Interactions(place, synchronous)
    checkpoint = partial(sqlite_checkpoint, table.connection)
    return Recording(table.record, table.count, table.close, checkpoint, table.record_many)


def _row_by_call(place: str) -> Recording:
    table = reference.Table(Path(place))
    return Recording(table.record, table.count, lambda: None, bulk=table.record_many)


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
RECORD: Final = Recorder(PACKAGE, "record_interaction", partial(_metrics, "os"), _interaction, PREFIX)
DURABLE_RECORD: Final = Recorder(PACKAGE, "record_interaction", partial(_metrics, "fsync"), _interaction, POWER)
DISKCACHE_INCR: Final = Recorder(DISKCACHE.name, "incr", _diskcache, _name, PREFIX, DISKCACHE.missing)
LMDB_INCR: Final = Recorder(LMDB.name, "get + put", _lmdb_incr, _name, KILL, LMDB.missing)
LMDB_APPEND: Final = Recorder(LMDB.name, "put", _lmdb_append, _entry, KILL, LMDB.missing)
SQLITE_UPSERT: Final = Recorder(SQLITE.name, "upsert", _upsert, _name, PREFIX)
SQLITE_INSERT: Final = Recorder(SQLITE.name, "insert", _insert, _entry, PREFIX)
SQLITE_ROW: Final = Recorder(SQLITE.name, "a row of the table", partial(_row, "NORMAL"), _interaction, PREFIX)
DURABLE_SQLITE_ROW: Final = Recorder("sqlite3 FULL", "a row of the table", partial(_row, "FULL"), _interaction, POWER)
# It waits for the disk, but not for the journal to be gone: after a power cut SQLite may take the last commit back.
REFERENCE_ROW: Final = Recorder(reference.TABLE, "", _row_by_call, _interaction, PREFIX, role="reference")
APPEND: Final = Recorder("append", "80 bytes", partial(_append, False), _interaction, KILL, role="floor")
SYNCED_APPEND: Final = Recorder(
    "append + fdatasync", "80 bytes", partial(_append, True), _interaction, POWER, role="floor"
)

SERVER_INCR: Final = Recorder(PACKAGE, "ns.incr", _incr_on_server, _name, SERVER)
REDIS_PY_INCR: Final = Recorder("redis-py", "INCR", _redis_py, _name, SERVER)
SOCKET_INCR: Final = Recorder("socket + hiredis", "INCR", _socket, _name, SERVER, role="floor")
