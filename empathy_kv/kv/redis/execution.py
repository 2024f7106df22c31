"""One call from its first try to its outcome: repeated until a deadline, safe by its token. Sans-I/O.

The generators here yield `Exchange` and `Pause` and are sent replies, or `Lost` is thrown into them. All that is known
about what may be repeated, for how long, and what an outcome is, stands here once, for blocking and for asyncio.

A try waits for its reply for a tenth of the timeout (at most half a second) and an eighth of the time that has passed
since the first: so a reply that was swallowed costs little, and a server that needs seconds is given them. What was
sent without a reply is in doubt from then on. A later answer that refuses the write does not end the doubt, for the
first may still be under way: only `settle` does, which makes it void.
"""

from __future__ import annotations

import os
import random
import re
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Any, Final

import hiredis
import redis

from empathy_kv.errors import (
    ClosedError,
    EmpathyKVError,
    NotApplied,
    OutcomeUnknown,
    StorageError,
    StoragePermissionError,
    UnavailableError,
    WrongTypeError,
)
from empathy_kv.kv.redis.commands import Call, pack
from empathy_kv.kv.redis.promises import MEMORY, warn_of_eviction
from empathy_kv.kv.redis.topology import Exchange, Lost, Node, Pause, Talk, Topology

_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.25
_REDIRECTIONS: Final = 5
"""How often a call follows a cluster's word at once, before it pauses."""

_CODES: Final = (
    (redis.exceptions.NoScriptError, "NOSCRIPT"),
    (redis.exceptions.MovedError, "MOVED"),
    (redis.exceptions.AskError, "ASK"),
    (redis.exceptions.TryAgainError, "TRYAGAIN"),
    (redis.exceptions.MasterDownError, "MASTERDOWN"),
    (redis.exceptions.ClusterDownError, "CLUSTERDOWN"),
    (redis.exceptions.ReadOnlyError, "READONLY"),
    (redis.exceptions.BusyLoadingError, "LOADING"),
    (redis.exceptions.OutOfMemoryError, "OOM"),
    (redis.exceptions.NoPermissionError, "NOPERM"),
    (redis.exceptions.AuthenticationError, "NOAUTH"),
    (redis.exceptions.AuthorizationError, "NOPERM"),
)
"""redis-py takes the code from the text of an error and makes a class of it."""
_PASSING: Final = frozenset(
    ("TRYAGAIN", "MASTERDOWN", "CLUSTERDOWN", "READONLY", "LOADING", "BUSY", "NOREPLICAS", "UNBLOCKED", "MAXCLIENTS")
)
"""Errors that say that nothing was done, and that it may be another time."""
_ELSEWHERE: Final = frozenset(("MASTERDOWN", "CLUSTERDOWN", "READONLY", "LOADING"))
"""Those after which another server may be the right one."""
_ANSWERS: Final = frozenset(("LOADING", "NOAUTH", "NOPERM", "MAXCLIENTS"))
"""Answers of which redis-py makes an error of the connection."""
_ASKING: Final = pack("ASKING")


def code(error: Exception) -> str:
    """Return the code of a server's error, the first word of its text."""
    for kind, name in _CODES:
        if isinstance(error, kind):
            return name
    word = str(error).partition(" ")[0]
    return "MAXCLIENTS" if "max number of clients" in str(error) else word


def answered(error: Exception) -> bool:
    """Return whether an error is a server's answer, so that nothing was done: redis-py takes some for its own."""
    return isinstance(error, (redis.exceptions.ResponseError, hiredis.ReplyError)) or code(error) in _ANSWERS


class Execution:
    """The calls of one engine. `timeout`: seconds that a call may take. `replicas`: how many must confirm a write."""

    def __init__(self, topology: Topology, timeout: float, replicas: int = 0) -> None:
        self.topology = topology
        self.timeout = timeout
        self._replicas = replicas
        self._patience = min(timeout / 10, 0.5)
        self._simple = not replicas
        """Whether a reply is all that a call waits for."""
        self._looked = False
        """Whether it is known how the server evicts, as far as it tells."""

    def perform(self, call: Call) -> Talk[Any]:
        """Have a call done and return its reply, or the server's error if the key holds something else.

        So it is if a server does not know a script that was named only.

        Raises `OutcomeUnknown` if the deadline passes while a write is in doubt.
        """
        started = now = time.monotonic()
        deadline = started + self.timeout
        data = call.named()
        asked: Node | None = None
        unconfirmed: Exception | None = None
        redirections = 0
        pause = _FIRST_PAUSE
        while True:
            patience = min(self._patience + (now - started) / 8, max(deadline - now, 0.001))
            node: Node | None = None
            try:
                node = asked or self.topology.known(call.hash_slot)
                if node is None:
                    node = yield from self.topology.find(call.hash_slot, patience)
                if asked is None and self._simple and (self._looked or not call.writes):
                    step = Exchange(
                        node, data, call.count, patience, now, deadline - now, patience < 2 * self._patience
                    )
                    if call.writes:
                        step.once = call.token is None
                    replies = yield step
                    reply = replies[0] if call.count == 1 else _outcome(replies)
                else:
                    reply = yield from self._exchange(call, node, data, patience, now, deadline, asked is not None)
            except Lost as lost:
                cause: Exception = lost.cause
                call.doubtful = call.doubtful or (lost.sent and call.writes)
                waited = isinstance(cause, redis.exceptions.TimeoutError)
                if isinstance(cause, ClosedError):
                    raise (self._unknown(call, node, cause) if call.doubtful else cause) from lost
                if node is not None:
                    self.topology.forget(node)
                if lost.sent and not call.repeatable:
                    raise self._unknown(call, node, cause) from cause
            else:
                if not isinstance(reply, Exception):
                    return reply
                cause, waited = reply, False
            name = code(cause)
            now = time.monotonic()
            if name == "WRONGTYPE":
                return cause
            if name == "NOSCRIPT":
                # The server was restarted, or its scripts were flushed.
                if call.script is None:
                    return cause  # Which is what was asked.
                data = call.whole()
                continue
            asked = None
            if name in ("MOVED", "ASK"):
                told = _told(cause)
                if name == "MOVED":
                    self.topology.moved(call.hash_slot, node, told)  # type: ignore[arg-type]  # somebody said it
                else:
                    asked = self.topology.moved(-1, node, told)  # type: ignore[arg-type]
                redirections += 1
                if redirections < _REDIRECTIONS and now < deadline:
                    continue
            elif isinstance(cause, Unconfirmed):
                call.doubtful = waited = True
                unconfirmed = cause
                if not call.repeatable:
                    raise self._unknown(call, node, cause) from cause
            elif name in _PASSING:
                if name in _ELSEWHERE and node is not None:
                    self.topology.forget(node)
            elif answered(cause):
                raise translate(cause) from cause
            if now + pause >= deadline:
                if call.doubtful:
                    raise self._unknown(call, node, unconfirmed or cause) from cause
                raise self._unavailable(node, cause) from cause
            if not waited:
                # Spread, so that many workers do not come back at the same moment.
                yield Pause(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                pause = min(pause * 2, _LONGEST_PAUSE)
                now = time.monotonic()

    def _exchange(
        self, call: Call, node: Node, data: bytes, patience: float, now: float, deadline: float, asking: bool
    ) -> Talk[Any]:
        """Make one try and return the reply, an error if the server said one or replicas did not confirm."""
        look = call.writes and not self._looked
        wait = self._replicas if call.writes else 0
        pieces = [_ASKING] if asking else []
        pieces.append(data)
        if wait:
            # Less than the patience, so that its answer is in time.
            pieces.append(pack("WAIT", wait, max(1, int(patience * 700))))
        if look:
            pieces.append(MEMORY)
        replies = yield Exchange(
            node,
            b"".join(pieces),
            len(pieces) - 1 + call.count,
            patience,
            now,
            deadline - now,
            patience < 2 * self._patience,
            alone=bool(wait),
            once=not call.repeatable,
        )
        end = asking + call.count
        reply = _outcome(replies[asking:end])
        if look:
            self._looked = True
            warn_of_eviction(replies[-1])
        if wait and not isinstance(reply, Exception):
            confirmed = replies[end]
            if isinstance(confirmed, Exception) or confirmed < wait:
                return Unconfirmed(confirmed, wait)
        return reply

    def several(self, calls: Sequence[Call]) -> Talk[list[Any]]:
        """Have calls done that only read, those of one server in one round trip; return their replies in order."""
        replies: list[Any] = [_UNSEEN] * len(calls)
        left = list(range(len(calls)))
        while left:
            servers: dict[Node | None, list[int]] = {}
            for number in left:
                servers.setdefault(self.topology.known(calls[number].hash_slot), []).append(number)
            for node, numbers in servers.items():
                if node is not None:
                    data = b"".join(calls[number].named() for number in numbers)
                    try:
                        got = yield Exchange(
                            node,
                            data,
                            sum(calls[number].count for number in numbers),
                            self._patience,
                            time.monotonic(),
                            self.timeout,
                        )
                    except Lost:
                        self.topology.forget(node)
                    else:
                        start = 0
                        for number in numbers:
                            end = start + calls[number].count
                            replies[number] = _outcome(got[start:end])
                            start = end
            left = [number for number in left if _failed(replies[number])]
            if left:
                # One with all the patience that a call has. What was wrong for it was mostly wrong for the others.
                number = left.pop(0)
                replies[number] = yield from self.perform(calls[number])
        return replies

    def everywhere(self, questions: Sequence[bytes]) -> Talk[list[Sequence[Any]]]:
        """Return what each server that takes writes answers to some commands; an error is an answer."""
        deadline = time.monotonic() + self.timeout
        while True:
            answers: list[Sequence[Any]] = []
            node: Node | None = None
            try:
                for node in (yield from self.topology.masters(self._patience)):
                    answers.append(
                        (yield Exchange(node, b"".join(questions), len(questions), self._patience, time.monotonic()))
                    )
            except Lost as lost:
                if node is not None:
                    self.topology.forget(node)
                if isinstance(lost.cause, ClosedError):
                    raise lost.cause from lost
                if answered(lost.cause):
                    raise translate(lost.cause) from lost.cause
                if time.monotonic() >= deadline:
                    raise self._unavailable(node, lost.cause) from lost.cause
                yield Pause(_FIRST_PAUSE)
            else:
                return answers

    def _unknown(self, call: Call, node: Node | None, cause: Exception) -> OutcomeUnknown:
        if isinstance(cause, Unconfirmed):
            message = f"the write was applied, but {cause}; a failover may lose it"
        else:
            message = (
                f"the write was sent to {_named(node)} and no reply came ({_reason(cause)} until the timeout "
                f"of {self.timeout:g} s); settle(token) tells whether it was applied"
            )
        return OutcomeUnknown(message, token=call.token)

    def _unavailable(self, node: Node | None, cause: Exception) -> EmpathyKVError:
        name = code(cause)
        if name == "READONLY":
            return StoragePermissionError("the server is a read-only replica, and no other took its place")
        why = name if name in _PASSING else _reason(cause)
        return UnavailableError(f"{_named(node)} did not answer ({why} until the timeout of {self.timeout:g} s)")


def _named(node: Node | None) -> str:
    """Return what an error calls a server: where it is, and nothing else of how to connect to it."""
    if node is None:
        return "the server"
    place = node.address if isinstance(node.address, str) else ":".join(map(str, node.address))
    return f"the server at {place}"


def _reason(cause: Exception) -> str:
    """Return why a connection failed: what the operating system says, else what kind of error it is.

    Not the text of redis-py's error: it may quote what it was given.
    """
    below: BaseException | None = cause
    while below is not None:
        if isinstance(below, OSError):
            if isinstance(below, (socket.gaierror, ssl.SSLError)) and below.strerror:
                return below.strerror
            # What asyncio makes of the errors of several addresses has no number of its own.
            number = below.errno or next(map(int, _NUMBERS.findall(str(below))), 0)
            if number > 0:
                return os.strerror(number)
        below = below.__cause__ or below.__context__
    return type(cause).__name__


_NUMBERS: Final = re.compile(r"\[Errno (\d+)\]")
_UNSEEN: Final = Exception("nobody was asked")


def _failed(reply: Any) -> bool:
    return isinstance(reply, Exception) and code(reply) != "WRONGTYPE"


def _outcome(replies: Sequence[Any]) -> Any:
    """Return the reply of a call: of a transaction the last, or the error that kept it from being done."""
    last = replies[-1]
    if len(replies) > 1 and isinstance(last, Exception):
        return next(reply for reply in replies if isinstance(reply, Exception))
    return last


class Unconfirmed(Exception):  # noqa: N818 - what a write is
    """Too few replicas have a write."""

    def __init__(self, confirmed: Any, wanted: int) -> None:
        if isinstance(confirmed, Exception):
            super().__init__(f"the server refused to wait for replicas ({code(confirmed)})")
        else:
            super().__init__(f"only {confirmed} of {wanted} replicas confirmed it")


def _told(error: Exception) -> str:
    """Return the `host:port` of a MOVED or ASK."""
    return str(error).rpartition(" ")[2]


def translate(error: Exception) -> EmpathyKVError:
    """Return what an answer of the server that will not change means here. It says that nothing was done."""
    name = code(error)
    if name in ("NOAUTH", "WRONGPASS"):
        # redis-py makes one class of all these, and takes the code away. The text is a server's, which never quotes.
        said = f"{name} {error}".lower()
        if "wrongpass" in said or "invalid" in said:
            return StoragePermissionError("the server does not allow it: user name or password is wrong (WRONGPASS)")
        if "required" in said:
            return StoragePermissionError("the server does not allow it: user name or password is missing (NOAUTH)")
        return StoragePermissionError("the server does not allow it: it has no password, and one was given (NOAUTH)")
    if name == "NOPERM":
        return StoragePermissionError(f"the server does not allow it ({name})")
    if name == "WRONGTYPE":
        return WrongTypeError("the key holds another kind of value", key="", kind="")
    if name == "OOM":
        return StorageError("the server has reached its maxmemory and refuses to write")
    if "unknown command" in str(error):
        return NotApplied(f"the server does not know the command: {error}")
    return StorageError(f"the server refused: {error}")
