"""A store: patterns, states, metrics and collections on one engine."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from empathy_kv.collection import Collection
from empathy_kv.errors import DamagedError, UnfinishedError
from empathy_kv.kv.interface import KV, Bound, Durability, run
from empathy_kv.metrics import HISTORY, MetricsCollector
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.shared_patterns import SharedPatterns, unlisted
from empathy_kv.states import StateManager

if TYPE_CHECKING:
    from empathy_kv.kv.operations import Token
    from empathy_kv.snapshot import Contents

T = TypeVar("T")


class Store(Bound):
    """What `connect` returns. Threads may share it; `close` it, or use it as a context manager.

    `patterns`, `states` and `metrics` are the domain; `kv` is the engine below, for data of your own. Namespaces whose
    first name is `collection`, `metrics`, `patterns`, `states` or `store` hold the store's own data.
    """

    patterns: PatternLibrary
    states: StateManager
    metrics: MetricsCollector
    kv: KV

    def __init__(self, kv: KV, *, history_limit: int = HISTORY) -> None:
        self.kv = kv
        self._history_limit = history_limit
        self.patterns = PatternLibrary(SharedPatterns(), kv)
        self.states = StateManager(kv=kv)
        self.metrics = MetricsCollector(kv=kv, history_limit=history_limit)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kv!r})"

    def collection(self, name: str, kind: type[T]) -> Collection[T]:
        """Return the documents of a class under a name. It needs not exist, and costs nothing."""
        return Collection(name, kind, kv=self.kv)

    def durability(self) -> Durability:
        """Return what a write that returned survives, as far as the engine knows or its server tells."""
        return self.kv.durability()

    def checkpoint(self) -> None:
        """Bring the JSON documents of a store on files up to date. It happens by itself; elsewhere nothing is to do."""
        self.kv.checkpoint()

    def check(self) -> list[DamagedError]:
        """Read a whole store and return what is damaged or does not belong there, each with its `path`.

        That is every file of a store on files; and, on every engine, patterns that the library has lost, which
        `patterns.repair()` finds again. It changes nothing. Empty if all is well.
        """
        damage = self.kv.check()
        try:
            damage += map(unlisted, run(self.kv, SharedPatterns().lost()))
        except DamagedError as error:
            if all(error.path != each.path for each in damage):
                damage.append(error)
        except UnfinishedError:
            pass  # What a restore has not finished is told to whoever uses it.
        return damage

    def settle(self, token: Token | str) -> bool:
        """Return whether the write with this token was applied, which an `OutcomeUnknown` carries; as `KV.settle`."""
        return self.kv.settle(token)

    def _contents(self) -> Contents:
        """Return what `empathy_kv.snapshot` reads and writes."""
        from empathy_kv.shared_snapshot import KVContents

        return KVContents(self.kv, self._history_limit)

    def close(self) -> None:
        """Give back what the store holds. Closing twice is no error; using it afterwards is a `ClosedError`."""
        self.kv.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
