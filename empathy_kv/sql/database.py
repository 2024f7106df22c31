"""What a database is (`Database`), and what it executes (`Transaction`): statements as data, sans-I/O.

SQL is written once, in what SQLite and PostgreSQL both understand, with `?` for each value; `postgres.py` says the few
words that differ. There is no layer between it and the drivers: the tables have to be the documented ones to the word,
and the hottest statement, an insert, costs less than a layer would.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, TypeVar

from attrs import frozen

from empathy_kv.errors import ArgumentError, EmpathyKVError, OutcomeUnknown
from empathy_kv.kv.interface import Bound, Durability, Steps, Tokens, run
from empathy_kv.kv.operations import TOKEN_LIFE, TOKEN_MEMORY, Name, Token
from empathy_kv.kv.table import refused_token
from empathy_kv.sql.schema import TOKENS, Part

if TYPE_CHECKING:
    from empathy_kv.sql.postgres import Postgres

R = TypeVar("R")

Row: TypeAlias = tuple[Any, ...]


@frozen(eq=False)
class Many:
    """A statement that is executed once for each of many rows of values; it replies no rows."""

    sql: str
    rows: Iterable[Row]


Statement: TypeAlias = tuple[str, Row] | Many
"""SQL, and the values of its parameters."""

Replies: TypeAlias = list[list[Row]]
"""For each statement a list of its rows."""

Further: TypeAlias = Callable[[Replies], Generator[Sequence[Statement], Replies, None]]
"""What else a transaction does, once its first statements were answered: it yields statements and is sent replies."""


def further(then: Further | None, replies: Replies, answer: Callable[[Sequence[Statement]], Replies]) -> None:
    """Do what else a transaction does, and add the replies to those that there are."""
    if then is None:
        return
    more = then(replies.copy())
    with contextlib.suppress(StopIteration):
        request = next(more)
        while True:
            answers = answer(request)
            replies += answers
            request = more.send(answers)


class Transaction:
    """Statements that are executed together: all of them, or none. It replies what each of them does.

    `part` has the tables that it needs. `then` may do more: what it raises undoes all of it. A transaction may be
    executed more than once until it is committed, so `then` must be a function that can be called again. `lock` is what
    no two transactions that name it do at once (on SQLite, no two writers do anything at once), and `still` a table
    that nobody writes to meanwhile, also those whose rows are numbered and not committed yet. `patient`: it may take
    longer than calls usually may. `afresh`: it makes the library another one, whose feed need not tell each change.
    """

    # No attrs class: making one is in every call.
    __slots__ = "afresh", "lock", "part", "patient", "statements", "still", "then", "writes"

    def __init__(
        self,
        part: Part,
        statements: Sequence[Statement],
        then: Further | None = None,
        *,
        lock: str | None = None,
        still: str | None = None,
        patient: bool = False,
        afresh: bool = False,
    ) -> None:
        self.part = part
        self.statements = statements
        self.then = then
        self.lock = lock
        self.still = still
        self.patient = patient
        self.afresh = afresh
        self.writes = then is not None or not all(
            type(each) is tuple and each[0].startswith("SELECT ") for each in statements
        )
        """Whether it may change something: it does if not all that is known of it are SELECTs."""


# The token of a write is claimed first in its transaction. Of two transactions with one token the second finds it
# taken, after it has waited for the end of the first, if need be: that is how a lost reply at COMMIT is found out.

CLAIM: Final = """INSERT INTO write_tokens (session, slot, sequence, issued, applied) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (session, slot)
DO UPDATE SET sequence = excluded.sequence, issued = excluded.issued, applied = excluded.applied
WHERE write_tokens.sequence < excluded.sequence"""
"""Changes one row, or none if the token was claimed before."""
_CLAIMED: Final = "SELECT sequence, applied FROM write_tokens WHERE session = ? AND slot = ?"
FORGET: Final = "DELETE FROM write_tokens WHERE issued < ?"
_NAMESPACE: Final[Name] = ("sql",)
_FORGET_EVERY: Final = 3600.0


def claim(token: Token, applied: bool) -> Row:
    """Return the values of `CLAIM`."""
    return token.session, token.slot, token.sequence, token.issued, applied


Reading: TypeAlias = Callable[[str], Iterator[Row]]
"""Yields the rows of a SELECT without values. They are not all in memory at once."""


class Database(Bound, ABC):
    """A database that many threads may use at once. Abstract: `execute`, `reading`, `durability` and `close`."""

    name: str
    """What errors call it: a path, or where the server is, without a password."""
    looked = True  # What is restored into it is one transaction.
    keeps_arrival: bool
    """Whether rows of a table can be asked for in the order in which they were inserted."""

    def __init__(self) -> None:
        self._tokens = Tokens()
        self._forgot = -_FORGET_EVERY
        self._certain = False
        """Whether no write of this database ends in `OutcomeUnknown`, so that none needs a token."""

    @abstractmethod
    def execute(self, transaction: Transaction, token: Token | None = None) -> Replies:
        """Execute all of a transaction, or none of it.

        With a token it is done at most once, however often it has to be tried. Raises `LockTimeoutError` and the other
        kinds of `NotApplied` if nothing was done, `OutcomeUnknown` if that cannot be known, `DamagedError` if the
        database is not one to be used.
        """

    @abstractmethod
    def reading(self, part: Part) -> AbstractContextManager[Reading]:
        """Return what reads a part as it is at one moment, in a `with` block, row by row.

        Others may write meanwhile; in a SQLite file that is not in WAL mode they have to wait.
        """

    @abstractmethod
    def durability(self) -> Durability:
        """Return what a write that returned survives."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections. Closing twice is no error; using it afterwards is a `ClosedError`."""

    def look(self) -> None:
        """Do nothing: a restore is done, or it is not."""

    def commit(self, transaction: Transaction) -> Replies:
        """Execute a transaction, with a token of this writer if it writes."""
        if not transaction.writes or self._certain:
            return self.execute(transaction)
        token = self._tokens.take(_NAMESPACE)
        try:
            replies = self.execute(transaction, token)
        except OutcomeUnknown:
            raise  # The slot stays taken: its next write would overwrite what `settle` has to find.
        except BaseException as error:
            if isinstance(error, EmpathyKVError):
                self._tokens.give(token)
            raise
        self._tokens.give(token)
        return replies

    def settle(self, token: Token | str) -> bool:
        """Return whether the write with this token was applied. If it was not, it never will be.

        Raises `TokenError` if that is not known any more: it is too old, or its writer went on with a later one.
        """
        if not isinstance(token, Token):
            token = Token.parse(token)
        now = time.time_ns() // 1_000_000
        old = token.issued + TOKEN_LIFE <= now
        statements: list[Statement] = [(_CLAIMED, (token.session, token.slot))]
        if not old:
            statements.insert(0, (CLAIM, claim(token, False)))
        rows = self.execute(Transaction(TOKENS, statements))[-1]
        if not rows or rows[0][0] < token.sequence:
            raise refused_token("old", token)
        sequence, applied = rows[0]
        if sequence > token.sequence:
            raise refused_token("passed", token)
        self._tokens.give(token)
        return bool(applied)

    def _tidying(self) -> Sequence[Statement]:
        """Return what forgets the writers that have been silent for long, now and then."""
        if time.monotonic() < self._forgot + _FORGET_EVERY:
            return ()
        self._forgot = time.monotonic()
        return [(FORGET, (time.time_ns() // 1_000_000 - TOKEN_MEMORY,))]

    def run(self, steps: Steps[R]) -> R:
        """Drive a piece of domain code that yields transactions. An error is raised at the `yield` that caused it."""
        return run(self, steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def postgres(url: str, *, timeout: float) -> Postgres:
    """Return the database of a PostgreSQL server. `ArgumentError` if psycopg is not installed."""
    try:
        from empathy_kv.sql.postgres import Postgres
    except ImportError as error:  # Also where psycopg is there, and libpq is not.
        if (error.name or "psycopg").partition(".")[0] != "psycopg":
            raise
        raise ArgumentError(
            "url must not be one of PostgreSQL: psycopg is not installed here; "
            "pip install 'psycopg[binary]' brings it, as the extra postgres does",
            argument="url",
        ) from error
    return Postgres(url, timeout=timeout)
