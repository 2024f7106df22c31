"""Collections: documents of one class under ids of the caller's (`CollectionRules`), sans-I/O.

The namespace `collection`, `<name>` holds a value a document: the object as JSON. Its key is the id.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Final, Generic, TypeVar

from empathy_kv.codec import codec
from empathy_kv.errors import ArgumentTypeError, CheckError, CodecError
from empathy_kv.kv.interface import KV, Bound, Several, Steps, run
from empathy_kv.kv.operations import PAGE, Batch, Check, Delete, Get, Name, Set, Version, integer, pages, seconds, text
from empathy_kv.kv.table import refused
from empathy_kv.records import MAX_ID

T = TypeVar("T")

_TOGETHER: Final = 4
"""Batches of which a bulk call asks at once."""


def _id(value: str) -> str:
    return text(value, "id", MAX_ID)


class CollectionRules(Generic[T]):
    """What a collection does, whoever runs it: every method is a generator of steps."""

    def __init__(self, name: str, kind: type[T]) -> None:
        self.namespace: Name = ("collection", text(name, "name", 256))
        self._codec = codec(kind)
        self._kind = kind

    def _encode(self, id: str, document: T) -> bytes:
        if type(document) is not self._kind:
            raise ArgumentTypeError(
                f"document {id!r} must be a {self._kind.__name__}, not {type(document).__name__}", argument="document"
            )
        try:
            return self._codec.encode(document)
        except CodecError as error:
            raise CodecError(f"document {id!r}: {error}", path=error.path, argument="document") from error

    def _decode(self, id: str, data: bytes) -> T:
        try:
            return self._codec.decode(data)
        except CodecError as error:
            raise CodecError(f"document {id!r} as it is stored: {error}", path=error.path) from error

    def put(self, id: str, document: T, ttl: float | timedelta | None, expected_version: int | None) -> Steps[int]:
        write = Set(_id(id), self._encode(id, document), ttl)
        if expected_version is None:
            replies = yield Batch.of(self.namespace, write)
        else:
            check = Check(id, integer(expected_version, "expected_version", 0))
            try:
                replies = yield Batch(self.namespace, (write,), (check,))
            except CheckError as error:
                raise refused(check, error.actual, "document") from error
        version: int = replies[0]
        return version

    def get(self, id: str) -> Steps[T | None]:
        replies = yield Batch.of(self.namespace, Get(_id(id)))
        return None if replies[0] is None else self._decode(id, replies[0])

    def get_versioned(self, id: str) -> Steps[tuple[T | None, int]]:
        data, version = yield Batch(self.namespace, (Get(_id(id)), Version(id)))
        return (None, 0) if data is None else (self._decode(id, data), version)

    def delete(self, id: str) -> Steps[bool]:
        replies = yield Batch.of(self.namespace, Delete(_id(id)))
        deleted: bool = replies[0]
        return deleted

    def get_many(self, ids: Iterable[str]) -> Steps[dict[str, T]]:
        if isinstance(ids, str) or not isinstance(ids, Iterable):
            raise ArgumentTypeError(f"ids must be a list, not {type(ids).__name__}", argument="ids")
        found: dict[str, T] = {}
        every = pages(list(dict.fromkeys(map(_id, ids))))
        while together := list(itertools.islice(every, _TOGETHER)):
            answers = yield Several([Batch.gets(self.namespace, page) for page in together])
            for page, replies in zip(together, answers, strict=True):
                for name, data in zip(page, replies, strict=True):
                    if data is not None:
                        found[name] = self._decode(name, data)
        return found

    def put_many(self, documents: Mapping[str, T], ttl: float | timedelta | None) -> Steps[None]:
        if not isinstance(documents, Mapping):
            raise ArgumentTypeError(
                f"documents must be a mapping, not {type(documents).__name__}", argument="documents"
            )
        seconds(ttl)
        writes = [Set(_id(name), self._encode(name, document), ttl) for name, document in documents.items()]
        for page in pages(writes, lambda write: len(write.value)):
            yield Batch(self.namespace, page)


class Collection(Bound, Generic[T]):
    """Documents of one attrs class or dataclass in a store, under ids of 1 to 512 bytes of any text."""

    def __init__(self, name: str, kind: type[T], *, kv: KV) -> None:
        self._rules = CollectionRules(name, kind)
        self._kv = kv
        self._run = functools.partial(run, kv)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._rules.namespace[1]!r})"

    def put(
        self,
        id: str,
        document: T,
        ttl: float | timedelta | None = None,
        *,
        expected_version: int | None = None,
    ) -> int:
        """Store a document in the place of one that was there, and return its version.

        It lives for `ttl` seconds (or a timedelta); None is for ever. `expected_version`: store it only if the one that
        is there has this version (0: only if there is none), else raise `CheckError`. `CodecError` if it holds what its
        class does not declare: then nothing is stored.
        """
        return run(self._kv, self._rules.put(id, document, ttl, expected_version))

    def get(self, id: str) -> T | None:
        """Return a document, None if it is absent or has expired."""
        return run(self._kv, self._rules.get(id))

    def get_versioned(self, id: str) -> tuple[T | None, int]:
        """Return a document and its version, for `put(..., expected_version=)`; (None, 0) if it is absent."""
        return run(self._kv, self._rules.get_versioned(id))

    def delete(self, id: str) -> bool:
        """Delete a document and return whether it was there; deleting twice is no error."""
        return run(self._kv, self._rules.delete(id))

    def get_many(self, ids: Iterable[str]) -> dict[str, T]:
        """Return those of the documents that are there, by id. Read in batches of 500."""
        return run(self._kv, self._rules.get_many(ids))

    def put_many(self, documents: Mapping[str, T], ttl: float | timedelta | None = None) -> None:
        """Store documents by id, each for `ttl` seconds; as `put`.

        All are checked before the first is written; each batch (500 at most) is atomic.
        """
        run(self._kv, self._rules.put_many(documents, ttl))

    def keys(self) -> Iterator[str]:
        """Yield the id of each document once, in no particular order."""
        return self._kv.keys(self._rules.namespace)

    def items(self) -> Iterator[tuple[str, T]]:
        """Yield ids and documents, in no particular order, without holding all of them in memory."""
        ids = self.keys()
        while page := list(itertools.islice(ids, PAGE)):
            yield from self.get_many(page).items()
