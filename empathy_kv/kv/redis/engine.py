"""A Redis or Valkey server as an engine: batches as script calls, repeated by their token until a deadline."""

from __future__ import annotations

import contextlib

# For the connection: Python imports it when a host is first looked up. A child that is forked while another thread of
# its parent does that inherits the lock of the half imported module, and would wait for it for ever.
import encodings.idna  # noqa: F401
import functools
import hashlib
import os
import random
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from empathy_kv.errors import (
    ArgumentError,
    ClosedError,
    EmpathyKVError,
    NotApplied,
    OutcomeUnknown,
    StorageError,
    StoragePermissionError,
    UnavailableError,
    WrongTypeError,
)
from empathy_kv.kv.interface import KV
from empathy_kv.kv.operations import Batch, Name, Reply, Settle, Token, named, number, text
from empathy_kv.kv.redis.commands import FORMS, Argument, Layout, body, parse, read
from empathy_kv.kv.redis.script import DIGEST, SOURCE
from empathy_kv.kv.table import counter, exhausted, overflow, refused, refused_token

if TYPE_CHECKING:
    from redis.connection import ConnectionPool

_PAUSE = 0.01, 0.25
"""Seconds between two tries: the first, and the longest."""


class RedisKV(KV):
    """Namespaces on a server, under a prefix. Two prefixes on one server never see each other.

    `timeout`: seconds after which a call gives up; until then it is repeated when the connection fails. A write is
    repeated with its token, so it happens once. It works on the connections of a pool, below redis-py's commands,
    because redis-py repeats a command whose reply was lost, and counts it twice.
    """

    shards: ClassVar[int] = 64

    def __init__(
        self, pool: ConnectionPool, *, prefix: str = "empathy", timeout: float = 5.0, owned: bool = False
    ) -> None:
        super().__init__()
        self._pool: ConnectionPool | None = pool
        self._owned = owned
        self._process = os.getpid()
        self._prefix = text(prefix, "prefix", 128)
        self._timeout = number(timeout, "timeout", 0.001, 3600.0)
        self._layout = functools.lru_cache(maxsize=1024)(functools.partial(Layout, prefix))

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "empathy", timeout: float = 5.0) -> Self:
        """Open `redis://`, `rediss://` (certificates are verified) or `unix://`. Nothing is sent yet."""
        seconds = number(timeout, "timeout", 0.001, 3600.0)
        try:
            pool = redis.ConnectionPool.from_url(
                url,
                # A reply that is swallowed must leave time for another try.
                socket_timeout=seconds / 3,
                socket_connect_timeout=seconds / 3,
                retry=Retry(NoBackoff(), 0),
            )
            pool.connection_class(**pool.connection_kwargs)  # An option that it does not know is refused here.
            if not url.startswith("unix:"):
                int(urlsplit(url).path.strip("/") or 0)  # redis-py takes what is no number for database 0.
        except (ValueError, TypeError, redis.exceptions.RedisError) as error:
            # Neither the URL nor the error's text, which quotes it: there may be a password in it.
            raise ArgumentError(
                f"url must be one that redis-py can read, as redis://host:6379/0 ({type(error).__name__})",
                argument="url",
            ) from None
        return cls(pool, prefix=prefix, timeout=seconds, owned=True)

    @classmethod
    def from_client(cls, client: redis.Redis, *, prefix: str = "empathy", timeout: float = 5.0) -> Self:
        """Use the connections of a client, fakeredis's too. Closing the engine leaves the client open."""
        return cls(client.connection_pool, prefix=prefix, timeout=timeout)

    def __repr__(self) -> str:
        # Nothing of the URL: it may hold a password.
        return f"{type(self).__name__}(prefix={self._prefix!r})"

    def execute(self, batch: Batch) -> list[Reply]:
        layout = self._layout(batch.namespace)
        operations = batch.operations
        if len(operations) == 1 and not batch.checks:
            form = FORMS.get(type(operations[0]))  # type: ignore[arg-type]
            if form is not None and form.command is not None:
                operation: Any = operations[0]
                command = [form.name.upper(), layout.key(operation.key), *form.command(operation)]
                # WRONGTYPE does not say what the key holds; the script does.
                with contextlib.suppress(WrongTypeError):
                    return [form.reply(operation, self._call(command, repeatable=True))]
        if operations and isinstance(operations[0], Settle):
            token: Token | None = operations[0].token
            mode = "s"
            keys: list[bytes] = []
            arguments: list[Argument] = ["0"]
        else:
            token = batch.token
            mode = "w" if batch.writes else "r"
            keys, arguments = body(batch, layout)
        command = self._script(layout, mode, keys, arguments, token)
        answer = self._call(command, repeatable=token is not None or mode == "r", token=token, script=True)
        return self._replies(batch, layout, answer, token)

    def keys(self, namespace: Name) -> Iterator[str]:
        layout = self._layout(named(namespace))
        seconds, microseconds = self._call(["TIME"], repeatable=True)
        now = int(seconds) * 1000 + int(microseconds) // 1000
        seen: set[bytes] = set()  # ZSCAN gives every member that stays, and some of them twice.
        cursor: bytes = b"0"
        while True:
            cursor, page = self._call(["ZSCAN", layout.index, cursor, "COUNT", "1000"], repeatable=True)
            for key, expires in zip(page[::2], page[1::2], strict=True):
                if key not in seen and float(expires) > now:
                    seen.add(key)
                    yield key.decode()
            if cursor == b"0":
                return

    def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None and self._owned:
            pool.disconnect()

    # One call

    @staticmethod
    def _script(
        layout: Layout, mode: str, keys: Sequence[bytes], arguments: Sequence[Argument], token: Token | None
    ) -> list[Argument]:
        if token is None:
            writer: list[Argument] = ["", "0", "", "0"]
            slots = layout.slots("")
        else:
            digest = hashlib.blake2b(digest_size=8)
            for argument in (*keys, *arguments):
                piece = argument.encode() if isinstance(argument, str) else argument
                digest.update(b"%d:" % len(piece) + piece)
            writer = [str(token.slot), str(token.sequence), digest.hexdigest(), str(token.issued)]
            slots = layout.slots(token.session)
        count = str(len(keys) + 3)
        own = (layout.revision, layout.index, slots)
        return ["EVALSHA", DIGEST, count, *own, *keys, mode, *writer, str(len(layout.prefix)), *arguments]

    def _call(
        self,
        command: list[Argument],
        *,
        repeatable: bool,
        token: Token | None = None,
        script: bool = False,
    ) -> Any:
        """Send a command and return what came back, repeating it until the deadline if that is safe."""
        deadline = time.monotonic() + self._timeout
        pause, longest = _PAUSE
        sent = False
        while True:
            if os.getpid() != self._process:
                self._forked()
            pool = self._pool
            if pool is None:
                raise ClosedError("the store is closed")
            connection: Any = None  # Its methods are untyped in redis-py.
            try:
                connection = pool.get_connection()
                sent = True
                connection.send_command(*command)
                try:
                    return connection.read_response(disable_decoding=True)
                except redis.exceptions.NoScriptError:
                    if not script:
                        raise
                    # The server was restarted or its scripts were flushed: nothing was done.
                    connection.send_command("EVAL", SOURCE, *command[2:])
                    return connection.read_response(disable_decoding=True)
            except redis.exceptions.RedisError as error:
                # A reply may still be under way on this connection; nobody else may read it.
                if connection is not None and isinstance(
                    error, (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)
                ):
                    connection.disconnect()
                final = translate(error)
                if final is not None:
                    raise final from error
                if time.monotonic() + pause >= deadline or (sent and not repeatable):
                    raise self._lost(error, sent and (token is not None or not repeatable), token) from error
            except BaseException:
                if connection is not None:
                    connection.disconnect()
                raise
            finally:
                if connection is not None:
                    pool.release(connection)
            # Spread, so that many workers do not come back at the same moment.
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(pause * 2, longest)

    def _forked(self) -> None:
        """Begin anew in the child: a thread of the parent may have held the lock of the pool."""
        self._process = os.getpid()
        pool = self._pool
        if pool is not None and self._owned:
            self._pool = type(pool)(connection_class=pool.connection_class, **pool.connection_kwargs)

    def _lost(self, error: redis.exceptions.RedisError, wrote: bool, token: Token | None) -> EmpathyKVError:
        why = f"{type(error).__name__} until the timeout of {self._timeout:g} s"
        if wrote:
            return OutcomeUnknown(
                f"the write was sent and no reply came ({why}); settle(token) tells whether it was applied",
                token=token,
            )
        return UnavailableError(f"the server did not answer ({why})")

    @staticmethod
    def _replies(batch: Batch, layout: Layout, answer: Sequence[Any], token: Token | None) -> list[Reply]:
        status = answer[0]
        if status in {b"done", b"again"}:
            raw = answer[1] if status == b"done" else parse(answer[1])
            if isinstance(batch.operations[0] if batch.operations else None, Settle):
                return [bool(raw[0])]
            return read(batch, raw)
        if status == b"check":
            raise refused(batch.checks[int(answer[1])], int(answer[2]))
        if status == b"token":
            raise refused_token(answer[1].decode(), token)
        key = answer[1][len(layout.prefix) :].decode()
        if status == b"kind":
            raise _wrong(key, answer[2].decode())
        if status == b"exhausted":
            raise exhausted(key)
        field = answer[2].decode() or None
        raise counter(key, field) if status == b"counter" else overflow(key, field)


def _wrong(key: str, kind: str) -> WrongTypeError:
    return WrongTypeError(f"{key!r} holds a {kind}, which the operation does not work on", key=key, kind=kind)


def translate(error: redis.exceptions.RedisError) -> EmpathyKVError | None:
    """Return what an error of redis-py means here, or None if trying again may help."""
    message = str(error)
    if isinstance(
        error,
        (
            redis.exceptions.AuthenticationError,
            redis.exceptions.AuthorizationError,
            redis.exceptions.NoPermissionError,
        ),
    ):
        return StoragePermissionError(f"the server does not allow it ({type(error).__name__})")
    if message.startswith("WRONGTYPE"):
        return _wrong("", "")
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return StorageError("the server has reached its maxmemory and refuses to write")
    if isinstance(error, redis.exceptions.ReadOnlyError):
        return StoragePermissionError("the server is a read-only replica")
    if isinstance(error, (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)):
        return None
    if isinstance(error, redis.exceptions.ResponseError) and message.startswith(("LOADING", "BUSY", "TRYAGAIN")):
        return None
    if isinstance(error, redis.exceptions.ResponseError) and "unknown command" in message:
        return NotApplied(f"the server does not know the command: {message}")
    return StorageError(f"the server refused: {message}")
