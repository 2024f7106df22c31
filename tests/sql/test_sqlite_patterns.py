"""`save_to_sqlite` and `load_from_sqlite`: the documented tables, equal to a library."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empathy_kv.codec import codec
from empathy_kv.errors import (
    CodecError,
    DamagedError,
    LockTimeoutError,
    MissingFileError,
    StorageError,
    StoragePermissionError,
)
from empathy_kv.kv.operations import INTEGER_MAX
from empathy_kv.metrics import MetricsCollector
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.persistence import PatternPersistence
from empathy_kv.records import MAX_ID, Pattern
from empathy_kv.sql.schema import PATTERNS
from empathy_kv.sql.schema import USER_VERSION as VERSION
from empathy_kv.testing.hostile import HOSTILE, storable
from empathy_kv.testing.records import libraries, patterns

save = PatternPersistence.save_to_sqlite
load = PatternPersistence.load_from_sqlite

REFERENCE = Path(__file__).parents[1] / "reference" / "persistence.md"
DAY = dt.datetime(2025, 1, 20, tzinfo=dt.UTC)

# The pattern table of empathy-framework 3.9.3, and a pattern as it writes one.
OLDER = f"""{PATTERNS.tables["patterns"]}; {PATTERNS.tables["pattern_usage"]};
INSERT INTO patterns VALUES ('pat_2', 'agent_2', 'sequential', 'Second', 'D', '{{"a": [1, "\\u00e9"]}}', NULL, 0.85, 10,
    9, 1, '["x"]', '2025-01-15T10:30:00', '2025-01-20T14:45:00.000001', '2025-01-20 15:00:00');
INSERT INTO patterns VALUES ('pat_1', 'agent_1', 'sequential', 'First', 'D', '{{}}', 'c', 0.5, 0,
    0, 0, '[]', '2025-01-15T10:30:00', NULL, '2025-01-20 15:00:00');"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "patterns.db"


def script(path: Path, statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(statements)


def ask(path: Path, question: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(question).fetchall()


def made(*ids: str) -> PatternLibrary:
    library = PatternLibrary()
    for pattern_id in ids:
        library.contribute_pattern("agent", Pattern(pattern_id, "agent", "type", "Name", discovered_at=DAY))
    return library


def everything(library: PatternLibrary) -> object:
    """Return all that a library is, to the byte."""
    encoded = [codec(Pattern).encode(pattern) for pattern in library.patterns.values()]
    return encoded, list(library.agent_contributions.items()), library.get_links()


# The round trip


# A quarter of the examples in both: each of them is several saves, which wait for the disk.
@settings(max_examples=max(10, settings.default.max_examples // 4))
@given(libraries(), libraries())
def test_a_library_comes_back_as_it_was_saved(first: PatternLibrary, second: PatternLibrary) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "patterns.db"
        for library in (first, second, second):
            save(library, path)
            assert everything(load(path)) == everything(library)


@settings(max_examples=max(10, settings.default.max_examples // 4))
@given(st.lists(patterns(st.sampled_from("abcd")), unique_by=lambda pattern: pattern.id), st.data())
def test_patterns_that_change_places_and_owners_come_back_so(contributed: list[Pattern], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "patterns.db"
        for _ in range(2):
            library = PatternLibrary()
            for pattern in data.draw(st.permutations(contributed)):
                library.contribute_pattern(data.draw(st.sampled_from(["one", "other"])), pattern)
            save(library, path)
            assert everything(load(path)) == everything(library)


def test_every_hostile_id_is_a_pattern_of_its_own(path: Path) -> None:
    ids = [text for text in HOSTILE if storable(text, MAX_ID)]
    library = made(*ids)
    library.link_patterns("a\0b", "a\0")
    for _ in range(2):
        save(library, path)
        assert everything(load(path)) == everything(library)
    library.remove_pattern("a\0")
    save(library, path)
    assert everything(load(path)) == everything(library)


def test_a_save_makes_the_file_its_directories_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / ".empathy" / "what?#%20" / "patterns.db"
    save(made("a"), path)
    assert everything(load(path)) == everything(made("a"))
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_removed_pattern_does_not_come_back(path: Path) -> None:
    library = made("a", "b", "c")
    library.link_patterns("a", "b")
    save(library, path)
    library.remove_pattern("b")
    save(library, path)
    assert list(load(path).patterns) == ["a", "c"]
    assert load(path).get_links() == []
    assert ask(path, "SELECT id FROM patterns") == [("a",), ("c",)]


def test_an_empty_library_is_one(path: Path) -> None:
    save(made("a"), path)
    save(PatternLibrary(), path)
    assert everything(load(path)) == everything(PatternLibrary())


def test_usage_is_kept_for_patterns_that_stay_and_goes_with_the_others(path: Path) -> None:
    library = made("a", "b")
    save(library, path)
    script(path, "INSERT INTO pattern_usage (pattern_id, agent_id, success) VALUES ('a', 'x', 1), ('b', 'x', 0)")
    kept = ask(path, "SELECT * FROM pattern_usage WHERE pattern_id = 'a'")
    library.remove_pattern("b")
    save(library, path)
    assert ask(path, "SELECT * FROM pattern_usage") == kept
    assert ask(path, "PRAGMA foreign_key_check") == []


def test_other_tables_of_the_user_are_left_alone(path: Path) -> None:
    script(
        path,
        f"""PRAGMA user_version = 3; {PATTERNS.tables["patterns"]};
        CREATE TABLE notes (id INTEGER, pattern_id TEXT REFERENCES patterns(id) ON DELETE CASCADE);
        CREATE TRIGGER mine AFTER INSERT ON notes BEGIN DELETE FROM notes WHERE id < 0; END;
        CREATE VIEW best AS SELECT * FROM patterns WHERE confidence > 0.9;
        INSERT INTO patterns (id, agent_id, pattern_type, name) VALUES ('b', 'agent', 'type', 'Name');
        INSERT INTO notes VALUES (1, 'b')""",
    )
    before = ask(path, "SELECT sql FROM sqlite_master WHERE name IN ('notes', 'mine', 'best')")
    save(made("a"), path)
    assert ask(path, "SELECT sql FROM sqlite_master WHERE name IN ('notes', 'mine', 'best')") == before
    assert ask(path, "SELECT * FROM notes") == [(1, "b")]
    assert ask(path, "PRAGMA user_version") == [(3,)]
    assert ask(path, "PRAGMA journal_mode") == [("delete",)]


def test_only_rows_that_change_are_written(path: Path) -> None:
    library = made("a", "b")
    save(library, path)
    script(path, "UPDATE patterns SET updated_at = '2000-01-01 00:00:00'")
    library.record_pattern_outcome("b", True)
    save(library, path)
    (same, changed) = ask(path, "SELECT updated_at FROM patterns ORDER BY id")
    assert same == ("2000-01-01 00:00:00",)
    assert changed > ("2025",)


def test_a_metrics_database_can_be_the_same_file(path: Path) -> None:
    metrics = MetricsCollector(db_path=path)
    metrics.record_interaction("ann", 3, True, 1.0)
    with pytest.raises(MissingFileError):
        load(path)
    save(made("a"), path)
    metrics.record_interaction("ann", 3, True, 1.0)
    save(made("b"), path)
    assert list(load(path).patterns) == ["b"]
    assert metrics.get_global_stats()["total_interactions"] == 2


# The columns


def documented(heading: str) -> str:
    """Return the SQL below a heading of the reference."""
    found = re.search(rf"^### {heading}\n\n```sql\n(.*?)^```", REFERENCE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def shape(path: Path, tables: list[str]) -> object:
    """Return all that SQLite knows of tables: columns, types, defaults, keys, indexes, and the words of the schema."""
    pragmas = ("table_xinfo", "foreign_key_list")
    words = """SELECT name, sql FROM sqlite_master
        WHERE sql IS NOT NULL AND type <> 'trigger' AND tbl_name = '{}' ORDER BY type DESC, name"""
    return {
        table: (
            [ask(path, f"PRAGMA {pragma}({table})") for pragma in pragmas],
            [
                (name, *rest, ask(path, f"PRAGMA index_xinfo({name})"))
                for _, name, *rest in sorted(ask(path, f"PRAGMA index_list({table})"))
            ],
            [(name, " ".join(sql.split())) for name, sql in ask(path, words.format(table))],
        )
        for table in tables
    }


@pytest.mark.parametrize(
    ("heading", "tables"),
    [("SQLite Pattern Schema", ["patterns", "pattern_usage"]), ("SQLite Metrics Schema", ["interactions"])],
)
def test_the_tables_are_the_documented_ones(tmp_path: Path, heading: str, tables: list[str]) -> None:
    script(tmp_path / "documented.db", documented(heading))
    save(made("a"), tmp_path / "ours.db")
    MetricsCollector(db_path=tmp_path / "ours.db").record_interaction("ann", 3, True, 1.0)
    assert shape(tmp_path / "ours.db", tables) == shape(tmp_path / "documented.db", tables)
    assert ask(tmp_path / "ours.db", "PRAGMA user_version") == [(VERSION,)]


def test_a_pattern_is_a_row_that_a_user_can_read(path: Path) -> None:
    library = PatternLibrary()
    pattern = Pattern(
        "pat_1", "agent_1", "suggestion", "Name", "What", {"task": "api"}, "code", 0.85, 10, 9, 1, tags=["a", "é"]
    )
    pattern.discovered_at = DAY.astimezone(dt.timezone(dt.timedelta(hours=2)))
    pattern.last_used = DAY.replace(microsecond=7, tzinfo=None)
    library.contribute_pattern("somebody", pattern)
    save(library, path)
    (row,) = ask(path, "SELECT * FROM patterns")
    assert row[:5] == ("pat_1", "agent_1", "suggestion", "Name", "What")
    assert row[5:12] == ('{"task":"api"}', "code", 0.85, 10, 9, 1, '["a","é"]')
    assert row[12:14] == ("2025-01-20 00:00:00.000000", "2025-01-20 00:00:00.000007")
    assert ask(path, "SELECT json_extract(context, '$.task') FROM patterns") == [("api",)]


@pytest.mark.filterwarnings("ignore:The default timestamp converter:DeprecationWarning")
def test_the_times_are_those_that_sqlite3_itself_reads(path: Path) -> None:
    save(made("a"), path)
    with contextlib.closing(sqlite3.connect(path, detect_types=sqlite3.PARSE_DECLTYPES)) as connection:
        (times,) = connection.execute("SELECT discovered_at, updated_at FROM patterns").fetchall()
    assert times[0] == DAY.replace(tzinfo=None)
    assert isinstance(times[1], dt.datetime)


# Databases of others


def test_a_database_of_empathy_framework_is_read_and_not_changed(path: Path) -> None:
    script(path, OLDER)
    before = path.read_bytes()
    library = load(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert library.agent_contributions == {"agent_2": ["pat_2"], "agent_1": ["pat_1"]}
    assert library.patterns["pat_2"] == Pattern(
        *("pat_2", "agent_2", "sequential", "Second", "D", {"a": [1, "é"]}, None, 0.85, 10, 9, 1),
        discovered_at=dt.datetime(2025, 1, 15, 10, 30, tzinfo=dt.UTC),
        last_used=dt.datetime(2025, 1, 20, 14, 45, 0, 1, tzinfo=dt.UTC),
        tags=["x"],
    )
    save(library, path)
    assert everything(load(path)) == everything(library)


def test_what_is_null_is_empty(path: Path) -> None:
    script(
        path,
        f"""{PATTERNS.tables["patterns"]};
        INSERT INTO patterns VALUES ('a', 'agent', 'type', 'Name', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
            NULL, NULL, '2025-01-20 00:00:00')""",
    )
    assert everything(load(path)) == everything(made("a"))


def test_patterns_that_a_user_inserts_come_last_and_are_their_own_agents(path: Path) -> None:
    library = made("b", "a")
    save(library, path)
    script(path, "INSERT INTO patterns (id, agent_id, pattern_type, name) VALUES ('0', 'ann', 't', 'n')")
    found = load(path)
    assert list(found.patterns) == ["b", "a", "0"]
    assert found.agent_contributions == {"agent": ["b", "a"], "ann": ["0"]}


@pytest.mark.parametrize("enforced", ["ON", "OFF"])
def test_a_user_may_remove_patterns(path: Path, enforced: str) -> None:
    library = made("a", "b")
    library.link_patterns("a", "b")
    save(library, path)
    script(path, f"PRAGMA foreign_keys = {enforced}; DELETE FROM patterns WHERE id = 'b'")
    assert everything(load(path)) == everything(made("a"))


@pytest.mark.parametrize(
    ("change", "place", "error"),
    [
        ("confidence = 1.5", ".confidence", CodecError),
        ("confidence = 'high'", ".confidence", CodecError),
        ("usage_count = -1", ".usage_count", CodecError),
        ("usage_count = 0.5", ".usage_count", CodecError),
        ("name = x'00'", ".name", CodecError),
        ("tags = '[1]'", ".tags[0]", CodecError),
        ("tags = '{}'", ".tags", CodecError),
        ("context = '[]'", ".context", CodecError),
        ("context = x'7b7d'", ".context", CodecError),
        ("discovered_at = 'once'", ".discovered_at", CodecError),
        ("last_used = 5", ".last_used", CodecError),
        ("agent_id = ''", ".agent_id", CodecError),
        ("context = '{'", ".context", DamagedError),
        ("tags = ''", ".tags", DamagedError),
        ("name = CAST(x'ff' AS TEXT)", "", DamagedError),
    ],
)
def test_a_row_that_is_no_pattern_is_named(path: Path, change: str, place: str, error: type[Exception]) -> None:
    save(made("pat_1"), path)
    script(path, f"UPDATE patterns SET {change}")
    with pytest.raises(error) as caught:
        load(path)
    assert str(path) in str(caught.value)
    if place:
        assert f"$.patterns['pat_1']{place}" in str(caught.value)
    if isinstance(caught.value, CodecError):
        assert caught.value.path == f"$.patterns['pat_1']{place}"


@pytest.mark.parametrize(
    ("value", "error"), [("'{'", DamagedError), ("'[]'", CodecError), ('\'{"confidence": 7, "x": 1}\'', None)]
)
def test_unknown_fields_are_an_object_and_no_known_ones(path: Path, value: str, error: type[Exception] | None) -> None:
    save(made("a"), path)
    script(path, f"INSERT INTO pattern_contributions (pattern_id, extra) VALUES ('a', {value})")
    with contextlib.nullcontext() if error is None else pytest.raises(error, match="extra"):
        assert load(path).patterns["a"].extra == {"x": 1}
        assert load(path).patterns["a"].confidence == 0.5


def test_an_id_that_is_null_is_an_error_and_goes_with_the_next_save(path: Path) -> None:
    save(made("a"), path)
    script(path, "INSERT INTO patterns (id, agent_id, pattern_type, name) VALUES (NULL, 'a', 't', 'n')")
    with pytest.raises(CodecError, match="missing @ "):
        load(path)
    save(made("a"), path)
    assert everything(load(path)) == everything(made("a"))


# What can go wrong


def test_loading_what_is_not_there_is_a_missing_file_and_creates_nothing(tmp_path: Path) -> None:
    for path in (tmp_path / "patterns.db", tmp_path / "nowhere" / "patterns.db"):
        with pytest.raises(FileNotFoundError) as caught:
            load(path)
        assert isinstance(caught.value, MissingFileError)
        assert caught.value.path == str(path)
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_nothing_was_saved_to_is_a_missing_file(path: Path) -> None:
    path.touch()  # As a first save leaves it that was killed.
    with pytest.raises(MissingFileError):
        load(path)
    script(path, "CREATE TABLE books (title TEXT)")
    with pytest.raises(MissingFileError):
        load(path)


def test_a_pattern_that_cannot_be_saved_is_an_error_before_anything_is_written(path: Path) -> None:
    save(made("a"), path)
    before = path.read_bytes()
    library = made("b")
    library.contribute_pattern("agent", Pattern("c", "agent", "t", "n", usage_count=INTEGER_MAX))
    library.record_pattern_outcome("c", True)
    with pytest.raises(CodecError) as caught:
        save(library, path)
    assert caught.value.path == "$.patterns['c'].usage_count"
    assert path.read_bytes() == before


def test_a_save_that_fails_leaves_the_old_library(path: Path) -> None:
    save(made("a"), path)
    script(path, "CREATE UNIQUE INDEX mine ON patterns(name)")
    with pytest.raises(StorageError) as caught:
        save(made("b", "c"), path)
    assert isinstance(caught.value.__cause__, sqlite3.IntegrityError)
    assert everything(load(path)) == everything(made("a"))


def test_a_file_system_that_is_full_leaves_the_old_library(path: Path) -> None:
    resource = pytest.importorskip("resource")
    save(made("a"), path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    try:
        with pytest.raises(OSError, match=r"patterns\.db") as caught:
            save(made(*(f"pattern {number} {'x' * 200}" for number in range(500))), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert isinstance(caught.value, StorageError)
    assert caught.value.errno in (errno.EIO, errno.ENOSPC)
    assert everything(load(path)) == everything(made("a"))


SAVE = """
import sys
from pathlib import Path
from empathy_kv.kv.operations import INTEGER_MAX
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.records import Pattern
from empathy_kv.persistence import PatternPersistence
save = PatternPersistence.save_to_sqlite
libraries = []
for name in ("old", "new"):
    library = PatternLibrary()
    library.contribute_patterns(name, [Pattern(f"{name} {n}", name, "t", "x" * 5000) for n in range(600)])
    libraries.append(library)
save(libraries[0], Path(sys.argv[1]))
print("ready", flush=True)
while True:
    for library in libraries:
        save(library, Path(sys.argv[1]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill here")
def test_a_save_that_is_killed_leaves_the_old_library_or_the_new_one(path: Path) -> None:
    kinds = set()
    for milliseconds in range(40, 240, 40):
        with subprocess.Popen([sys.executable, "-c", SAVE, path], stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            worker.stdout.readline()
            time.sleep(milliseconds / 1000)
            worker.kill()
        found = load(path)
        (agent,) = found.agent_contributions
        assert list(found.patterns) == [f"{agent} {number}" for number in range(600)]
        kinds.add(agent)
    assert kinds


def test_a_lock_that_is_held_too_long_is_a_timeout(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(made("a"), path)
    monkeypatch.setattr(
        "empathy_kv.sql.sqlite.SQLite.__init__.__kwdefaults__", {"timeout": 0.2, "wal": True, "durability": "fsync"}
    )
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(LockTimeoutError):
            save(made("b"), path)
        assert everything(load(path)) == everything(made("a"))
    save(made("b"), path)


def test_a_file_that_is_no_database_is_reported_and_stays(path: Path) -> None:
    path.write_text('{"patterns": []}' * 100)
    before = path.read_bytes()
    with pytest.raises(DamagedError):
        load(path)
    with pytest.raises(DamagedError):
        save(made("a"), path)
    assert path.read_bytes() == before


def test_a_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        load(tmp_path)
    assert caught.value.errno == errno.EISDIR
    with pytest.raises(StorageError):
        save(made("a"), tmp_path)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no modes here")
def test_a_library_is_loaded_where_nothing_may_be_written() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path, user = Path(directory) / "patterns.db", os.geteuid()
        save(made("a"), path)
        path.chmod(0o444)
        path.parent.chmod(0o555)
        try:
            if user == 0:
                os.seteuid(65534)
            assert everything(load(path)) == everything(made("a"))
            with pytest.raises(StoragePermissionError):
                save(made("b"), path)
        finally:
            os.seteuid(user)
            path.parent.chmod(0o700)


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"

HOSTILE_SCHEMAS: Mapping[str, str] = {
    "an endless view": f"""CREATE VIEW patterns AS {ENDLESS} SELECT i AS id, 'a' AS agent_id, 't' AS pattern_type,
        'n' AS name, '' AS description, '{{}}' AS context, '' AS code, 1.0 AS confidence, 0 AS usage_count,
        0 AS success_count, 0 AS failure_count, '[]' AS tags, '' AS discovered_at, '' AS last_used, '' AS updated_at
        FROM n""",
    "a view of links": f"{PATTERNS.tables['patterns']}; CREATE VIEW pattern_links AS {ENDLESS} SELECT i FROM n",
    "a trigger": f"""{PATTERNS.tables["patterns"]}; CREATE TABLE books (title TEXT); INSERT INTO books VALUES ('a');
        CREATE TRIGGER t AFTER INSERT ON patterns BEGIN DELETE FROM books; END""",
    "a trigger on usage": f"""{PATTERNS.tables["patterns"]}; {PATTERNS.tables["pattern_usage"]};
        CREATE TRIGGER t AFTER DELETE ON pattern_usage BEGIN DELETE FROM patterns; END""",
    "other columns": "CREATE TABLE patterns (id INTEGER, regex TEXT); INSERT INTO patterns VALUES (1, '.*')",
    "a collation": PATTERNS.tables["patterns"].replace("id TEXT", "id TEXT COLLATE NOCASE", 1),
    "a virtual table": f"CREATE VIRTUAL TABLE patterns USING fts5({', '.join(PATTERNS.columns('patterns'))})",
    "a newer schema": f"PRAGMA user_version = {VERSION + 1}; {PATTERNS.tables['patterns']}",
}


@pytest.mark.parametrize("statements", HOSTILE_SCHEMAS.values(), ids=HOSTILE_SCHEMAS)
def test_a_hostile_database_is_an_error_at_once_and_is_not_changed(path: Path, statements: str) -> None:
    script(path, statements)
    before = path.read_bytes()
    began = time.monotonic()
    with pytest.raises((DamagedError, StorageError), match=re.escape(str(path))):
        load(path)
    with pytest.raises((DamagedError, StorageError), match=re.escape(str(path))):
        save(made("a"), path)
    assert time.monotonic() - began < 5
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
