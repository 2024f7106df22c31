"""The engine in the memory of this process: the model that the others are tested against. It keeps nothing."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence

from empathy_kv.errors import ClosedError
from empathy_kv.kv.interface import KV, Durability
from empathy_kv.kv.operations import Batch, Name, Reply, named
from empathy_kv.kv.snapshots import Moment
from empathy_kv.kv.table import Table, expired


class MemoryKV(KV):
    """One table a namespace, behind a lock. It is empty when it is made, and gone when it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self._certain = True
        self._tables: dict[Name, Table] = {}
        self._lock = threading.Lock()
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def execute(self, batch: Batch) -> list[Reply]:
        now = time.time_ns() // 1_000_000
        with self._lock:
            self._require_open()
            table = self._tables.get(batch.namespace)
            if table is not None:
                return table.execute(batch, now, (batch.operations, batch.checks))[0]
            table = Table()
            replies, wrote = table.execute(batch, now, (batch.operations, batch.checks))
            if wrote:
                self._tables[batch.namespace] = table
            return replies

    def keys(self, namespace: Name) -> Iterator[str]:
        namespace = named(namespace)
        with self._lock:
            self._require_open()
            table = self._tables.get(namespace)
            if table is None:
                return
            now = time.time_ns() // 1_000_000
            keys = [key for key, entry in table.items() if not expired(entry, now)]
        yield from keys

    @contextlib.contextmanager
    def snapshot(self, namespaces: Sequence[Name]) -> Iterator[Moment]:
        with self._lock:
            self._require_open()
            tables = {name: self._tables[name].copy() for name in namespaces if name in self._tables}
            moment = Moment(tables, time.time_ns() // 1_000_000)
        yield moment

    def durability(self) -> Durability:
        return Durability("nothing")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._tables.clear()

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError("the store is closed")
