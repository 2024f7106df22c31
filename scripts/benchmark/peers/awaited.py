"""Libraries of stores that can only be awaited: what they share wherever they keep things."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from documents import decode, encode, from_plain, to_plain

from empathy_kv import Pattern
from peers.shape import Documents, Pairs, awaited


def key_value(runner: asyncio.Runner, store: Any) -> Documents:
    """Return a store of py-key-value, which is given objects of JSON."""
    runner.run(store.setup())

    async def put(key: str, document: Pattern) -> None:
        await store.put(key, to_plain(document))

    async def get(key: str) -> Pattern | None:
        plain = await store.get(key)
        return None if plain is None else from_plain(plain)

    async def items(keys: Sequence[str]) -> Pairs:
        found = await store.get_many(keys)
        return [(key, from_plain(plain)) for key, plain in zip(keys, found, strict=True) if plain is not None]

    async def bulk(documents: Mapping[str, Pattern]) -> None:
        await store.put_many(list(documents), [to_plain(document) for document in documents.values()])

    async def close() -> None:
        if hasattr(store, "close"):  # Those that hold nothing open have none.
            await store.close()

    return awaited(runner, put, get, store.delete, items, close, bulk)


def bytes_store(runner: asyncio.Runner, store: Any) -> Documents:
    """Return a store of litestar, which is given bytes."""

    async def put(key: str, document: Pattern) -> None:
        await store.set(key, encode(document))

    async def get(key: str) -> Pattern | None:
        data = await store.get(key)
        return None if data is None else decode(data)

    async def items(keys: Sequence[str]) -> Pairs:
        found = [(key, await store.get(key)) for key in keys]
        return [(key, decode(data)) for key, data in found if data is not None]

    async def close() -> None:
        async with store:
            pass

    runner.run(store.__aenter__())
    return awaited(runner, put, get, store.delete, items, close)
