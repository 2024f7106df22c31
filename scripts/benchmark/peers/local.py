"""Stores of documents in the memory of one process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, Final

from documents import Solution, decode, encode, from_plain, solution, to_plain
from harness import NOTHING, PACKAGE

import empathy_kv
from empathy_kv import Pattern
from peers import disk
from peers.awaited import bytes_store, key_value
from peers.disk import collected
from peers.shape import Documents, Pairs, Peer


def _ours(_: str) -> Documents:
    return collected(empathy_kv.connect("memory:"))


def _own_class(_: str) -> Documents:
    return collected(empathy_kv.connect("memory:"), Solution)


def _references(_: str) -> Documents:
    held: dict[str, Pattern] = {}
    return Documents(
        held.__setitem__, held.get, held.__delitem__, lambda _: list(held.items()), lambda: None, bulk=held.update
    )


def _bare(_: str) -> Documents:
    held: dict[str, bytes] = {}

    def put(key: str, document: Pattern) -> None:
        held[key] = encode(document)

    def get(key: str) -> Pattern | None:
        data = held.get(key)
        return None if data is None else decode(data)

    def items(_: Sequence[str]) -> Pairs:
        return [(key, decode(data)) for key, data in held.items()]

    return Documents(put, get, held.__delitem__, items, lambda: None)


def _cachetools(_: str) -> Documents:
    import cachetools

    cache: Any = cachetools.TTLCache(maxsize=math.inf, ttl=3600.0)

    def put(key: str, document: Pattern) -> None:
        cache[key] = encode(document)

    def get(key: str) -> Pattern | None:
        data = cache.get(key)
        return None if data is None else decode(data)

    def items(_: Sequence[str]) -> Pairs:
        return [(key, decode(data)) for key, data in cache.items()]

    return Documents(put, get, cache.__delitem__, items, lambda: None)


def _langgraph(_: str) -> Documents:
    from langgraph.store.memory import InMemoryStore

    store, namespace = InMemoryStore(), ("patterns",)

    def put(key: str, document: Pattern) -> None:
        store.put(namespace, key, to_plain(document))

    def get(key: str) -> Pattern | None:
        item = store.get(namespace, key)
        return None if item is None else from_plain(item.value)

    def items(keys: Sequence[str]) -> Pairs:
        return [(item.key, from_plain(item.value)) for item in store.search(namespace, limit=len(keys))]

    return Documents(put, get, lambda key: store.delete(namespace, key), items, lambda: None)


def _key_value(_: str) -> Documents:
    from key_value.aio.stores.memory import MemoryStore

    return key_value(asyncio.Runner(), MemoryStore())


def _litestar(_: str) -> Documents:
    from litestar.stores.memory import MemoryStore

    return bytes_store(asyncio.Runner(), MemoryStore())


OURS: Final = Peer(PACKAGE, _ours, NOTHING)
OWN_CLASS: Final = Peer(disk.OWN_CLASS.name, _own_class, NOTHING, solution)
REFERENCES: Final = Peer("dict of the objects themselves", _references, NOTHING, role="mark")
BARE: Final = Peer("dict + msgspec", _bare, NOTHING, role="floor")
CACHETOOLS: Final = Peer("cachetools TTLCache", _cachetools, NOTHING, needs=["cachetools"])
LANGGRAPH: Final = Peer("LangGraph InMemoryStore", _langgraph, NOTHING, needs=["langgraph"])
KEY_VALUE: Final = Peer("py-key-value memory", _key_value, NOTHING, needs=["key_value", "cachetools"])
LITESTAR: Final = Peer("litestar memory", _litestar, NOTHING, needs=["litestar"])

EVERY: Final = (OURS, OWN_CLASS, CACHETOOLS, LANGGRAPH, KEY_VALUE, LITESTAR, REFERENCES, BARE)
