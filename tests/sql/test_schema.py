"""The tables: on PostgreSQL the documented ones too, and those of older versions brought up to date."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from pathlib import Path

import psycopg
import pytest
from servers import PostgresServer

import empathy_kv
from empathy_kv.metrics import MetricsCollector
from empathy_kv.persistence import PatternPersistence
from empathy_kv.records import Pattern
from empathy_kv.sql.postgres import Postgres
from empathy_kv.sql.schema import METRICS, PARTS, PATTERNS, USER_VERSION, VERSION

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


FIRST = f"""PRAGMA user_version = {USER_VERSION - VERSION + 1};
{PATTERNS.tables["patterns"]};
{PATTERNS.tables["pattern_usage"]};
CREATE TABLE pattern_contributions (
    position INTEGER PRIMARY KEY,
    pattern_id TEXT NOT NULL UNIQUE,
    agent_id TEXT NOT NULL,
    extra TEXT,  -- JSON object
    FOREIGN KEY (pattern_id) REFERENCES patterns(id) ON DELETE CASCADE
);
{PATTERNS.tables["pattern_links"]};
{METRICS.tables["interactions"]};
{METRICS.tables["interaction_ids"]};
{METRICS.tables["interaction_imports"]};
INSERT INTO patterns (id, agent_id, pattern_type, name) VALUES ('b', 'x', 't', 'n'), ('a', 'x', 't', 'n');
INSERT INTO pattern_contributions VALUES (1, 'a', 'ann', NULL), (2, 'b', 'bob', '{{"more": 1}}');
INSERT INTO pattern_links VALUES ('a', 'b');
INSERT INTO interactions (user_id, empathy_level, success, response_time_ms) VALUES ('ann', 3, 1, 2.5);
INSERT INTO interaction_ids VALUES (1, 'ann', 'x', 3, 1, 2.5);"""
"""What version 1 left."""


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
