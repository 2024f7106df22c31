"""Stores of documents on the disk of one machine, each opened as its users do, with the serialization they have."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shelve
import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import reference
from documents import Solution, decode, encode, from_plain, solution, to_plain
from harness import CLOSE, KILL, NOTHING, PACKAGE, POWER, PREFIX

import empathy_kv
from empathy_kv import Pattern
from peers.awaited import bytes_store, key_value
from peers.shape import Documents, Pairs, Peer

# This package


def connect(place: str, durability: Literal["fsync", "os"] = "os") -> empathy_kv.Store:
    """Open a store of this package in a directory."""
    return empathy_kv.connect(f"file:{place}", durability=durability, timeout=60.0)


def collected(store: empathy_kv.Store, kind: type[Any] = Pattern) -> Documents:
    """Return a collection of a store, which is closed with it."""
    collection = store.collection("patterns", kind)
    return Documents(
        collection.put,
        collection.get,
        collection.delete,
        lambda _: list(collection.items()),
        store.close,
        store.checkpoint,
        collection.put_many,
    )


def _ours(place: str) -> Documents:
    return collected(connect(place))


def _own_class(place: str) -> Documents:
    return collected(connect(place), Solution)


def _ours_synced(place: str) -> Documents:
    return collected(connect(place, "fsync"))


def _waist(place: str) -> Documents:
    store = connect(place)
    namespace = store.kv.namespace("patterns")

    def items(_: Sequence[str]) -> Pairs:
        return [(key, namespace.get(key)) for key in store.kv.keys(namespace.name)]

    return Documents(namespace.set, namespace.get, namespace.delete, items, store.close, store.checkpoint)


# Others


def _diskcache(place: str) -> Documents:
    """Open it as it is documented: it pickles what it is given."""
    import diskcache

    cache = diskcache.Cache(place)

    def bulk(documents: Mapping[str, Pattern]) -> None:
        with cache.transact():
            for key, document in documents.items():
                cache.set(key, document)

    return Documents(
        cache.set, cache.get, cache.delete, lambda _: [(key, cache[key]) for key in cache], cache.close, bulk=bulk
    )


def _diskcache_bytes(place: str) -> Documents:
    import diskcache

    cache = diskcache.Cache(place)

    def get(key: str) -> Pattern | None:
        data = cache.get(key)
        return None if data is None else decode(data)

    def bulk(documents: Mapping[str, Pattern]) -> None:
        with cache.transact():
            for key, document in documents.items():
                cache.set(key, encode(document))

    return Documents(
        lambda key, document: cache.set(key, encode(document)),
        get,
        cache.delete,
        lambda _: [(key, decode(cache[key])) for key in cache],
        cache.close,
        bulk=bulk,
    )


def lmdb_environment(place: str, sync: bool) -> Any:
    """Open an environment of LMDB, which waits for the disk at each write or at none."""
    import lmdb

    return lmdb.open(place, map_size=4 << 30, sync=sync, metasync=sync)


def _lmdb(sync: bool, place: str) -> Documents:
    environment = lmdb_environment(place, sync)

    def put(key: str, document: Pattern) -> None:
        with environment.begin(write=True) as transaction:
            transaction.put(key.encode(), encode(document))

    def get(key: str) -> Pattern | None:
        with environment.begin() as transaction:
            data = transaction.get(key.encode())
        return None if data is None else decode(data)

    def delete(key: str) -> None:
        with environment.begin(write=True) as transaction:
            transaction.delete(key.encode())

    def items(_: Sequence[str]) -> Pairs:
        with environment.begin() as transaction:
            return [(key.decode(), decode(data)) for key, data in transaction.cursor()]

    def bulk(documents: Mapping[str, Pattern]) -> None:
        with environment.begin(write=True) as transaction:
            for key, document in documents.items():
                transaction.put(key.encode(), encode(document))

    return Documents(put, get, delete, items, environment.close, partial(environment.sync, True), bulk)


def sqlite_connection(place: str, synchronous: str) -> sqlite3.Connection:
    """Open a database with the settings that one chooses for many small writes."""
    connection = sqlite3.connect(f"{place}/documents.db", isolation_level=None, timeout=60.0)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    return connection


def sqlite_checkpoint(connection: sqlite3.Connection) -> None:
    """Bring what is in the log of a database to its place."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _sqlite(synchronous: str, place: str) -> Documents:
    connection = sqlite_connection(place, synchronous)
    connection.execute("CREATE TABLE IF NOT EXISTS documents (id TEXT PRIMARY KEY, document BLOB NOT NULL)")
    upsert = "INSERT INTO documents VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET document = excluded.document"

    def put(key: str, document: Pattern) -> None:
        connection.execute(upsert, (key, encode(document)))

    def get(key: str) -> Pattern | None:
        row = connection.execute("SELECT document FROM documents WHERE id = ?", (key,)).fetchone()
        return None if row is None else decode(row[0])

    def delete(key: str) -> None:
        connection.execute("DELETE FROM documents WHERE id = ?", (key,))

    def items(_: Sequence[str]) -> Pairs:
        return [(key, decode(data)) for key, data in connection.execute("SELECT id, document FROM documents")]

    def bulk(documents: Mapping[str, Pattern]) -> None:
        connection.execute("BEGIN")
        connection.executemany(upsert, ((key, encode(document)) for key, document in documents.items()))
        connection.execute("COMMIT")

    return Documents(put, get, delete, items, connection.close, partial(sqlite_checkpoint, connection), bulk)


def _file_a_key(sync: bool, place: str) -> Documents:
    count = itertools.count()
    directory = os.open(place, os.O_RDONLY)

    def put(key: str, document: Pattern) -> None:
        draft = f"{place}/.{os.getpid()}-{next(count)}"
        with open(draft, "wb") as file:  # noqa: PTH123 - a Path would cost as much as the rest
            file.write(encode(document))
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(draft, f"{place}/{key}.json")  # noqa: PTH105 - as above
        if sync:
            os.fsync(directory)

    def get(key: str) -> Pattern | None:
        try:
            with open(f"{place}/{key}.json", "rb") as file:  # noqa: PTH123 - as above
                return decode(file.read())
        except FileNotFoundError:
            return None

    def delete(key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{place}/{key}.json")  # noqa: PTH108 - as above

    def items(_: Sequence[str]) -> Pairs:
        found = []
        for entry in os.scandir(place):
            with open(entry.path, "rb") as file:  # noqa: PTH123 - as above
                found.append((entry.name.removesuffix(".json"), decode(file.read())))
        return found

    return Documents(put, get, delete, items, lambda: os.close(directory))


def _reference(place: str) -> Documents:
    files = reference.Files(Path(place))
    return Documents(
        lambda key, document: files.save(key, to_plain(document)),
        lambda key: None if (plain := files.load(key)) is None else from_plain(plain),
        files.delete,
        lambda _: [(key, from_plain(files.load(key) or {})) for key in files.ids()],
        lambda: None,
    )


def _shelve(place: str) -> Documents:
    shelf = shelve.open(f"{place}/shelf")  # noqa: SIM115 - `Documents` closes it
    return Documents(shelf.__setitem__, shelf.get, shelf.__delitem__, lambda _: list(shelf.items()), shelf.close)


def _sqlitedict(place: str) -> Documents:
    import sqlitedict

    table = sqlitedict.SqliteDict(f"{place}/documents.db", autocommit=True)
    return Documents(table.__setitem__, table.get, table.__delitem__, lambda _: list(table.items()), table.close)


def _key_value_disk(place: str) -> Documents:
    from key_value.aio.stores.disk import DiskStore

    return key_value(asyncio.Runner(), DiskStore(directory=place))


def _key_value_tree(place: str) -> Documents:
    from key_value.aio.stores.filetree import FileTreeStore

    return key_value(asyncio.Runner(), FileTreeStore(data_directory=place))


def _litestar(place: str) -> Documents:
    from litestar.stores.file import FileStore

    return bytes_store(asyncio.Runner(), FileStore(Path(place)))


def _bare(place: str) -> Documents:
    from peers.sketch import bare

    return bare(place)


def _synced(place: str) -> Documents:
    from peers.sketch import synced

    return synced(place)


def _sketch(place: str) -> Documents:
    from peers.sketch import sketch

    return sketch(place)


OURS: Final = Peer(PACKAGE, _ours, PREFIX)
OWN_CLASS: Final = Peer(f"{PACKAGE}, class of one's own", _own_class, PREFIX, solution)
WAIST: Final = Peer(f"{PACKAGE}, bytes", _waist, PREFIX, encode)
DISKCACHE: Final = Peer("diskcache", _diskcache, PREFIX, needs=["diskcache"])
DISKCACHE_BYTES: Final = Peer("diskcache, msgspec", _diskcache_bytes, PREFIX, needs=["diskcache"])
LMDB: Final = Peer("lmdb", partial(_lmdb, False), KILL, needs=["lmdb"])
SQLITE_OFF: Final = Peer("sqlite3 OFF", partial(_sqlite, "OFF"), KILL)
SQLITE: Final = Peer("sqlite3 NORMAL", partial(_sqlite, "NORMAL"), PREFIX)
FILES: Final = Peer("file a key", partial(_file_a_key, False), KILL)
# What was written before is lost if the next write to the same file is killed after open("w").
REFERENCE: Final = Peer(reference.FILES, _reference, NOTHING, role="reference")
SHELVE: Final = Peer("shelve", _shelve, CLOSE)
SQLITEDICT: Final = Peer("sqlitedict", _sqlitedict, KILL, needs=["sqlitedict"], slow=True)
KEY_VALUE_DISK: Final = Peer("py-key-value disk", _key_value_disk, PREFIX, needs=["key_value", "diskcache"])
LITESTAR: Final = Peer("litestar files", _litestar, KILL, needs=["litestar"], slow=True)
LOG: Final = Peer("append log, a sketch", _sketch, KILL, role="mark", needs=["fcntl"])
BARE: Final = Peer("append + msgspec", _bare, KILL, role="floor", needs=["fcntl"], keeps=False)

DURABLE: Final = Peer(PACKAGE, _ours_synced, POWER)
DURABLE_LMDB: Final = Peer("lmdb, sync", partial(_lmdb, True), POWER, needs=["lmdb"])
DURABLE_SQLITE: Final = Peer("sqlite3 FULL", partial(_sqlite, "FULL"), POWER)
DURABLE_FILES: Final = Peer("file a key, fsync", partial(_file_a_key, True), POWER)
# It waits for the disk at each write, but not for the name of the file: a new one may be lost in a power cut.
KEY_VALUE_TREE: Final = Peer("py-key-value file tree", _key_value_tree, KILL, needs=["key_value", "aiofile"])
FLOOR: Final = Peer("append + fdatasync", _synced, POWER, role="floor", needs=["fcntl"], keeps=False)

EVERY: Final = (
    *(OURS, OWN_CLASS, WAIST, DISKCACHE, DISKCACHE_BYTES, LMDB, SQLITE_OFF, SQLITE, FILES, REFERENCE, SHELVE),
    *(SQLITEDICT, KEY_VALUE_DISK, LITESTAR, LOG, BARE),
)
SYNCED: Final = (DURABLE, DURABLE_LMDB, DURABLE_SQLITE, DURABLE_FILES, KEY_VALUE_TREE, FLOOR)
LARGE: Final = (OURS, DISKCACHE, DISKCACHE_BYTES, LMDB, SQLITE)
"""Those that are measured where it takes long."""
