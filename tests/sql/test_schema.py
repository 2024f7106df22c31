"""The tables: on PostgreSQL the documented ones too, and those of older versions brought up to date."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from older import FIRST, OLDER
from servers import PostgresServer

import empathy_kv
from empathy_kv.metrics import MetricsCollector
from empathy_kv.persistence import PatternPersistence
from empathy_kv.records import Pattern
from empathy_kv.sql.postgres import Postgres
from empathy_kv.sql.schema import PARTS, USER_VERSION, VERSION

REFERENCE = (Path(__file__).parents[1] / "reference" / "persistence.md").read_text()

TYPES = {
    "TEXT": "text",
    "REAL": "double precision",
    "INTEGER": "bigint",
    "BOOLEAN": "boolean",
    "TIMESTAMP": "timestamp with time zone",
}
"""What the types of the page are on PostgreSQL, whose REAL and INTEGER have half as many bits as SQLite's."""


def documented() -> dict[str, list[tuple[str, str, bool, str | None]]]:
    """Return the columns of each table of the page: name, type, whether it may be NULL, default."""
    tables = {}
    for table, body in re.findall(r"^CREATE TABLE (\w+) \(\n(.*?)^\);", REFERENCE, re.DOTALL | re.MULTILINE):
        columns = []
        for line in body.splitlines():
            found = re.match(r" +([a-z_]+) ([A-Z]+)([^,-]*)", line)
            if found is not None:
                name, kind, rest = found.groups()
                default = re.search(r"DEFAULT (\S+)", rest)
                columns.append(
                    (name, TYPES[kind], "NOT NULL" not in rest and "PRIMARY" not in rest, default and default[1])
                )
        tables[table] = columns
    return tables


def test_the_tables_of_postgresql_are_the_documented_ones(postgres_server: PostgresServer) -> None:
    assert set(documented()) == {"patterns", "pattern_usage", "interactions"}
    url = postgres_server.schema()
    with empathy_kv.connect(url) as store:
        store.metrics.record_interaction("ann", 1, True, 1.0)
        store.patterns.contribute_pattern("agent", Pattern("p", "agent", "t", "n"))
    with psycopg.connect(url) as hand:
        for table, columns in documented().items():
            found = hand.execute(
                """SELECT column_name, data_type, is_nullable = 'YES', column_default FROM information_schema.columns
                WHERE table_schema = current_schema() AND table_name = %s ORDER BY ordinal_position""",
                (table,),
            ).fetchall()
            assert found == columns
        indexes = hand.execute(
            """SELECT indexname, regexp_replace(indexdef, '^.* USING btree ', '') FROM pg_indexes
            WHERE schemaname = current_schema() AND indexname LIKE 'idx\\_%%' AND tablename = ANY(%s)""",
            (list(documented()),),
        ).fetchall()
        (reference,) = hand.execute(
            "SELECT count(*) FROM pg_constraint WHERE conrelid = 'pattern_usage'::regclass AND contype = 'f'"
        )
        assert reference == (1,)
        # What the database gives by itself: the numbers of rows, and the time.
        hand.execute("INSERT INTO interactions (user_id, empathy_level, success) VALUES ('bob', 2, FALSE)")
        recent = "SELECT id > 0, timestamp > now() - interval '1 hour' FROM interactions WHERE user_id = 'bob'"
        (row,) = hand.execute(recent)
        assert row == (True, True)
    wanted = {
        (name, f"({re.sub(' ', '', columns)})".replace("(timestamp)", '("timestamp")'))
        for name, columns in re.findall(r"^CREATE INDEX (\w+) ON \w+\((.*)\);", REFERENCE, re.MULTILINE)
    }
    assert {(name, re.sub(r"[()]", "", columns)) for name, columns in indexes} == {
        (name, re.sub(r"[()]", "", columns)) for name, columns in wanted
    }


def test_every_table_of_ours_is_described_once() -> None:
    names = [name for part in PARTS for name in part.all_tables]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("first", ["read", "save", "record", "contribute"])
def test_a_database_of_version_1_is_brought_up_to_date(tmp_path: Path, first: str, own: bool) -> None:
    path = tmp_path / "old.db"
    with contextlib.closing(sqlite3.connect(path)) as hand:
        # A user who counts versions in the file keeps his number.
        hand.executescript(
            FIRST if own else FIRST.replace(f"user_version = {USER_VERSION - VERSION + 1}", "user_version = 7")
        )
    before = path.read_bytes()
    library = PatternPersistence.load_from_sqlite(path)
    assert library.agent_contributions == {"ann": ["a"], "bob": ["b"]}
    assert library.patterns["b"].extra == {"more": 1}
    assert library.get_links() == [("a", "b")]
    assert path.read_bytes() == before
    metrics = MetricsCollector(db_path=path)
    if first == "save":
        PatternPersistence.save_to_sqlite(library, path)
    if first == "contribute":
        with empathy_kv.connect(f"sqlite:///{path}") as store:
            assert store.patterns.remove_pattern("nobody") is False
    if first == "record":
        assert metrics.record_interaction("ann", 3, True, 2.5, interaction_id="x") is False
    with empathy_kv.connect(f"sqlite:///{path}") as store:
        assert store.patterns.agent_contributions == library.agent_contributions
        assert list(store.patterns.patterns.values()) == list(library.patterns.values())
        store.patterns.contribute_pattern("cleo", Pattern("c", "cleo", "t", "n"))
        assert store.patterns.agent_contributions == {"ann": ["a"], "bob": ["b"], "cleo": ["c"]}
        assert store.metrics.record_interaction("ann", 3, True, 2.5, interaction_id="x") is False
        assert store.metrics.get_global_stats()["total_interactions"] == 1
    with contextlib.closing(sqlite3.connect(path)) as hand:
        assert hand.execute("PRAGMA user_version").fetchone() == (USER_VERSION if own else 7,)
        assert hand.execute("PRAGMA foreign_key_check").fetchall() == []
        left = "SELECT count(*) FROM sqlite_master WHERE name = 'pattern_contributions_1'"
        assert hand.execute(left).fetchone() == (0,)


KILLED = """
import os, signal, shutil, sqlite3, sys
from pathlib import Path
import empathy_kv
from empathy_kv.records import Pattern

old, act, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
left = 0

def counted(execute):
    def call(*arguments):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(*arguments)
    return call

class Cursor(sqlite3.Cursor):
    execute = counted(sqlite3.Cursor.execute)
    executemany = counted(sqlite3.Cursor.executemany)

class Connection(sqlite3.Connection):
    execute = counted(sqlite3.Connection.execute)
    def cursor(self):
        return super().cursor(Cursor)

connect = sqlite3.connect
sqlite3.connect = lambda *arguments, **options: connect(*arguments, **options, factory=Connection)
number, status = 1 - step, 1
while status:
    number += step
    path = old.with_name(f"{number}.db")
    shutil.copy(old, path)
    child = os.fork()
    if not child:
        left = number
        with empathy_kv.connect(f"sqlite:///{path}") as store:
            if act == "contribute":
                store.patterns.contribute_pattern("cleo", Pattern("c", "cleo", "t", "n"))
            else:
                store.metrics.record_interaction("cleo", 1, True, 1.0)
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
print(number)
"""


def content(path: Path) -> list[str]:
    """Return all that a database holds, as SQL."""
    with contextlib.closing(sqlite3.connect(path)) as hand:
        return [f"{hand.execute('PRAGMA user_version').fetchone()}", *hand.iterdump()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(("old", "act"), [(FIRST, "contribute"), (OLDER, "record")])
def test_a_database_is_brought_up_to_date_wholly_or_not_at_all(tmp_path: Path, old: str, act: str) -> None:
    """Killed before each of its statements in turn (every twelfth, but for the nightly run)."""
    step = 1 if settings.default.max_examples > 1000 else 12
    path = tmp_path / "old.db"
    with contextlib.closing(sqlite3.connect(path)) as hand:
        hand.executescript(old)
    before = content(path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", KILLED, path, act, str(step)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    last = int(done.stdout)
    assert last > 40
    killed = range(1, last, step)
    for number in killed:
        assert content(tmp_path / f"{number}.db") == before, number
    assert content(tmp_path / f"{last}.db") != before
    for number in (*killed[-3:], last):
        with empathy_kv.connect(f"sqlite:///{tmp_path / f'{number}.db'}") as store:
            if act == "contribute":
                assert list(store.patterns.patterns) == ["a", "b", "c"][: 2 + (number == last)]
            else:
                total = {FIRST: 1, OLDER: 3}[old] + (number == last)
                assert store.metrics.get_global_stats()["total_interactions"] == total


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_a_fork_has_connections_of_its_own(postgres_server: PostgresServer) -> None:
    url = postgres_server.schema()
    database = Postgres(url, timeout=20.0)
    metrics = MetricsCollector(kv=database)
    metrics.record_interaction("parent", 3, True, 1.0)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            metrics.record_interaction("child", 3, True, 1.0)
            database.close()
            code = 0
        finally:
            os._exit(code)
    metrics.record_interaction("parent", 3, True, 1.0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    metrics.record_interaction("parent", 3, True, 1.0)
    assert metrics.get_global_stats()["total_interactions"] == 4
    database.close()
