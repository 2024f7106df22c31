"""`MetricsCollector(db_path=...)`: the documented table, shared with others, and not always in their best state."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import os
import pickle
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from older import OLDER

import empathy_kv
from empathy_kv.errors import (
    ArgumentError,
    ClosedError,
    CodecError,
    DamagedError,
    EmpathyKVError,
    IdempotencyError,
    LockTimeoutError,
    OutcomeUnknown,
    StorageError,
    StoragePermissionError,
)
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.metrics import MetricRules, MetricsCollector
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.persistence import PatternPersistence
from empathy_kv.records import CollaborationState, Interaction, Pattern
from empathy_kv.sql.database import Transaction
from empathy_kv.sql.metrics import SQLMetrics
from empathy_kv.sql.schema import METRICS, PATTERNS
from empathy_kv.sql.schema import USER_VERSION as VERSION
from empathy_kv.sql.sqlite import SQLite
from empathy_kv.testing.hostile import HOSTILE, storable
from empathy_kv.testing.records import interactions


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.db"


def sql(path: Path, statements: str) -> list[tuple[Any, ...]]:
    """Be another program: run statements, the last of which may be a question."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        *script, last = [part for part in statements.split(";") if part.strip()]
        for statement in script:
            connection.execute(statement)
        return connection.execute(last).fetchall()


def script(path: Path, statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(statements)


def collector(database: SQLite) -> MetricsCollector:
    """Return a collector on a database that the test can get at."""
    made = MetricsCollector(kv=MemoryKV())
    made._rules, made._run = MetricRules(SQLMetrics()), database.run  # type: ignore[assignment]
    return made


# What is recorded, and what is said of it


def test_connections_are_set_up_to_be_careful(path: Path) -> None:
    database = SQLite(path)
    collector(database).record_interaction("ann", 3, True, 1.0)
    wanted = {"trusted_schema": 0, "foreign_keys": 0, "synchronous": 3, "cell_size_check": 1, "journal_mode": "wal"}
    for pragma, value in wanted.items():
        assert database._idle[0]._raw.execute(f"PRAGMA {pragma}").fetchone() == (value,)


def test_reading_where_there_is_no_database_finds_nothing_and_creates_nothing(tmp_path: Path) -> None:
    metrics = MetricsCollector(db_path=tmp_path / ".empathy" / "metrics.db")
    assert metrics.get_all_users() == []
    assert metrics.get_history("ann") == []
    assert metrics.get_user_stats("ann")["total_operations"] == 0
    assert metrics.get_global_stats()["total_users"] == 0
    assert list(tmp_path.iterdir()) == []


def test_reading_an_empty_file_or_one_with_other_tables_finds_nothing_and_changes_nothing(path: Path) -> None:
    path.touch()
    assert MetricsCollector(db_path=path).get_all_users() == []
    assert path.read_bytes() == b""
    script(path, "CREATE TABLE books (title TEXT)")
    before = path.read_bytes()
    assert MetricsCollector(db_path=path).get_all_users() == []
    assert path.read_bytes() == before


def test_directory_and_file_are_made_for_their_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    metrics = MetricsCollector(db_path=".empathy/metrics.db")
    monkeypatch.chdir("/")  # A relative path is that of the moment in which it was given.
    metrics.record_interaction("ann", 3, True, 145.3)
    assert stat.S_IMODE((tmp_path / ".empathy").stat().st_mode) == 0o700
    for file in (tmp_path / ".empathy").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_database_is_made_where_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "far" / "metrics.db")
    MetricsCollector(db_path=tmp_path / "link.db").record_interaction("ann", 3, True, 1.0)
    assert MetricsCollector(db_path=tmp_path / "far" / "metrics.db").get_all_users() == ["ann"]


@pytest.mark.parametrize("name", ["a?mode=ro.db", "a#b.db", "100%41.db", "file:x.db", "ü 日本.db", "a&b'\".db"])
def test_a_path_is_taken_as_it_stands(tmp_path: Path, name: str) -> None:
    MetricsCollector(db_path=tmp_path / name).record_interaction("ann", 3, True, 1.0)
    assert MetricsCollector(db_path=str(tmp_path / name)).get_all_users() == ["ann"]
    assert [file.name for file in tmp_path.iterdir() if not file.name.endswith(("-wal", "-shm"))] == [name]


def test_an_interaction_is_a_row_of_the_documented_table(path: Path) -> None:
    at = datetime(2025, 1, 20, 15, 0, 0, 5, tzinfo=UTC)
    metrics = MetricsCollector(db_path=path)
    metrics.record_interaction("ann", 3, True, 145.3, at=at)
    metrics.record_interaction("ann", 4, False, 20, at=datetime(2025, 1, 20, 15))  # noqa: DTZ001 - is in UTC
    assert sql(path, "SELECT * FROM interactions ORDER BY timestamp") == [
        (2, "ann", 4, 0, 20.0, "2025-01-20 15:00:00.000000"),
        (1, "ann", 3, 1, 145.3, "2025-01-20 15:00:00.000005"),
    ]


@given(st.lists(interactions(st.sampled_from(["ann", "bob", "a\0", "a\0b", "A"]), st.sampled_from("xy")), max_size=12))
def test_the_figures_are_those_of_a_store(calls: list[Interaction]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        here, there = MetricsCollector(kv=MemoryKV()), MetricsCollector(db_path=Path(directory) / "metrics.db")

        def record(metrics: MetricsCollector, call: Interaction) -> bool | str:
            try:
                return metrics.record_interaction(
                    call.user_id, call.level, call.success, call.response_time_ms, at=call.at, interaction_id=call.id
                )
            except IdempotencyError as error:
                return error.id

        for call in calls:
            assert record(there, call) == record(here, call)
        assert there.get_all_users() == here.get_all_users()
        assert there.get_global_stats() == here.get_global_stats()
        assert there._run(SQLMetrics().everyone()) == here._run(here._rules._metrics.everyone())
        for user in (*there.get_all_users(), "nobody"):
            assert there.get_user_stats(user) == here.get_user_stats(user)
            assert there._run(SQLMetrics().user(user)) == here._run(here._rules._metrics.user(user))
            assert there.get_history(user) == here.get_history(user)


def test_every_hostile_user_id_is_a_user_of_its_own(path: Path) -> None:
    metrics = MetricsCollector(db_path=path)
    users = [text for text in HOSTILE if storable(text, 512)]
    for number, user in enumerate(users):
        metrics.record_interaction(user, 1, True, float(number), interaction_id=user)
    assert metrics.get_all_users() == sorted(users)
    for number, user in enumerate(users):
        stats = metrics.get_user_stats(user)
        assert (stats["total_operations"], stats["avg_response_time_ms"]) == (1, float(number))
        assert [(one.user_id, one.id) for one in metrics.get_history(user)] == [(user, user)]


def test_many_rows_are_summed_up_page_by_page(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("empathy_kv.sql.metrics._PAGE", 3)
    metrics = MetricsCollector(db_path=path)
    for number in range(10):
        metrics.record_interaction("ann" if number % 2 else "bob", 1, True, 1.0)
    assert metrics.get_global_stats()["total_interactions"] == 10
    assert metrics.get_user_stats("ann")["total_operations"] == 5
    assert len(metrics.get_history("bob")) == 5


# Rows of others


def test_rows_that_a_user_inserts_are_counted(path: Path) -> None:
    metrics = MetricsCollector(db_path=path)
    metrics.record_interaction("ann", 3, True, 10.0, at=datetime(2025, 1, 20, 12, tzinfo=UTC))
    script(
        path,
        """INSERT INTO interactions (user_id, empathy_level, success) VALUES ('ann', 4, TRUE);
        INSERT INTO interactions (user_id, empathy_level, success, response_time_ms, timestamp) VALUES
            ('ann', 1, 0, 30, '2025-01-20T10:00:00'), ('ann', 2, 1, NULL, '2025-01-20T11:00:00Z'),
            ('ann', 5, 1, 20.5, '2025-01-20 10:30:00.5+01:00');""",
    )
    stats = metrics.get_user_stats("ann")
    assert stats["total_operations"] == 5
    assert stats["success_rate"] == 0.8
    assert stats["current_level"] == 4
    assert stats["first_interaction"] == datetime(2025, 1, 20, 9, 30, 0, 500_000, tzinfo=UTC)
    assert stats["last_interaction"] is not None
    assert abs(stats["last_interaction"] - datetime.now(UTC)) < timedelta(minutes=5)
    assert stats["daily_counts"]["2025-01-20"] == 4
    # Of the three that are known.
    assert stats["p50_response_time_ms"] == pytest.approx(20.5, rel=0.04)
    assert (
        stats["avg_response_time_ms"] == metrics.get_global_stats()["avg_response_time_ms"] == pytest.approx(60.5 / 3)
    )
    assert [one.level for one in metrics.get_history("ann")] == [5, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ("'ann', 'high', 1, 1.0, '2025-01-20'", "empathy_level"),
        ("'ann', 3, 'yes', 1.0, '2025-01-20'", "success"),
        ("'ann', 3, 1, 'slow', '2025-01-20'", "response_time_ms"),
        ("'ann', 3, 1, 9e999, '2025-01-20'", "response_time_ms"),
        ("'ann', 3, 1, 1.0, 'yesterday'", "timestamp"),
        ("'ann', 3, 1, 1.0, 1737331200", "timestamp"),
        ("'ann', 3, 1, 1.0, NULL", "timestamp"),
        ("'ann', 3, 1, 1.0, '0001-01-01T00:00:00+01:00'", "timestamp"),
    ],
)
def test_a_row_that_is_no_interaction_is_named(path: Path, row: str, place: str) -> None:
    metrics = MetricsCollector(db_path=path)
    metrics.record_interaction("ann", 3, True, 10.0)
    script(
        path,
        f"INSERT INTO interactions (user_id, empathy_level, success, response_time_ms, timestamp) VALUES ({row})",
    )
    for ask in (metrics.get_global_stats, lambda: metrics.get_user_stats("ann"), lambda: metrics.get_history("ann")):
        with pytest.raises(CodecError) as caught:
            ask()
        assert caught.value.path == f"$.interactions[2].{place}"


@pytest.mark.parametrize(("user", "error"), [("x'ff'", CodecError), ("CAST(x'ff' AS TEXT)", DamagedError)])
def test_a_user_id_that_is_no_text_is_an_error(path: Path, user: str, error: type[Exception]) -> None:
    metrics = MetricsCollector(db_path=path)
    metrics.record_interaction("ann", 3, True, 10.0)
    script(path, f"INSERT INTO interactions (user_id, empathy_level, success) VALUES ({user}, 1, 1)")
    with pytest.raises(error):
        metrics.get_all_users()


# Ids that callers give


def test_an_id_makes_recording_again_do_nothing(path: Path) -> None:
    for expected in (True, False):  # By another program, the second time.
        metrics = MetricsCollector(db_path=path)
        assert metrics.record_interaction("ann", 3, True, 1.5, interaction_id="x") is expected
        assert metrics.record_interaction("ann", 3, True, 1.5, interaction_id="x") is False
    assert metrics.record_interaction("bob", 3, True, 1.5, interaction_id="x") is True
    assert metrics.record_interaction("ann", 3, True, 1.5) is True
    assert [one.id for one in metrics.get_history("ann")] == ["x", None]


@pytest.mark.parametrize("other", [(4, True, 1.5), (3, False, 1.5), (3, True, 1.25)])
def test_an_id_for_another_interaction_is_an_error(path: Path, other: tuple[int, bool, float]) -> None:
    metrics = MetricsCollector(db_path=path)
    metrics.record_interaction("ann", 3, True, 1.5, interaction_id="x")
    with pytest.raises(IdempotencyError, match="'x'"):
        metrics.record_interaction("ann", *other, interaction_id="x")
    assert metrics.get_global_stats()["total_interactions"] == 1


def test_an_id_for_another_time_is_an_error(path: Path) -> None:
    at = datetime(2025, 1, 20, 15, 0, 0, 5, tzinfo=UTC)
    metrics = MetricsCollector(db_path=path)
    assert metrics.record_interaction("ann", 3, True, 1.5, at=at, interaction_id="x") is True
    for same in (at, None, at.replace(tzinfo=None)):
        assert metrics.record_interaction("ann", 3, True, 1.5, at=same, interaction_id="x") is False
    for other in (at + timedelta(microseconds=1), at - timedelta(days=1)):
        with pytest.raises(IdempotencyError, match="'x'"):
            metrics.record_interaction("ann", 3, True, 1.5, at=other, interaction_id="x")
    script(path, "UPDATE interactions SET timestamp = '2025-01-20T16:00:00.000005+01:00'")  # The same, said otherwise.
    assert metrics.record_interaction("ann", 3, True, 1.5, at=at, interaction_id="x") is False
    script(path, "DELETE FROM interactions")
    assert metrics.record_interaction("ann", 3, True, 1.5, at=at, interaction_id="x") is False
    with pytest.raises(IdempotencyError):
        metrics.record_interaction("ann", 4, True, 1.5, at=at, interaction_id="x")


def test_an_id_is_remembered_although_the_user_deletes_the_row(path: Path) -> None:
    metrics = MetricsCollector(db_path=path)
    metrics.record_interaction("ann", 3, True, 1.5, interaction_id="x")
    script(path, "DELETE FROM interactions")
    assert metrics.record_interaction("ann", 3, True, 1.5, interaction_id="x") is False
    metrics.record_interaction("ann", 3, True, 2.5)
    assert [one.id for one in metrics.get_history("ann")] == [None]


# The table of empathy-framework


def test_the_rows_of_an_older_database_are_counted_and_reading_changes_nothing(path: Path) -> None:
    script(path, OLDER)
    before = path.read_bytes()
    metrics = MetricsCollector(db_path=path)
    stats = metrics.get_user_stats("ann")
    assert (stats["total_operations"], stats["current_level"], stats["success_rate"]) == (2, 4, 0.5)
    assert stats["avg_response_time_ms"] == 175.25
    assert metrics.get_global_stats()["total_interactions"] == 3
    assert metrics.get_all_users() == ["ann", "bob"]
    assert [one.level for one in metrics.get_history("ann")] == [2, 4]
    assert path.read_bytes() == before


def test_the_first_record_copies_the_older_rows_and_leaves_their_table(path: Path) -> None:
    script(path, OLDER)
    older = sql(path, "SELECT * FROM metrics")
    for total in (4, 5):
        metrics = MetricsCollector(db_path=path)
        metrics.record_interaction("ann", 5, True, 10.0)
        assert metrics.get_global_stats()["total_interactions"] == total
    assert sql(path, "SELECT * FROM metrics") == older
    assert sql(path, "SELECT count(*) FROM interactions") == [(5,)]


def test_what_the_older_program_goes_on_to_write_is_counted_once(path: Path) -> None:
    script(path, OLDER)
    metrics = MetricsCollector(db_path=path)
    metrics.record_interaction("ann", 5, True, 10.0)
    for total in (5, 6):
        script(path, "INSERT INTO metrics (user_id, empathy_level, success) VALUES ('bob', 1, 1)")
        assert metrics.get_global_stats()["total_interactions"] == total
        assert metrics.get_global_stats()["total_interactions"] == total
        assert MetricsCollector(db_path=path).get_global_stats()["total_interactions"] == total


def test_older_rows_are_not_counted_where_somebody_has_filled_the_new_table(path: Path) -> None:
    script(path, OLDER + METRICS.tables["interactions"])
    script(
        path,
        """INSERT INTO interactions (user_id, empathy_level, success, response_time_ms, timestamp)
        SELECT user_id, empathy_level, success, response_time_ms, timestamp FROM metrics""",
    )
    metrics = MetricsCollector(db_path=path)
    assert metrics.get_global_stats()["total_interactions"] == 3
    script(path, "INSERT INTO metrics (user_id, empathy_level, success) VALUES ('bob', 1, 1)")
    assert metrics.get_global_stats()["total_interactions"] == 4


def test_another_table_with_the_name_metrics_is_left_alone(path: Path) -> None:
    script(path, "CREATE TABLE metrics (id INTEGER, value REAL); INSERT INTO metrics VALUES (1, 2.0)")
    metrics = MetricsCollector(db_path=path)
    metrics.record_interaction("ann", 5, True, 10.0)
    assert metrics.get_global_stats()["total_interactions"] == 1
    assert sql(path, "SELECT * FROM metrics") == [(1, 2.0)]


# Many at once

RECORD = """
import sys
from empathy_kv.metrics import MetricsCollector
metrics = MetricsCollector(db_path=sys.argv[1])
for number in range(250):
    metrics.record_interaction(f"user {number % 5}", 3, True, 1.0, interaction_id=f"{sys.argv[2]}-{number}")
"""


def test_processes_lose_nothing_to_each_other(path: Path) -> None:
    script(path, OLDER)  # To be copied once, whoever comes first.
    workers = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", RECORD, path, str(number)], stderr=subprocess.PIPE)
        for number in range(4)
    ]
    for worker in workers:
        _, complaint = worker.communicate(timeout=120)
        assert (worker.returncode, complaint) == (0, b"")
    stats = MetricsCollector(db_path=path).get_global_stats()
    assert (stats["total_interactions"], stats["total_users"]) == (1003, 7)


def test_threads_lose_nothing_to_each_other(path: Path) -> None:
    metrics = MetricsCollector(db_path=path)
    seen: list[int] = []

    def work(name: int) -> None:
        for number in range(25):
            metrics.record_interaction(f"user {name}", 3, True, 1.0, interaction_id=str(number))
            seen.append(metrics.get_user_stats(f"user {name}")["total_operations"])

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted(list(range(1, 26)) * 8)
    assert metrics.get_global_stats()["total_interactions"] == 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_a_fork_has_connections_of_its_own(path: Path) -> None:
    database = SQLite(path)
    metrics = collector(database)
    metrics.record_interaction("parent", 3, True, 1.0)
    assert database._idle
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert not database._idle
            metrics.record_interaction("child", 3, True, 1.0)
            database.close()
            code = 0
        finally:
            os._exit(code)
    assert not database._idle  # Nor had the parent one open, that the child could have closed.
    metrics.record_interaction("parent", 3, True, 1.0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    metrics.record_interaction("parent", 3, True, 1.0)
    assert metrics.get_global_stats()["total_interactions"] == 4
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_connections_are_closed_with_their_collector(path: Path) -> None:
    database = SQLite(path)
    collector(database).record_interaction("ann", 3, True, 1.0)
    raw = database._idle[0]._raw
    del database
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError):
        raw.execute("SELECT 1")
    assert list(path.parent.iterdir()) == [path]  # The last one to close tidies up.


def test_a_closed_database_says_so(path: Path) -> None:
    database = SQLite(path)
    metrics = collector(database)
    metrics.record_interaction("ann", 3, True, 1.0)
    database.close()
    assert list(path.parent.iterdir()) == [path]
    database.close()
    with pytest.raises(ClosedError, match=r"metrics\.db"):
        metrics.get_all_users()


@pytest.mark.parametrize("files", ["*", "metrics.db"])
def test_nothing_is_recorded_in_a_file_that_was_deleted(path: Path, files: str) -> None:
    metrics = MetricsCollector(db_path=path)
    metrics.record_interaction("ann", 3, True, 1.0)
    for file in path.parent.glob(files):
        file.unlink()
    assert metrics.get_all_users() == []
    metrics.record_interaction("bob", 3, True, 1.0)
    assert MetricsCollector(db_path=path).get_all_users() == ["bob"]


# What can go wrong

RESULTS = {
    sqlite3.SQLITE_ERROR: DamagedError,
    sqlite3.SQLITE_PERM: StoragePermissionError,
    sqlite3.SQLITE_BUSY: LockTimeoutError,
    sqlite3.SQLITE_LOCKED: LockTimeoutError,
    sqlite3.SQLITE_READONLY: StoragePermissionError,
    sqlite3.SQLITE_CORRUPT: DamagedError,
    sqlite3.SQLITE_PROTOCOL: LockTimeoutError,
    sqlite3.SQLITE_AUTH: StoragePermissionError,
    sqlite3.SQLITE_FORMAT: DamagedError,
    sqlite3.SQLITE_NOTADB: DamagedError,
}
"""What is not a `StorageError`, of the results 1 to 26."""


@pytest.mark.parametrize("result", range(1, 27))
def test_every_error_of_sqlite_is_one_of_ours(path: Path, result: int) -> None:
    path.touch()
    for code in (result, result | 1 << 8, result | 9 << 8):  # The upper bytes say more.
        error = sqlite3.OperationalError("what it says")
        error.sqlite_errorcode = code
        ours = SQLite(path)._error(error)
        assert type(ours) is RESULTS.get(result, StorageError)
        assert str(path) in str(ours)
        again = pickle.loads(pickle.dumps(ours))
        assert (type(again), str(again), vars(again)) == (type(ours), str(ours), vars(ours))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_IOERR_FSYNC, OutcomeUnknown),
        (sqlite3.SQLITE_IOERR_DELETE, OutcomeUnknown),
        (sqlite3.SQLITE_IOERR_WRITE, StorageError),
        (sqlite3.SQLITE_FULL, StorageError),
    ],
)
def test_a_commit_of_which_nobody_knows_is_called_so(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[Exception]
) -> None:
    class FailingCursor(sqlite3.Cursor):
        def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
            if statement == "COMMIT" and super().execute("SELECT count(*) FROM interactions").fetchone()[0] == 2:
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = code
                raise error
            return super().execute(statement, *parameters)

    class Failing(sqlite3.Connection):
        def cursor(self, *_: Any) -> sqlite3.Cursor:
            return FailingCursor(self)

    MetricsCollector(db_path=path).record_interaction("ann", 3, True, 1.0)
    metrics = MetricsCollector(db_path=path)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Failing))
        with pytest.raises(expected):
            metrics.record_interaction("ann", 3, True, 1.0)
    assert metrics.get_global_stats()["total_interactions"] == 1


@pytest.fixture
def locked(path: Path) -> Iterator[Path]:
    MetricsCollector(db_path=path).record_interaction("ann", 3, True, 1.0)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield path


def test_a_lock_that_is_held_too_long_is_a_timeout_and_readers_do_not_wait(locked: Path) -> None:
    metrics = collector(SQLite(locked, timeout=0.2))
    began = time.monotonic()
    with pytest.raises(LockTimeoutError) as caught:
        metrics.record_interaction("ann", 3, True, 1.0)
    assert 0.2 <= time.monotonic() - began < 5
    assert (caught.value.path, caught.value.timeout) == (str(locked), 0.2)
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert metrics.get_user_stats("ann")["total_operations"] == 1


def test_threads_that_wait_for_each_other_wait_no_longer_than_the_timeout(locked: Path) -> None:
    database = SQLite(locked, timeout=0.3)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            collector(database).record_interaction("ann", 3, True, 1.0)
        except LockTimeoutError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 4
    assert time.monotonic() - began < 3


def test_a_full_disk_is_an_error_and_what_was_recorded_stays(path: Path) -> None:
    database = SQLite(path)
    metrics = collector(database)
    metrics.record_interaction("ann", 3, True, 1.0)
    database._idle[0]._raw.execute("PRAGMA max_page_count = 1").fetchall()  # As much as it has: there is no more.
    counted = 1

    def fill() -> None:
        nonlocal counted
        while True:
            metrics.record_interaction("x" * 512, 3, True, 1.0)
            counted += 1

    with pytest.raises(StorageError) as caught:
        fill()
    assert caught.value.errno == errno.ENOSPC
    assert metrics.get_global_stats()["total_interactions"] == counted


@pytest.mark.parametrize("damage", [b"no database at all", b"x" * 10_000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_reported_and_stays(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    metrics = MetricsCollector(db_path=path)
    for act in (metrics.get_all_users, lambda: metrics.record_interaction("ann", 3, True, 1.0)):
        with pytest.raises(DamagedError) as caught:
            act()
        assert caught.value.path == str(path)
    assert path.read_bytes() == damage


def test_a_damaged_database_is_reported(path: Path) -> None:
    metrics = MetricsCollector(db_path=path)
    for number in range(300):
        metrics.record_interaction(f"user {number}", 3, True, 1.0)
    del metrics
    gc.collect()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    metrics = MetricsCollector(db_path=path)
    for act in (metrics.get_all_users, lambda: metrics.record_interaction("ann", 3, True, 1.0)):
        with pytest.raises(DamagedError):
            act()


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, code in ((".", errno.EISDIR), ("pipe", errno.EINVAL), ("file/metrics.db", errno.ENOTDIR)):
        metrics = MetricsCollector(db_path=tmp_path / name)
        for act in (metrics.get_all_users, lambda: metrics.record_interaction("ann", 3, True, 1.0)):  # noqa: B023
            with pytest.raises(StorageError) as caught:
                act()
            assert caught.value.errno == code


@pytest.mark.parametrize("db_path", ["a\0b", ":memory:", "\ud800"])
def test_a_path_that_cannot_be_one_is_refused_at_once(db_path: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        MetricsCollector(db_path=db_path)
    assert caught.value.argument == "db_path"


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root may do everything, whatever the modes."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no modes here")
def test_a_database_that_may_not_be_written_is_read_and_not_written() -> None:
    with tempfile.TemporaryDirectory() as directory:  # Where nobody may go: those of pytest are private.
        path = Path(directory) / "metrics.db"
        script(path, OLDER)
        path.chmod(0o444)
        path.parent.chmod(0o555)
        try:
            with as_nobody():
                metrics = MetricsCollector(db_path=path)
                assert metrics.get_all_users() == ["ann", "bob"]
                with pytest.raises(StoragePermissionError) as caught:
                    metrics.record_interaction("ann", 3, True, 1.0)
                assert isinstance(caught.value, PermissionError)
                with pytest.raises(StoragePermissionError):
                    MetricsCollector(db_path=path.parent / "new.db").record_interaction("ann", 3, True, 1.0)
                del metrics
            path.chmod(0o000)
            with as_nobody(), pytest.raises(StoragePermissionError):
                MetricsCollector(db_path=path).get_all_users()
        finally:
            path.parent.chmod(0o700)


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"

HOSTILE_SCHEMAS = {
    "a view": "CREATE VIEW interactions AS SELECT 1 AS id",
    "an endless view": f"""CREATE VIEW interactions AS {ENDLESS}
        SELECT i AS id, 'u' AS user_id, 1 AS empathy_level, 1 AS success, 1.0 AS response_time_ms, '' AS timestamp
        FROM n""",
    "a view in capitals": "CREATE VIEW INTERACTIONS AS SELECT 1 AS id",
    "a view in the place of a table of ours": f"CREATE VIEW interaction_ids AS {ENDLESS} SELECT i FROM n",
    "a trigger": METRICS.tables["interactions"]
    + """; CREATE TABLE books (title TEXT); INSERT INTO books VALUES ('a');
        CREATE TRIGGER t AFTER INSERT ON interactions BEGIN DELETE FROM books; END""",
    "an endless trigger": METRICS.tables["interactions"]
    + f"; CREATE TRIGGER t AFTER INSERT ON Interactions BEGIN SELECT max(i) FROM ({ENDLESS} SELECT i FROM n); END",
    "a virtual table": """CREATE VIRTUAL TABLE interactions USING fts5(
        id, user_id, empathy_level, success, response_time_ms, timestamp)""",
    "an index": "CREATE TABLE books (title TEXT); CREATE INDEX interactions ON books(title)",
    "other columns": "CREATE TABLE interactions (id INTEGER, name TEXT)",
    "a collation": METRICS.tables["interactions"].replace("TEXT NOT NULL", "TEXT COLLATE NOCASE NOT NULL"),
    "a newer schema": f"PRAGMA user_version = {VERSION + 1}; CREATE TABLE books (title TEXT)",
}


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_a_database_in_an_encoding_that_cannot_hold_every_text_is_refused(path: Path, encoding: str) -> None:
    script(path, f"PRAGMA encoding = '{encoding}'; {METRICS.tables['interactions']}; {PATTERNS.tables['patterns']}")
    before = path.read_bytes()
    library = PatternLibrary()
    with empathy_kv.connect(f"sqlite:///{path}") as store:
        acts: list[Callable[[], object]] = [
            store.metrics.get_all_users,
            lambda: store.metrics.record_interaction("\uffff", 3, True, 1.0),
            lambda: list(store.patterns.patterns),
            lambda: store.patterns.contribute_pattern("a", Pattern("a", "a", "t", "n")),
            lambda: store.states.save_state("a", CollaborationState("a")),
            lambda: PatternPersistence.load_from_sqlite(path),
            lambda: PatternPersistence.save_to_sqlite(library, path),
        ]
        for act in acts:
            with pytest.raises(StorageError, match=encoding) as caught:
                act()
            assert caught.value.errno == errno.EILSEQ
    assert path.read_bytes() == before


@pytest.mark.parametrize("statements", HOSTILE_SCHEMAS.values(), ids=HOSTILE_SCHEMAS)
def test_a_hostile_database_is_an_error_at_once_and_is_not_changed(path: Path, statements: str) -> None:
    script(path, statements)
    before = path.read_bytes()
    metrics = MetricsCollector(db_path=path)
    began = time.monotonic()
    acts: list[Callable[[], object]] = [
        metrics.get_all_users,
        metrics.get_global_stats,
        lambda: metrics.get_history("ann"),
        lambda: metrics.record_interaction("ann", 3, True, 1.0),
        lambda: metrics.record_interaction("ann", 3, True, 1.0, interaction_id="x"),
    ]
    for act in acts:
        with pytest.raises(EmpathyKVError) as caught:
            act()
        assert isinstance(caught.value, (DamagedError, StorageError))
        assert str(path) in str(caught.value)
    assert time.monotonic() - began < 5
    assert path.read_bytes() == before


def test_a_view_with_the_name_of_the_older_table_is_left_alone(path: Path) -> None:
    script(
        path,
        f"""CREATE VIEW metrics AS {ENDLESS} SELECT i AS id FROM n;
        CREATE VIEW pragma_table_info AS {ENDLESS} SELECT i FROM n""",
    )
    metrics = MetricsCollector(db_path=path)
    assert metrics.get_all_users() == []
    metrics.record_interaction("ann", 3, True, 1.0)
    assert metrics.get_all_users() == ["ann"]


def test_a_database_that_becomes_hostile_while_it_is_open_is_noticed(path: Path) -> None:
    metrics = MetricsCollector(db_path=path)
    metrics.record_interaction("ann", 3, True, 1.0)
    script(path, "CREATE TRIGGER t AFTER INSERT ON interactions BEGIN DELETE FROM interactions; END")
    for act in (metrics.get_all_users, lambda: metrics.record_interaction("ann", 3, True, 1.0)):
        with pytest.raises(DamagedError, match="trigger"):
            act()
    script(path, "DROP TRIGGER t")
    assert metrics.get_user_stats("ann")["total_operations"] == 1


def test_a_version_that_the_user_counts_in_the_database_is_left_alone(path: Path) -> None:
    script(path, "PRAGMA user_version = 7")
    MetricsCollector(db_path=path).record_interaction("ann", 3, True, 1.0)
    assert sql(path, "PRAGMA user_version") == [(7,)]


def test_tables_that_appear_while_it_is_open_are_used(path: Path) -> None:
    script(path, "CREATE TABLE books (title TEXT)")
    metrics = MetricsCollector(db_path=path)
    assert metrics.get_all_users() == []  # By stand-ins, which go.
    MetricsCollector(db_path=path).record_interaction("bob", 3, True, 1.0)
    assert metrics.get_all_users() == ["bob"]
    metrics.record_interaction("ann", 3, True, 1.0)
    assert metrics.get_all_users() == ["ann", "bob"]


def test_a_transaction_that_fails_leaves_nothing(path: Path) -> None:
    database = SQLite(path)
    insert = "INSERT INTO interactions (user_id, empathy_level, success) VALUES (?, ?, ?)"
    with pytest.raises(StorageError) as caught:
        database.execute(Transaction(METRICS, [(insert, ("ann", 1, 1)), (insert, ("bob", None, 1))]))
    assert isinstance(caught.value.__cause__, sqlite3.IntegrityError)
    assert collector(database).get_all_users() == []
    assert sql(path, "SELECT count(*) FROM sqlite_master") == [(0,)]
