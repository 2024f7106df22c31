"""Where the server of a namespace is: one server, the master of a Sentinel group, the nodes of a Cluster. Sans-I/O.

A topology remembers what it was told, forgets it when it turns out wrong, and asks again: its generators yield what is
to be exchanged with a node (`Exchange`) and are sent the replies. Who drives them, blocking or in an event loop, does
all I/O.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import redis
from attrs import define, field, frozen

from empathy_kv.kv.redis.commands import pack

R = TypeVar("R")


@frozen
class Node:
    """A server and how to connect to it. Equal if it is the same address in the same part."""

    address: tuple[str, int] | str
    """Host and port, or the path of a socket."""
    connection: Mapping[str, Any] = field(eq=False, repr=False)
    """What redis-py's class of connections is given; there may be a password in it."""
    master: bool = False
    """Whether a new connection is of no use unless the server says that it is a master."""
    part: str = "data"


@define
class Exchange:
    """A step: commands that go to a node in one piece, and as many replies. An error of the server is a reply."""

    node: Node
    data: bytes
    count: int
    patience: float
    """Seconds to wait for a reply, or for the connection."""
    at: float
    """When it is made, by `time.monotonic()`."""
    limit: float = 3600.0
    """Seconds to wait for it if other replies still come on the connection, so that nothing seems lost."""
    usual: bool = True
    """Whether that is the patience that all first tries have, so that connections can be shared."""
    alone: bool = False
    """Whether the server may take its time, so that no other request should stand behind this one."""
    once: bool = False
    """Whether it must not be sent on a connection that may be dead: it cannot be repeated."""


@frozen
class Pause:
    """A step: some seconds in which nothing happens."""

    seconds: float


class Lost(Exception):  # noqa: N818 - what happened to a request
    """No reply came. `sent`: whether the request may have arrived. `cause`: what the connection said."""

    def __init__(self, cause: Exception, sent: bool) -> None:
        super().__init__(f"{type(cause).__name__}")
        self.cause = cause
        self.sent = sent


Talk: TypeAlias = Generator[Exchange | Pause, Any, R]
"""What yields steps, is sent replies, and returns an R."""


class Topology(Protocol):
    """Where the server of a namespace is."""

    def known(self, hash_slot: int) -> Node | None:
        """Return the server of a hash slot as far as it is known."""

    def find(self, hash_slot: int, patience: float) -> Talk[Node]:
        """Ask for the server of a hash slot; `Lost` if nobody tells."""

    def forget(self, node: Node) -> None:
        """A node failed, or is not what it was: what is known about it may be wrong."""

    def moved(self, hash_slot: int, node: Node, told: str) -> Node:
        """A node said that another (`host:port`) has a hash slot; return that."""

    def masters(self, patience: float) -> Talk[Sequence[Node]]:
        """Return all servers that take writes."""


class Single:
    """One server, whatever happens."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def known(self, hash_slot: int) -> Node:
        return self._node

    def find(self, hash_slot: int, patience: float) -> Talk[Node]:
        yield from ()
        return self._node

    def forget(self, node: Node) -> None:
        """There is no other."""

    def moved(self, hash_slot: int, node: Node, told: str) -> Node:
        return self._node

    def masters(self, patience: float) -> Talk[Sequence[Node]]:
        yield from ()
        return [self._node]


class Sentinel:
    """The master that the sentinels of a group agree on (Redis's "Guidelines for Sentinel clients")."""

    def __init__(self, sentinels: Sequence[Node], service: str, connection: Mapping[str, Any]) -> None:
        self._sentinels = list(sentinels)
        self._question = pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        self._connection = connection
        self._master: Node | None = None

    def known(self, hash_slot: int) -> Node | None:
        return self._master

    def find(self, hash_slot: int, patience: float) -> Talk[Node]:
        failure: Exception = redis.exceptions.ConnectionError("no sentinel knows the master")
        for sentinel in list(self._sentinels):
            try:
                (reply,) = yield Exchange(sentinel, self._question, 1, patience, time.monotonic())
            except Lost as lost:
                failure = lost.cause
                continue
            if isinstance(reply, Exception):
                failure = reply
            elif reply is not None:
                # The one that answered is asked first the next time.
                self._sentinels = [sentinel, *(other for other in self._sentinels if other is not sentinel)]
                address = reply[0].decode(), int(reply[1])
                self._master = Node(address, {**self._connection, "host": address[0], "port": address[1]}, master=True)
                return self._master
        raise Lost(failure, sent=False)

    def forget(self, node: Node) -> None:
        if node == self._master:
            self._master = None

    def moved(self, hash_slot: int, node: Node, told: str) -> Node:
        return node

    def masters(self, patience: float) -> Talk[Sequence[Node]]:
        return [self._master or (yield from self.find(0, patience))]


class Cluster:
    """The nodes of a Redis Cluster, each with the hash slots that it serves."""

    def __init__(self, seeds: Sequence[tuple[str, int]], connection: Mapping[str, Any]) -> None:
        self._connection = connection
        self._seeds = [self._node(*seed) for seed in seeds]
        self._nodes: list[Node] = []
        self._slots: dict[int, Node] = {}

    def _node(self, host: str, port: int) -> Node:
        return Node((host, port), {**self._connection, "host": host, "port": port})

    def known(self, hash_slot: int) -> Node | None:
        return self._slots.get(hash_slot)

    def find(self, hash_slot: int, patience: float) -> Talk[Node]:
        failure: Exception = redis.exceptions.ConnectionError("no node of the cluster serves the hash slot")
        others = random.sample(self._nodes, len(self._nodes))
        for node in dict.fromkeys((*others, *self._seeds)):
            try:
                (reply,) = yield Exchange(node, pack("CLUSTER", "SLOTS"), 1, patience, time.monotonic())
            except Lost as lost:
                failure = lost.cause
                continue
            if isinstance(reply, Exception):
                failure = reply
                continue
            self._learn(node, reply)
            found = self._slots.get(hash_slot)
            if found is not None:
                return found
        raise Lost(failure, sent=False)

    def _learn(self, teller: Node, reply: Sequence[Any]) -> None:
        """Take the answer to CLUSTER SLOTS: first slot, last slot, master, replicas."""
        slots: dict[int, Node] = {}
        nodes: dict[Node, Node] = {}
        for first, last, *servers in reply:
            for host, port, *_ in servers:
                node = self._node(self._host(teller, host), port)
                nodes.setdefault(node, node)
            host, port, *_ = servers[0]
            master = nodes[self._node(self._host(teller, host), port)]
            slots.update(dict.fromkeys(range(first, last + 1), master))
        self._slots, self._nodes = slots, list(nodes)

    @staticmethod
    def _host(teller: Node, host: bytes | None) -> str:
        # A node that does not know its own address is where it was asked.
        name = b"" if host is None else host
        return name.decode() if name not in (b"", b"?") else str(teller.address[0])

    def forget(self, node: Node) -> None:
        # All of it: who else has moved is known to the one who is asked now.
        self._slots = {}
        # The others are asked first.
        self._nodes = [other for other in self._nodes if other != node]

    def moved(self, hash_slot: int, node: Node, told: str) -> Node:
        host, _, port = told.rpartition(":")
        target = self._node(host or str(node.address[0]), int(port))
        self._slots = {**self._slots, hash_slot: target}
        if target not in self._nodes:
            self._nodes = [*self._nodes, target]
        return target

    def masters(self, patience: float) -> Talk[Sequence[Node]]:
        yield from self.find(0, patience)
        return list(dict.fromkeys(self._slots.values()))
