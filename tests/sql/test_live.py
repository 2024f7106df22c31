"""`connect` on a database: what only tables have, and what is never said."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from servers import PostgresServer

import empathy_kv
from empathy_kv.errors import (
    ArgumentError,
    DamagedError,
    EmpathyKVError,
    NotApplied,
    OutcomeUnknown,
    StorageError,
    TokenError,
    UnavailableError,
    UnsupportedError,
)
from empathy_kv.kv.operations import Token
from empathy_kv.metrics import MetricsCollector
from empathy_kv.persistence import PatternPersistence
from empathy_kv.records import CollaborationState, Pattern
from empathy_kv.sql.database import Database, Transaction
from empathy_kv.sql.postgres import Postgres
from empathy_kv.sql.schema import LIBRARY, METRICS, NOTHING, STATES


def ask(database: Database, sql: str) -> list[tuple[object, ...]]:
    return database.execute(Transaction(NOTHING, ((sql, ()),)))[0]


def other(url: str, database: Database, sql: str) -> None:
    """Be another program."""
    database.execute(Transaction(NOTHING, ((sql, ()),)))


def test_a_store_keeps_what_was_stored(url: str) -> None:
    with empathy_kv.connect(url) as store:
        store.patterns.contribute_pattern("agent", Pattern("p", "agent", "t", "n", context={"task": "x"}))
        store.patterns.record_pattern_outcome("p", True)
        store.states.save_state("ann", CollaborationState("ann"))
        store.metrics.record_interaction("ann", 3, True, 12.5)
    with empathy_kv.connect(url) as store:
        assert store.patterns.find_patterns({"task": "x"})[0].pattern.usage_count == 1
        assert store.states.list_users() == ["ann"]
        assert store.metrics.get_user_stats("ann")["total_operations"] == 1


def test_an_event_loop_has_the_same(url: str) -> None:
    async def main() -> None:
        store = await empathy_kv.connect_async(url)
        await store.patterns.contribute_pattern("agent", Pattern("p", "agent", "t", "n", context={"task": "x"}))
        await store.patterns.record_pattern_outcome("p", True)
        assert (await store.patterns.find_patterns({"task": "x"}))[0].pattern.usage_count == 1
        await store.states.save_state("ann", CollaborationState("ann"))
        assert await store.states.list_users() == ["ann"]
        await asyncio.gather(*(store.metrics.record_interaction("ann", 3, True, 1.0) for _ in range(20)))
        assert (await store.metrics.get_global_stats())["total_interactions"] == 20
        with pytest.raises(UnsupportedError):
            store.collection("notes", CollaborationState)
        await store.close()

    asyncio.run(main())


def test_what_a_database_has_not_is_said(url: str) -> None:
    with empathy_kv.connect(url) as store:
        with pytest.raises(UnsupportedError, match="key-value"):
            _ = store.kv
        with pytest.raises(UnsupportedError, match="collections"):
            store.collection("notes", CollaborationState)
        assert store.check() == []
        assert store.durability().survives == ("power" if url.startswith("sqlite") else "process")  # As tests start it
        store.checkpoint()


def test_an_outcome_is_a_row_of_the_usage(url: str, opened: Callable[[], Database]) -> None:
    with empathy_kv.connect(url) as store:
        store.patterns.contribute_pattern("agent", Pattern("p", "author", "t", "n"))
        for number in range(6):
            store.patterns.record_pattern_outcome("p", number != 0)
        pattern = store.patterns.patterns["p"]
        assert (pattern.usage_count, pattern.success_count, pattern.failure_count) == (6, 5, 1)
        assert pattern.confidence == 5 / 6
    rows = ask(opened(), "SELECT pattern_id, agent_id, success FROM pattern_usage ORDER BY id")
    assert [(i, a, bool(s)) for i, a, s in rows] == [("p", "author", number != 0) for number in range(6)]


def test_what_others_do_in_the_tables_is_seen(url: str, opened: Callable[[], Database]) -> None:
    with empathy_kv.connect(url) as store:
        library = store.patterns
        library.contribute_pattern("agent", Pattern("p", "agent", "t", "n", context={"task": "x"}))
        library.contribute_pattern("agent", Pattern("q", "agent", "t", "n", context={"task": "x"}))
        assert [match.pattern.id for match in library.find_patterns({"task": "x"})] == ["p", "q"]
        hand = opened()
        other(url, hand, "INSERT INTO patterns (id, agent_id, pattern_type, name) VALUES ('r', 'ann', 't', 'n')")
        assert list(library.patterns) == ["p", "q", "r"]
        assert library.agent_contributions == {"agent": ["p", "q"], "ann": ["r"]}
        other(url, hand, """UPDATE patterns SET context = '{"task": "y"}' WHERE id = 'p'""")
        assert [match.pattern.id for match in library.find_patterns({"task": "y"})] == ["p"]
        other(url, hand, "INSERT INTO pattern_links (pattern_id, related_id) VALUES ('p', 'r')")
        assert [pattern.id for pattern in library.get_related_patterns("r")] == ["p"]
        other(url, hand, "DELETE FROM pattern_links")
        other(url, hand, "DELETE FROM pattern_contributions WHERE pattern_id = 'p'")
        other(url, hand, "DELETE FROM patterns WHERE id = 'p'")
        assert list(library.patterns) == ["q", "r"]
        library.contribute_pattern("agent", Pattern("p", "agent", "t", "n"))
        assert list(library.patterns) == ["q", "r", "p"]
        assert library.get_related_patterns("r") == []


def test_a_library_that_is_saved_over_is_followed(url: str, tmp_path: Path) -> None:
    replacement = empathy_kv.PatternLibrary()
    for name in "cab":
        replacement.contribute_pattern(f"agent {name}", Pattern(name, "x", "t", "n"))
    with empathy_kv.connect(url) as store:
        for name in "abc":
            store.patterns.contribute_pattern("agent", Pattern(name, "agent", "t", "n"))
        assert list(store.patterns.patterns) == ["a", "b", "c"]
        if url.startswith("sqlite"):
            PatternPersistence.save_to_sqlite(replacement, url.removeprefix("sqlite:///"))
        else:
            PatternPersistence.save_to_postgres(replacement, url)
        assert store.patterns.agent_contributions == replacement.agent_contributions
        assert list(store.patterns.patterns) == ["c", "a", "b"]


def test_a_saved_library_is_opened_live(url: str) -> None:
    library = empathy_kv.PatternLibrary()
    for name in "cab":
        library.contribute_pattern(f"agent {name}", Pattern(name, "x", "t", "n"))
    library.link_patterns("a", "c")
    if url.startswith("sqlite"):
        PatternPersistence.save_to_sqlite(library, url.removeprefix("sqlite:///"))
    else:
        PatternPersistence.save_to_postgres(library, url)
    with empathy_kv.connect(url) as one, empathy_kv.connect(url) as two:
        assert list(one.patterns.patterns.values()) == list(library.patterns.values())
        assert one.patterns.get_links() == library.get_links()
        two.patterns.contribute_pattern("agent", Pattern("d", "agent", "t", "n"))
        assert list(one.patterns.patterns) == ["c", "a", "b", "d"]


# Exactly once


def test_a_token_is_settled(opened: Callable[[], Database]) -> None:
    database = opened()
    insert = ("INSERT INTO interactions (user_id, empathy_level, success) VALUES (?, ?, ?)", ("ann", 1, True))
    token, later = database._tokens.take(("sql",)), database._tokens.take(("sql",))
    database.execute(Transaction(METRICS, (insert,)), token)
    assert database.settle(token) is True
    assert opened().settle(str(token)) is True
    assert database.settle(later) is False
    with pytest.raises(TokenError, match="not applied"):
        database.execute(Transaction(METRICS, (insert,)), later)
    old = Token(("sql",), later.session, 99, 1, 0)
    with pytest.raises(TokenError, match="too old"):
        database.settle(old)
    assert ask(database, "SELECT count(*) FROM interactions") == [(1,)]


def test_the_memory_for_tokens_does_not_grow_with_the_writes(url: str, opened: Callable[[], Database]) -> None:
    with empathy_kv.connect(url) as store:
        for _ in range(30):
            store.metrics.record_interaction("ann", 1, True, 1.0)
    assert ask(opened(), "SELECT count(*) FROM write_tokens") == [(1,)]


class Proxy:
    """Leads to a server, and cuts connections off when a client says a word: before the server hears it, or after."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.word = b""
        self.heard = True
        self.cuts = 0
        self.dies = False
        """Whether it lets nobody through any more after the first."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            cut = threading.Event()
            threading.Thread(target=self._upwards, args=(client, server, cut), daemon=True).start()
            threading.Thread(target=self._downwards, args=(server, client, cut), daemon=True).start()

    def _upwards(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self.cuts and self.word in data:
                    self.cuts -= 1
                    cut.set()
                    heard = self.heard
                    if self.dies:
                        self.word, self.heard = b"", False
                    if not heard:
                        break
                server.sendall(data)  # If it is cut, the other thread sees when it is done.
        self._close(client, server)

    def _downwards(self, server: socket.socket, client: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while (data := server.recv(65536)) and not cut.is_set():
                client.sendall(data)
        self._close(client, server)

    def _close(self, *sockets: socket.socket) -> None:
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[Proxy]:
    made = Proxy(postgres_server.port)
    yield made
    made.close()


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("word", [b"COMMIT", b"INSERT INTO interactions"])
def test_a_lost_reply_counts_once(postgres_server: PostgresServer, proxy: Proxy, word: bytes, heard: bool) -> None:
    url = postgres_server.schema()
    with Postgres(url.replace(str(postgres_server.port), str(proxy.port)), timeout=20.0) as database:
        metrics = MetricsCollector(kv=database)
        metrics.record_interaction("ann", 1, True, 1.0)
        proxy.word, proxy.heard = word, heard
        for number in range(5):
            proxy.cuts = 2
            # psycopg prepares a statement that it sees often: then the word is not on the wire any more.
            assert metrics.record_interaction("ann", 1, True, 1.0, interaction_id=f"{number}") is True
            assert metrics.record_interaction("ann", 1, True, 1.0) is True
        proxy.cuts = 0
        assert metrics.get_user_stats("ann")["total_operations"] == 11


@pytest.mark.parametrize("heard", [True, False])
def test_a_lost_reply_is_one_outcome_and_one_version(
    postgres_server: PostgresServer, proxy: Proxy, heard: bool
) -> None:
    url = postgres_server.schema()
    proxy.word, proxy.heard = b"COMMIT", heard
    with empathy_kv.connect(url.replace(str(postgres_server.port), str(proxy.port)), timeout=20.0) as store:
        store.patterns.contribute_pattern("agent", Pattern("p", "agent", "t", "n"))
        version = store.states.save_state("ann", CollaborationState("ann"))
        for number in range(1, 3):
            proxy.cuts = 1
            store.patterns.record_pattern_outcome("p", True)
            proxy.cuts = 1
            version = store.states.save_state("ann", CollaborationState("ann"), expected_version=version)
            proxy.cuts = 1
            store.patterns.contribute_pattern("agent", Pattern(f"p{number}", "agent", "t", "n"))
            proxy.cuts = 1
            assert store.patterns.remove_pattern(f"p{number}") is True
        proxy.cuts = 0
        pattern = store.patterns.patterns["p"]
        assert (pattern.usage_count, pattern.success_count, len(store.patterns.patterns)) == (2, 2, 1)
    with psycopg.connect(url) as hand:
        assert hand.execute("SELECT count(*) FROM pattern_usage").fetchall() == [(2,)]


def test_an_outcome_that_stays_unknown_is_settled(postgres_server: PostgresServer, proxy: Proxy) -> None:
    url = postgres_server.schema()
    with (
        Postgres(url.replace(str(postgres_server.port), str(proxy.port)), timeout=0.5) as database,
        Postgres(url) as near,
    ):
        metrics = MetricsCollector(kv=database)
        metrics.record_interaction("ann", 1, True, 1.0)
        for heard in (True, False):
            proxy.word, proxy.heard, proxy.cuts, proxy.dies = b"COMMIT", heard, 1_000_000, True
            expected = MetricsCollector(kv=near).get_user_stats("ann")["total_operations"]
            with pytest.raises(OutcomeUnknown) as caught:
                metrics.record_interaction("ann", 1, True, 1.0)
            proxy.cuts = 0
            applied = near.settle(caught.value.token)
            assert database.settle(str(caught.value.token)) is applied
            assert applied is heard
            assert MetricsCollector(kv=near).get_user_stats("ann")["total_operations"] == expected + applied


# Many processes

EACH = settings.default.max_examples // 2 * 2
"""How often each process records; an even number."""

RECORD = """
import sys
import empathy_kv
from empathy_kv.records import Pattern
with empathy_kv.connect(sys.argv[1], timeout=60.0) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(sys.argv[3])):
        store.metrics.record_interaction(f"user {number % 3}", 1 + number % 5, number % 2 == 0, 2.5)
        store.patterns.record_pattern_outcome("p", number % 2 == 0)
"""


def record_in_processes(url: str, each: int, meanwhile: Callable[[], None] = lambda: None) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", RECORD, url, str(number), str(each)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdin is not None
        assert worker.stdout.readline() == b"ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(b"\n")
        worker.stdin.flush()
    meanwhile()
    for worker in workers:
        _, complaint = worker.communicate(timeout=180)
        assert worker.returncode == 0, complaint.decode()


def require_exact(url: str, each: int) -> None:
    with empathy_kv.connect(url) as store:
        stats = store.metrics.get_global_stats()
        assert (stats["total_interactions"], stats["total_users"]) == (4 * each, 3)
        assert stats["success_rate"] == 0.5
        pattern = store.patterns.patterns["p"]
        assert (pattern.usage_count, pattern.success_count) == (4 * each, 2 * each)


def test_processes_lose_nothing_to_each_other(url: str, opened: Callable[[], Database]) -> None:
    with empathy_kv.connect(url) as store:
        store.patterns.contribute_pattern("agent", Pattern("p", "agent", "t", "n"))
    record_in_processes(url, EACH)
    require_exact(url, EACH)
    assert ask(opened(), "SELECT count(*) FROM pattern_usage") == [(4 * EACH,)]


def test_a_server_that_stops_and_starts_loses_nothing() -> None:
    from servers import find_postgres

    if find_postgres() is None:
        pytest.skip("no PostgreSQL here (scripts/test brings one)")
    with PostgresServer() as server:
        url = server.schema()
        with empathy_kv.connect(url) as store:
            store.patterns.contribute_pattern("agent", Pattern("p", "agent", "t", "n"))

        def restart() -> None:
            for count, end in ((EACH // 2, server.kill), (2 * EACH, server.shut)):
                with empathy_kv.connect(url, timeout=60.0) as store:
                    while store.metrics.get_global_stats()["total_interactions"] < count:
                        time.sleep(0.01)
                end()
                server.start()

        record_in_processes(url, EACH, restart)
        require_exact(url, EACH)


# What can go wrong

HOSTILE_SCHEMAS = {
    "a view": "CREATE VIEW {} AS SELECT 1 AS id",
    "an endless view": """CREATE VIEW {} AS
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS id FROM n""",
    "a materialized view": "CREATE MATERIALIZED VIEW {} AS SELECT 1 AS id",
    "a foreign name": "CREATE SEQUENCE {}",
    "other columns": "CREATE TABLE {} (id INTEGER, title TEXT)",
    "a trigger": """{made}; CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN LOOP END LOOP; END$$; CREATE TRIGGER t AFTER INSERT ON {} EXECUTE FUNCTION f()""",
    "a rule": "{made}; CREATE RULE r AS ON INSERT TO {} DO INSTEAD NOTHING",
    "a newer schema": "CREATE TABLE empathy_kv_schema (version BIGINT); INSERT INTO empathy_kv_schema VALUES (99)",
}


@pytest.mark.parametrize("table", ["patterns", "interactions", "states"])
@pytest.mark.parametrize("statements", HOSTILE_SCHEMAS.values(), ids=HOSTILE_SCHEMAS)
def test_a_hostile_database_is_an_error_at_once_and_is_not_changed(
    postgres_server: PostgresServer, statements: str, table: str
) -> None:
    from empathy_kv.sql.schema import postgres

    url = postgres_server.schema()
    part = {"patterns": LIBRARY, "interactions": METRICS, "states": STATES}[table]
    with psycopg.connect(url, autocommit=True) as hand:
        hand.execute(statements.replace("{made}", postgres(part.tables[table])).replace("{}", table).encode())
        before = hand.execute("SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace")
        names = sorted(before.fetchall())
        with empathy_kv.connect(url) as store:
            for act in {
                "patterns": [
                    lambda: store.patterns.find_patterns({"a": 1}),
                    lambda: store.patterns.contribute_pattern("a", Pattern("a", "a", "t", "n")),
                ],
                "interactions": [
                    store.metrics.get_global_stats,
                    lambda: store.metrics.record_interaction("ann", 1, True, 1.0),
                ],
                "states": [
                    store.states.list_users,
                    lambda: store.states.save_state("ann", CollaborationState("ann")),
                ],
            }[table]:
                with pytest.raises(EmpathyKVError) as caught:
                    act()
                assert isinstance(caught.value, (DamagedError, StorageError))
        after = hand.execute("SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace")
        assert sorted(after.fetchall()) == names


def test_a_foreign_encoding_is_an_error(postgres_server: PostgresServer) -> None:
    postgres_server.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    with empathy_kv.connect(postgres_server.url("latin")) as store, pytest.raises(StorageError, match="LATIN1"):
        store.metrics.record_interaction("ann", 1, True, 1.0)


SECRET = "s3cr3t-p%40ss"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ann:{SECRET}@127.0.0.1:1/db",
        f"postgresql://ann:{SECRET}@127.0.0.1:1/nowhere?connect_timeout=x",
        f"postgresql://ann:{SECRET}%zz@127.0.0.1:1/db",
        f"postgresql://ann:{SECRET}@127.0.0.1:port/db",
        f"postgresql://ann:{SECRET}@[::1/db",
        f"postgresql://127.0.0.1:1/db?password={SECRET}",
    ],
)
def test_a_password_is_never_said(url: str) -> None:
    said = []
    try:
        with empathy_kv.connect(url, timeout=0.2) as store:
            said += [repr(store), repr(store.metrics), repr(store.patterns)]
            store.metrics.record_interaction("ann", 1, True, 1.0)
    except EmpathyKVError as error:
        assert isinstance(error, (ArgumentError, NotApplied))
        each: BaseException | None = error
        while each is not None:
            said += [str(each), repr(each)]
            each = each.__cause__
        again = pickle.loads(pickle.dumps(error))
        said.append(repr(vars(again)))
    assert said
    assert not re.search(r"s3cr3t", " ".join(said))


@pytest.mark.parametrize("lacking", ["psycopg", "libpq"])
def test_a_driver_that_is_not_installed_is_said(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("psycopg") or name == "empathy_kv.sql.postgres"]:
        monkeypatch.delitem(sys.modules, name)
    if lacking == "psycopg":
        monkeypatch.setitem(sys.modules, "psycopg", None)
    else:
        monkeypatch.setenv("PSYCOPG_IMPL", "no such implementation")
    for act in (
        lambda: empathy_kv.connect(f"postgresql://ann:{SECRET}@127.0.0.1/db"),
        lambda: asyncio.run(empathy_kv.connect_async(f"postgresql://ann:{SECRET}@127.0.0.1/db")),
        lambda: PatternPersistence.load_from_postgres(f"postgresql://ann:{SECRET}@127.0.0.1/db"),
    ):
        with pytest.raises(
            ArgumentError, match=r"pip install 'psycopg\[binary\]' brings it, as the extra postgres does"
        ) as caught:
            act()
        assert "s3cr3t" not in str(caught.value)


def test_a_server_that_is_away_is_an_error_in_time() -> None:
    with empathy_kv.connect("postgresql://127.0.0.1:1/db", timeout=0.2) as store, pytest.raises(UnavailableError):
        store.metrics.get_all_users()


@pytest.mark.parametrize(
    "url", ["sqlite:", "sqlite://", "sqlite:///", "sqlite://host/x.db", "sqlite:///:memory:", "postgresql://h:x/"]
)
def test_a_url_that_names_no_database_is_refused(url: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        empathy_kv.connect(url)
    assert caught.value.argument == "target"


def test_a_database_has_no_prefix_and_no_replicas(url: str) -> None:
    with pytest.raises(ArgumentError, match="prefix"):
        empathy_kv.connect(url, prefix="other")
    with pytest.raises(ArgumentError, match="replicas"):
        empathy_kv.connect(url, replicas=1)
