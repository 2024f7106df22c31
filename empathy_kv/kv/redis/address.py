"""Where a store is, as a URL or a client of the caller's says it: a topology, and how to connect.

::

    redis://[user:password@]host:port/db       rediss:// the same by TLS, certificates and host names verified
    unix://[user:password@]/path?db=0
    redis+sentinel://[user:password@]host:port,host:port/service/db?sentinel_username=...&sentinel_password=...
    redis+cluster://[user:password@]host:port,host:port     with rediss+ in front, both by TLS

`valkey` and `valkeys` are other words for `redis` and `rediss`, everywhere.
What else stands behind the question mark is what redis-py takes there. All connections speak RESP2, return bytes, and
never repeat a command by themselves.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from empathy_kv.errors import ArgumentError, ArgumentTypeError
from empathy_kv.kv.redis.topology import Cluster, Node, Sentinel, Single, Topology

_FORGOTTEN: Final = (
    *("retry", "retry_on_timeout", "retry_on_error", "health_check_interval", "socket_timeout"),
    *("socket_connect_timeout", "decode_responses", "protocol", "parser_class", "max_connections"),
    *(
        "response_callbacks",
        "connection_class",
        "connection_pool",
        "check_connection",
        "is_master",
        "himport_registry",
        "event_dispatcher",
    ),
)
"""Settings of a caller's client that would change what goes over a connection, or belong to its pool."""


def _settings(kwargs: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Return what a connection is made of: the caller's settings, and those that everything here relies on."""
    asynchronous = issubclass(kind, redis.asyncio.connection.AbstractConnection)
    kept = {
        name: value
        for name, value in kwargs.items()
        if name not in _FORGOTTEN and "maint_notifications" not in name and not name.startswith("orig_")
    }
    retry = AsyncRetry(NoBackoff(), 0) if asynchronous else Retry(NoBackoff(), 0)
    return {**kept, "connection_class": kind, "retry": retry, "protocol": 2}


_SAME: Final = {"valkey": "redis", "valkeys": "rediss"}
_OPTION: Final = re.compile(r"(?:Invalid value for|unexpected keyword argument) '([a-z_]+)'")
"""What redis-py says of an option."""


class _Wrong(ValueError):  # noqa: N818 - what a URL is
    """A part of a URL is not what it has to be; the text is what would be right, and quotes nothing of the URL."""


def from_url(url: str, *, asynchronous: bool) -> Topology:
    """Return the topology that a URL names. Nothing is sent yet."""
    behind = url.partition("://")[2]
    unencoded = "@" in behind.partition("@")[2] or re.search("[/?#].*@", behind, re.DOTALL)
    try:
        return _parsed(url, asynchronous)
    except _Wrong as error:
        wrong = str(error)
    except (ValueError, TypeError, redis.exceptions.RedisError) as error:
        option = None if unencoded else _OPTION.search(str(error))
        if option is None:
            wrong = f"be one as redis://host:6379/0 or redis+sentinel://host:26379/service/0 ({type(error).__name__})"
        elif isinstance(error, TypeError):
            wrong = f"have only options that redis-py knows behind the ?, which {option[1]!r} is not"
        else:
            wrong = f"give the option {option[1]!r} a value of its kind"
    # Neither the URL nor the error, whose text quotes it: there may be a password in it.
    if unencoded:
        wrong += "; in a password, @ / ? # and : are written as %40 %2F %3F %23 and %3A"
    raise ArgumentError(f"url must {wrong}", argument="url")


def _parsed(url: str, asynchronous: bool) -> Topology:
    scheme, colon, rest = url.partition(":")
    scheme, _, part = scheme.lower().partition("+")
    scheme = _SAME.get(scheme, scheme)
    if part not in ("", "sentinel", "cluster"):
        raise _Wrong("begin with redis:, or with redis+sentinel: or redis+cluster:")
    if not part:
        settings = _read(f"{scheme}{colon}{rest}", asynchronous)
        address = settings.get("path") or (settings.get("host", "localhost"), settings.get("port", 6379))
        return Single(_tried(Node(address, settings)))
    parts = urlsplit(f"{scheme}{colon}{rest}")
    user, at, hosts = parts.netloc.rpartition("@")
    seeds = [_host(host, 26379 if part == "sentinel" else 6379) for host in hosts.split(",")]
    path = [unquote(piece) for piece in parts.path.strip("/").split("/") if piece]
    if part == "cluster":
        if path not in ([], ["0"]):
            raise _Wrong("name no database but 0, which is all that a cluster has, as redis+cluster://host:6379")
        settings = _read(f"{scheme}://{user}{at}host/?{parts.query}", asynchronous)
        topology = Cluster(seeds, settings)
        _tried(Node(seeds[0], settings))
        return topology
    if not 1 <= len(path) <= 2:
        raise _Wrong("name a service of the sentinels, as redis+sentinel://host:26379/service/0")
    database = path[1] if len(path) == 2 else "0"
    settings = _read(f"{scheme}://{user}{at}host/{database}?{parts.query}", asynchronous)
    own = {name: settings.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    _tried(Node(seeds[0], settings))
    common = {name: value for name, value in settings.items() if name not in ("username", "password", "db")}
    sentinels = [_sentinel(host, port, {**common, **own}) for host, port in seeds]
    return Sentinel(sentinels, path[0], settings)


def _host(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise _Wrong("name a host before each comma, and behind the last, as redis+cluster://host:6379,host:6379")
    return parts.hostname, _port(parts) or default


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:
        raise _Wrong("have a number up to 65535 as the port, as redis://host:6379/0") from None


def _sentinel(host: str, port: int, settings: Mapping[str, Any]) -> Node:
    return Node((host, port), {**settings, "host": host, "port": port}, part="sentinel")


def _read(url: str, asynchronous: bool) -> dict[str, Any]:
    """Read what redis-py reads of a URL, and be strict where it is not."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        _port(parts)
        database = parts.path.strip("/") or "0"
        if not (database.isascii() and database.isdigit()):  # redis-py takes what is no number for database 0.
            raise _Wrong("have a number as the database behind the host, as redis://host:6379/0")
    parse = redis.asyncio.connection.parse_url if asynchronous else redis.connection.parse_url
    read: dict[str, Any] = dict(parse(url))
    ordinary = redis.asyncio.Connection if asynchronous else redis.Connection
    kind = read.pop("connection_class", ordinary)
    if parts.scheme == "rediss" and read.get("ssl_cert_reqs") not in ("none", "optional"):
        read.setdefault("ssl_check_hostname", True)
    return _settings(read, kind)


def _tried(node: Node) -> Node:
    """Make a connection without opening it: an option that redis-py does not know is refused here."""
    settings = {name: value for name, value in node.connection.items() if name != "connection_class"}
    node.connection["connection_class"](**settings)
    return node


def from_client(client: Any, *, asynchronous: bool) -> Topology:
    """Return the topology that a client of redis-py's or fakeredis's has, in the way it connects.

    Connections are made of its settings, beside its own: what is done here never meets what the client does, and it
    may be closed at any time.
    """
    require_client(client, asynchronous=asynchronous)
    manager = getattr(client, "nodes_manager", None)
    if manager is not None:
        kwargs = dict(client.connection_kwargs if asynchronous else manager.connection_kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name not in ("host", "port", "path")}
        ordinary = redis.asyncio.Connection if asynchronous else redis.Connection
        secure = redis.asyncio.SSLConnection if asynchronous else redis.SSLConnection
        tls = kwargs.pop("ssl", False)
        kind = kwargs.get("connection_class") or (secure if tls else ordinary)
        kwargs.pop("redis_connect_func", None)  # It sends READONLY, for reading from replicas.
        seeds = [(node.host, int(node.port)) for node in manager.startup_nodes.values()]
        return Cluster(seeds, _settings(kwargs, kind))
    pool = client.connection_pool
    kwargs = pool.connection_kwargs
    discovery = getattr(pool, "sentinel_manager", None)
    if discovery is not None:
        secure = redis.asyncio.SSLConnection if asynchronous else redis.SSLConnection
        ordinary = redis.asyncio.Connection if asynchronous else redis.Connection
        tls = issubclass(pool.connection_class, secure)
        settings = _settings(kwargs, secure if tls else ordinary)
        sentinels = []
        for sentinel in discovery.sentinels:
            own = sentinel.connection_pool
            address = own.connection_kwargs.get("host", "localhost"), own.connection_kwargs.get("port", 26379)
            sentinels.append(_sentinel(*address, _settings(own.connection_kwargs, own.connection_class)))
        return Sentinel(sentinels, pool.service_name, settings)
    address = kwargs.get("path") or (kwargs.get("host", "localhost"), kwargs.get("port", 6379))
    return Single(Node(address, _settings(kwargs, pool.connection_class)))


def require_client(client: Any, *, asynchronous: bool) -> None:
    """Raise unless it is a client of redis-py's or fakeredis's, of the kind that is wanted."""
    if not (hasattr(client, "connection_pool") or hasattr(client, "nodes_manager")) or (
        inspect.iscoroutinefunction(client.execute_command) != asynchronous
    ):
        kind = "one of asyncio" if asynchronous else "one that is not of asyncio"
        raise ArgumentTypeError(
            f"target must be a URL (a directory is file:DIR), an engine or a Redis client, {kind}, not "
            f"{type(client).__name__}",
            argument="target",
        )
