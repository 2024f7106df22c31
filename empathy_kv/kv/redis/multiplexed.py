"""What drives an execution in an event loop: connections that many tasks share.

What tasks send at about the same moment goes out in one piece, and the replies come back in the order of the requests
(implicit pipelining). A reply that nobody waits for any more, because the task was cancelled, is read and dropped. A
connection on which a reply is overdue takes no further requests; those before may still get theirs.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import redis
from attrs import define, field

from empathy_kv.errors import ClosedError
from empathy_kv.kv.redis.connections import FAILURES, HELLO, require_master
from empathy_kv.kv.redis.execution import answered
from empathy_kv.kv.redis.topology import Exchange, Lost, Node, Pause, Talk

R = TypeVar("R")

_ALONE: Final = 16
"""Connections to a server for requests that nothing should stand behind."""


@define(eq=False)
class _Waiting:
    """A request under way."""

    future: asyncio.Future[list[Any]]
    count: int
    patience: float
    due: float
    """When its reply is overdue, unless other replies still come."""
    end: float
    """When it is overdue in any case."""
    replies: list[Any] = field(factory=list)


class _Link:
    """A connection that is open, and the requests on it."""

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._out: list[bytes] = []
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._progress = loop.time()
        self.open = True
        """Whether it takes requests."""
        self._writer = loop.create_task(self._write())
        self._reader = loop.create_task(self._read())

    def submit(self, step: Exchange) -> asyncio.Future[list[Any]]:
        """Send a request, as soon as it is the event loop's turn; the future has its replies, or `Lost`."""
        now = self._loop.time()
        waiting = _Waiting(self._loop.create_future(), step.count, step.patience, now + step.patience, now + step.limit)
        self._waiting.append(waiting)
        self._out.append(step.data)
        self._wake.set()
        if self._timer is None or waiting.due < self._timer.when():
            self._watch(waiting.due)
        return waiting.future

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                out, self._out = self._out, []
                await self._connection.send_packed_command(out, check_health=False)
        except FAILURES as error:
            self._fail(error)

    async def _read(self) -> None:
        read, waiting = self._connection.read_response, self._waiting
        try:
            while True:
                try:
                    reply = await read(disable_decoding=True)
                except redis.exceptions.ResponseError as error:
                    reply = error
                except redis.exceptions.ConnectionError as error:
                    if not answered(error):
                        raise
                    reply = error
                self._progress = self._loop.time()
                if not waiting:
                    raise redis.exceptions.InvalidResponse("a reply came that nobody asked for")
                first = waiting[0]
                first.replies.append(reply)
                if len(first.replies) == first.count:
                    waiting.popleft()
                    if not first.future.done():
                        first.future.set_result(first.replies)
                    if not self.open and not waiting:
                        self.close()
                        return
                if isinstance(reply, redis.exceptions.ConnectionError):
                    raise reply  # After such an answer redis-py has closed it.
        except FAILURES as error:
            self._fail(error)
        finally:
            await self._connection.disconnect(nowait=True)

    def _watch(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        """End what is overdue, and look again when the next may be."""
        self._timer = None
        now = self._loop.time()
        following = float("inf")
        left = False
        for waiting in self._waiting:
            if waiting.future.done():
                continue
            due = min(max(waiting.due, self._progress + waiting.patience), waiting.end)
            if due <= now:
                self.open = False
                error = redis.exceptions.TimeoutError("no reply came in time")
                waiting.future.set_exception(Lost(error, sent=True))
            else:
                left = True
                following = min(following, due)
        if left:
            self._watch(following)
        elif not self.open:
            self.close()

    def _fail(self, error: Exception) -> None:
        self.close()
        for waiting in self._waiting:
            if not waiting.future.done():
                waiting.future.set_exception(Lost(error, sent=True))
        self._waiting.clear()

    def close(self) -> None:
        """Close the connection. Who still waits on it is told by `end`."""
        self.open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        _abort(self._connection)  # Before the tasks end: redis-py closes it then, the other way.
        for task in (self._writer, self._reader):
            if task is not asyncio.current_task():
                task.cancel()

    async def end(self) -> None:
        """Wait for the replies that are under way, and close the connection."""
        self.open = False
        if left := [waiting.future for waiting in self._waiting if not waiting.future.done()]:
            await asyncio.wait(left)  # Each has a time at which it is overdue.
        self.close()
        self._fail(redis.exceptions.ConnectionError("the store was closed"))
        await asyncio.gather(self._writer, self._reader, return_exceptions=True)


def _abort(connection: Any) -> None:
    """Close the socket of a connection at once, as nothing more is wanted from it.

    redis-py closes it as asyncio does: in the background, when a server has taken what was sent, and has answered the
    farewell of TLS. An event loop that ends before leaves the socket open.
    """
    transport = getattr(getattr(connection, "_writer", None), "transport", None)
    abort = getattr(transport, "abort", None)  # fakeredis has none: of its own there is no socket.
    if abort is not None:
        abort()


def _closed() -> Lost:
    return Lost(ClosedError("the store is closed"), sent=False)


class _Server:
    """The connections to one server."""

    def __init__(self) -> None:
        self.link: _Link | None = None
        self.opening: asyncio.Task[_Link] | None = None
        self.alone: list[_Link] = []
        self.turns = asyncio.Semaphore(_ALONE)


class Multiplexed:
    """The connections of one engine. It is used in one event loop at a time, and begins anew in another."""

    def __init__(self) -> None:
        self._servers: dict[Node, _Server] = {}
        self._home: tuple[asyncio.AbstractEventLoop, int] | None = None
        self._closed = False

    async def run(self, talk: Talk[R]) -> R:
        """Drive an execution to its end."""
        try:
            step = next(talk)
            while True:
                if type(step) is Exchange:
                    try:
                        replies = await self._exchange(step)
                    except Lost as lost:
                        step = talk.throw(lost)
                    else:
                        step = talk.send(replies)
                else:
                    assert isinstance(step, Pause)  # noqa: S101 - for the type checker
                    await asyncio.sleep(step.seconds)
                    step = talk.send(None)
        except StopIteration as stop:
            result: R = stop.value
            return result

    async def _exchange(self, step: Exchange) -> Sequence[Any]:
        if self._closed:
            raise _closed()
        loop = asyncio.get_running_loop()
        if self._home is None or self._home[0] is not loop or self._home[1] != os.getpid():
            self._servers, self._home = {}, (loop, os.getpid())
        server = self._servers.get(step.node)
        if server is None:
            server = self._servers[step.node] = _Server()
        if step.alone:
            return await self._alone(step, server, loop)
        link = server.link
        if link is None or not link.open:
            link = await self._shared(step, server, loop)
        return await link.submit(step)

    async def _alone(self, step: Exchange, server: _Server, loop: asyncio.AbstractEventLoop) -> Sequence[Any]:
        async with server.turns:
            while server.alone:
                link = server.alone.pop()
                if link.open:
                    break
            else:
                link = await self._opened(step, loop)
            try:
                replies = await link.submit(step)
            except asyncio.CancelledError:
                link.open = False  # Its reply may still come: it is closed then.
                raise
            if self._closed:
                link.close()
            else:
                server.alone.append(link)
            return replies

    async def _shared(self, step: Exchange, server: _Server, loop: asyncio.AbstractEventLoop) -> _Link:
        """Return the link that all share, which one task opens for all."""
        if server.opening is not None and server.opening.done():
            # Its callback has not run yet. To await it would not let the event loop go on: it never would.
            self._ready(server, server.opening)
            if server.link is not None and server.link.open:
                return server.link
        if server.opening is None:
            server.opening = loop.create_task(self._opened(step, loop))
            server.opening.add_done_callback(lambda task: self._ready(server, task))
        opening, task = server.opening, asyncio.current_task()
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # It was cancelled by `close`, not the task that waits for it.
            if opening.cancelled() and not (task and task.cancelling()):
                raise _closed() from None
            raise

    @staticmethod
    def _ready(server: _Server, task: asyncio.Task[_Link]) -> None:
        if server.opening is not task:
            return
        server.opening = None
        if not task.cancelled() and task.exception() is None:
            server.link = task.result()

    async def _opened(self, step: Exchange, loop: asyncio.AbstractEventLoop) -> _Link:
        settings = dict(step.node.connection)
        kind = settings.pop("connection_class")
        connection = kind(socket_timeout=None, socket_connect_timeout=None, **settings)
        try:
            async with asyncio.timeout(step.patience):
                await connection.connect()
                if step.node.master:
                    await connection.send_packed_command([HELLO], check_health=False)
                    try:
                        reply = await connection.read_response(disable_decoding=True)
                    except redis.exceptions.ResponseError as error:
                        reply = error
                    require_master(reply)
        except BaseException as error:
            _abort(connection)
            await connection.disconnect(nowait=True)
            if isinstance(error, TimeoutError):
                late = redis.exceptions.TimeoutError("the server did not accept a connection in time")
                raise Lost(late, sent=False) from error
            if isinstance(error, (redis.exceptions.RedisError, OSError)):
                raise Lost(error, sent=False) from error
            raise
        return _Link(connection, loop)

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        servers, self._servers = self._servers, {}
        if self._home is None or self._home != (asyncio.get_running_loop(), os.getpid()):
            return
        for server in servers.values():
            if server.opening is not None:
                server.opening.cancel()
                await asyncio.wait([server.opening])
            for link in (server.link, *server.alone):
                if link is not None:
                    await link.end()
