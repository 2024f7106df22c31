"""The stores that are measured side by side: this one, and what one would else keep documents in on one machine.

Each is opened as its users do, with the serialization that they have. `Documents` has the functions that are timed,
with nothing around them that a user would not write.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import shelve
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from attrs import frozen
from documents import Solution, decode, encode, solution

import empathy_kv
from empathy_kv import Pattern
from empathy_kv.kv.interface import Namespace

if sys.platform != "win32":
    import fcntl

Form = Callable[[Pattern], Any]


def _nothing() -> None:
    return None


@frozen
class Documents:
    """An open store of documents by id."""

    put: Callable[[str, Any], object]
    get: Callable[[str], Any]
    delete: Callable[[str], object]
    items: Callable[[], Iterable[tuple[str, Any]]]
    close: Callable[[], object]
    checkpoint: Callable[[], object] = _nothing
    """Brings to its final place what the store writes behind."""
    bulk: Callable[[Mapping[str, Any]], object] | None = None
    """Stores many at once, if that is something else than a loop."""

    def fill(self, documents: Mapping[str, Any]) -> None:
        """Store many, in the fastest way that the store has."""
        if self.bulk is not None:
            self.bulk(documents)
        else:
            for key, document in documents.items():
                self.put(key, document)


@frozen
class Peer:
    """A store, by the name that the command line and the table know."""

    name: str
    open: Callable[[Path], Documents]
    form: Form = lambda document: document
    """Makes of a pattern what this store is given; not timed."""
    ours: bool = False
    """Whether it is this package with its own classes, to which the goals apply."""
    needs: str | None = None
    """The module without which it cannot be used."""

    @property
    def missing(self) -> str | None:
        """Why it cannot be used here, None if it can."""
        if self.needs is None or importlib.util.find_spec(self.needs) is not None:
            return None
        return f"{self.needs} is not installed"


# This package


def connect(place: Path, durability: Literal["fsync", "os"] = "os") -> empathy_kv.Store:
    """Open a store of this package in a directory."""
    return empathy_kv.connect(f"file:{place}", durability=durability, timeout=60.0)


def _collection(kind: type[Any], durability: Literal["fsync", "os"]) -> Callable[[Path], Documents]:
    def opened(place: Path) -> Documents:
        store = connect(place, durability)
        collection = store.collection("patterns", kind)
        return Documents(
            collection.put,
            collection.get,
            collection.delete,
            collection.items,
            store.close,
            store.checkpoint,
            collection.put_many,
        )

    return opened


def _waist(place: Path) -> Documents:
    store = connect(place)
    namespace = store.kv.namespace("patterns")
    return Documents(
        namespace.set,
        namespace.get,
        namespace.delete,
        lambda: ((key, namespace.get(key)) for key in store.kv.keys(namespace.name)),
        store.close,
        store.checkpoint,
    )


# Others


def _diskcache(place: Path) -> Documents:
    import diskcache

    cache = diskcache.Cache(str(place))

    def bulk(documents: Mapping[str, Pattern]) -> None:
        with cache.transact():
            for key, document in documents.items():
                cache.set(key, document)

    return Documents(
        cache.set, cache.get, cache.delete, lambda: ((key, cache[key]) for key in cache), cache.close, bulk=bulk
    )


def _lmdb(sync: bool) -> Callable[[Path], Documents]:
    def opened(place: Path) -> Documents:
        import lmdb

        environment = lmdb.open(str(place), map_size=4 << 30, sync=sync, metasync=sync)

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

        def items() -> Iterable[tuple[str, Pattern]]:
            with environment.begin() as transaction:
                for key, data in transaction.cursor():
                    yield key.decode(), decode(data)

        def bulk(documents: Mapping[str, Pattern]) -> None:
            with environment.begin(write=True) as transaction:
                for key, document in documents.items():
                    transaction.put(key.encode(), encode(document))

        return Documents(put, get, delete, items, environment.close, bulk=bulk)

    return opened


def _sqlite_connection(place: Path, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(place / "documents.db", isolation_level=None, timeout=60.0)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    return connection


def _sqlite(synchronous: str) -> Callable[[Path], Documents]:
    def opened(place: Path) -> Documents:
        connection = _sqlite_connection(place, synchronous)
        connection.execute("CREATE TABLE IF NOT EXISTS documents (id TEXT PRIMARY KEY, document BLOB NOT NULL)")
        upsert = "INSERT INTO documents VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET document = excluded.document"

        def put(key: str, document: Pattern) -> None:
            connection.execute(upsert, (key, encode(document)))

        def get(key: str) -> Pattern | None:
            row = connection.execute("SELECT document FROM documents WHERE id = ?", (key,)).fetchone()
            return None if row is None else decode(row[0])

        def delete(key: str) -> None:
            connection.execute("DELETE FROM documents WHERE id = ?", (key,))

        def items() -> Iterable[tuple[str, Pattern]]:
            for key, data in connection.execute("SELECT id, document FROM documents"):
                yield key, decode(data)

        def bulk(documents: Mapping[str, Pattern]) -> None:
            connection.execute("BEGIN")
            connection.executemany(upsert, ((key, encode(document)) for key, document in documents.items()))
            connection.execute("COMMIT")

        return Documents(put, get, delete, items, connection.close, bulk=bulk)

    return opened


class _Log:
    """A sketch of a store: documents are appended to one file, a dict knows where the last of a key stands.

    Many processes may use it. What it lacks is what makes the difference: checksums, a bound to its size, recovery.
    """

    _HEAD: Final = struct.Struct("<II")

    def __init__(self, place: Path) -> None:
        self._file = os.open(place / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0

    def put(self, key: str, document: Pattern) -> None:
        self._append(key.encode(), encode(document))

    def delete(self, key: str) -> None:
        self._append(key.encode(), b"")

    def get(self, key: str) -> Pattern | None:
        self._follow()
        place = self._places.get(key)
        return None if place is None else decode(os.pread(self._file, place[1], place[0]))

    def items(self) -> Iterable[tuple[str, Pattern]]:
        self._follow()
        for key, (offset, length) in list(self._places.items()):
            yield key, decode(os.pread(self._file, length, offset))

    def close(self) -> None:
        os.close(self._file)

    def _append(self, key: bytes, data: bytes) -> None:
        line = self._HEAD.pack(len(key), len(data)) + key + data
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            self._follow()
            os.write(self._file, line)
            self._take(line)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _follow(self) -> None:
        """Take in what was appended, by whomever."""
        size = os.fstat(self._file).st_size
        if size != self._end:
            self._take(os.pread(self._file, size - self._end, self._end))

    def _take(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            of_key, of_data = self._HEAD.unpack_from(data, at)
            start = at + self._HEAD.size
            key = data[start : start + of_key].decode()
            if of_data:
                self._places[key] = self._end + start + of_key, of_data
            else:
                self._places.pop(key, None)
            at = start + of_key + of_data
        self._end += len(data)


def _log(place: Path) -> Documents:
    log = _Log(place)
    return Documents(log.put, log.get, log.delete, log.items, log.close)


def _file_a_key(sync: bool) -> Callable[[Path], Documents]:
    def opened(place: Path) -> Documents:
        count = itertools.count()

        def put(key: str, document: Pattern) -> None:
            draft = f"{place}/.{os.getpid()}-{next(count)}"
            with open(draft, "wb") as file:  # noqa: PTH123 - a Path would cost as much as the rest
                file.write(encode(document))
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(draft, f"{place}/{key}.json")  # noqa: PTH105 - as above

        def get(key: str) -> Pattern | None:
            try:
                with open(f"{place}/{key}.json", "rb") as file:  # noqa: PTH123 - as above
                    return decode(file.read())
            except FileNotFoundError:
                return None

        def delete(key: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{place}/{key}.json")  # noqa: PTH108 - as above

        def items() -> Iterable[tuple[str, Pattern]]:
            for entry in os.scandir(place):
                with open(entry.path, "rb") as file:  # noqa: PTH123 - as above
                    yield entry.name.removesuffix(".json"), decode(file.read())

        return Documents(put, get, delete, items, _nothing)

    return opened


def _shelve(place: Path) -> Documents:
    shelf = shelve.open(str(place / "shelf"))  # noqa: SIM115 - `Documents` closes it
    return Documents(shelf.__setitem__, shelf.get, shelf.__delitem__, shelf.items, shelf.close)


def _sqlitedict(place: Path) -> Documents:
    import sqlitedict

    table = sqlitedict.SqliteDict(str(place / "documents.db"), autocommit=True)
    return Documents(table.__setitem__, table.get, table.__delitem__, table.items, table.close)


def _floor(place: Path) -> Documents:
    """Return no store: `put` appends 700 bytes and waits for the disk, which is the least that a durable one does."""
    file = os.open(place / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    data = b"x" * 699 + b"\n"
    sync = getattr(os, "fdatasync", os.fsync)

    def put(key: str, document: Pattern) -> None:  # noqa: ARG001 - as the others
        os.write(file, data)
        sync(file)

    return Documents(put, lambda _: None, lambda _: None, lambda: (), lambda: os.close(file))


OURS: Final = Peer("empathy_kv", _collection(Pattern, "os"), ours=True)
OWN_CLASS: Final = Peer("empathy_kv, class of one's own", _collection(Solution, "os"), solution)
WAIST: Final = Peer("empathy_kv, bytes", _waist, encode)
DISKCACHE: Final = Peer("diskcache", _diskcache, needs="diskcache")
LMDB: Final = Peer("lmdb", _lmdb(sync=False), needs="lmdb")
SQLITE_OFF: Final = Peer("sqlite3 OFF", _sqlite("OFF"))
SQLITE: Final = Peer("sqlite3 NORMAL", _sqlite("NORMAL"))
LOG: Final = Peer("append log", _log, needs="fcntl")
FILES: Final = Peer("file a key", _file_a_key(sync=False))
SHELVE: Final = Peer("shelve", _shelve)
SQLITEDICT: Final = Peer("sqlitedict", _sqlitedict, needs="sqlitedict")

DURABLE: Final = Peer("empathy_kv", _collection(Pattern, "fsync"), ours=True)
DURABLE_LMDB: Final = Peer("lmdb, sync", _lmdb(sync=True), needs="lmdb")
DURABLE_SQLITE: Final = Peer("sqlite3 FULL", _sqlite("FULL"))
DURABLE_FILES: Final = Peer("file a key, fsync", _file_a_key(sync=True))
FLOOR: Final = Peer("append + fdatasync", _floor)

PEERS: Final[Mapping[str, Peer]] = {peer.name: peer for peer in (OURS, DISKCACHE, LMDB, SQLITE, LOG)}
"""Those that processes of their own open, by name."""


@frozen
class Recording:
    """An open store in which something is counted or recorded."""

    one: Callable[..., object]
    count: Callable[[], int]
    close: Callable[[], object]
    bulk: Callable[[Sequence[tuple[Any, ...]]], object] | None = None
    """Does it for many arguments at once, if that is something else than a loop."""

    def many(self, arguments: Iterable[tuple[Any, ...]]) -> None:
        """Do it for many arguments, in the fastest way that the store has."""
        if self.bulk is None:
            for each in arguments:
                self.one(*each)
        else:
            arguments = iter(arguments)
            while page := list(itertools.islice(arguments, 500)):
                self.bulk(page)


@frozen
class Recorder:
    """A way of counting or recording in a store."""

    store: str
    name: str
    open: Callable[[Path], Recording]
    arguments: Callable[[int], tuple[Any, ...]]
    """What is recorded as the n-th."""
    missing: str | None = None


def _in_namespace(method: str, count: Callable[[Namespace], int]) -> Callable[[Path], Recording]:
    """Open what records by a method of a namespace, which a batch has as well."""

    def opened(place: Path) -> Recording:
        store = connect(place)
        namespace = store.kv.namespace("recorded")

        def bulk(arguments: Sequence[tuple[Any, ...]]) -> None:
            with namespace.batch() as batch:
                for each in arguments:
                    getattr(batch, method)(*each)

        return Recording(getattr(namespace, method), lambda: count(namespace), store.close, bulk)

    return opened


def _metrics(place: Path) -> Recording:
    store = connect(place)
    metrics = store.metrics
    return Recording(
        metrics.record_interaction, lambda: metrics.get_user_stats("user_1")["total_operations"], store.close
    )


def _diskcache_incr(place: Path) -> Recording:
    import diskcache

    cache = diskcache.Cache(str(place))
    return Recording(cache.incr, lambda: cache["count"], cache.close)


def _sqlite_insert(place: Path) -> Recording:
    connection = _sqlite_connection(place, "NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS timeline (number INTEGER PRIMARY KEY, entry BLOB NOT NULL)")

    def one(_: str, entry: bytes) -> None:
        connection.execute("INSERT INTO timeline (entry) VALUES (?)", (entry,))

    def count() -> int:
        total: int = connection.execute("SELECT count(*) FROM timeline").fetchone()[0]
        return total

    return Recording(one, count, connection.close)


def _sqlite_upsert(place: Path) -> Recording:
    connection = _sqlite_connection(place, "NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, count INTEGER NOT NULL)")

    def one(name: str) -> int:
        upsert = "INSERT INTO counters VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET count = count + 1 RETURNING count"
        count: int = connection.execute(upsert, (name,)).fetchone()[0]
        return count

    def count() -> int:
        total: int = connection.execute("SELECT count FROM counters").fetchone()[0]
        return total

    return Recording(one, count, connection.close)


def _entry(number: int) -> tuple[str, bytes]:
    return "timeline", b"%010d user_1 level 3 success 12.5 ms, one entry of a timeline of about eighty bytes" % number


HINCRBY: Final = Recorder(
    OURS.name,
    "ns.hincrby",
    _in_namespace("hincrby", lambda namespace: int(namespace.hgetall("totals")["count"])),
    lambda _: ("totals", {"count": 1}),
)
INCR: Final = Recorder(
    OURS.name,
    "ns.incr",
    _in_namespace("incr", lambda namespace: int(namespace.get("count") or 0)),
    lambda _: ("count",),
)
ZAPPEND: Final = Recorder(
    OURS.name,
    "ns.zappend",
    _in_namespace("zappend", lambda namespace: namespace.zcard("timeline")),
    _entry,
)
RECORD: Final = Recorder(
    OURS.name, "record_interaction", _metrics, lambda n: ("user_1", 3, n % 8 != 0, 10.0 + n % 16 / 4)
)
DISKCACHE_INCR: Final = Recorder(
    DISKCACHE.name, "incr", _diskcache_incr, lambda _: ("count",), missing=DISKCACHE.missing
)
SQLITE_INSERT: Final = Recorder(SQLITE.name, "insert", _sqlite_insert, _entry)
SQLITE_UPSERT: Final = Recorder(SQLITE.name, "upsert", _sqlite_upsert, lambda _: ("count",))
