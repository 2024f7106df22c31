"""What drives an execution with blocking calls: connections that threads take and give back.

A connection is redis-py's, used below its commands: it connects and logs in, and repeats nothing. Then its socket is
written and read here, which costs a fraction. One that is in doubt, after a timeout, half a reply or an interruption,
is closed and never given back.
"""

from __future__ import annotations

# For the connection: Python imports it when a host is first looked up. A child that is forked while another thread of
# its parent does that inherits the lock of the half imported module, and would wait for it for ever.
import encodings.idna  # noqa: F401
import os
import socket
import struct
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import hiredis
import redis

from empathy_kv.errors import ClosedError
from empathy_kv.kv.redis.commands import pack
from empathy_kv.kv.redis.execution import answered
from empathy_kv.kv.redis.topology import Exchange, Lost, Node, Pause, Talk

R = TypeVar("R")

_STALE: Final = 1.0
"""Seconds after which a connection that nobody used is looked at before it is used again."""

_BUFFER: Final = 65536

FAILURES: Final = (
    hiredis.ProtocolError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.InvalidResponse,
    OSError,
)
"""What ends a connection."""

HELLO: Final = pack("HELLO", 2)


def require_master(reply: Any) -> None:
    """Raise unless the answer to HELLO says that the server is a master. A server that does not know HELLO passes."""
    if isinstance(reply, list) and b"role" in reply and reply[reply.index(b"role") + 1] != b"master":
        raise redis.exceptions.ConnectionError("the server is no master")


class _Wire:
    """A connection that is open."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        sock = getattr(connection, "_sock", None)
        # fakeredis has something else there: it is spoken to by the methods of the connection.
        self._socket = sock if isinstance(sock, socket.socket) else None
        if type(sock) is socket.socket and os.name == "posix":
            # The kernel keeps the time: Python would ask it before each call whether the socket is ready.
            seconds = sock.gettimeout()
            if seconds is not None:
                limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6) or 1)
                sock.settimeout(None)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._reader = hiredis.Reader()
        self._buffer = bytearray(_BUFFER)
        self.used = 0.0
        """When it was used."""

    def exchange(self, data: bytes, count: int) -> list[Any]:
        """Send commands and return the replies, among them the errors that the server answers with."""
        sock, reader, buffer = self._socket, self._reader, self._buffer
        if sock is None:
            self._connection.send_packed_command([data], check_health=False)
            return [self._reply() for _ in range(count)]
        sock.sendall(data)
        replies: list[Any] = []
        while True:
            reply = reader.gets()
            if reply is not False:
                replies.append(reply)
                if len(replies) == count:
                    return replies
            else:
                size = sock.recv_into(buffer)
                if not size:
                    raise redis.exceptions.ConnectionError("the server closed the connection")
                reader.feed(buffer, 0, size)  # type: ignore[arg-type]  # its type forgets what it takes

    def _reply(self) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True)
        except redis.exceptions.ResponseError as error:
            return error
        except redis.exceptions.ConnectionError as error:
            if answered(error):
                return error
            raise

    def dirty(self) -> bool:
        """Return whether it was closed by the server, or has a reply that nobody asked for."""
        try:
            return bool(self._connection.can_read(0))
        except FAILURES:
            return True

    def close(self) -> None:
        self._connection.disconnect()


class Connections:
    """The connections of one engine, by the server that they lead to. Threads share it.

    The deques need no lock, so a child that is forked inherits none; it begins with no connections.
    """

    def __init__(self) -> None:
        self._idle: dict[Node, deque[_Wire]] = defaultdict(deque)
        self._closed = False
        _ALL.add(self)

    def forked(self) -> None:
        """Begin with no connections, in a child: those that there are belong to the parent."""
        self._idle = defaultdict(deque)

    def run(self, talk: Talk[R]) -> R:
        """Drive an execution to its end."""
        try:
            step = next(talk)
            while True:
                if type(step) is Exchange:
                    try:
                        replies = self._exchange(step)
                    except Lost as lost:
                        step = talk.throw(lost)
                    else:
                        step = talk.send(replies)
                else:
                    assert isinstance(step, Pause)  # noqa: S101 - for the type checker
                    time.sleep(step.seconds)
                    step = talk.send(None)
        except StopIteration as stop:
            result: R = stop.value
            return result

    def _exchange(self, step: Exchange) -> Sequence[Any]:
        if self._closed:
            raise Lost(ClosedError("the store is closed"), sent=False)
        idle = self._idle[step.node]
        wire = self._taken(step, idle)
        try:
            replies = wire.exchange(step.data, step.count)
        except FAILURES as error:
            wire.close()
            self._drop(idle)  # The others led to the same server.
            raise Lost(_named(error), sent=True) from error
        except BaseException:
            wire.close()
            raise
        # After some errors redis-py has closed it.
        if step.usual and not self._closed and not isinstance(replies[-1], redis.exceptions.ConnectionError):
            wire.used = step.at
            idle.append(wire)
        else:
            wire.close()
        return replies

    def _taken(self, step: Exchange, idle: deque[_Wire]) -> _Wire:
        while step.usual:
            try:
                wire = idle.pop()
            except IndexError:
                break
            if (step.once or step.at - wire.used > _STALE) and wire.dirty():
                wire.close()
                continue
            return wire
        return self._opened(step)

    @staticmethod
    def _opened(step: Exchange) -> _Wire:
        settings = dict(step.node.connection)
        kind = settings.pop("connection_class")
        connection = kind(socket_timeout=step.patience, socket_connect_timeout=step.patience, **settings)
        try:
            connection.connect()
            wire = _Wire(connection)
            if step.node.master:
                require_master(wire.exchange(HELLO, 1)[0])
        except (redis.exceptions.RedisError, OSError) as error:
            connection.disconnect()
            raise Lost(_named(error), sent=False) from error
        except BaseException:
            connection.disconnect()
            raise
        return wire

    @staticmethod
    def _drop(idle: deque[_Wire]) -> None:
        while idle:
            try:
                wire = idle.pop()
            except IndexError:
                return
            wire.close()

    def close(self) -> None:
        """Close what nobody uses; what is in use is closed when its call ends."""
        self._closed = True
        for idle in list(self._idle.values()):
            self._drop(idle)


_ALL: Final[weakref.WeakSet[Connections]] = weakref.WeakSet()


def _forked() -> None:
    for connections in list(_ALL):
        connections.forked()


if hasattr(os, "register_at_fork"):
    # Not by asking for the process's number before each call.
    os.register_at_fork(after_in_child=_forked)


def _named(error: Exception) -> Exception:
    """Return a timeout of the socket as redis-py's, and other errors as they are."""
    late = isinstance(error, (TimeoutError, BlockingIOError))
    return redis.exceptions.TimeoutError("no reply came in time") if late else error
