"""A store on a database: patterns, states and metrics in the documented tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from empathy_kv.errors import DamagedError, UnsupportedError
from empathy_kv.kv.interface import Durability
from empathy_kv.kv.operations import Token
from empathy_kv.metrics import MetricsCollector
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.sql.database import Database
from empathy_kv.sql.shared_patterns import SQLPatterns
from empathy_kv.states import StateManager
from empathy_kv.store import Store

if TYPE_CHECKING:
    from empathy_kv.sql.snapshot import SQLContents


class SQLStore(Store):
    """What `connect` returns for the URL of a database. It has neither `kv` nor collections: `UnsupportedError`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.patterns = PatternLibrary(SQLPatterns(), database)
        self.states = StateManager(kv=database)
        self.metrics = MetricsCollector(kv=database)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._database!r})"

    @property
    def kv(self) -> NoReturn:  # type: ignore[override]
        """Raise `UnsupportedError`."""
        raise unsupported("key-value interface")

    def collection(self, name: str, kind: type[Any]) -> NoReturn:  # noqa: ARG002
        """Raise `UnsupportedError`."""
        raise unsupported("collections")

    def durability(self) -> Durability:
        """Return what a write that returned survives, as far as the server tells."""
        return self._database.durability()

    def checkpoint(self) -> None:
        """Do nothing: a database has its tables up to date."""

    def check(self) -> list[DamagedError]:
        """Return nothing: a database looks after its files itself."""
        return []

    def settle(self, token: Token | str) -> bool:
        """Return whether the write with this token was applied. If it was not, it never will be."""
        return self._database.settle(token)

    def _contents(self) -> SQLContents:
        """Return what `empathy_kv.snapshot` reads and writes."""
        from empathy_kv.sql.snapshot import SQLContents

        return SQLContents(self._database)

    def close(self) -> None:
        """Close the connections. Closing twice is no error; using it afterwards is a `ClosedError`."""
        self._database.close()


def unsupported(what: str) -> UnsupportedError:
    """Return the error of what a database does not have."""
    return UnsupportedError(f"a store on a database has no {what}: use file:, memory: or a Redis server for that")
