"""A link to a server that loses what goes over it: the faults between a request and its reply."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Literal, TypeAlias, get_args

Fault: TypeAlias = Literal["cut", "half", "swallowed", "delayed", "before"]

FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)
"""cut: the server does what it was asked, the reply is dropped and the connection reset. half: half of the reply comes,
and the end. swallowed: nothing comes on this connection any more, and it stays open. delayed: the reply comes, late.
before: the request does not arrive, and the connection is reset."""

DELAY: Final = 0.4


class Lossy:
    """A port that leads to another one. `faults` are met by the next requests that have `match` in them."""

    def __init__(self, port: int, match: bytes = b"EVAL") -> None:
        self._target = ("127.0.0.1", port)
        self._match = match
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.met = 0
        """How many faults were met."""
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, fault: Fault, times: int) -> None:
        """Let that many requests more meet a fault."""
        with self._lock:
            self._faults += [fault] * times

    def heal(self) -> None:
        """Let no further request meet one."""
        with self._lock:
            self._faults.clear()

    def _next(self, request: bytes) -> Fault | None:
        with self._lock:
            if not self._faults or self._match not in request:
                return None
            self.met += 1
            return self._faults.pop()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target)
        except OSError:
            reset(client)
            return
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.add(each)
        pair = _Pair(client, server)
        threading.Thread(target=pair.replies, daemon=True).start()
        with suppress(OSError):
            while request := client.recv(65536):
                fault = self._next(request)
                if fault == "before":
                    break
                if fault is not None:
                    pair.fault = fault
                server.sendall(request)
        pair.end()
        self._sockets -= {client, server}

    def close(self) -> None:
        self._listener.close()
        for each in list(self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _Pair:
    """The two halves of one connection."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client = client
        self._server = server
        self.fault: Fault | None = None

    def replies(self) -> None:
        """Hand on what the server says, as far as the fault lets it."""
        with suppress(OSError):
            while reply := self._server.recv(65536):
                if self.fault == "cut":
                    break
                if self.fault == "half":
                    self._client.sendall(reply[: max(1, len(reply) // 2)])
                    break
                if self.fault == "swallowed":
                    continue
                if self.fault == "delayed":
                    threading.Event().wait(DELAY)
                    self.fault = None
                self._client.sendall(reply)
        self.end()

    def end(self) -> None:
        if self.fault == "half":
            with suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR)
        reset(self._client)
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


def reset(client: socket.socket) -> None:
    """Close a connection with RST instead of FIN."""
    with suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.shutdown(socket.SHUT_RD)  # Else a thread that still reads would keep it open.
    client.close()


def some(seed: int) -> Iterator[int]:
    """Yield numbers of faults from 0 to 3, the same in every run."""
    source = random.Random(seed)
    while True:
        yield source.randint(0, 3)


@contextmanager
def lossy(port: int) -> Iterator[Lossy]:
    link = Lossy(port)
    try:
        yield link
    finally:
        link.close()
