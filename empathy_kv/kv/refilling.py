"""Making namespaces hold something else, all of it, many keys with each batch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Protocol, Self, TypeAlias

from empathy_kv.kv.interface import KV
from empathy_kv.kv.operations import Batch, Delete, HSet, Name, Operation, Set, ZAdd

Members: TypeAlias = list[tuple[float, bytes]]
"""Of a sorted set: scores and members, in order."""
Filled: TypeAlias = bytes | dict[str, bytes] | Members
"""What a key is to hold: a value, the fields of a hash, or the members of a sorted set; not nothing."""

_FULL: Final = 1 << 19
"""Bytes of a namespace's operations at which they are executed."""
_MANY: Final = 1_000
"""Operations of which that is true, too; and fields and members of one of them."""
_TOGETHER: Final = 500


class Refill(Protocol):
    """What fills namespaces that hold nothing else any more."""

    def put(self, namespace: Name, key: str, content: Filled) -> None:
        """Let a key, which was not put before, hold this for ever."""


class Batches:
    """Fills namespaces by batches, as any engine takes them. It begins by deleting their keys."""

    def __init__(self, kv: KV, namespaces: Sequence[Name]) -> None:
        self._kv = kv
        self._namespaces = namespaces
        self._waiting: dict[Name, list[Operation]] = {}
        self._sizes: dict[Name, int] = {}

    def __enter__(self) -> Self:
        for namespace in self._namespaces:
            self._empty(namespace)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            for namespace in list(self._waiting):
                self._execute(namespace)

    def _empty(self, namespace: Name) -> None:
        # First all keys, and not in memory: some might be missed while others are deleted.
        with tempfile.TemporaryFile() as file:
            for key in self._kv.keys(namespace):
                file.write(key.encode().hex().encode() + b"\n")
            file.seek(0)
            page: list[Operation] = []
            for line in file:
                page.append(Delete(bytes.fromhex(line.decode()).decode()))
                if len(page) == _TOGETHER:
                    self._kv.commit(Batch(namespace, page))
                    page = []
            if page:
                self._kv.commit(Batch(namespace, page))

    def put(self, namespace: Name, key: str, content: Filled) -> None:
        """Let a key hold this for ever."""
        if isinstance(content, bytes):
            self._add(namespace, Set(key, content), len(content))
        elif isinstance(content, dict):
            fields = list(content.items())
            for start in range(0, len(fields), _MANY):
                page = dict(fields[start : start + _MANY])
                self._add(namespace, HSet(key, page), sum(map(len, page.values())) + 16 * len(page))
        else:
            for start in range(0, len(content), _MANY):
                members = {member: score for score, member in content[start : start + _MANY]}
                self._add(namespace, ZAdd(key, members), sum(map(len, members)) + 16 * len(members))

    def _add(self, namespace: Name, operation: Operation, size: int) -> None:
        waiting = self._waiting.setdefault(namespace, [])
        waiting.append(operation)
        size += self._sizes.get(namespace, 0)
        self._sizes[namespace] = size
        if size >= _FULL or len(waiting) >= _MANY:
            self._execute(namespace)

    def _execute(self, namespace: Name) -> None:
        self._kv.commit(Batch(namespace, self._waiting.pop(namespace)))
        del self._sizes[namespace]
