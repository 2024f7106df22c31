"""`empathy-kv store migrate`."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from calling import Command
from servers import PostgresServer, RedisServer

from empathy_kv import (
    CollaborationState,
    MetricsCollector,
    Pattern,
    PatternLibrary,
    PatternPersistence,
    Store,
    connect,
)
from empathy_kv.snapshot import content, dump


@pytest.fixture
def filled(store: Store, command: Command) -> Store:
    assert command("demo").status == 0
    store.patterns.record_pattern_outcome("retry", True)
    store.metrics.record_interaction("ada", 3, True, 12.5, interaction_id="request-1")
    return store


def state(url: str) -> object:
    with connect(url, durability="os") as opened:
        return content(dump(opened))


MOVED = "moved 2 patterns, 3 states, 211 interactions of 3 users; both sides are equal\n"


def test_a_chain_through_all_kinds_of_stores_ends_as_it_began(
    command: Command, filled: Store, tmp_path: Path, redis_server: RedisServer, postgres_server: PostgresServer
) -> None:
    redis_server.flush()
    stops = [
        f"file:{tmp_path}/store",
        redis_server.url,
        postgres_server.schema(),
        f"sqlite:///{tmp_path}/store.db",
        f"file:{tmp_path}/last",
    ]
    for source, target in itertools.pairwise(stops):
        done = command("store", "migrate", source, target)
        assert (done.status, done.out, done.err) == (0, "", MOVED)
        assert state(target) == state(stops[0])
    with connect(stops[-1]) as last:
        assert last.metrics.get_global_stats() == filled.metrics.get_global_stats()
        assert last.patterns.patterns == filled.patterns.patterns
        assert last.patterns.get_links() == filled.patterns.get_links()
        assert last.metrics.record_interaction("ada", 3, True, 12.5, interaction_id="request-1") is False


def test_a_dry_run_and_a_second_run_change_nothing(command: Command, filled: Store, tmp_path: Path) -> None:
    arguments = ("store", "migrate", f"file:{tmp_path}/store", "sqlite:///other.db")
    assert command(*arguments, "--dry-run").err == "would move 2 patterns, 3 states, 211 interactions of 3 users\n"
    assert not (tmp_path / "other.db").exists()
    assert json.loads(command(*arguments, "--dry-run", "--json").out)["moved"] is False
    found = json.loads(command(*arguments, "--json").out)
    assert (found["patterns"], found["interactions"], found["moved"]) == (2, 211, True)
    done = command(*arguments, "--json")
    assert done.err == "nothing to do: both sides hold 2 patterns, 3 states, 211 interactions of 3 users\n"
    assert json.loads(done.out) == {**found, "moved": False}


def test_what_is_there_is_replaced_after_a_question(command: Command, filled: Store, tmp_path: Path) -> None:
    arguments = ("store", "migrate", f"file:{tmp_path}/store", "file:other")
    with connect("file:other") as other:
        other.states.save_state("linus", CollaborationState())
    before = state("file:other")
    question = f"Replace 0 patterns, 1 state, 0 interactions of 0 users in file:{tmp_path}/other?"
    assert question in command(*arguments).err
    assert command(*arguments).status == 2
    assert "in the place of 0 patterns, 1 state" in command(*arguments, "--dry-run").err
    assert command(*arguments, answer="n\n").status == 1
    assert state("file:other") == before
    assert command(*arguments, answer="y\n").status == 0
    assert state("file:other") == state(f"file:{tmp_path}/store")


@pytest.mark.parametrize(
    ("source", "target", "status"),
    [
        ("memory:", "file:x", 2),
        ("file:store", "memory:", 2),
        ("file:store", "file:store", 2),
        ("file:store", "nowhere", 2),
        ("file:store", "redis://user:secret@127.0.0.1:1/0", 1),
        ("file:nothing", "file:x", 1),
        ("sqlite:///nothing.db", "file:x", 1),
        ("nothing", "file:x", 1),
        ("text.db", "file:x", 1),
        ("empty.db", "file:x", 1),
        ("cut", "file:x", 1),
    ],
)
def test_what_cannot_be_moved_is_one_line(
    source: str, target: str, status: int, command: Command, filled: Store, tmp_path: Path
) -> None:
    (tmp_path / "text.db").write_text("this is no database, but long enough to be taken for one" * 100)
    (tmp_path / "empty.db").touch()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "ada.json").write_text('{"user_id": "ada", "trust')
    done = command("store", "migrate", source, target, "--yes")
    assert (done.status, done.out) == (status, ""), done.err
    assert done.err.startswith("empathy-kv: ")
    assert done.err.count("\n") == 1
    assert "secret" not in done.err
    assert "is a store" not in done.err
    assert not (tmp_path / "x").exists()


OLDER_STATE = {
    "user_id": "ada",
    "trust_level": 0.7,
    "total_interactions": 12,
    "successful_interventions": 9,
    "failed_interventions": 3,
    "session_start": "2025-01-15T10:30:00",
    "trust_trajectory": [0.5, 0.6, 0.7],
    "shared_context": {"project": "x"},
}


def older_metrics(path: Path) -> None:
    """Make a database as empathy-framework 3.9.3 does."""
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TABLE metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL, "
            "empathy_level INTEGER NOT NULL, success BOOLEAN NOT NULL, response_time_ms REAL NOT NULL, "
            "timestamp TEXT NOT NULL, metadata TEXT)"
        )
        database.executemany(
            "INSERT INTO metrics (user_id, empathy_level, success, response_time_ms, timestamp, metadata) "
            "VALUES ('ada', ?, ?, ?, ?, '{}')",
            [(3, 1, 10.5, "2025-01-15T10:30:00.123456"), (4, 0, 20.0, "2025-01-15T10:31:00")],
        )
    database.close()


def test_a_directory_of_states_of_empathy_framework_is_moved(command: Command, store: Store, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "ada.json").write_text(json.dumps(OLDER_STATE))
    done = command("store", "migrate", "old", "file:new")
    assert done.err == "moved 0 patterns, 1 state, 0 interactions of 0 users; both sides are equal\n"
    with connect("file:new") as new:
        found = new.states.load_state("ada")
        assert (found.interaction_count, found.success_count, found.current_level) == (12, 9, 3)
        assert found.extra["shared_context"] == {"project": "x"}


def test_a_database_of_empathy_framework_is_moved_and_stays_as_it_is(
    command: Command, store: Store, tmp_path: Path
) -> None:
    older_metrics(tmp_path / "metrics.db")
    before = (tmp_path / "metrics.db").read_bytes()
    for source in ("metrics.db", f"sqlite:///{tmp_path}/metrics.db"):
        done = command("store", "migrate", source, "file:new")
        assert done.status == 0, done.err
    with connect("file:new") as new:
        assert new.metrics.get_user_stats("ada")["avg_response_time_ms"] == 15.25
        assert [each.level for each in new.metrics.get_history("ada")] == [3, 4]
        assert new.metrics.get_history("ada")[0].at.microsecond == 123456
    assert (tmp_path / "metrics.db").read_bytes() == before


def test_all_that_empathy_framework_keeps_in_its_directory_is_moved(
    command: Command, store: Store, tmp_path: Path
) -> None:
    old = tmp_path / ".empathy"
    (old / "state").mkdir(parents=True)
    (old / "state" / "ada.json").write_text(json.dumps(OLDER_STATE))
    older_metrics(old / "metrics.db")
    library = PatternLibrary()
    library.contribute_pattern("agent", Pattern("p", "agent", "t", "n"))
    PatternPersistence.save_to_sqlite(library, old / "patterns.db")
    MetricsCollector(db_path=old / "unrelated.db").record_interaction("eve", 3, True, 1.0)
    done = command("store", "migrate", ".empathy", "sqlite:///new.db")
    assert done.err == "moved 1 pattern, 1 state, 2 interactions of 1 user; both sides are equal\n"


def test_a_migration_into_a_database_that_is_killed_leaves_nothing_and_can_be_run_again(
    command: Command, filled: Store, tmp_path: Path
) -> None:
    """It is killed when half of it was written."""
    code = (
        "import os, signal, sys\n"
        "import empathy_kv.sql.snapshot as snapshot\n"
        "record = snapshot._Filling._record\n"
        "def killed(self, page):\n"
        "    yield from record(self, page)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "snapshot._Filling._record = killed\n"
        "from empathy_kv.cli import main; main()\n"
    )
    arguments = ["store", "migrate", f"file:{tmp_path}/store", f"sqlite:///{tmp_path}/new.db"]
    filled.checkpoint()
    killed = subprocess.run([sys.executable, "-c", code, *arguments], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    with connect(arguments[-1]) as new:
        assert new.metrics.get_all_users() == []
        assert new.patterns.patterns == {}
    assert command(*arguments).err == MOVED
    assert state(arguments[-1]) == state(arguments[-2])


def test_a_store_that_is_named_as_a_directory_is_told_by_its_url(command: Command, filled: Store) -> None:
    filled.checkpoint()
    done = command("store", "migrate", "store", "sqlite:///new.db")
    assert (done.status, done.err) == (1, "empathy-kv: store is a store: name it as file:store\n")
    (Path("store") / "state").mkdir()
    (Path("store") / "state" / "ada.json").write_text(json.dumps(OLDER_STATE))
    done = command("store", "migrate", "store", "sqlite:///new.db")  # It has what empathy-framework kept, too.
    assert done.err == "moved 0 patterns, 1 state, 0 interactions of 0 users; both sides are equal\n"


@pytest.mark.parametrize("name", ["lib.json", "lib.json.gz", "states.jsonl"])
def test_a_file_that_is_imported_is_no_store_to_be_moved(
    name: str, command: Command, filled: Store, tmp_path: Path
) -> None:
    assert command("states" if name == "states.jsonl" else "patterns", "export", name).status == 0
    done = command("store", "migrate", name, "sqlite:///new.db")
    assert (done.status, done.err) == (
        1,
        f"empathy-kv: {name} is no store: a library is imported by `empathy-kv patterns import`, states by "
        "`empathy-kv states import`\n",
    )
    assert not (tmp_path / "new.db").exists()
