"""PostgreSQL, over psycopg 3: it executes transactions.

A transaction is two round trips: everything up to its statements' replies in one (libpq's pipeline), and COMMIT. If
the connection is lost before COMMIT was sent nothing was done, and it is done again on another one. If it is lost after
that nobody knows; it is done again with its token, which was written down in the transaction itself, and so shows then.

Connections are kept and used again, at most `_CONNECTIONS` at once. No pool of threads opens them in the background: a
process that was forked would not have those, and here a caller knows until when a connection is of use to him.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import random
import secrets
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Final, TypeVar

import psycopg
from attrs import define
from psycopg import conninfo
from psycopg.pq import TransactionStatus

from empathy_kv.errors import (
    ArgumentError,
    ClosedError,
    DamagedError,
    EmpathyKVError,
    LockTimeoutError,
    OutcomeUnknown,
    StorageError,
    StoragePermissionError,
    UnavailableError,
)
from empathy_kv.kv.interface import Durability
from empathy_kv.kv.operations import Token, number
from empathy_kv.kv.table import refused_token
from empathy_kv.sql import schema
from empathy_kv.sql.database import CLAIM, Database, Many, Reading, Replies, Row, Statement, Transaction, claim, further
from empathy_kv.sql.schema import TOKENS, Part

R = TypeVar("R")

_CONNECTIONS: Final = 16
_PAUSE: Final = 0.01, 0.25
"""Seconds between two tries: the first, and the longest."""
_CONFLICTS: Final = 5
"""How often a transaction is tried again that met with another one's row."""
_PATIENCE: Final = 3600.0
"""Seconds that the server may take for a statement of what is about all that it has."""
_FETCHED: Final = 2_000
"""Rows that are fetched at a time."""
_STILL: Final = 100
"""Milliseconds that whoever wants a table to be still waits for those who write to it: others wait behind him."""

_SPOKEN: Final = {
    "last_insert_rowid()": "lastval()",
    "p.rowid": "p.updated_at, p.id",
    "%": "%%",
    "?": "%s",
}
_DURABILITY: Final = "SELECT current_setting('fsync'), current_setting('synchronous_commit')"
_SAVED: Final = "SELECT 1 WHERE to_regclass('patterns') IS NOT NULL"


@functools.cache
def spoken(sql: str) -> str:
    """Return a statement in the words of PostgreSQL, and with the marks of psycopg."""
    if sql == schema.SAVED:
        return _SAVED
    for ours, theirs in _SPOKEN.items():
        sql = sql.replace(ours, theirs)
    return sql


def _made(sql: str) -> str:
    """Return a statement without values, for which psycopg looks for no marks."""
    return spoken(sql).replace("%%", "%")


# PostgreSQL has no text with NUL. It is written as two characters, the first of which, DLE (as its name says), escapes
# the next; so DLE itself is doubled.

_NUL, _DLE = "\0", "\x10"


def _written(value: Any) -> Any:
    if type(value) is str and (_NUL in value or _DLE in value):
        return value.replace(_DLE, _DLE + _DLE).replace(_NUL, _DLE + "0")
    return value


def _read(value: Any) -> Any:
    if type(value) is str and _DLE in value:
        return _unescaped(value)
    return value


def _unescaped(value: str) -> str:
    pieces, at = [], 0
    while (found := value.find(_DLE, at)) >= 0:
        pieces.append(value[at:found])
        following = value[found + 1 : found + 2]
        pieces.append(_NUL if following == "0" else _DLE)
        at = found + (2 if following in ("0", _DLE) else 1)
    return "".join((*pieces, value[at:]))


class _LostError(Exception):
    """The connection was lost, or the server cannot be reached: to be tried again."""


@define
class _Tried:
    """What came of the tries of a transaction."""

    replies: Replies | None = None
    """The replies of the one that sent COMMIT, as long as nobody knows what came of that."""


class _Wire(psycopg.Connection[Row]):
    """A connection that does not wait for the server for longer than `timeout`, also if packets are lost."""

    timeout = 5.0

    def wait(self, gen: Generator[Any, Any, R], *args: Any, **kwargs: Any) -> R:
        return super().wait(_until(gen, time.monotonic() + self.timeout), *args, **kwargs)


def _until(gen: Generator[Any, Any, R], deadline: float) -> Generator[Any, Any, R]:
    try:
        request = next(gen)
        while True:
            ready = yield request
            if not ready and time.monotonic() > deadline:
                gen.close()
                raise psycopg.OperationalError("the server did not answer in time")
            request = gen.send(ready)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


class Postgres(Database):
    """One database of a server. It is connected to by the first use; threads may share it.

    The tables are those that an unqualified name means there: in the first schema of the search path. They are made by
    the first use. `timeout`: seconds that a call may take.
    """

    keeps_arrival = False

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        super().__init__()
        self._timeout = number(timeout, "timeout", 0.001, 3600.0)
        try:
            if not isinstance(url, str):
                raise ValueError
            info: dict[str, Any] = conninfo.conninfo_to_dict(url)
            for port in str(info.get("port") or "").split(","):
                int(port or 0)  # libpq looks at it when it connects.
        except (psycopg.Error, ValueError, TypeError) as error:
            # Neither the URL nor the error's text, which quotes it: there may be a password in it.
            raise ArgumentError(
                f"url must be one that libpq can read, as postgresql://host:5432/db ({type(error).__name__})",
                argument="url",
            ) from None
        host = info.get("host") or info.get("hostaddr") or "localhost"
        self.name = f"postgresql://{host}:{info.get('port') or 5432}/{info.get('dbname') or ''}"
        milliseconds = max(1, int(self._timeout * 1000))
        settings = f"-c timezone=UTC -c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
        # What a lost connection had begun ends then, although the server may not know that it is lost.
        settings += f" -c idle_in_transaction_session_timeout={max(1, milliseconds // 2)}"
        self._info: dict[str, Any] = {
            "application_name": "empathy_kv",
            **info,
            "client_encoding": "utf8",
            "options": f"{info.get('options') or ''} {settings}".strip(),
            "connect_timeout": max(2, round(self._timeout)),
        }
        self._begin_anew()
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def _begin_anew(self) -> None:
        self._process = os.getpid()
        self._idle: list[_Session] = []
        self._mutex = threading.Lock()
        self._free = threading.BoundedSemaphore(_CONNECTIONS)

    def execute(self, transaction: Transaction, token: Token | None = None) -> Replies:
        deadline = time.monotonic() + self._timeout
        tried = _Tried()
        pause, longest = _PAUSE
        conflicts = 0
        tidying = self._tidying() if token is not None else ()
        while True:
            try:
                return self._attempt(transaction, token, tried, tidying, deadline)
            except _LostError as lost:
                if time.monotonic() + pause >= deadline:
                    raise self._gave_up(lost.__cause__, tried, token) from lost.__cause__
            except psycopg.Error as error:
                if not _conflict(error) or conflicts == _CONFLICTS or time.monotonic() + pause >= deadline:
                    raise self._gave_up(error, tried, token) from error
                conflicts += 1
            except EmpathyKVError as error:
                if tried.replies is None:
                    raise
                raise self._gave_up(error, tried, token) from error
            # Spread, so that many workers do not come back at the same moment.
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(pause * 2, longest)

    def _attempt(
        self,
        transaction: Transaction,
        token: Token | None,
        tried: _Tried,
        tidying: Sequence[Statement],
        deadline: float,
    ) -> Replies:
        if os.getpid() != self._process:
            _LOST.extend(self._idle)  # They are the parent's, and must not be closed here.
            self._begin_anew()
        if not self._free.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise UnavailableError(f"all {_CONNECTIONS} connections to {self.name} were busy for {self._timeout:g} s")
        try:
            session = self._take()
            try:
                answer = session.execute(transaction, token, tried, tidying)
            except BaseException as error:
                session.recover(error)
                raise
            finally:
                self._give(session)
            return answer
        finally:
            self._free.release()

    @contextlib.contextmanager
    def reading(self, part: Part) -> Iterator[Reading]:
        if not self._free.acquire(timeout=self._timeout):
            raise UnavailableError(f"all {_CONNECTIONS} connections to {self.name} were busy for {self._timeout:g} s")
        try:
            session = self._begun(part, time.monotonic() + self._timeout)
            try:
                yield session.rows
            finally:
                session.close()  # What it was set to is of no use for others.
        except psycopg.Error as error:
            raise self._gave_up(error, _Tried(), None) from error
        except _LostError as lost:
            raise self._gave_up(lost.__cause__, _Tried(), None) from lost.__cause__
        finally:
            self._free.release()

    def _begun(self, part: Part, deadline: float) -> _Session:
        """Return a session that reads a part as it is now. One that was kept may turn out to be dead."""
        while True:
            session = self._take()
            try:
                session.begin(part)
            except BaseException as error:
                session.close()
                if not _gone(error) or time.monotonic() >= deadline:
                    raise
            else:
                return session

    def _take(self) -> _Session:
        with self._mutex:
            if self._closed:
                raise ClosedError(f"{self.name} was closed")
            if self._idle:
                return self._idle.pop()
        try:
            wire = _Wire.connect(**self._info, autocommit=True)
        except psycopg.OperationalError as error:
            text = str(error)
            if "authentication failed" in text or "pg_hba.conf" in text or "no password" in text:
                raise StoragePermissionError(
                    f"{self.name} does not let this user in", errno=errno.EACCES, path=self.name
                ) from error
            if "does not exist" in text:
                raise StorageError(
                    f"{self.name}: there is no such database or user", errno=errno.ENOENT, path=self.name
                ) from error
            raise _LostError from error
        wire.timeout = self._timeout
        return _Session(wire, self.name)

    def _give(self, session: _Session) -> None:
        with self._mutex:
            if not self._closed and not session.broken:
                self._idle.append(session)
                return
        session.close()

    def durability(self) -> Durability:
        ((syncs, waits),) = self.execute(Transaction(schema.NOTHING, ((_DURABILITY, ()),)))[0]
        if waits == "off":
            return Durability("unknown")  # The last writes may be lost when the server ends, and nobody says which.
        return Durability("power" if syncs == "on" else "process")

    def close(self) -> None:
        with self._mutex:
            self._closed = True
            idle, self._idle = self._idle, []
        if os.getpid() == self._process:
            for session in idle:
                session.close()
        else:
            _LOST.extend(idle)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()

    # Errors

    def _gave_up(self, cause: BaseException | None, tried: _Tried, token: Token | None) -> EmpathyKVError:
        why = f"{type(cause).__name__} until the timeout of {self._timeout:g} s"
        if tried.replies is not None:
            return OutcomeUnknown(
                f"COMMIT was sent to {self.name} and no reply came ({why}); settle(token) tells whether it was applied",
                token=token,
            )
        if isinstance(cause, psycopg.Error) and not _gone(cause):
            return self._error(cause)
        return UnavailableError(f"{self.name} did not answer ({why})")

    def _error(self, error: psycopg.Error) -> EmpathyKVError:
        """Return an error of psycopg as one of ours."""
        name, state = self.name, error.sqlstate or ""
        said = error.diag.message_primary or type(error).__name__
        if state == "55P03" or state == "40P01":
            return LockTimeoutError(
                f"{name} was locked by another writer for too long", path=name, timeout=self._timeout
            )
        if state == "57014":
            return LockTimeoutError(f"{name} took longer than {self._timeout:g} s", path=name, timeout=self._timeout)
        if state in ("42501", "25006", "28000", "28P01"):
            return StoragePermissionError(f"{name} does not allow it: {said}", errno=errno.EACCES, path=name)
        if state in ("42P01", "42703", "42804", "42883", "42809", "42P10"):
            return DamagedError(f"{name} does not have the documented tables: {said}", path=name)
        if state in ("53100", "53200"):
            return StorageError(f"{name}: {said}", errno=errno.ENOSPC if state == "53100" else errno.ENOMEM, path=name)
        if state == "XX001" or state == "XX002" or (isinstance(error, psycopg.DataError) and not state):
            return DamagedError(f"{name} is damaged: {said}", path=name)
        return StorageError(f"{name} refused: {said}", path=name)


_LOST: Final[list[object]] = []
"""Connections of a parent: kept, because they must not be closed."""


def _conflict(error: psycopg.Error) -> bool:
    """Return whether two transactions met, and the one may be tried again that was undone."""
    return error.sqlstate in ("40001", "40P01", "23505")


def _gone(error: BaseException) -> bool:
    """Return whether an error says that the server, or the connection to it, is gone."""
    if not isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        return False
    state = error.sqlstate
    return state is None or state.startswith(("08", "57P")) or state == "53300"


class _Session:
    """A connection, and which parts were found to be there. One thread uses it at a time."""

    def __init__(self, wire: _Wire, name: str) -> None:
        self._wire = wire
        self._name = name
        self._ready: set[Part] = set()

    @property
    def broken(self) -> bool:
        return self._wire.closed or self._wire.pgconn.transaction_status != TransactionStatus.IDLE

    def close(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self._wire.close()

    def recover(self, error: BaseException) -> None:
        """Undo what was begun."""
        if isinstance(error, psycopg.Error):
            self._ready.clear()  # What is missing now may be why.
        if not isinstance(error, (psycopg.Error, EmpathyKVError)):
            self.close()
        if not self._wire.closed and self.broken:
            try:
                self._wire.execute("ROLLBACK")
            except psycopg.Error:
                self.close()

    def execute(
        self, transaction: Transaction, token: Token | None, tried: _Tried, tidying: Sequence[Statement]
    ) -> Replies:
        """Execute a transaction."""
        usual = self._wire.timeout
        if transaction.patient:
            self._wire.timeout = _PATIENCE
        try:
            for part in (transaction.part,) if token is None else (transaction.part, TOKENS):
                if part not in self._ready:
                    self._prepare(part)
            return self._execute(transaction, token, tried, tidying)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if _gone(error) or self._wire.closed:
                self.close()
                raise _LostError from error
            raise
        finally:
            self._wire.timeout = usual

    def begin(self, part: Part) -> None:
        """Begin to read a part as it is now, for as long as that takes."""
        self._prepare(part)
        self._wire.timeout = _PATIENCE
        self._wire.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        self._be_patient()

    def _be_patient(self) -> None:
        self._wire.execute("SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")

    def rows(self, sql: str) -> Iterator[Row]:
        """Yield the rows of a SELECT, some of which are fetched at a time."""
        with self._wire.cursor(name="rows") as cursor:
            cursor.itersize = _FETCHED
            cursor.execute(_made(sql))
            for row in cursor:
                yield tuple(map(_read, row))

    def _execute(
        self, transaction: Transaction, token: Token | None, tried: _Tried, tidying: Sequence[Statement]
    ) -> Replies:
        if not transaction.writes and len(transaction.statements) == 1:
            return self._answer(transaction.statements)
        before: list[Statement] = [
            ("BEGIN" if transaction.writes else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", ())
        ]
        if token is not None:
            before.append((CLAIM, claim(token, True)))
        if transaction.lock is not None:
            before.append(("SELECT pg_advisory_xact_lock(hashtextextended(?, 0))", (f"empathy_kv {transaction.lock}",)))
        if transaction.still is not None:
            before.append((f"SET LOCAL lock_timeout = {_STILL}", ()))
            before.append((f"LOCK TABLE {transaction.still} IN SHARE ROW EXCLUSIVE MODE", ()))
        if token is not None:
            before += tidying
        counts: list[int] = []
        found = self._answer([*before, *transaction.statements], counts)[len(before) :]
        if token is not None and not counts[1]:
            self._wire.execute("ROLLBACK")
            if tried.replies is None:
                raise refused_token("void", token)
            return tried.replies
        if transaction.patient:
            self._be_patient()
        if transaction.afresh:
            self._wire.execute(f"SET LOCAL {schema.AFRESH} = 'on'")
        tried.replies = None  # What was tried before was not committed, and never will be.
        further(transaction.then, found, self._answer)
        try:
            self._wire.execute("COMMIT")
        except psycopg.OperationalError as error:
            if _gone(error) or self._wire.closed:
                self.close()
                if transaction.writes:
                    tried.replies = found
                raise _LostError from error
            raise
        return found

    def _answer(self, statements: Sequence[Statement], counts: list[int] | None = None) -> Replies:
        """Send all statements in one go, and return their replies; note how many rows each changed."""
        if len(statements) == 1:
            cursors = [self._send(statements[0])]
        else:
            with self._wire.pipeline():
                cursors = [self._send(statement) for statement in statements]
        if counts is not None:
            counts += [cursor.rowcount for cursor in cursors]
        return [
            [tuple(map(_read, row)) for row in cursor.fetchall()] if cursor.description is not None else []
            for cursor in cursors
        ]

    def _send(self, statement: Statement) -> psycopg.Cursor[Row]:
        cursor = self._wire.cursor()
        if isinstance(statement, Many):
            rows = [tuple(map(_written, row)) for row in statement.rows]
            if rows:
                cursor.executemany(spoken(statement.sql), rows)
            return cursor
        sql, values = statement
        if values:
            cursor.execute(spoken(sql), tuple(map(_written, values)))
        else:
            cursor.execute(_made(sql))
        return cursor

    # The tables

    def _prepare(self, part: Part) -> None:
        """Make the tables of a part fit for use."""
        if part is not schema.NOTHING and self._lacks(part):
            self._wire.execute("BEGIN")
            self._wire.execute("SELECT pg_advisory_xact_lock(hashtextextended('empathy_kv schema', 0))")
            if self._lacks(part):  # Another may have been faster.
                self._make(part)
            self._wire.execute("COMMIT")
        self._ready.add(part)

    def _lacks(self, part: Part) -> bool:
        """Return whether something of a part is not there; `DamagedError` if what is there is not to be used."""
        (encoding,) = self._ask("SELECT current_setting('server_encoding')")[0]
        if encoding != "UTF8":
            raise StorageError(
                f"{self._name} is encoded in {encoding}, and only UTF8 can hold any text",
                errno=errno.EILSEQ,
                path=self._name,
            )
        versions = self._ask("SELECT to_regclass('empathy_kv_schema') IS NOT NULL")
        if versions[0][0]:
            ((version,),) = self._ask("SELECT max(version) FROM empathy_kv_schema")
            if version is not None and version > schema.VERSION:
                raise StorageError(
                    f"{self._name} was written by a newer empathy_kv: its schema has the version {version}, "
                    f"and this one knows {schema.VERSION}",
                    errno=errno.ENOTSUP,
                    path=self._name,
                )
        names = [*part.all_tables]
        found: dict[str, set[str]] = {}
        for name, kind, rules, columns, collated in self._ask(_TABLES, names):
            if kind not in ("r", "p"):
                raise DamagedError(f"{self._name} is not used: {name} is no ordinary table", path=self._name)
            if rules:
                raise DamagedError(f"{self._name} is not used: {name} has a rule", path=self._name)
            if collated:
                raise DamagedError(f"{self._name} is not used: {name} has a collation of its own", path=self._name)
            found[name] = set(columns)
        for name, columns in found.items():
            lacking = part.columns(name) - columns
            if lacking:
                raise DamagedError(
                    f"{self._name} is not used: {name} has no column {', '.join(sorted(lacking))}", path=self._name
                )
        triggers = {trigger for _, trigger in self._ask(_TRIGGERS, names)}
        for table, trigger in self._ask(_TRIGGERS, names):
            if trigger not in _OURS:
                raise DamagedError(f"{self._name} is not used: {table} has the trigger {trigger}", path=self._name)
        indexes = {name for (name,) in self._ask(_INDEXES, [*part.indexes])}
        wanted = _triggers(part)
        return not (
            versions[0][0] and found.keys() >= set(names) and indexes >= part.indexes.keys() and triggers >= wanted
        )

    def _make(self, part: Part) -> None:
        """Make what is missing; what is derived anew, if any of that is."""
        there = {row[0] for row in self._ask(_TABLES, [*part.all_tables])}
        indexes = {name for (name,) in self._ask(_INDEXES, [*part.indexes])}
        triggers = {trigger for _, trigger in self._ask(_TRIGGERS, [*part.all_tables])}
        statements = [
            "CREATE TABLE IF NOT EXISTS empathy_kv_schema (version BIGINT PRIMARY KEY)",
            f"INSERT INTO empathy_kv_schema (version) VALUES ({schema.VERSION}) ON CONFLICT DO NOTHING",
            *(sql for name, sql in part.tables.items() if name not in there),
            *(sql for name, sql in part.indexes.items() if name not in indexes),
        ]
        if part.derived and not (triggers >= _triggers(part) and there >= part.derived.keys()):
            statements += [f"DROP TABLE IF EXISTS {name} CASCADE" for name in part.derived]
            statements += [*part.derived.values(), *part.derived_indexes.values(), *part.seeds]
        else:
            part = schema.NOTHING
        made = [_made(schema.postgres(sql).replace("{random}", secrets.token_hex(8))) for sql in statements]
        # Without values, many statements can be one, and so one round trip.
        self._wire.execute(";\n".join((*made, *part.functions)).encode())

    def _ask(self, sql: str, *values: Any) -> list[Row]:
        return self._wire.execute(sql, values or None).fetchall()


_TABLES: Final = """SELECT n.name, c.relkind, c.relhasrules,
    (SELECT coalesce(array_agg(a.attname::text), '{}') FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    EXISTS (SELECT 1 FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_collation AS l ON l.oid = a.attcollation
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT l.collisdeterministic)
FROM unnest(%s::text[]) AS n (name) JOIN pg_catalog.pg_class AS c ON c.oid = to_regclass(n.name)"""
_TRIGGERS: Final = """SELECT n.name, t.tgname::text FROM unnest(%s::text[]) AS n (name)
JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = to_regclass(n.name) AND NOT t.tgisinternal"""
_INDEXES: Final = "SELECT n.name FROM unnest(%s::text[]) AS n (name) WHERE to_regclass(n.name) IS NOT NULL"


def _triggers(part: Part) -> set[str]:
    return {sql.split()[4] for sql in part.functions if sql.startswith("CREATE OR REPLACE TRIGGER")}


_OURS: Final = {name for part in schema.PARTS for name in _triggers(part)}
