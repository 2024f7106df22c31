"""What an engine shows of several namespaces together: all of them at one moment (`Snapshot`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from empathy_kv.kv.operations import Batch, Name, Reply
from empathy_kv.kv.table import Table


class Snapshot(Protocol):
    """Namespaces that others may go on to write.

    On an engine that can, it is one moment from the start. Elsewhere it becomes one: what was read is read again as far
    as `changed` names it, until that is little, and then once more while the writers are `still`. What was read last of
    each key is then what the namespaces held at that moment, all of them.
    """

    def several(self, batches: Sequence[Batch]) -> list[list[Reply]]:
        """Execute batches that only read, of any of the namespaces, and return the replies of each."""

    def keys(self, namespace: Name) -> Iterator[str]:
        """Yield each key of a namespace, as `KV.keys` does."""

    def changed(self) -> Mapping[Name, set[str]]:
        """Return the keys that were written since the snapshot was begun, or since the last call."""

    def still(self) -> contextlib.AbstractContextManager[None]:
        """Let nobody write while the block runs, which must be short. Within it `changed` names all there will be.

        Raises `LockTimeoutError` at its end if it took too long: then writers went on, and it is to be done again.
        """


class Moment:
    """A snapshot that is one moment from the start: tables that do not change any more."""

    def __init__(self, tables: Mapping[Name, Table], at: int) -> None:
        self._tables = tables
        self._at = at

    def several(self, batches: Sequence[Batch]) -> list[list[Reply]]:
        """Execute batches that only read, of any of the namespaces, and return the replies of each."""
        nothing = Table()
        return [self._tables.get(batch.namespace, nothing).execute(batch, self._at, None)[0] for batch in batches]

    def keys(self, namespace: Name) -> Iterator[str]:
        """Yield each key of a namespace."""
        table = self._tables.get(namespace)
        if table is not None:
            for key, entry in table.items():
                if entry.expires is None or entry.expires > self._at:
                    yield key

    def changed(self) -> Mapping[Name, set[str]]:
        """Return nothing: a moment does not change."""
        return {}

    def still(self) -> contextlib.AbstractContextManager[None]:
        """Do nothing: nobody writes here."""
        return contextlib.nullcontext()
