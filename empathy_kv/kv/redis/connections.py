"""What drives an execution with blocking calls: connections that threads take and give back.

A connection is redis-py's, used below its commands: it connects, logs in and frames replies, and repeats nothing. One
that is in doubt, after a timeout, half a reply or an interruption, is closed and never given back.
"""

from __future__ import annotations

# For the connection: Python imports it when a host is first looked up. A child that is forked while another thread of
# its parent does that inherits the lock of the half imported module, and would wait for it for ever.
import encodings.idna  # noqa: F401
import os
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import redis

from empathy_kv.errors import ClosedError
from empathy_kv.kv.redis.commands import pack
from empathy_kv.kv.redis.execution import answered
from empathy_kv.kv.redis.topology import Exchange, Lost, Node, Pause, Talk

R = TypeVar("R")

_STALE: Final = 1.0
"""Seconds after which a connection that nobody used is looked at before it is used again."""

FAILURES: Final = (
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


class Connections:
    """The connections of one engine, by the server that they lead to. Threads share it.

    The deques need no lock, so a child that is forked inherits none; it begins with no connections.
    """

    def __init__(self) -> None:
        self._idle: dict[Node, deque[tuple[Any, float]]] = defaultdict(deque)
        self._process = os.getpid()
        self._closed = False

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
        if os.getpid() != self._process:
            self._idle, self._process = defaultdict(deque), os.getpid()
        if self._closed:
            raise Lost(ClosedError("the store is closed"), sent=False)
        idle = self._idle[step.node]
        connection = self._taken(step, idle)
        try:
            connection.send_packed_command([step.data], check_health=False)
            replies = [self._reply(connection) for _ in range(step.count)]
        except FAILURES as error:
            connection.disconnect()
            self._drop(idle)  # The others led to the same server.
            raise Lost(error, sent=True) from error
        except BaseException:
            connection.disconnect()
            raise
        # After some errors redis-py has closed it.
        broken = any(isinstance(reply, redis.exceptions.ConnectionError) for reply in replies)
        if step.usual and not broken and not self._closed:
            idle.append((connection, time.monotonic()))
        else:
            connection.disconnect()
        return replies

    def _taken(self, step: Exchange, idle: deque[tuple[Any, float]]) -> Any:
        while step.usual:
            try:
                connection, used = idle.pop()
            except IndexError:
                break
            if (step.once or time.monotonic() - used > _STALE) and _dirty(connection):
                connection.disconnect()
                continue
            return connection
        return self._opened(step)

    def _opened(self, step: Exchange) -> Any:
        settings = dict(step.node.connection)
        kind = settings.pop("connection_class")
        connection = kind(socket_timeout=step.patience, socket_connect_timeout=step.patience, **settings)
        try:
            connection.connect()
            if step.node.master:
                connection.send_packed_command([HELLO], check_health=False)
                require_master(self._reply(connection))
        except (redis.exceptions.RedisError, OSError) as error:
            connection.disconnect()
            raise Lost(error, sent=False) from error
        except BaseException:
            connection.disconnect()
            raise
        return connection

    @staticmethod
    def _reply(connection: Any) -> Any:
        try:
            return connection.read_response(disable_decoding=True)
        except redis.exceptions.ResponseError as error:
            return error
        except redis.exceptions.ConnectionError as error:
            if answered(error):
                return error
            raise

    @staticmethod
    def _drop(idle: deque[tuple[Any, float]]) -> None:
        while idle:
            try:
                connection, _ = idle.pop()
            except IndexError:
                return
            connection.disconnect()

    def close(self) -> None:
        """Close what nobody uses; what is in use is closed when its call ends."""
        self._closed = True
        if os.getpid() == self._process:
            for idle in self._idle.values():
                self._drop(idle)


def _dirty(connection: Any) -> bool:
    """Return whether a connection was closed by the server, or has a reply that nobody asked for."""
    try:
        return bool(connection.can_read(0))
    except FAILURES:
        return True
