"""SQLite, over the standard library: it executes transactions.

Connections are kept and used again, one for as many threads as are at work at once. None for each thread: it would stay
open when its thread has ended. Not one for all: whoever sums up a million rows would keep the others waiting.

What a file may bring with it is looked at before it is used, in the same transaction, and again whenever its schema
changed: see `schema.Part.require_ordinary`. Reading creates nothing and changes nothing: for tables that are missing
(or the whole file), empty temporary ones stand in.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import secrets
import sqlite3
import stat
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from attrs import define

from empathy_kv.errors import (
    ArgumentError,
    ClosedError,
    DamagedError,
    EmpathyKVError,
    LockTimeoutError,
    OutcomeUnknown,
    StorageError,
    StoragePermissionError,
)
from empathy_kv.kv.files.disk import make, translated
from empathy_kv.kv.interface import Durability
from empathy_kv.kv.operations import Token
from empathy_kv.kv.table import refused_token
from empathy_kv.sql import schema
from empathy_kv.sql.database import CLAIM, Database, Many, Reading, Replies, Row, Statement, Transaction, claim, further
from empathy_kv.sql.schema import TOKENS, Part

_SLICE: Final = 0.05
"""Seconds that SQLite waits for a lock at a time. It looks ever more rarely, every 100 ms in the end, where a writer
among busy ones may never find it free; begun anew, it looks every few milliseconds."""
_OBJECTS: Final = "SELECT type, lower(name), lower(tbl_name), rootpage, sql FROM main.sqlite_master"
"""No object of a file can stand in for this table."""
_INSERT: Final = re.compile(r"(INSERT INTO .* VALUES )(\((?:\?, )*\?\))", re.DOTALL)
"""A statement that inserts a row of values, and does nothing else."""
_PARAMETERS: Final = 500
"""Of a statement that inserts several rows, at most. More save no time."""
_TAKE_OVER: Final = "UPDATE interaction_progress SET counted = counted"
"""Changes nothing, but is a write."""
_TICK: Final = 20_000_000
"""Nanoseconds within which a file system may give two writes the same time: it looks at the clock every 10 ms."""
_PAUSE: Final = 0.001
"""Seconds between two tries: some conflicts SQLite reports without waiting."""

_SETUP: Final = (
    "PRAGMA trusted_schema = OFF",  # What stands in a schema may not call functions that have effects.
    "PRAGMA cell_size_check = ON",  # Damage is found where it is, not by a crash.
    "PRAGMA foreign_keys = OFF",  # Nothing of ours reaches a user's own tables by a cascade.
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -32768",  # KiB, at most: what a bulk of random ids needs not to read pages again and again.
    # Bringing the log into the file costs the same whether it is long or short: the pages are mostly the same.
    "PRAGMA wal_autocheckpoint = 4000",
)
_SYNCHRONOUS: Final = {
    "fsync": "PRAGMA synchronous = EXTRA",  # What was committed survives a power cut, whatever the journal mode.
    "os": "PRAGMA synchronous = NORMAL",  # It survives the end of the process; a power cut may take the last of it.
}


# Forks. A child may use no connection of its parent, nor close it (https://sqlite.org/howtocorrupt.html), nor even let
# it be collected. So there is none when a process forks: the idle ones are closed before, and opened again at need.

_LOCK: Final = threading.RLock()
"""Held while a file is opened, and while this process forks."""
_DATABASES: Final[weakref.WeakSet[SQLite]] = weakref.WeakSet()
_LOST: Final[list[object]] = []
"""What another thread was at work with when this process was forked off: kept, because it must not be closed."""


def _before_fork() -> None:
    _LOCK.acquire()
    for database in list(_DATABASES):
        database._rest()


def _after_fork_in_child() -> None:
    for database in list(_DATABASES):
        database._renew()
    _LOCK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_LOCK.release, after_in_child=_after_fork_in_child)


class SQLite(Database):
    """One database file. It is opened by the first use, and made by the first write; threads may share it.

    `wal`: write-ahead logging, in which readers and the writer do not wait for each other, and a commit costs one
    fsync. Without, the file stays in the mode that it has; a new one is then always whole by itself.

    `durability`: "fsync" survives a power cut once a write returned. "os" survives the end of the process; with `wal`
    a power cut may then take the last writes, and leaves all before them.

    Who may only read the file and its directory can read it too, while nobody has it open; and beside whoever has, or
    was killed, if he may read what that one has beside it (`-wal` and `-shm`, which get the mode of the file).
    """

    keeps_arrival = True

    def __init__(
        self, path: Path, *, timeout: float = 5.0, wal: bool = True, durability: Literal["fsync", "os"] = "fsync"
    ) -> None:
        super().__init__()
        try:
            encoded = os.fsencode(path)
        except UnicodeEncodeError as error:
            raise ArgumentError(f"db_path must be a path, not {str(path)!r}", argument="db_path") from error
        if b"\0" in encoded or path.name == ":memory:":
            raise ArgumentError(f"db_path must be the path of a file, not {str(path)!r}", argument="db_path")
        self._path = path.absolute()
        self.name = str(path)
        self._timeout = timeout
        self._wal = wal
        self._durability = durability
        # Only waiting for the disk can fail with an outcome that nobody knows, and with that nobody waits.
        self._certain = wal and durability == "os"
        self._idle: list[_Connection] = []
        self._closed = False
        self._mutex = threading.RLock()
        self._writer = threading.Lock()
        self._finalizer = weakref.finalize(self, _close, self._idle)
        with _LOCK:
            _DATABASES.add(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._path)!r})"

    def execute(self, transaction: Transaction, token: Token | None = None) -> Replies:
        deadline = time.monotonic() + self._timeout
        writes = transaction.writes
        still = False
        while True:
            try:
                replies = self._attempt(transaction, token, writes, deadline, still)
            except sqlite3.Error as error:
                if not (writes or still) and self._unwritable(error):
                    still = True
                    continue
                if not _busy(error) or time.monotonic() >= deadline:
                    raise self._error(error) from error
                time.sleep(_PAUSE)
                still = False
            else:
                if replies is not None:
                    return replies
                writes = True

    def _attempt(
        self, transaction: Transaction, token: Token | None, writes: bool, deadline: float, still: bool
    ) -> Replies | None:
        # The writing threads of this process go in one by one, so that they need not poll the file for each other.
        if writes and not self._writer.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise self._late()
        # Without context managers, which would cost a tenth of a write.
        try:
            connection = self._still() if still else self._take(writes)
            try:
                replies = connection.execute(transaction, token, writes, self._tidying() if token is not None else ())
                if still:
                    self._require_still(connection)
            except BaseException:
                connection.close()  # Whatever it was in the middle of is undone.
                if still:
                    self._require_still(connection)
                raise
            self._give(connection)
            return replies
        except OSError as error:
            with translated(self._path):
                raise error
        finally:
            if writes:
                self._writer.release()

    @contextlib.contextmanager
    def reading(self, part: Part) -> Iterator[Reading]:
        deadline = time.monotonic() + self._timeout
        connection = self._begun(part, deadline)
        while connection is None:
            self.commit(Transaction(part, ((_TAKE_OVER, ()),)))  # Others' rows have to be taken over first.
            connection = self._begun(part, deadline)

        def rows(sql: str) -> Iterator[Row]:
            try:
                try:
                    yield from connection.rows(sql)
                finally:
                    if connection.stamp is not None:
                        self._require_still(connection)
            except sqlite3.Error as error:
                raise self._error(error) from error

        with contextlib.closing(connection):  # Which ends the transaction.
            yield rows

    def _begun(self, part: Part, deadline: float) -> _Connection | None:
        """Return a connection that reads a part as it is now; None if something has to be written before."""
        still = False
        while True:
            try:
                with translated(self._path):
                    connection = self._still() if still else self._take(False)
                try:
                    begun = connection.begin(part)
                except BaseException:
                    connection.close()
                    raise
                if begun:
                    return connection
                connection.close()
                return None
            except sqlite3.Error as error:
                if not still and self._unwritable(error):
                    still = True
                    continue
                if not _busy(error) or time.monotonic() >= deadline:
                    raise self._error(error) from error
                time.sleep(_PAUSE)
                still = False

    def durability(self) -> Durability:
        return Durability("process" if self._certain else "power")

    def _late(self) -> LockTimeoutError:
        return LockTimeoutError(
            f"{self._path} was locked by another writer for more than {self._timeout:g} seconds",
            path=str(self._path),
            timeout=self._timeout,
        )

    # Connections

    def _take(self, writes: bool) -> _Connection:
        identity = self._identity()
        while True:
            with self._mutex:
                if self._closed:
                    raise ClosedError(f"{self._path} was closed")
                if not self._idle:
                    break
                connection = self._idle.pop()
            if connection.identity == identity:
                return connection
            connection.close()  # What it has open was deleted, or replaced: a write to it would be lost.
        return self._open(identity, writes)

    def _give(self, connection: _Connection) -> None:
        if connection.identity is not None:
            with self._mutex:
                if not self._closed:
                    self._idle.append(connection)
                    return
        connection.close()

    def _identity(self) -> tuple[int, int] | None:
        """Return which file stands under the path, None if there is none."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - at half the cost
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            code = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
            raise StorageError(f"{self._path} is no file", errno=code, path=str(self._path))
        return status.st_dev, status.st_ino

    def _open(self, identity: tuple[int, int] | None, writes: bool) -> _Connection:
        with _LOCK:
            while True:
                if identity is None and not writes:
                    return _Connection(_connect(":memory:", self._durability), self._path, None, wal=False)
                if identity is None:
                    self._create()
                    identity = self._identity()
                raw = _connect(self._url(), self._durability)
                # Before and after: only then it is this one that was opened.
                before, identity = identity, self._identity()
                if identity is not None and identity == before:
                    return _Connection(raw, self._path, identity, wal=self._wal)
                raw.close()

    # Where nothing may be written, SQLite cannot make the file that readers of a log share. It can be told to take the
    # database as it stands, without a log and without locks; that is right as long as nobody writes. Whoever writes has
    # a log beside it, from before his first write until everything is in the database, which is younger then.

    def _unwritable(self, error: sqlite3.Error) -> bool:
        """Return whether that may be what SQLite says when it cannot make the files that it needs for reading."""
        return isinstance(self._error(error), StoragePermissionError)

    def _still(self) -> _Connection:
        """Return a connection for one transaction, after which `_require_still` says whether it was right."""
        stamp = self._stamp()
        while stamp is not None and time.time_ns() - stamp[-1] < _TICK:
            time.sleep(_TICK / 1e9)  # A write that comes now might leave the same time.
            stamp = self._stamp()
        if stamp is None:
            raise StoragePermissionError(
                f"{self._path} cannot be read by who may not write beside it: it has a log, {self._path.name}-wal, and "
                f"{self._path.name}-shm has to be there then, and both be readable; or let who may write it close it",
                errno=errno.EACCES,
                path=str(self._path),
            )
        with _LOCK:
            raw = _connect(self._url("mode=ro&immutable=1"), self._durability)
        return _Connection(raw, self._path, None, wal=False, stamp=stamp)

    def _require_still(self, connection: _Connection) -> None:
        if self._stamp() != connection.stamp:
            error = sqlite3.OperationalError("the file was written meanwhile")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error

    def _stamp(self) -> tuple[int, ...] | None:
        """Return what is another one once somebody wrote the file; None while somebody may be at it."""
        path = os.path.realpath(self._path)
        try:
            status = os.stat(path)  # noqa: PTH116 - as above
        except FileNotFoundError:
            return None
        if any(os.path.lexists(path + end) for end in ("-wal", "-journal")):
            return None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def _url(self, options: str = "mode=rw") -> str:
        # Not Path.as_uri, which says of a Windows share what SQLite does not understand.
        path = self._path.as_posix()
        return f"file://{'' if path.startswith('/') else '/'}{quote(os.fsencode(path))}?{options}"

    def _create(self) -> None:
        """Make an empty file for its owner alone, as SQLite's own would not be, and the directories above it.

        No connection may be open to it: closing a file gives up the locks that this process has on it (POSIX). Hence
        `_LOCK`, and hence this package opens a database by SQLite only.
        """
        path = Path(os.path.realpath(self._path))  # Where a link leads to, although there is nothing yet.
        make(path.parent)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def close(self) -> None:
        """Close the connections. Closing twice is no error; using it afterwards is a `ClosedError`."""
        with self._mutex:
            self._closed = True
        self._rest()

    def _rest(self) -> None:
        with self._mutex:
            _close(self._idle)

    def _renew(self) -> None:
        """Begin anew, in a child that was forked off: other threads may have held these locks."""
        _LOST.extend(self._idle)
        self._idle.clear()
        self._mutex = threading.RLock()
        self._writer = threading.Lock()

    # Errors

    def _error(self, error: sqlite3.Error) -> EmpathyKVError:
        """Return an error of SQLite as one of ours."""
        path = str(self._path)
        # What the module says by itself, without a code, is about texts that are no UTF-8.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        if _busy(error):
            return self._late()
        match code & 0xFF:
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_FORMAT:
                return DamagedError(f"{path} is damaged: {error}", path=path)
            case sqlite3.SQLITE_ERROR:
                return DamagedError(f"{path} does not have the documented tables: {error}", path=path)
            case sqlite3.SQLITE_FULL:
                return StorageError(f"{error}: {path}", errno=errno.ENOSPC, path=path)
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
                return StoragePermissionError(f"{error}: {path}", errno=errno.EACCES, path=path)
            case sqlite3.SQLITE_CANTOPEN:
                return self._not_opened(error)
            case sqlite3.SQLITE_IOERR:
                return StorageError(f"{error}: {path}", errno=errno.EIO, path=path)
            case sqlite3.SQLITE_TOOBIG | sqlite3.SQLITE_NOLFS:
                return StorageError(f"{error}: {path}", errno=errno.EFBIG, path=path)
        return StorageError(f"the database refused: {error}: {path}", path=path)

    def _not_opened(self, error: sqlite3.Error) -> StorageError:
        # SQLite does not say why. The file itself must not be tried (see `_create`); any other shows most reasons.
        path = str(self._path)
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as reason:
            return StorageError(f"{reason.strerror}: {path}", errno=reason.errno, path=path)
        effective = os.access in os.supports_effective_ids
        if not os.access(self._path, os.R_OK, effective_ids=effective) or not os.access(
            self._path.parent, os.W_OK | os.X_OK, effective_ids=effective
        ):
            return StoragePermissionError(f"{error}: {path}", errno=errno.EACCES, path=path)
        return StorageError(f"{error}: {path}", errno=errno.EIO, path=path)


def _busy(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)


def _close(connections: list[_Connection]) -> None:
    while connections:
        connections.pop().close()


def _connect(url: str, durability: str) -> sqlite3.Connection:
    raw = sqlite3.connect(url, uri=True, timeout=_SLICE, isolation_level=None, check_same_thread=False)
    try:
        for pragma in (*_SETUP, _SYNCHRONOUS[durability]):
            raw.execute(pragma)
    except BaseException:
        raw.close()
        raise
    return raw


@define
class _Found:
    """What a file has of a part."""

    missing: dict[str, str]
    """What is not there, as the statements that make it: tables, then indexes."""
    lapsed: bool
    """Whether what is derived is not there, or not all of it: then none of it can be trusted."""
    upgrade: tuple[str, ...]
    """What brings its tables up to date."""
    older: bool
    """Whether it has the interactions of empathy-framework."""
    stands_in: bool = False
    """Whether there are temporary tables for the missing ones."""


class _Connection:
    """A connection, and what is known of the file's schema. One thread uses it at a time."""

    def __init__(
        self,
        raw: sqlite3.Connection,
        path: Path,
        identity: tuple[int, int] | None,
        *,
        wal: bool,
        stamp: tuple[int, ...] | None = None,
    ) -> None:
        self.identity = identity
        self.stamp = stamp
        """What the file has to be all the while; None if SQLite looks after that."""
        self._raw = raw
        self._cursor = raw.cursor()  # One for all: each `raw.execute` would make one.
        self._path = str(path)
        self._wal = wal
        self._version: int | None = None
        self._found: dict[Part, _Found] = {}
        self._ready: set[Part] = set()
        """The parts for which nothing is to do as long as the schema has that version."""
        self._stand_ins: list[str] = []

    def close(self) -> None:
        self._raw.close()

    def execute(
        self, transaction: Transaction, token: Token | None, writes: bool, tidying: Sequence[Statement]
    ) -> Replies | None:
        """Execute a transaction; None if it cannot read before something was written."""
        execute = self._cursor.execute
        if writes and self._wal:
            # The mode cannot be changed within a transaction, so the file is looked at in one of its own.
            execute("BEGIN")
            self._examined(transaction.part)
            execute("COMMIT")
            execute("PRAGMA journal_mode = WAL").fetchall()
            self._wal = False
        execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        if not self._prepare(transaction.part, writes):
            execute("COMMIT")  # It changed nothing, but for the stand-ins, which stay.
            return None
        if token is not None:
            self._prepare(TOKENS, writes)
            if not execute(CLAIM, claim(token, True)).rowcount:
                raise refused_token("void", token)
            self._answer(tidying)
        replies = self._answer(transaction.statements)
        further(transaction.then, replies, self._answer)
        try:
            execute("COMMIT")
        except sqlite3.OperationalError as error:
            code = error.sqlite_errorcode
            # What could not be written whole is not committed. Of what could not be made durable, or whose journal
            # could not be removed, nobody knows: who opens the file after a crash may find it, or not.
            if writes and code & 0xFF == sqlite3.SQLITE_IOERR and code != sqlite3.SQLITE_IOERR_WRITE:
                raise OutcomeUnknown(f"{error}: {self._path} was not committed for certain", token=token) from error
            raise
        return replies

    def begin(self, part: Part) -> bool:
        """Begin to read a part as it is now; False if that cannot be done before something was written."""
        if self._raw.in_transaction:
            self._raw.execute("ROLLBACK")
        self._raw.execute("BEGIN")
        return self._prepare(part, writes=False)

    def rows(self, sql: str) -> Iterator[Row]:
        """Yield the rows of a SELECT."""
        yield from self._raw.execute(sql)

    def _answer(self, statements: Sequence[Statement]) -> Replies:
        replies: Replies = []
        for statement in statements:
            if isinstance(statement, Many):
                self._answer_many(statement)
                replies.append([])
            else:
                replies.append(self._cursor.execute(*statement).fetchall())
        return replies

    def _answer_many(self, many: Many) -> None:
        found = _INSERT.fullmatch(many.sql)
        rows = iter(many.rows)
        if found is not None:
            # Several rows by one statement, in two thirds of the time.
            into, values = found.groups()
            size = _PARAMETERS // values.count("?")
            several = into + ", ".join([values] * size)
            while len(page := list(itertools.islice(rows, size))) == size:
                self._cursor.execute(several, tuple(itertools.chain.from_iterable(page)))
            rows = iter(page)
        self._cursor.executemany(many.sql, rows)

    def _prepare(self, part: Part, writes: bool) -> bool:
        """Make the tables of a part fit for use; False if that means to write, and this transaction only reads."""
        found = self._examined(part)
        if part in self._ready:
            return True
        if not found.missing and not found.lapsed and not found.upgrade:
            pass
        elif writes:
            self._drop_stand_ins()
            for statement in (*found.upgrade, *found.missing.values()):
                self._raw.execute(statement)
            if found.lapsed:
                self._derive(part)
            self._sign()
            self._forget()
            found = self._examined(part)
        elif (found.missing or found.lapsed) and not found.stands_in:
            self._stand_in(part, found)
        if not found.older or "interactions" in found.missing:
            if not (found.missing or found.lapsed or found.upgrade or found.older):
                self._ready.add(part)
            return True
        news = self._raw.execute(schema.OLDER_NEWS).fetchone()[0]
        if news and writes:
            for statement in schema.OLDER_IMPORT:
                self._raw.execute(statement)
        return writes or not news

    def _examined(self, part: Part) -> _Found:
        """Return what the file has of a part, as it is in this transaction."""
        # This also begins to read: from here on the transaction sees one state of the file.
        ((version,),) = self._cursor.execute("PRAGMA main.schema_version").fetchall()
        if version != self._version:
            self._forget()
            self._version = version
        found = self._found.get(part)
        if found is None:
            found = self._found[part] = self._examine(part)
        return found

    def _examine(self, part: Part) -> _Found:
        own = self._raw.execute("PRAGMA main.user_version").fetchone()[0]
        if own >> 16 == schema.MAGIC and own > schema.USER_VERSION:
            raise StorageError(
                f"{self._path} was written by a newer empathy_kv: its schema has the version {own & 0xFFFF}, "
                f"and this one knows {schema.VERSION}",
                errno=errno.ENOTSUP,
                path=self._path,
            )
        encoding = self._raw.execute("PRAGMA encoding").fetchone()[0]
        if encoding != "UTF-8":  # In UTF-16, SQLite makes one character of U+FFFD, U+FFFE and U+FFFF.
            raise StorageError(
                f"{self._path} is encoded in {encoding}, and only UTF-8 can hold any text",
                errno=errno.EILSEQ,
                path=self._path,
            )
        objects = self._raw.execute(_OBJECTS).fetchall()
        part.require_ordinary(objects, self._path)
        there = {name for _, name, _, _, _ in objects}
        for table in part.all_tables.keys() & there:
            lacking = part.columns(table) - self._columns(table)
            if lacking:
                raise DamagedError(
                    f"{self._path} is not used: {table} has no column {', '.join(sorted(lacking))}", path=self._path
                )
        wanted = {**part.derived, **part.derived_indexes, **part.triggers}
        ordinary = {name for kind, name, _, root, _ in objects if kind == "table" and root}
        return _Found(
            missing={name: sql for name, sql in {**part.tables, **part.indexes}.items() if name not in there},
            lapsed=not wanted.keys() <= there,
            upgrade=part.upgrades[1] if part.upgrades and self._is_first() else (),
            older="interactions" in part.tables
            and "metrics" in ordinary
            and self._columns("metrics") >= schema.OLDER_COLUMNS,
        )

    def _is_first(self) -> bool:
        """Whether the tables are those of version 1. Where the user counts versions, only the tables can tell."""
        keys = {row[1] for row in self._raw.execute("PRAGMA main.table_info(pattern_contributions)") if row[5]}
        return keys == {"position"}

    def _columns(self, table: str) -> set[str]:
        # No table-valued function: an object of the file could have its name.
        return {row[1].lower() for row in self._raw.execute(f"PRAGMA main.table_info({table})")}

    def _derive(self, part: Part) -> None:
        """Make anew what is derived from the other tables."""
        for name in part.triggers:
            self._raw.execute(f"DROP TRIGGER IF EXISTS main.{name}")
        for name in part.derived:
            self._raw.execute(f"DROP TABLE IF EXISTS main.{name}")
        triggers = (sql for _, sql in part.triggers.values())
        for statement in (*part.derived.values(), *part.derived_indexes.values(), *part.seeds, *triggers):
            self._raw.execute(statement.replace("{random}", secrets.token_hex(8)))

    def _sign(self) -> None:
        own = self._raw.execute("PRAGMA main.user_version").fetchone()[0]
        if own == 0 or own >> 16 == schema.MAGIC:
            self._raw.execute(f"PRAGMA main.user_version = {schema.USER_VERSION}")

    def _stand_in(self, part: Part, found: _Found) -> None:
        tables = part.tables.keys() & found.missing.keys()
        for name in (*tables, *(part.derived if found.lapsed else ())):
            if name == "interactions" and found.older:
                self._raw.execute(schema.OLDER_VIEW)
                self._stand_ins.append(f"DROP VIEW temp.{name}")
            else:
                self._raw.execute(part.all_tables[name].replace("CREATE TABLE", "CREATE TEMP TABLE", 1))
                self._stand_ins.append(f"DROP TABLE temp.{name}")
        found.stands_in = True

    def _drop_stand_ins(self) -> None:
        while self._stand_ins:
            self._raw.execute(self._stand_ins.pop())

    def _forget(self) -> None:
        self._drop_stand_ins()
        self._found.clear()
        self._ready.clear()
        self._version = None
