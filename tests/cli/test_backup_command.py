"""`empathy-kv backup`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from calling import Command

from empathy_kv import Backups, CollaborationState, Store, connect

NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}")


@pytest.fixture
def people(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """A store with a user, and a place for its backups."""
    monkeypatch.setenv("EMPATHY_KV_BACKUPS", str(tmp_path / "backups"))
    store.states.save_state("ada", CollaborationState("ada", 0.75))
    store.metrics.record_interaction("ada", 3, True, 12.5)
    return store


def test_a_backup_is_made_listed_verified_and_restored(command: Command, people: Store) -> None:
    made = command("backup", "create")
    assert NAME.fullmatch(made.out.strip())
    assert made.err.startswith("backed up 0 patterns, 1 state, 1 interaction of 1 user in ")
    second = json.loads(command("backup", "create", "--json").out)
    assert (second["states"], second["interactions"], second["problem"]) == (1, 1, None)
    listed = command("backup", "list")
    assert [line.split()[0] for line in listed.out.splitlines()] == ["NAME", made.out.strip(), second["name"]]
    assert listed.err == "2 backups\n"
    assert json.loads(command("backup", "list", "--json").out)[1] == second
    assert command("backup", "verify").err == f"{second['name']} is whole\n"
    assert command("backup", "verify", made.out.strip(), "--json").out == "[]\n"
    restored = command("backup", "restore", "--store", "file:other")
    assert restored.status == 0
    assert restored.err == f"restored {second['name']}: 0 patterns, 1 state, 1 interaction of 1 user\n"
    with connect("file:other") as other:
        assert other.states.load_state("ada") == people.states.load_state("ada")


def test_a_restore_over_something_has_to_be_meant(command: Command, people: Store) -> None:
    command("backup", "create")
    with connect("file:other") as other:
        other.states.save_state("bob", CollaborationState("bob"))
    where = ("backup", "restore", "--store", "file:other")
    assert ": 0 patterns, 1 state" in command(*where, "--dry-run").err
    refused = command(*where)
    assert (refused.status, refused.err) == (
        1,
        "empathy-kv: the store is not empty: --replace replaces all that it holds\n",
    )
    assert command(*where, "--replace").status == 2  # Nobody can be asked.
    assert command(*where, "--replace", answer="no\n").status == 1
    with connect("file:other") as other:
        assert other.states.list_users() == ["bob"]
    assert command(*where, "--replace", answer="y\n").status == 0
    with connect("file:other") as other:
        assert other.states.list_users() == ["ada"]


def test_damage_is_told_and_nothing_is_restored(command: Command, people: Store, tmp_path: Path) -> None:
    name = command("backup", "create").out.strip()
    part = tmp_path / "backups" / name / "000000.jsonl.zst"
    part.write_bytes(part.read_bytes() + b"\0")
    found = command("backup", "verify", "--json")
    assert found.status == 1
    assert [problem["path"] for problem in json.loads(found.out)] == [str(part)]
    assert str(part) in command("backup", "verify").out
    for more in ([], ["--dry-run"], ["--replace", "--yes"]):
        refused = command("backup", "restore", "--store", "file:other", *more)
        assert refused.status == 1
        assert refused.err.startswith(f"empathy-kv: {part} is not as it was written")
        assert refused.err.count("\n") == 1
    with connect("file:other") as other:
        assert other.states.list_users() == []
    (tmp_path / "backups" / f"{name}.json").write_bytes(b"\x1b[2J")
    listed = command("backup", "list")
    assert listed.status == 0
    assert listed.err.startswith("cannot be used: ")
    assert listed.err.endswith("0 backups\n")
    assert command("backup", "restore").status == 1


def test_pruning_asks_and_says_what_it_would_do(command: Command, people: Store) -> None:
    names = [command("backup", "create").out.strip() for _ in range(3)]
    would = command("backup", "prune", "--keep", "1", "--dry-run")
    assert would.out.split() == names[:2]
    assert would.err == "would remove 2 backups, keep 1\n"
    assert command("backup", "prune", "--keep", "1").status == 2
    assert command("backup", "prune", "--keep", "1", answer="\n").status == 1
    assert command("backup", "list").err == "3 backups\n"
    assert command("backup", "prune", "--daily", "7", "--weekly", "4", "--monthly", "12", "-y").err == (
        "removed 2 backups, kept 1\n"
    )
    assert command("backup", "prune", "--keep", "1").err == "removed 0 backups, kept 1\n"  # Nothing to ask about.
    assert [each["name"] for each in json.loads(command("backup", "list", "--json").out)] == names[2:]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["create", "-t", "s3://user:secret@bucket/x"], 2),
        (["create", "-t", "ftp://secret"], 2),
        (["create", "--store", "nope:secret"], 2),
        (["restore", "nope"], 1),
        (["verify", "20250115T020000.000000Z-1a2b3c4d"], 1),
        (["restore"], 1),
        (["prune"], 2),
        (["prune", "--keep", "-1"], 2),
        (["run"], 2),
        (["run", "--at", "2 o'clock"], 2),
        (["run", "--at", "02:00", "--keep", "-3"], 2),
        (["run", "--at", "02:00", "--store", "nope:secret"], 2),
    ],
)
def test_an_error_is_one_line_without_a_secret(
    arguments: list[str], status: int, command: Command, people: Store
) -> None:
    done = command("backup", *arguments)
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith("empathy-kv: ")
    assert done.err.count("\n") == 1
    assert "secret" not in done.err


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`backup run` in a process of its own."""
    code = "from empathy_kv.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, "backup", "run", *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def soon() -> list[str]:
    """Times from two seconds on: how long a process takes to begin to wait for one of them is nobody's to say."""
    now = datetime.now()  # noqa: DTZ005 - of this machine's zone
    return [word for n in (2, 4, 7, 12, 20, 40, 80) for word in ("--at", f"{now + timedelta(seconds=n):%H:%M:%S}")]


def line_of(process: subprocess.Popen[str], word: str) -> str:
    """Wait for a line that says it."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if word in line:
            return line
    raise AssertionError(f"no line has {word!r}: {chr(10).join(said)}")


def test_it_backs_up_at_a_time_and_ends_when_it_is_told_to(people: Store, tmp_path: Path) -> None:
    with Backups(tmp_path / "backups") as backups:
        old = [backups.create(people) for _ in range(3)]
        with running("--keep", "2", *soon()) as process:
            line = line_of(process, "1 states")
            assert re.match(r"\d{4}-\d\d-\d\d .* INFO backup " + NAME.pattern, line)
            assert "1 interactions" in line
            assert line.endswith("2 removed\n")
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
        kept = backups.list()
        assert len(kept) == 2
        assert kept[1] not in old
        assert backups.verify() == []


def test_a_run_that_fails_is_reported_and_the_next_one_is_made(people: Store, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.write_text("no directory")
    with running(*soon()) as process:
        assert " ERROR no backup, then: " in line_of(process, "no backup")
        backups.unlink()
        assert " INFO backup " in line_of(process, "1 states")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


def test_a_signal_in_the_middle_of_a_run_leaves_no_half_backup(people: Store, tmp_path: Path) -> None:
    """The target hangs, once the first part was written."""
    code = """
import os, sys, threading
from empathy_kv import connect
from empathy_kv.backup import directory, schedule, Backups
from datetime import datetime, timedelta
put = directory.Directory.put
def hanging(self, path, data):
    put(self, path, data)
    print("hangs", file=sys.stderr, flush=True)
    threading.Event().wait()
directory.Directory.put = hanging
times = [(datetime.now() + timedelta(seconds=n)).time() for n in (1, 3, 10, 30)]
schedule.run(Backups(sys.argv[1]), connect, times)
print("ended", file=sys.stderr)
"""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "backups")], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            line_of(process, "hangs")
            process.send_signal(signal.SIGTERM)
            line_of(process, "ended")
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    assert Backups(tmp_path / "backups").list() == []
    assert [path for path in (tmp_path / "backups").rglob("*") if path.is_file()] == []


def test_it_can_be_told_what_to_do_by_the_environment_alone(people: Store) -> None:
    assert os.environ["EMPATHY_KV_BACKUPS"]
    code = "from empathy_kv.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "backup", "create"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert NAME.fullmatch(done.stdout.strip())
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("url", ["file:typo", "sqlite:///typo.db"])
def test_a_store_that_is_not_there_is_not_backed_up(url: str, command: Command, people: Store, tmp_path: Path) -> None:
    done = command("backup", "create", "--store", url)
    assert done.status == 1
    assert done.err.startswith(f"empathy-kv: there is no store at {url}: ")
    assert not (tmp_path / "backups").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("typo")]


@pytest.mark.parametrize("url", ["file:{}", "file://{}", "file://localhost{}"])
def test_a_store_is_backed_up_however_its_url_is_written(url: str, command: Command, tmp_path: Path) -> None:
    path = tmp_path / "a store"
    with connect(f"file:{path}") as store:
        store.states.save_state("ada", CollaborationState("ada"))
    where = url.format(quote(str(path)) if "//" in url else path)
    done = command("backup", "create", "--store", where, "--target", str(tmp_path / "backups"))
    assert done.status == 0, done.err


def test_pruning_by_no_rule_says_which_there_are(command: Command, people: Store) -> None:
    assert command("backup", "prune").err == (
        "empathy-kv: say which to keep, as --keep 7, or --daily 7 --weekly 4 --monthly 12\n"
    )


def test_what_is_not_in_a_backup_is_told(command: Command, people: Store, tmp_path: Path) -> None:
    assert "not backed up" not in command("backup", "create").err
    people.kv.namespace("jobs").set("one", b"1")
    assert command("backup", "create").err.startswith("not backed up: 1 collection or namespace of your own\n")
    people.kv.namespace("collection", "notes").set("one", b"{}")
    told = command("store", "migrate", f"file:{tmp_path}/store", "file:other").err
    assert told.startswith("not moved: 2 collections or namespaces of your own\n")
    assert command("store", "migrate", "file:other", "sqlite:///other.db").err.startswith("moved ")


@pytest.mark.parametrize("url", ["file:typo", "sqlite:///typo.db"])
def test_a_run_hears_at_once_of_a_store_that_is_not_there(url: str, people: Store) -> None:
    with running("--store", url, "--at", "02:00") as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(f"empathy-kv: there is no store at {url}: ")
        assert process.wait(timeout=60) == 1


@pytest.mark.parametrize("arguments", [("list",), ("list", "--json"), ("prune", "--keep", "1", "--yes")])
@pytest.mark.parametrize("target", ["nowhere", "file:nowhere"])
def test_a_directory_that_is_not_there_is_not_taken_for_one_without_backups(
    target: str, arguments: tuple[str, ...], command: Command, people: Store, tmp_path: Path
) -> None:
    done = command("backup", *arguments, "--target", target)
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        "empathy-kv: there is no directory nowhere: name that of the backups by --target or EMPATHY_KV_BACKUPS; "
        "`empathy-kv backup create` makes one\n"
    )
    assert not (tmp_path / "nowhere").exists()


def test_a_run_without_its_store_makes_no_backup_of_nothing(people: Store, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with running(*soon()) as process:
        line_of(process, "1 states")
        store.rename(tmp_path / "elsewhere")
        assert " ERROR no backup, then: there is no store at file:" in line_of(process, "no backup")
        (tmp_path / "elsewhere").rename(store)
        assert " INFO backup " in line_of(process, "1 states")


@pytest.mark.parametrize("target", ["ftp://host/secret", "s3://", "s3:/bucket/x"])
def test_what_is_said_of_a_target_of_backups_is_not_said_of_a_store(
    target: str, command: Command, people: Store
) -> None:
    done = command("backup", "list", "--target", target)
    assert done.status == 2
    assert done.err.startswith("empathy-kv: the target of backups must be a directory, s3://BUCKET/PREFIX, ")
    done = command("backup", "create", "--store", "ftp://host/secret")
    assert done.status == 2
    assert done.err.startswith("empathy-kv: a store is named by a URL ")


@pytest.mark.parametrize("name", ["EMPATHY_KV_BACKUPS", "EMPATHY_KV_URL"])
def test_a_variable_that_is_empty_is_not_set(
    name: str, command: Command, people: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "")
    done = command("backup", "create")
    if name == "EMPATHY_KV_URL":
        assert done.err.startswith("empathy-kv: there is no store at file:.empathy: ")
        assert command("demo").status == 0
        assert command("backup", "create").status == 0
        assert command("states", "list", "--store", "").status == 2  # That was said, and it is none.
    else:
        assert done.status == 2
        assert "--target" in done.err
        assert command("backup", "create", "--target", "").status == 2
