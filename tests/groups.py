"""Real groups of servers for the tests: a Sentinel group, a Cluster. Each is up when its `with` block begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import redis
from servers import RedisServer

SERVICE: Final = "agents"

# Written at once, so that a crash loses nothing that was acknowledged.
DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always")


def until(condition: Callable[[], bool], seconds: float = 60.0) -> float:
    """Wait until a condition holds and return how many seconds that took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise TimeoutError(f"not within {seconds} s: {condition}")
        time.sleep(0.01)
    return time.monotonic() - start


def asked(server: RedisServer, *words: object) -> Any:
    """What a server answers to a command; redis-py's errors if it does not, or an error."""
    connection = redis.Connection(port=server.port, protocol=2, socket_timeout=1.0, socket_connect_timeout=1.0)
    try:
        connection.send_command(*words)
        return connection.read_response()
    finally:
        connection.disconnect()


def information(server: RedisServer, section: str) -> dict[str, str]:
    """The fields of a section of INFO; none if it does not answer."""
    try:
        lines = asked(server, "INFO", section).decode().splitlines()
    except redis.exceptions.RedisError:
        return {}
    return dict(line.split(":", 1) for line in lines if ":" in line)


class Sentinel(RedisServer):
    """A sentinel that watches the master at a port."""

    def __init__(self, port: int, *, quorum: int, down_after: float) -> None:
        milliseconds = int(down_after * 1000)
        self._lines = (
            f"sentinel monitor {SERVICE} 127.0.0.1 {port} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} {milliseconds}",
            f"sentinel failover-timeout {SERVICE} {max(3000, 3 * milliseconds)}",
        )
        super().__init__()

    def command(self) -> list[str]:
        config = self.directory / "sentinel.conf"
        port = f"port {self.port}"
        if not config.exists() or port not in config.read_text().splitlines():  # It keeps there what it has found out.
            lines = (
                port,
                "bind 127.0.0.1",
                f"dir {self.directory}",
                f"unixsocket {self.directory}/redis.sock",
            )
            config.write_text("\n".join((*lines, *self._lines)) + "\n")
        return [self.path, str(config), "--sentinel"]


class SentinelGroup:
    """A master, a replica, and three sentinels."""

    def __init__(self, servers: Sequence[RedisServer], sentinels: Sequence[Sentinel]) -> None:
        self.servers = servers
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    def master(self) -> RedisServer | None:
        """The server that a majority of the sentinels names, and that says so itself."""
        for server in self.servers:
            named = sum(self._names(sentinel) == server.port for sentinel in self.sentinels)
            if named >= 2 and role(server) == "master":
                return server
        return None

    @staticmethod
    def _names(sentinel: Sentinel) -> int | None:
        try:
            answer = asked(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        except redis.exceptions.RedisError:
            return None
        return None if answer is None else int(answer[1])

    def ready(self) -> bool:
        """Whether every sentinel knows the others and the replica, and the replica is in step."""
        for sentinel in self.sentinels:
            told = information(sentinel, "sentinel").get("master0", "")
            if not {"sentinels=3", "slaves=1", "status=ok"} <= set(told.split(",")):
                return False
        return any(in_step(server) for server in self.servers)


@contextmanager
def sentinel_group(*options: str, down_after: float = 1.0) -> Iterator[SentinelGroup]:
    """A Sentinel group; `options` are those of its two servers."""
    with ExitStack() as stack:
        common = ("--repl-diskless-sync-delay", "0", *options)
        master = stack.enter_context(RedisServer(*common))
        replica = stack.enter_context(RedisServer(*common, "--replicaof", f"127.0.0.1 {master.port}"))
        until(lambda: in_step(replica))
        sentinels = [stack.enter_context(Sentinel(master.port, quorum=2, down_after=down_after)) for _ in range(3)]
        group = SentinelGroup([master, replica], sentinels)
        until(group.ready)
        yield group


class Cluster:
    """The nodes of a cluster: masters first, then as many replicas, each of the master at its place."""

    def __init__(self, nodes: Sequence[RedisServer]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:3])

    def ready(self) -> bool:
        """Whether every node says that all is well, and every replica is in step."""
        for node in self.nodes:
            try:
                if b"cluster_state:ok" not in asked(node, "CLUSTER", "INFO"):
                    return False
            except redis.exceptions.RedisError:
                return False
            if role(node) != "master" and not in_step(node):
                return False
        return True

    def server_of(self, key: str) -> RedisServer:
        """The master that serves the hash slot of a key."""
        slot = next(asked(node, "CLUSTER", "KEYSLOT", key) for node in self.nodes if role(node) is not None)
        for node in self.nodes:
            if role(node) == "master" and serves(node, slot):
                return node
        raise LookupError(key)


@contextmanager
def cluster(masters: int, *options: str, replicas: bool = True, node_timeout: float = 2.0) -> Iterator[Cluster]:
    """A cluster; `options` are those of its nodes."""
    with ExitStack() as stack:
        common = (
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(int(node_timeout * 1000))),
            *("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0", *options),
        )
        nodes = [stack.enter_context(RedisServer(*common)) for _ in range(masters * (2 if replicas else 1))]
        first = nodes[0]
        for number, node in enumerate(nodes[:masters]):
            start, end = (16384 * number // masters, 16384 * (number + 1) // masters - 1)
            node.ask("CLUSTER", "ADDSLOTSRANGE", start, end)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            node.ask("CLUSTER", "MEET", "127.0.0.1", first.port)
        until(lambda: all(known_nodes(node) == len(nodes) for node in nodes))
        for number, node in enumerate(nodes[masters:]):
            identity = asked(nodes[number], "CLUSTER", "MYID").decode()
            until(lambda node=node, identity=identity: node.ask("CLUSTER", "REPLICATE", identity) == "+OK")
        made = Cluster(nodes)
        until(made.ready)
        yield made


def known_nodes(node: RedisServer) -> int:
    return len([line for line in asked(node, "CLUSTER", "NODES").splitlines() if b"handshake" not in line])


def serves(node: RedisServer, slot: int) -> bool:
    """Whether a node takes commands for a hash slot."""
    return any(
        first <= slot <= last and master[1] == node.port for first, last, master, *_ in asked(node, "CLUSTER", "SLOTS")
    )


def role(server: RedisServer) -> str | None:
    """Return "master" or "slave", None if it does not answer."""
    try:
        return str(asked(server, "ROLE")[0].decode())
    except redis.exceptions.RedisError:
        return None


def in_step(server: RedisServer) -> bool:
    """Whether a replica has all of its master's data."""
    told = information(server, "replication")
    return told.get("role") == "slave" and told.get("master_link_status") == "up"
