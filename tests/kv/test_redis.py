"""What is true of the Redis engine alone: lost replies, flushed scripts, prefixes, clients of the caller's."""

from __future__ import annotations

import asyncio
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from servers import RedisServer, RestrictedServer

from empathy_kv import connect, connect_async
from empathy_kv.errors import (
    EmpathyKVError,
    NotApplied,
    OutcomeUnknown,
    StoragePermissionError,
    TokenError,
    UnavailableError,
)
from empathy_kv.kv.interface import Tokens
from empathy_kv.kv.operations import Batch, Get, IncrBy, Token
from empathy_kv.kv.redis import RedisKV
from empathy_kv.kv.redis.address import from_url


class Link:
    """A link to a server that loses replies: the request arrives, and then the connection is cut."""

    def __init__(self, port: int) -> None:
        self.lose = 0
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server:
            threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
            while data := server.recv(65536):
                if self.lose > 0 and not data.startswith((b"+OK", b"-ERR unknown", b"%", b"*14")):
                    self.lose -= 1
                    # Not by leaving alone: the other thread, which still reads, would keep the connection open.
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)

    @staticmethod
    def _requests(client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def link(redis_server: RedisServer) -> Iterator[Link]:
    link = Link(redis_server.port)
    yield link
    link.close()


def opened(port: int, *, timeout: float = 5.0, prefix: str | None = None) -> RedisKV:
    return RedisKV.from_url(
        f"redis://127.0.0.1:{port}/0", prefix=prefix or f"test-{secrets.token_hex(4)}", timeout=timeout
    )


def test_an_increment_whose_reply_is_lost_counts_once(link: Link) -> None:
    with opened(link.port) as kv:
        ns = kv.namespace("a")
        for i in range(1, 101):
            link.lose = i % 4
            assert ns.incr("counter") == i
        assert ns.get("counter") == b"100"


def test_redis_py_by_itself_would_count_lost_replies_twice(link: Link, redis_server: RedisServer) -> None:
    """That the link above really loses replies after the server has done its part."""
    key = f"bare-{secrets.token_hex(4)}"
    with redis.Redis(port=link.port) as client:
        client.ping()
        link.lose = 1
        client.incr(key)
    with redis.Redis(port=redis_server.port) as client:
        assert client.get(key) == b"2"


def test_when_no_reply_comes_until_the_deadline_the_outcome_is_unknown_and_can_be_settled(
    link: Link, redis_server: RedisServer
) -> None:
    prefix = f"test-{secrets.token_hex(4)}"
    with opened(link.port, timeout=0.3, prefix=prefix) as kv:
        ns = kv.namespace("a")
        ns.incr("counter")
        link.lose = 10**6
        with pytest.raises(OutcomeUnknown) as caught:
            ns.incr("counter")
        token = caught.value.token
        link.lose = 0
        assert kv.settle(token) is True
        assert kv.settle(str(token)) is True
        assert kv.execute(Batch(("a",), (IncrBy("counter"),), (), token)) == [2]
        assert ns.get("counter") == b"2"


def test_a_repetition_that_reaches_nobody_does_not_say_that_the_write_was_not_applied(
    link: Link, redis_server: RedisServer
) -> None:
    prefix = f"test-{secrets.token_hex(4)}"
    with opened(link.port, timeout=0.3, prefix=prefix) as kv, opened(redis_server.port, prefix=prefix) as direct:
        kv.namespace("a").incr("counter")
        batch = Batch(("a",), (IncrBy("counter"),), (), kv.token("a"))
        link.lose = 10**6
        with pytest.raises(OutcomeUnknown):
            kv.execute(batch)
        link.close()
        for _ in range(2):
            with pytest.raises(OutcomeUnknown) as caught:
                kv.execute(batch)
            assert caught.value.token == batch.token
        with pytest.raises(UnavailableError):
            kv.execute(Batch(("a",), (IncrBy("counter"),), (), kv.token("a")))
        assert direct.execute(batch) == [2]
        assert direct.namespace("a").get("counter") == b"2"


def test_a_batch_that_was_settled_as_not_applied_is_refused_when_it_arrives_late(redis_server: RedisServer) -> None:
    with opened(redis_server.port) as kv:
        ns = kv.namespace("a")
        ns.incr("counter")
        token = kv._tokens.take(("a",))
        assert kv.settle(token) is False
        with pytest.raises(TokenError):
            kv.execute(Batch(("a",), (IncrBy("counter"),), (), token))
        assert ns.get("counter") == b"1"


def test_reads_of_several_namespaces_whose_replies_are_lost_are_answered_each_for_itself(link: Link) -> None:
    with opened(link.port) as kv:
        for number in range(3):
            kv.namespace("n", f"{number}").set("key", b"%d" % number)
        reads = [Batch(("n", f"{number}"), (Get("key"),)) for number in range(3)]
        for lost in range(4):
            for count in range(1, 4):
                link.lose = lost
                assert kv.several(reads[:count]) == [[b"0"], [b"1"], [b"2"]][:count]


def test_a_write_without_a_token_is_not_repeated(link: Link) -> None:
    with opened(link.port) as kv:
        kv.namespace("a").incr("counter")
        link.lose = 1
        with pytest.raises(OutcomeUnknown) as caught:
            kv.execute(Batch(("a",), (IncrBy("counter"),)))
        assert caught.value.token is None
        assert kv.namespace("a").get("counter") == b"2"


def test_a_server_that_is_not_there_is_unavailable_and_nothing_was_written() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with opened(port, timeout=0.1) as kv:
        with pytest.raises(UnavailableError):
            kv.namespace("a").get("k")
        with pytest.raises(UnavailableError) as caught:
            kv.namespace("a").set("k", b"v")
        assert isinstance(caught.value, NotApplied)
        assert isinstance(caught.value, ConnectionError)


def test_writes_go_on_when_the_server_forgets_its_scripts(redis_server: RedisServer) -> None:
    with opened(redis_server.port) as kv, redis.Redis(port=redis_server.port) as client:
        ns = kv.namespace("a")
        for i in range(1, 4):
            client.script_flush()
            assert ns.incr("counter") == i


def test_writes_go_on_when_the_server_is_started_again() -> None:
    with (
        RedisServer("--appendonly", "yes", "--appendfsync", "always") as server,
        RedisKV.from_url(server.url, timeout=30.0) as kv,
        ThreadPoolExecutor(1) as pool,
    ):
        ns = kv.namespace("a")
        assert ns.incr("n") == 1
        server.kill()
        incremented = pool.submit(ns.incr, "n")
        server.start()
        assert incremented.result() == 2
        assert ns.get("n") == b"2"


def test_two_prefixes_on_one_server_never_see_each_other(redis_server: RedisServer) -> None:
    mark = secrets.token_hex(4)
    with opened(redis_server.port, prefix=mark) as one, opened(redis_server.port, prefix=f"{mark}:a") as other:
        one.namespace("a", "b").set("k", b"one")
        other.namespace("b").set("k", b"other")
        assert one.namespace("a", "b").get("k") == b"one"
        assert other.namespace("b").get("k") == b"other"
        assert list(one.namespace("b").keys()) == []


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [False, True])
def test_a_client_of_the_callers_serves_as_it_is_and_stays_open(
    redis_server: RedisServer, protocol: int, decode: bool
) -> None:
    with redis.Redis(port=redis_server.port, protocol=protocol, decode_responses=decode) as client:
        kv = RedisKV.from_client(client, prefix=f"test-{secrets.token_hex(4)}")
        ns = kv.namespace("a")
        ns.set("k", b"\xff\x00")
        ns.hset("h", {"f": b"\xff"})
        ns.zadd("z", {b"\xff": 0.1, b"\xfe": -0.5})
        ns.hincrby("h", {"n": 2**60})
        assert ns.get("k") == b"\xff\x00"
        assert ns.hgetall("h") == {"f": b"\xff", "n": b"%d" % 2**60}
        assert ns.zrange("z") == [(b"\xfe", -0.5), (b"\xff", 0.1)]
        assert sorted(ns.keys()) == ["h", "k", "z"]
        kv.close()
        assert client.ping()


def test_the_memory_for_exactly_once_does_not_grow_with_writes(redis_server: RedisServer) -> None:
    prefix = f"test-{secrets.token_hex(4)}"
    with opened(redis_server.port, prefix=prefix) as kv, redis.Redis(port=redis_server.port) as client:
        ns = kv.namespace("a")
        ns.incr("counter")
        keys = sorted(client.keys(f"*{prefix}*"))
        size = sum(client.memory_usage(key) or 0 for key in keys)
        for _ in range(500):
            ns.incr("counter")
        assert sorted(client.keys(f"*{prefix}*")) == keys
        assert sum(client.memory_usage(key) or 0 for key in keys) <= size + 64


def test_a_wrong_password_is_a_permission_error_that_does_not_show_it(redis_server: RedisServer) -> None:
    url = f"redis://nobody:hunter2@127.0.0.1:{redis_server.port}/0"
    with RedisKV.from_url(url) as kv:
        assert "hunter2" not in repr(kv)
        with pytest.raises(StoragePermissionError) as caught:
            kv.namespace("a").get("k")
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__


def told(act: Callable[[], object]) -> str:
    """Return what an error says; it is the same in an event loop."""
    with pytest.raises(EmpathyKVError) as caught:
        act()
    return str(caught.value)


def asked(url: str) -> str:
    """Return what a read says of a server that does not take it, the same both ways."""

    async def awaited() -> None:
        async with await connect_async(url, timeout=0.3) as store:
            await store.kv.namespace("a").get("k")

    with connect(url, timeout=0.3) as store:
        said = told(lambda: store.kv.namespace("a").get("k"))
    assert told(lambda: asyncio.run(awaited())) == said
    return said


def test_a_password_that_is_wrong_and_one_that_is_missing_are_told_apart(
    redis_server: RedisServer, redis_restricted: RestrictedServer
) -> None:
    wrong = "the server does not allow it: user name or password is wrong (WRONGPASS)"
    for server in (redis_server, redis_restricted):
        assert asked(f"redis://agents:hunter2@127.0.0.1:{server.port}") == wrong
    missing = "the server does not allow it: user name or password is missing (NOAUTH)"
    assert asked(f"redis://127.0.0.1:{redis_restricted.port}") == missing
    needless = "the server does not allow it: it has no password, and one was given (NOAUTH)"
    assert asked(f"redis://:hunter2@127.0.0.1:{redis_server.port}") == needless


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://127.0.0.1:1", "the server at 127.0.0.1:1 did not answer (Connection refused until"),
        (
            "redis://u:hunter2@no-such-host.invalid",
            "no-such-host.invalid:6379 did not answer (Name or service not known",
        ),
        ("unix:///nowhere/redis.sock", "the server at /nowhere/redis.sock did not answer (No such file or directory"),
    ],
)
def test_why_a_server_was_not_reached_is_told(url: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = socket.getaddrinfo

    def resolve(host: str, *arguments: Any, **options: Any) -> Any:
        if host.endswith(".invalid"):  # Some ask a server for that, which may take long or know it.
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ask(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    said = asked(url)
    assert why in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("redis://h:abc", "have a number up to 65535 as the port, as redis://host:6379/0"),
        ("valkeys+cluster://h:99999", "have a number up to 65535 as the port, as redis://host:6379/0"),
        ("redis://h/x", "have a number as the database behind the host, as redis://host:6379/0"),
        ("redis://h/-1", "have a number as the database behind the host, as redis://host:6379/0"),
        ("redis://h?foo=bar", "have only options that redis-py knows behind the ?, which 'foo' is not"),
        ("redis://h?socket_timeout=abc", "give the option 'socket_timeout' a value of its kind"),
        ("redis+sentinel://h", "name a service of the sentinels, as redis+sentinel://host:26379/service/0"),
        (
            "redis+cluster://h/1",
            "name no database but 0, which is all that a cluster has, as redis+cluster://host:6379",
        ),
        ("redis+sentinel://h,,h/s", "name a host before each comma, and behind the last"),
    ],
)
def test_the_part_of_a_url_that_is_wrong_is_named(url: str, what: str) -> None:
    said = told(lambda: connect(url))
    assert said.startswith(f"target must {what}")
    assert told(lambda: asyncio.run(connect_async(url))) == said


@pytest.mark.parametrize("password", ["se/cret", "se?cret=1", "se#cret", "12?secret=1", "12/secret", "se@c:ret"])
def test_nothing_is_shown_of_a_password_that_was_not_encoded(password: str) -> None:
    said = told(lambda: connect(f"redis://u:{password}@h:x"))
    assert "cret" not in said
    assert said.endswith("in a password, @ / ? # and : are written as %40 %2F %3F %23 and %3A")


def test_valkey_is_another_word_for_redis(redis_server: RedisServer) -> None:
    with connect(f"valkey://127.0.0.1:{redis_server.port}/0", prefix=secrets.token_hex(4)) as store:
        assert store.kv.namespace("a").incr("n") == 1
    settings = from_url("valkeys://h", asynchronous=False).known(0).connection  # type: ignore[union-attr]
    assert settings == {**from_url("rediss://h", asynchronous=False).known(0).connection, "retry": settings["retry"]}  # type: ignore[union-attr]


def test_nothing_is_imported_by_the_first_calls_so_no_child_inherits_the_lock_of_a_half_imported_module(
    redis_server: RedisServer,
) -> None:
    code = """
import sys
from empathy_kv import connect
store = connect(sys.argv[1], prefix=sys.argv[2])
before = set(sys.modules)
store.metrics.record_interaction("u", 1, True, 1.0)
store.metrics.get_user_stats("u")
store.kv.namespace("n").incr("k")
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, redis_server.url, f"test-{secrets.token_hex(4)}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_token_is_read_back_from_its_text() -> None:
    token = Token(("a/~b", "c"), "0123456789abcdef", 3, 17, 1_700_000_000_000)
    assert Token.parse(str(token)) == token


def test_settling_a_finished_write_does_not_free_the_slot_of_one_under_way() -> None:
    tokens = Tokens()
    done = tokens.take(("a",))
    tokens.give(done)
    under_way = tokens.take(("a",))
    assert under_way.slot == done.slot
    tokens.give(done)
    assert tokens.take(("a",)).slot != under_way.slot
