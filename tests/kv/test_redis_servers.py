"""What the Redis engine makes of a server as it finds it: what it promises, evicts, allows and hides."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import secrets
import select
import socket
import ssl
import subprocess
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from groups import SERVICE, Cluster, SentinelGroup, asked
from lossy import lossy
from servers import RedisServer, RestrictedServer

from empathy_kv import (
    ArgumentError,
    Durability,
    EvictionWarning,
    NotApplied,
    OutcomeUnknown,
    StoragePermissionError,
    Store,
    UnavailableError,
    connect,
    connect_async,
)
from empathy_kv.kv.redis import RedisKV


def fresh() -> str:
    return f"test-{secrets.token_hex(4)}"


# What it promises


@pytest.mark.parametrize(
    ("options", "survives", "aof", "rdb"),
    [
        ((), "nothing", "off", "off"),
        (("--save", "3600 1"), "nothing", "off", "on"),
        (("--appendonly", "yes"), "process", "everysec", "off"),
        (("--appendonly", "yes", "--appendfsync", "always"), "power", "always", "off"),
    ],
)
def test_durability_is_what_the_server_is_set_to(options: tuple[str, ...], survives: str, aof: str, rdb: str) -> None:
    with RedisServer(*options) as server, connect(server.url) as store:
        told = store.durability()
    assert (told.survives, told.aof, told.rdb, told.eviction, told.replicas) == (survives, aof, rdb, "noeviction", 0)
    assert str(told).startswith(f"survives {survives} (AOF {aof}, RDB {rdb}")


def test_durability_of_a_cluster_is_that_of_its_masters(redis_cluster: Cluster) -> None:
    async def main() -> Durability:
        async with await connect_async(redis_cluster.url) as store:
            return await store.durability()

    with connect(redis_cluster.url) as store:
        assert store.durability() == asyncio.run(main()) == Durability("nothing", "off", "off", "noeviction", 1)


def test_a_server_that_may_not_be_asked_promises_nothing_that_is_known(redis_restricted: RestrictedServer) -> None:
    with connect(redis_restricted.url, prefix=fresh()) as store:
        told = store.durability()
        assert told == Durability("unknown", "unknown", "unknown", "unknown", None)
        assert str(told) == "unknown"


def test_durability_of_the_other_engines(tmp_path: Path) -> None:
    with connect("memory:") as store:
        assert store.durability().survives == "nothing"
    for durability, survives in (("fsync", "power"), ("os", "process")):
        with connect(f"file:{tmp_path}", durability=durability) as store:  # type: ignore[arg-type]
            assert store.durability().survives == survives


def test_a_server_that_evicts_is_warned_of_once() -> None:
    with RedisServer("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as server:
        with connect(server.url) as store:
            with pytest.warns(EvictionWarning, match="allkeys-lru"):
                store.kv.namespace("a").incr("n")
            store.kv.namespace("a").incr("n")
            assert store.durability().eviction == "allkeys-lru"

        async def main() -> None:
            async with await connect_async(server.url) as store:
                with pytest.warns(EvictionWarning):
                    await store.kv.namespace("a").incr("n")
                await store.kv.namespace("a").incr("n")

        asyncio.run(main())


@pytest.mark.parametrize(
    "options", [(), ("--maxmemory", "100mb"), ("--maxmemory-policy", "allkeys-lru")], ids=["none", "limit", "policy"]
)
def test_a_server_that_never_evicts_is_not_warned_of(options: tuple[str, ...]) -> None:
    with RedisServer(*options) as server, connect(server.url) as store, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.kv.namespace("a").incr("n") == 1


# Replicas


def test_a_write_waits_for_its_replica(redis_sentinels: SentinelGroup) -> None:
    with connect(redis_sentinels.url, prefix=fresh(), replicas=1) as store:
        assert [store.kv.namespace("a").incr("n") for _ in range(3)] == [1, 2, 3]
        assert store.metrics.record_interaction("u", 1, True, 1.0)

    async def main() -> None:
        async with await connect_async(redis_sentinels.url, prefix=fresh(), replicas=1) as store:
            ns = store.kv.namespace("a")
            assert sorted(await asyncio.gather(*(ns.incr("n") for _ in range(100)))) == list(range(1, 101))

    asyncio.run(main())


def test_a_write_that_too_few_replicas_have_is_of_unknown_outcome_and_settles_as_applied(
    redis_server: RedisServer,
) -> None:
    prefix = fresh()
    with (
        connect(redis_server.url, prefix=prefix, replicas=1, timeout=1.0) as store,
        pytest.raises(OutcomeUnknown, match="only 0 of 1 replicas confirmed it") as caught,
    ):
        store.kv.namespace("a").incr("n")
    with connect(redis_server.url, prefix=prefix) as store:
        assert store.kv.settle(caught.value.token) is True
        assert store.kv.namespace("a").get("n") == b"1"


def test_an_engine_without_replicas_refuses_to_wait_for_them() -> None:
    with pytest.raises(ArgumentError, match="replicas must be 0"):
        connect("memory:", replicas=1)


# Round trips


CALLS: dict[str, Callable[[Any], Any]] = {
    "record_interaction": lambda store: store.metrics.record_interaction("u", 1, True, 1.0),
    "record_interaction with an id": lambda store: store.metrics.record_interaction(
        "u", 1, True, 1.0, interaction_id=fresh()
    ),
    "record_pattern_outcome": lambda store: store.patterns.record_pattern_outcome("p", True),
    "save_state": lambda store: store.states.save_state("u", _state()),
    "load_state": lambda store: store.states.load_state("u"),
    "get_user_stats": lambda store: store.metrics.get_user_stats("u"),
    "get_global_stats": lambda store: store.metrics.get_global_stats(),
    "get_all_users": lambda store: store.metrics.get_all_users(),
    "get_many": lambda store: store.collection("c", type(_state())).get_many([str(i) for i in range(1000)]),
}


def _state() -> Any:
    from empathy_kv import CollaborationState

    return CollaborationState()


@pytest.mark.parametrize("name", CALLS)
def test_a_call_of_the_domain_is_one_round_trip(redis_server: RedisServer, name: str) -> None:
    from empathy_kv import Pattern

    with connect(redis_server.url, prefix=fresh()) as store:
        store.patterns.contribute_pattern("a", Pattern("p", "a", "t", "n"))
        store.metrics.record_interaction("u", 1, True, 1.0)
        store.states.save_state("u", _state())
        store.collection("c", type(_state())).put_many({str(i): _state() for i in range(1000)})
        CALLS[name](store)
        exchanged = _exchanged(store)
        CALLS[name](store)
    assert len(exchanged) == 1


def test_an_export_of_many_users_asks_for_them_together(redis_server: RedisServer, tmp_path: Path) -> None:
    with connect(redis_server.url, prefix=fresh()) as store:
        for number in range(501):
            store.metrics.record_interaction(f"u{number}", 1, True, 1.0)
        exchanged = _exchanged(store)
        store.metrics.export_metrics(tmp_path / "metrics.json")
    assert len(exchanged) == 4  # who there is, 500 users, one, and all together
    assert len(json.loads((tmp_path / "metrics.json").read_bytes())["users"]) == 501


def _exchanged(store: Store) -> list[Any]:
    """Return a list that takes down what a store sends from now on."""
    assert isinstance(store.kv, RedisKV)
    exchanged, exchange = [], store.kv._connections._exchange

    def counted(step: Any) -> Any:
        exchanged.append(step)
        return exchange(step)

    store.kv._connections._exchange = counted  # type: ignore[method-assign]
    return exchanged


# Ways to connect


def test_a_socket(redis_server: RedisServer) -> None:
    with connect(redis_server.unix_url, prefix=fresh()) as store:
        assert store.kv.namespace("a").incr("n") == 1

    async def main() -> None:
        async with await connect_async(redis_server.unix_url, prefix=fresh()) as store:
            assert await store.kv.namespace("a").incr("n") == 1

    asyncio.run(main())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody but itself has signed, and its key beside it."""
    path = tmp_path_factory.mktemp("tls")
    try:
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-keyout", str(path / "key.pem"), "-out", str(path / "cert.pem"), "-days", "2", "-subj", "/CN=test"),
                *("-addext", "subjectAltName=IP:127.0.0.1"),
            ],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("no openssl here, which makes the certificate")
    return path


@pytest.fixture
def tls_port(redis_server: RedisServer, certificate: Path) -> Iterator[int]:
    """A port that speaks TLS and leads to the server: not every server is built with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client = context.wrap_socket(client, server_side=True)
            with client, socket.create_connection(("127.0.0.1", redis_server.port)) as server:
                while True:
                    ready = [client] if client.pending() else select.select([client, server], [], [])[0]
                    for source, sink in ((client, server), (server, client)):
                        if source in ready:
                            data = source.recv(65536)
                            if not data:
                                return
                            sink.sendall(data)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_tls_with_a_certificate_that_is_trusted(tls_port: int, certificate: Path) -> None:
    url = f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={certificate}/cert.pem"
    with connect(url, prefix=fresh()) as store:
        assert store.kv.namespace("a").incr("n") == 1

    async def main() -> None:
        async with await connect_async(url, prefix=fresh()) as store:
            assert await store.kv.namespace("a").incr("n") == 1

    asyncio.run(main())


def test_a_connection_with_tls_is_closed_without_the_farewell_of_the_server(
    redis_server: RedisServer, certificate: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    closed, accepted = threading.Event(), list[socket.socket]()

    def serve() -> None:
        client = context.wrap_socket(listener.accept()[0], server_side=True)
        accepted.append(client)
        with socket.create_connection(("127.0.0.1", redis_server.port)) as server:
            while request := client.recv(65536):
                server.sendall(request)
                client.sendall(server.recv(65536))
        closed.wait()

    async def main() -> None:
        async with await connect_async(url, prefix=fresh()) as store:
            assert await store.kv.namespace("a").get("n") is None

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"rediss://127.0.0.1:{listener.getsockname()[1]}/0?ssl_ca_certs={certificate}/cert.pem"
        thread = threading.Thread(target=serve)
        thread.start()
        asyncio.run(main())
        gc.collect()  # A socket that was left open is told of here, as an error of this test.
        closed.set()
        thread.join()
        accepted[0].close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_tls_with_a_certificate_that_is_not_trusted_or_of_another_host_is_refused(
    tls_port: int, certificate: Path, host: str
) -> None:
    trust = "" if host == "127.0.0.1" else f"?ssl_ca_certs={certificate}/cert.pem"
    url = f"rediss://{host}:{tls_port}/0{trust}"
    with connect(url, prefix=fresh(), timeout=0.3) as store, pytest.raises(UnavailableError):
        store.kv.namespace("a").get("n")

    async def main() -> None:
        async with await connect_async(url, prefix=fresh(), timeout=0.3) as store:
            with pytest.raises(UnavailableError):
                await store.kv.namespace("a").get("n")

    asyncio.run(main())


def test_clients_of_a_cluster_and_of_a_sentinel_group(redis_cluster: Cluster, redis_sentinels: SentinelGroup) -> None:
    port = redis_cluster.nodes[0].port
    with redis.RedisCluster(host="127.0.0.1", port=port) as client, connect(client, prefix=fresh()) as store:  # type: ignore[abstract]
        for number in range(20):
            assert store.kv.namespace(str(number)).incr("n") == 1
    sentinels = [("127.0.0.1", sentinel.port) for sentinel in redis_sentinels.sentinels]
    discovery = redis.Sentinel(sentinels)
    with discovery.master_for(SERVICE) as client, connect(client, prefix=fresh()) as store:
        assert store.kv.namespace("a").incr("n") == 1
    for sentinel in discovery.sentinels:
        sentinel.close()

    async def main() -> None:
        client = redis.asyncio.RedisCluster(host="127.0.0.1", port=port)
        async with await connect_async(client, prefix=fresh()) as store:
            for number in range(20):
                assert await store.kv.namespace(str(number)).incr("n") == 1
        await client.aclose()
        discovery = redis.asyncio.Sentinel(sentinels)
        master = discovery.master_for(SERVICE)
        async with await connect_async(master, prefix=fresh()) as store:
            assert await store.kv.namespace("a").incr("n") == 1
        for each in (master, *discovery.sentinels):
            await each.aclose()

    asyncio.run(main())


def test_a_slot_that_moves_to_another_node_is_followed(redis_cluster: Cluster) -> None:
    prefix = fresh()
    with connect(redis_cluster.url, prefix=prefix) as store:
        ns = store.kv.namespace("moving")
        ns.incr("n")
        slot = asked(redis_cluster.nodes[0], "CLUSTER", "KEYSLOT", f"{{{prefix}:moving}}")
        source = redis_cluster.server_of(f"{{{prefix}:moving}}")
        target = next(node for node in redis_cluster.nodes[:3] if node is not source)
        names = {node: asked(node, "CLUSTER", "MYID").decode() for node in (source, target)}
        asked(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
        asked(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
        assert store.kv.namespace("moving").get("absent") is None  # ASK
        keys = asked(source, "CLUSTER", "GETKEYSINSLOT", slot, 100)
        asked(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        assert ns.get("n") == b"1"  # ASK
        with ThreadPoolExecutor(1) as pool:
            # A script has several keys, of which one is not there yet: TRYAGAIN, until the slot has moved.
            incremented = pool.submit(ns.incr, "n")
            for node in (target, source):
                asked(node, "CLUSTER", "SETSLOT", slot, "NODE", names[target])
            assert incremented.result() == 2
        assert ns.incr("n") == 3  # MOVED
        assert [*ns.keys()] == ["n"]


# What it hides

SECRET = "correct-horse-hunter2"


def said_by(error: BaseException | None) -> str:
    """All that can be read of an error: its traceback as Python prints it, and every error behind it."""
    text = ""
    while error is not None:
        text += "".join(traceback.format_exception(error)) + repr(error) + str(error) + repr(vars(error))
        error = error.__cause__ or error.__context__
    return text


@pytest.mark.parametrize(
    "url",
    [
        "redis://agents:{}@127.0.0.1:{}/0",
        "redis://agents:{}@127.0.0.1:{}/1",
        "redis+cluster://agents:{}@127.0.0.1:{}",
        "redis+sentinel://agents:{0}@127.0.0.1:{1}/service/0?sentinel_username=agents&sentinel_password={0}",
    ],
)
def test_a_password_stands_nowhere(
    redis_restricted: RestrictedServer, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    filled = url.format(SECRET, redis_restricted.port)
    with connect(filled, timeout=0.2) as store:
        with pytest.raises(NotApplied) as caught:
            store.kv.namespace("a").incr("n")
        said = said_by(caught.value) + repr(store) + repr(store.kv) + str(vars(store.kv))

    async def main() -> str:
        async with await connect_async(filled, timeout=0.2) as store:
            with pytest.raises(NotApplied) as caught:
                await store.kv.namespace("a").incr("n")
            return said_by(caught.value) + repr(store) + repr(store.kv) + str(vars(store.kv))

    said += asyncio.run(main()) + caplog.text
    assert "NotApplied" in said or "StoragePermissionError" in said or "UnavailableError" in said
    assert SECRET not in said


@pytest.mark.parametrize(
    "url",
    [
        "redis://agents:{}@127.0.0.1:port/0",
        "redis://agents:{}@127.0.0.1:6379/zero",
        "redis://agents:{}@127.0.0.1:6379/0?no_such_option=1",
        "redis+sentinel://agents:{}@127.0.0.1:26379",
        "redis+cluster://agents:{}@127.0.0.1:6379/1",
        "redis+other://agents:{}@127.0.0.1:6379/0",
    ],
)
def test_a_url_that_is_wrong_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        connect(url.format(SECRET))
    assert caught.value.argument == "target"
    assert SECRET not in said_by(caught.value)
    with pytest.raises(ArgumentError) as caught:
        asyncio.run(connect_async(url.format(SECRET)))
    assert SECRET not in said_by(caught.value)


def test_a_command_that_is_not_allowed_is_a_permission_error(redis_restricted: RestrictedServer) -> None:
    with connect(redis_restricted.url, prefix="other") as store, pytest.raises(StoragePermissionError):
        store.kv.namespace("a").incr("n")


def test_a_refusal_after_a_lost_try_is_final(redis_server: RedisServer) -> None:
    """The first try was done although its reply was lost: the second is told so, and not that the check failed."""
    with lossy(redis_server.port) as link, connect(f"redis://127.0.0.1:{link.port}/0", prefix=fresh()) as store:
        ns = store.kv.namespace("a")
        ns.set("k", b"0")
        link.lose("cut", 2)
        assert ns.set("once", b"1", expected_version=0) == 2
        assert ns.version("once") == 2
