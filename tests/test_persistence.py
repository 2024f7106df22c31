"""`PatternPersistence`: libraries in files, above all in JSON; and what the reference shows of the import path."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

import empathy_kv
from empathy_kv.codec import codec
from empathy_kv.errors import (
    ArgumentError,
    ArgumentTypeError,
    CodecError,
    MissingFileError,
    StorageError,
)
from empathy_kv.kv.operations import INTEGER_MAX
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.persistence import MetricsCollector, PatternPersistence, StateManager
from empathy_kv.records import MAX_ID, Pattern
from empathy_kv.testing.hostile import HOSTILE, storable
from empathy_kv.testing.records import libraries

REFERENCE = (Path(__file__).parent / "reference" / "persistence.md").read_text()
FORMATS = pytest.mark.parametrize("form", ["json", "sqlite"])


def save(form: str, library: PatternLibrary, path: str | Path) -> None:
    getattr(PatternPersistence, f"save_to_{form}")(library, path)


def load(form: str, path: str | Path) -> PatternLibrary:
    library: PatternLibrary = getattr(PatternPersistence, f"load_from_{form}")(path)
    return library


def block(heading: str, language: str) -> str:
    """Return the first block of code below a heading of the reference, of this package."""
    _, below = re.split(rf"^#+ {re.escape(heading)}$", REFERENCE, flags=re.MULTILINE)
    code: str = below.split(f"```{language}\n", 1)[1].split("```", 1)[0]
    return code.replace("empathy_os", "empathy_kv")


def made(*ids: str) -> PatternLibrary:
    library = PatternLibrary()
    for pattern_id in ids:
        library.contribute_pattern("agent", Pattern(pattern_id, "agent", "type", "Name"))
    return library


def everything(library: PatternLibrary) -> object:
    """Return all that a library is, to the byte."""
    encoded = [codec(Pattern).encode(pattern) for pattern in library.patterns.values()]
    return encoded, list(library.agent_contributions.items()), library.get_links()


def document(**changes: Any) -> dict[str, Any]:
    """Return a library of two patterns as JSON, with changes."""
    patterns = [
        {"id": name, "agent_id": "agent", "pattern_type": "t", "name": "n", "discovered_at": "2025-01-15T10:30:00"}
        for name in ("a", "b")
    ]
    return {"patterns": patterns, "agent_contributions": {"agent": ["a", "b"]}, **changes}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "patterns.json"


# The reference


def test_the_example_of_the_reference_loads_and_is_saved_as_it_stands(path: Path) -> None:
    example = block("Pattern Library JSON", "json")
    path.write_text(example)
    library = PatternPersistence.load_from_json(path)
    assert library.patterns["pat_123"].success_rate == 0.9
    PatternPersistence.save_to_json(library, path)
    written, shown = json.loads(path.read_bytes()), json.loads(example)
    assert written["patterns"] == shown["patterns"]
    assert written["agent_contributions"] == shown["agent_contributions"]
    assert written["metadata"].keys() == shown["metadata"].keys()
    assert (written["metadata"]["pattern_count"], written["metadata"]["version"]) == (1, "1.0")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?", written["metadata"]["saved_at"])
    assert written.keys() == shown.keys()


def test_the_code_of_the_reference_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    MetricsCollector(db_path="metrics.db").record_interaction("user_123", 4, True, 145.3)
    StateManager(state_dir="states").save_state("user_123", empathy_kv.CollaborationState())
    for heading in ("PatternPersistence", "JSON Pattern Export/Import", "Metrics Dashboard"):
        exec(compile(block(heading, "python"), heading, "exec"), {})
    said = capsys.readouterr().out
    assert "Loaded 0 patterns from JSON\nLoaded 0 patterns from SQLite\nMigrated 0 patterns\n" in said
    assert "Total interactions: 1\n  Success rate: 100%\n  Avg response time: 145ms\n  Current level: 4" in said


def test_the_first_start_finds_nothing_and_the_second_what_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        PatternPersistence.load_from_sqlite(".empathy/patterns.db")
    assert list(tmp_path.iterdir()) == []
    PatternPersistence.save_to_sqlite(made("a"), ".empathy/patterns.db")
    assert list(PatternPersistence.load_from_sqlite(".empathy/patterns.db").patterns) == ["a"]


# The round trip


@given(libraries())
def test_a_library_comes_back_as_it_was_saved(library: PatternLibrary) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "patterns.json"
        PatternPersistence.save_to_json(library, path)
        assert everything(PatternPersistence.load_from_json(path)) == everything(library)


@FORMATS
def test_a_loaded_library_answers_as_the_saved_one(form: str, path: Path) -> None:
    library = PatternLibrary()
    for number in range(20):
        library.contribute_pattern(
            f"agent {number % 3}",
            Pattern(f"{number}", "somebody", "t", "n", context={"task": number % 4, "deep": [{"a": None}]}, tags=["x"]),
        )
        library.record_pattern_outcome(f"{number}", number % 2 == 0)
    library.link_patterns("7", "3")
    library.link_patterns("3", "11")
    save(form, library, path)
    found = load(form, path)
    question = {"task": 3, "tags": ["x"], "deep": [{"a": None}]}
    assert found.find_patterns(question) == library.find_patterns(question)
    assert found.get_related_patterns("7", depth=2) == library.get_related_patterns("7", depth=2)
    assert found.get_library_stats() == library.get_library_stats()
    assert everything(found) == everything(library)


@FORMATS
def test_every_hostile_id_and_agent_comes_back(form: str, path: Path) -> None:
    library = PatternLibrary()
    for text in HOSTILE:
        if storable(text, MAX_ID):
            library.contribute_pattern(text if text.strip() else "agent", Pattern(text, text, "t", "n"))
    save(form, library, path)
    assert everything(load(form, path)) == everything(library)


@FORMATS
def test_fields_that_nobody_knows_survive(form: str, path: Path) -> None:
    library = made("a")
    library.contribute_pattern("agent", Pattern("b", "agent", "t", "n", extra={"severity": 3, "extra": [None]}))
    save(form, library, path)
    assert load(form, path).patterns["b"].extra == {"severity": 3, "extra": [None]}


def test_a_saved_file_is_read_by_people_and_by_nobody_else(path: Path) -> None:
    library = made("pät_1", "pat_2")
    library.link_patterns("pat_2", "pät_1")
    PatternPersistence.save_to_json(library, path)
    text = path.read_text("utf-8")
    assert '\n    {\n      "id": "pät_1",\n' in text
    assert json.loads(text)["links"] == [["pät_1", "pat_2"]]
    assert path.stat().st_mode & 0o777 == 0o600


@FORMATS
def test_a_save_makes_missing_directories_and_leaves_one_file(form: str, tmp_path: Path) -> None:
    path = tmp_path / "backups" / "daily" / "patterns"
    for _ in range(2):
        save(form, made("a"), str(path))
    assert list(path.parent.iterdir()) == [path]


# Files of others


def test_who_contributed_what_is_as_the_file_says(path: Path) -> None:
    path.write_text(json.dumps(document(agent_contributions={"ann": ["b", "gone"], "bob": ["b"]})))
    library = PatternPersistence.load_from_json(path)
    assert list(library.patterns) == ["a", "b"]
    assert library.agent_contributions == {"agent": ["a"], "ann": ["b"]}


def test_a_file_needs_no_more_than_patterns(path: Path) -> None:
    path.write_text(json.dumps({"patterns": document()["patterns"]}))
    assert PatternPersistence.load_from_json(path).agent_contributions == {"agent": ["a", "b"]}


def test_a_file_of_empathy_framework_is_read(path: Path) -> None:
    pattern = json.loads(
        """{"id": "pat", "agent_id": "agent", "pattern_type": "sequential", "name": "N\\u00e9", "description": "D",
        "context": {"a": [1, 2.5, null]}, "code": null, "confidence": 1.0, "usage_count": 2, "success_count": 2,
        "failure_count": 0, "tags": [], "discovered_at": "2025-01-15T10:30:00.123456", "last_used": null}"""
    )
    metadata = {"saved_at": "2025-01-20T15:00:00", "pattern_count": 1, "version": "1.0"}
    older = {"patterns": [pattern], "agent_contributions": {"agent": ["pat"]}, "metadata": metadata}
    path.write_text(json.dumps(older, indent=2))
    found = PatternPersistence.load_from_json(path).patterns["pat"]
    assert found.discovered_at.isoformat() == "2025-01-15T10:30:00.123456+00:00"
    assert codec(Pattern).unstructure(found) == pattern


def test_links_of_patterns_that_were_taken_out_are_ignored(path: Path) -> None:
    path.write_text(json.dumps(document(links=[["a", "gone"], ["b", "a"]])))
    assert PatternPersistence.load_from_json(path).get_links() == [("a", "b")]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ([], "$"),
        ({}, "$.patterns"),
        ({"patterns": {}}, "$.patterns"),
        ({"patterns": [1]}, "$.patterns[0]"),
        (document(patterns=[*document()["patterns"], {"id": "c"}]), "$.patterns[2].agent_id"),
        (document(patterns=[{**document()["patterns"][0], "confidence": 1.5}]), "$.patterns[0].confidence"),
        (document(patterns=[{**document()["patterns"][0], "id": ""}]), "$.patterns[0].id"),
        (document(patterns=[{**document()["patterns"][0], "agent_id": "x" * 513}]), "$.patterns[0].agent_id"),
        (document(patterns=[{**document()["patterns"][0], "tags": ["x", 1]}]), "$.patterns[0].tags[1]"),
        (document(agent_contributions=[]), "$.agent_contributions"),
        (document(agent_contributions={"agent": "a"}), "$.agent_contributions['agent']"),
        (document(agent_contributions={"agent": [1]}), "$.agent_contributions['agent'][0]"),
        (document(agent_contributions={"": ["a"]}), "$.agent_contributions['']"),
        (document(links={}), "$.links"),
        (document(links=[["a", "b"], ["a"]]), "$.links[1]"),
        (document(links=[["a", "a"]]), "$.links[0]"),
        (document(links=[["a", "b", "a"]]), "$.links[0]"),
        (document(links=[["a", 1]]), "$.links[0][1]"),
    ],
)
def test_a_file_that_is_no_library_is_an_error_that_says_where(path: Path, content: object, place: str) -> None:
    path.write_text(json.dumps(content))
    with pytest.raises(CodecError, match=re.escape(str(path))) as caught:
        PatternPersistence.load_from_json(path)
    assert caught.value.path == place
    assert str(caught.value).endswith(f"@ {place}")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b'{"patterns": [NaN]}', b"{'patterns': []}", b"[" * 100_000, b'{"patterns": []} x']
)
def test_a_file_that_is_no_json_is_an_error_that_names_it(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(CodecError, match=re.escape(str(path))) as caught:
        PatternPersistence.load_from_json(path)
    assert caught.value.__cause__ is not None
    assert isinstance(caught.value, ValueError)


def test_an_id_that_stands_twice_is_an_error_that_names_it(path: Path) -> None:
    path.write_text(json.dumps(document(patterns=document()["patterns"] + document()["patterns"][1:])))
    with pytest.raises(CodecError, match="'b'") as caught:
        PatternPersistence.load_from_json(path)
    assert caught.value.path == "$.patterns[2].id"


# What can go wrong


@FORMATS
def test_loading_what_is_not_there_is_a_missing_file(form: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load(form, tmp_path / "nowhere" / "patterns")
    assert isinstance(caught.value, MissingFileError)
    assert caught.value.path == str(tmp_path / "nowhere" / "patterns")
    assert list(tmp_path.iterdir()) == []


@FORMATS
def test_a_directory_is_no_file(form: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        load(form, tmp_path)
    assert caught.value.errno == errno.EISDIR
    with pytest.raises((StorageError, ArgumentError)):
        save(form, made("a"), tmp_path)


@FORMATS
@pytest.mark.parametrize("given", [None, 3, b"patterns", ["patterns"]])
def test_a_path_is_a_str_or_a_path(form: str, given: Any) -> None:
    for act in (lambda: load(form, given), lambda: save(form, made("a"), given)):
        with pytest.raises(ArgumentTypeError) as caught:
            act()
        assert caught.value.argument == ("filepath" if form == "json" else "db_path")


@FORMATS
@pytest.mark.parametrize("given", ["", "a\0b"])
def test_a_path_can_be_one(form: str, given: str) -> None:
    for act in (lambda: load(form, given), lambda: save(form, made("a"), given)):
        with pytest.raises(ArgumentError):
            act()


@FORMATS
@pytest.mark.parametrize("given", [None, {}, [], PatternLibrary])
def test_only_a_library_is_saved(form: str, given: Any, path: Path) -> None:
    with pytest.raises(ArgumentTypeError) as caught:
        save(form, given, path)
    assert caught.value.argument == "library"
    assert not path.exists()


@FORMATS
def test_a_pattern_that_cannot_be_saved_leaves_the_old_file(form: str, path: Path) -> None:
    save(form, made("old"), path)
    before = path.read_bytes()
    library = made("a")
    library.contribute_pattern("agent", Pattern("b", "agent", "t", "n", usage_count=INTEGER_MAX))
    library.record_pattern_outcome("b", True)
    with pytest.raises(CodecError, match=r"expected int of 64 bits @ \$\.patterns\[.*\]\.usage_count"):
        save(form, library, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("call", ["fsync", "open", "replace"])
def test_a_write_that_fails_leaves_the_old_file(path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PatternPersistence.save_to_json(made("old"), path)
    before = path.read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StorageError) as caught:
            PatternPersistence.save_to_json(made("new"), path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_grows_too_large_leaves_the_old_one(path: Path) -> None:
    resource = pytest.importorskip("resource")
    PatternPersistence.save_to_json(made("old"), path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StorageError) as caught:
            PatternPersistence.save_to_json(made(*(str(number) for number in range(100))), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


SAVE = """
import sys
from empathy_kv.persistence import PatternPersistence
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.records import Pattern
libraries = []
for name in ("old", "new"):
    library = PatternLibrary()
    library.contribute_patterns(name, [Pattern(f"{name} {n}", name, "t", "x" * 500) for n in range(600)])
    libraries.append(library)
PatternPersistence.save_to_json(libraries[0], sys.argv[1])
print("ready", flush=True)
while True:
    for library in libraries:
        PatternPersistence.save_to_json(library, sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill here")
def test_a_save_that_is_killed_leaves_the_old_file_or_the_new_one(path: Path) -> None:
    for milliseconds in range(10, 110, 10):
        with subprocess.Popen([sys.executable, "-c", SAVE, path], stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            worker.stdout.readline()
            time.sleep(milliseconds / 1000)
            worker.kill()
        found = PatternPersistence.load_from_json(path)
        (agent,) = found.agent_contributions
        assert list(found.patterns) == [f"{agent} {number}" for number in range(600)]


def test_several_processes_that_save_to_one_file_leave_one_of_their_libraries(path: Path) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", SAVE, path], stdout=subprocess.PIPE) for _ in range(3)]
    try:
        for worker in workers:
            assert worker.stdout is not None
            worker.stdout.readline()
        for _ in range(20):
            found = PatternPersistence.load_from_json(path)
            (agent,) = found.agent_contributions
            assert list(found.patterns) == [f"{agent} {number}" for number in range(600)]
        assert [worker.poll() for worker in workers] == [None] * 3
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def test_json_needs_no_sqlite(path: Path) -> None:
    code = """
import sys
from empathy_kv.persistence import MetricsCollector, PatternPersistence, StateManager
from empathy_kv.pattern_library import PatternLibrary
PatternPersistence.save_to_json(PatternLibrary(), sys.argv[1])
PatternPersistence.load_from_json(sys.argv[1])
sys.exit(str([name for name in sys.modules if name.startswith(("sqlite3", "_sqlite3", "redis", "empathy_kv.sql"))]))
"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"
