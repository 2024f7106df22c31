"""Stores of documents on a Redis server, each of a prefix of its own. They are opened by its URL."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import hiredis
import redis
from documents import Solution, decode, encode, solution
from harness import PACKAGE, SERVER

import empathy_kv
from empathy_kv import Pattern
from peers import disk
from peers.awaited import bytes_store, key_value
from peers.disk import collected
from peers.shape import Documents, Pairs, Peer


def _ours(url: str) -> Documents:
    return collected(empathy_kv.connect(url))


def _own_class(url: str) -> Documents:
    # Of a prefix of its own: the namespace of the other row holds documents of another class.
    return collected(empathy_kv.connect(url, prefix="own"), Solution)


def _redis_py(url: str) -> Documents:
    client = redis.Redis.from_url(url)

    def put(key: str, document: Pattern) -> None:
        client.set(f"document:{key}", encode(document))

    def get(key: str) -> Pattern | None:
        data: Any = client.get(f"document:{key}")
        return None if data is None else decode(data)

    def items(keys: Sequence[str]) -> Pairs:
        found: Any = client.mget([f"document:{key}" for key in keys])
        return [(key, decode(data)) for key, data in zip(keys, found, strict=True) if data is not None]

    def bulk(documents: Mapping[str, Pattern]) -> None:
        client.mset({f"document:{key}": encode(document) for key, document in documents.items()})

    return Documents(put, get, lambda key: client.delete(f"document:{key}"), items, client.close, bulk=bulk)


class Socket:
    """A connection of nothing but a socket and hiredis: the least that talking to a server takes."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def call(self, *words: str | bytes | int) -> Any:
        """Return the reply to one command."""
        return self.calls([words])[0]

    def calls(self, commands: Sequence[tuple[str | bytes | int, ...]]) -> list[Any]:
        """Return the replies to commands that are sent at once."""
        self._socket.sendall(b"".join(hiredis.pack_command(words) for words in commands))
        replies: list[Any] = []
        while len(replies) < len(commands):
            while (reply := self._reader.gets()) is not False:
                if isinstance(reply, Exception):
                    raise reply
                replies.append(reply)
            if len(replies) < len(commands):
                self._reader.feed(self._socket.recv(1 << 16))
        return replies

    def close(self) -> None:
        self._socket.close()


def _bare(url: str) -> Documents:
    server = Socket(url)

    def put(key: str, document: Pattern) -> None:
        server.call("SET", f"bare:{key}", encode(document))

    def get(key: str) -> Pattern | None:
        data = server.call("GET", f"bare:{key}")
        return None if data is None else decode(data)

    def items(keys: Sequence[str]) -> Pairs:
        found = server.call("MGET", *(f"bare:{key}" for key in keys))
        return [(key, decode(data)) for key, data in zip(keys, found, strict=True) if data is not None]

    def bulk(documents: Mapping[str, Pattern]) -> None:
        words = [word for key, document in documents.items() for word in (f"bare:{key}", encode(document))]
        server.call("MSET", *words)

    return Documents(put, get, lambda key: server.call("DEL", f"bare:{key}"), items, server.close, bulk=bulk)


def _key_value(url: str) -> Documents:
    from key_value.aio.stores.redis import RedisStore

    return key_value(asyncio.Runner(), RedisStore(url=url))


def _litestar(url: str) -> Documents:
    from litestar.stores.redis import RedisStore

    return bytes_store(asyncio.Runner(), RedisStore.with_client(url))


OURS: Final = Peer(PACKAGE, _ours, SERVER)
OWN_CLASS: Final = Peer(disk.OWN_CLASS.name, _own_class, SERVER, solution)
REDIS_PY: Final = Peer("redis-py", _redis_py, SERVER)
KEY_VALUE: Final = Peer("py-key-value Redis", _key_value, SERVER, needs=["key_value"])
LITESTAR: Final = Peer("litestar Redis", _litestar, SERVER, needs=["litestar"])
BARE: Final = Peer("socket + hiredis + msgspec", _bare, SERVER, role="floor")

EVERY: Final = (OURS, OWN_CLASS, REDIS_PY, KEY_VALUE, LITESTAR, BARE)
