"""`empathy-kv` as a whole: states, metrics, stores, and what it says when it fails."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from calling import Command, Done
from servers import RedisServer

from empathy_kv import CollaborationState, StateManager, Store, connect
from empathy_kv.cli.metrics import spark
from empathy_kv.cli.options import address

STATE = """{"user_id": "a", "trust_level": %s, "current_level": 2, "target_level": 3, "interaction_count": 0,
"success_count": 0, "failure_count": 0, "last_interaction": null, "created_at": "2025-01-15T10:30:00"}""".replace(
    "\n", ""
)
AT = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)


@pytest.fixture
def people(store: Store) -> Store:
    for user, trust in (("ada", 0.75), ("grace/../x", 0.5)):
        store.states.save_state(user, CollaborationState(user, trust, created_at=AT, extra={"note": "kept"}))
    return store


def test_states_are_listed_and_shown(command: Command, people: Store) -> None:
    done = command("states", "list")
    assert [line.split()[:2] for line in done.out.splitlines()] == [
        ["USER", "TRUST"],
        ["ada", "0.75"],
        ["grace/../x", "0.50"],
    ]
    assert done.err == "2 users\n"
    assert [state["user_id"] for state in json.loads(command("states", "list", "--json").out)] == ["ada", "grace/../x"]
    assert json.loads(command("states", "show", "ada", "--json").out)["trust_level"] == 0.75
    assert "trust_level        0.75" in command("states", "show", "ada").out
    assert command("states", "show", "nobody").status == 1


@pytest.mark.parametrize("file", ["states.json", "states.jsonl", "states"])
def test_exported_states_come_back(file: str, command: Command, people: Store) -> None:
    assert command("states", "export", file).status == 0
    for _ in range(2):  # A second time changes nothing.
        assert command("states", "import", file, "--store", "file:other").status == 0
    with connect("file:other") as other:
        for user in ("ada", "grace/../x"):
            assert other.states.load_versioned(user)[1] <= 2
            assert other.states.load_state(user) == people.states.load_state(user)


def test_a_file_of_one_state_is_imported(command: Command, people: Store, tmp_path: Path) -> None:
    command("states", "export", "d")
    older = {"trust_level": 0.7, "total_interactions": 12, "successful_interventions": 9, "failed_interventions": 3}
    (tmp_path / "linus.json").write_text(json.dumps(older))  # One of empathy-framework is named by its file.
    for file in ("d/ada.json", "linus.json"):
        done = command("states", "import", file, "--store", "file:other")
        assert (done.status, done.err) == (0, "saved 1 state (0 in the place of others)\n")
    with connect("file:other") as other:
        assert other.states.list_users() == ["ada", "linus"]
        assert other.states.load_state("ada") == people.states.load_state("ada")
        assert other.states.load_state("linus").interaction_count == 12


def test_an_import_over_other_states_has_to_say_what_becomes_of_them(command: Command, people: Store) -> None:
    command("states", "export", "states.json")
    people.states.save_state("ada", CollaborationState("ada", 0.1))
    assert "1 user with another state, as 'ada'" in command("states", "import", "states.json").err
    assert command("states", "import", "states.json", "--existing", "keep").status == 0
    assert people.states.load_state("ada").trust_level == 0.1
    assert command("states", "import", "states.json", "--existing", "replace", "-y").status == 0
    assert people.states.load_state("ada").trust_level == 0.75


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("s.json", '{"states": [{"user_id": "a", "trust_level": "high"}]}', "$.states[0].trust_level"),
        ("s.jsonl", f"{STATE % '0.5'}\n\n{STATE % '2'}\n", "$[3].trust_level"),
        ("s.json", "[]", "$.states"),
        ("s.json", "{}", "an array of states, or a state"),
        ("s.json", '{"user_id": "a"}', "$.trust_level"),
        ("s.json", STATE % "2", "$.trust_level"),
        ("s.json", "{", "not JSON"),
    ],
)
def test_a_file_of_other_things_is_refused_whole(
    name: str, content: str, where: str, command: Command, people: Store, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    done = command("states", "import", name, "--existing", "replace", "--yes")
    assert done.status == 1
    assert where in done.err or where == "not JSON"
    assert done.err.startswith(f"empathy-kv: {name}: ")
    assert people.states.list_users() == ["ada", "grace/../x"]


def test_states_are_deleted_after_a_question(command: Command, people: Store) -> None:
    assert command("states", "delete", "ada", "nobody", "-y").status == 1
    assert command("states", "delete", "ada", answer="\n").status == 1
    assert len(people.states.list_users()) == 2
    assert command("states", "delete", "ada", answer="yes\n").status == 0
    assert people.states.list_users() == ["grace/../x"]


def test_metrics_are_shown_for_one_and_for_all(command: Command, store: Store) -> None:
    for number in range(10):
        store.metrics.record_interaction("ada", 3, number < 9, 10.0 * number, at=AT)
    store.metrics.record_interaction("grace", 1, True, 5.0, at=AT)
    assert json.loads(command("metrics", "show", "--json").out)["total_interactions"] == 11
    assert json.loads(command("metrics", "show", "ada", "--json").out)["success_rate"] == 0.9
    assert "2025-01-15     10" in command("metrics", "show", "ada").out
    assert command("metrics", "show", "nobody").status == 1
    board = command("metrics", "dashboard").out.splitlines()
    assert [line.split()[0] for line in board] == ["USER", "ada", "grace", "all"]
    assert board[1].split()[:4] == ["ada", "3", "10", "90%"]
    assert "1 users more" in command("metrics", "dashboard", "--top", "1").out
    assert set(json.loads(command("metrics", "dashboard", "--json").out)["users"]) == {"ada", "grace"}
    assert command("metrics", "dashboard", "--watch").status == 2  # This is no terminal.
    assert command("metrics", "export", "m.csv").status == 0
    with open("m.csv", newline="") as file:
        assert [row["user_id"] for row in csv.DictReader(file)] == ["ada", "grace", ""]


def test_a_spark_is_as_high_as_its_share_of_the_most() -> None:
    assert spark([0, 1, 4, 8]) == " ▁▄█"
    assert spark([0, 0]) == "  "


def test_a_store_is_described_checked_and_brought_up_to_date(command: Command, people: Store, tmp_path: Path) -> None:
    found = json.loads(command("store", "info", "--json").out)
    assert {name: found[name] for name in ("patterns", "states", "interactions")} == {
        "patterns": 0,
        "states": 2,
        "interactions": 0,
    }
    assert command("store", "checkpoint").status == 0
    document = tmp_path / "store" / "empathy" / "state" / "ada.json"
    document = document if document.exists() else next((tmp_path / "store").rglob("ada.json"))
    assert command("store", "check").err == "all is well\n"
    document.write_bytes(document.read_bytes().replace(b"0.75", b"0.95"))
    done = command("store", "check", "--json")
    assert done.status == 1
    assert [problem["path"] for problem in json.loads(done.out)] == [str(document)]
    assert str(document) in command("store", "check").out


def test_a_database_is_looked_at_as_any_store(command: Command, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    assert command("demo", "--store", url).status == 0
    found = json.loads(command("store", "info", "--json", "--store", url).out)
    assert (found["patterns"], found["interactions"]) == (2, 210)
    assert "store.db" in found["store"]
    assert command("store", "checkpoint", "--store", url).status == 0
    assert command("store", "check", "--store", url).err == "all is well\n"
    assert "retry" in command("patterns", "find", "task=api_call", "--store", url).out
    assert "ada" in command("metrics", "dashboard", "--store", url).out


def test_a_demo_fills_an_empty_store_only(command: Command, store: Store) -> None:
    assert command("demo").status == 0
    assert store.metrics.get_global_stats()["total_interactions"] == 210
    assert command("demo").status == 1
    assert store.metrics.get_global_stats()["total_interactions"] == 210


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["nothing"], 2),
        (["patterns", "list", "--nothing"], 2),
        (["patterns", "find", "task"], 2),
        (["patterns", "find", "a=1", "--min-confidence", "2"], 2),
        (["patterns", "list", "--limit", "0"], 2),
        (["patterns", "show"], 2),
        (["patterns", "show", "nope"], 1),
        (["patterns", "import", "nope.json"], 1),
        (["store", "info", "--store", "nope://user:secret@host"], 2),
        (["store", "info", "--store", "unix:///nope.sock?password=secret"], 1),
        (["metrics", "export", "figures.txt"], 2),
    ],
)
def test_an_error_is_one_line_without_a_secret(
    arguments: list[str], status: int, command: Command, people: Store
) -> None:
    done = command(*arguments)
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith("empathy-kv: ")
    assert done.err.count("\n") == 1
    assert "secret" not in done.err
    assert "Traceback" not in done.err


def test_an_id_cannot_control_the_terminal(command: Command, store: Store) -> None:
    store.states.save_state("\x1b[2J[red]\r\n", CollaborationState())
    done = command("states", "list")
    assert "\x1b" not in done.out
    assert r"\x1b[2J[red]\r\n" in done.out
    assert len(done.out.splitlines()) == 2
    assert "\x1b" not in command("states", "show", "\x1b]0;title\x07").err


def test_whoever_reads_it_may_stop_reading(people: Store) -> None:
    with connect(os.environ["EMPATHY_KV_URL"], durability="os") as quick:
        for number in range(2000):  # More than fits into a pipe.
            quick.states.save_state(f"user_{number}", CollaborationState())
    code = "from empathy_kv.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "states", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 0


def test_without_its_libraries_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "cyclopts.py").write_text("raise ModuleNotFoundError('no', name='cyclopts')")
    done = subprocess.run(
        [sys.executable, "-c", "from empathy_kv.cli import main; main()"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install cyclopts rich brings it, as the extra cli does" in done.stderr


def test_a_directory_of_another_state_manager_is_imported(command: Command, store: Store, tmp_path: Path) -> None:
    StateManager(state_dir=tmp_path / "old").save_state("ada", CollaborationState("ada", 0.3))
    assert command("states", "import", "old").status == 0
    assert store.states.load_state("ada").trust_level == 0.3


def terminal(*arguments: str, columns: int = 80, keys: bytes = b"") -> tuple[int, str]:
    """Run a command on a terminal of so many columns, and return its status and what is on it then, without colours."""
    import fcntl
    import pty
    import struct
    import termios

    code = "from empathy_kv.cli import main; main()"
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env={**environment, "TERM": "xterm"},
    ) as process:
        os.close(other)
        said = b""
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError:  # The other end was closed.
                break
            if not piece:
                break
            said += piece
            if keys and b"ada" in said:
                os.write(main, keys)
                keys = b""
        os.close(main)
    return process.returncode, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode()).replace("\r\n", "\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of another kind")
@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (120, "USER LEVEL COUNT SUCCESS MEAN P50 P95 P99 LEVELS 1-5 LAST 14 DAYS"),
        (80, "USER COUNT SUCCESS P50 P95 P99 LEVELS 1-5 LAST 14 DAYS"),
        (60, "USER SUCCESS P95 LEVELS 1-5 LAST 14 DAYS"),
    ],
)
def test_a_narrow_terminal_shows_less_and_folds_nothing(
    columns: int, shown: str, command: Command, store: Store
) -> None:
    command("demo")
    status, said = terminal("metrics", "dashboard", columns=columns)
    lines = [line for line in said.splitlines() if line]
    assert status == 0
    assert lines[0].split() == shown.split()
    assert len(lines) == 5
    assert all(len(line) <= columns for line in lines)


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of another kind")
def test_a_board_that_is_watched_ends_with_an_interrupt(command: Command, store: Store) -> None:
    command("demo")
    status, said = terminal("metrics", "dashboard", "--watch", keys=b"\x03")
    assert status == 0
    assert "Traceback" not in said
    assert "interrupted" not in said


def test_output_that_nobody_wants_is_no_error(command: Command, store: Store) -> None:
    command("demo")
    code = "from empathy_kv.cli import main; main()"
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" "$@" >&-', sys.executable, "-c", code, "patterns", "list"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "2 patterns\n")


@pytest.mark.parametrize(
    "file", ["patterns:p.json", "patterns:p.db", "states:s.json", "states:s.jsonl", "states:s", "metrics:m.csv"]
)
def test_a_dry_run_of_an_export_writes_nothing(file: str, command: Command, store: Store, tmp_path: Path) -> None:
    command("demo")
    what, _, name = file.partition(":")
    done = command(what, "export", name, "--dry-run")
    assert (done.status, done.out) == (0, "")
    assert done.err.startswith("would write ")
    assert done.err.endswith(f" to {name}\n")
    assert not (tmp_path / name).exists()
    assert command(what, "export", name).status == 0
    assert command(what, "export", name, "--dry-run").err.endswith(f" to {name}, in the place of what is there\n")
    assert command(what, "export", name).status == 2


@pytest.mark.parametrize("arguments", [("patterns", "p.txt"), ("states", "s.txt"), ("metrics", "m.txt")])
def test_a_file_whose_name_does_not_say_its_form_is_refused(
    arguments: tuple[str, str], command: Command, store: Store, tmp_path: Path
) -> None:
    what, name = arguments
    done = command(what, "export", name)
    assert done.status == 2
    assert f"{name} must end in " in done.err
    assert not (tmp_path / name).exists()


def test_what_is_asked_wrongly_is_told_with_where_to_read_on(command: Command) -> None:
    assert command("patterns", "show").err.endswith("See empathy-kv patterns show --help\n")
    assert "'extra' is one argument too many." in command("patterns", "list", "extra").err
    assert "a store is named by a URL" in command("patterns", "list", "--store", "x.db").err
    assert "sqlite:///FILE" in command("patterns", "list", "--store", "x.db").err
    assert command("patterns", "find").err == "empathy-kv: say what to look for: KEY=VALUE, or --tag TAG\n"
    for words in (("add", "."), ("import", ".")):
        assert command("patterns", *words).err == "empathy-kv: . is a directory: name a file\n"
    done = command("patterns", "list", "--store", "unix:///nope.sock")
    assert (done.status, done.err.endswith(": see that it runs, and that this is its address\n")) == (1, True)


def test_figures_are_shown_as_people_read_them(command: Command, store: Store) -> None:
    command("demo")
    shown = command("metrics", "show").out
    assert "success_rate          85%\n" in shown
    assert "p95_response_time_ms  150 ms\n" in shown
    with connect("file:other") as other:
        other.states.save_state("ada", CollaborationState("ada"))
    shown = command("metrics", "show", "--store", "file:other")
    assert shown.out.startswith("total_users           0\n")
    assert "DAY" not in shown.out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_cannot_be_written_is_told(command: Command, store: Store) -> None:
    command("demo")
    code = "from empathy_kv.cli import main; main()"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, "patterns", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "empathy-kv: No space left on device\n" in done.stderr
    assert "Traceback" not in done.stderr


LOOKS = [
    ("store", "info"),
    ("store", "check"),
    ("store", "checkpoint"),
    ("states", "list"),
    ("states", "show", "ada"),
    ("states", "export", "out.json"),
    ("states", "delete", "ada"),
    ("patterns", "list"),
    ("patterns", "show", "retry"),
    ("patterns", "find", "task=api"),
    ("patterns", "export", "out.json"),
    ("patterns", "remove", "retry"),
    ("metrics", "show"),
    ("metrics", "show", "ada", "--json"),
    ("metrics", "export", "out.json"),
    ("metrics", "dashboard"),
    ("backup", "create", "--target", "out"),
]


@pytest.mark.parametrize("url", ["file:nowhere", "sqlite:///nowhere.db", "file:."])
@pytest.mark.parametrize("arguments", LOOKS)
def test_a_store_that_is_not_there_is_not_taken_for_an_empty_one(
    arguments: tuple[str, ...], url: str, command: Command, tmp_path: Path
) -> None:
    done = command(*arguments, "--store", url)
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        f"empathy-kv: there is no store at {url}: name one by --store or EMPATHY_KV_URL; `empathy-kv demo` fills one\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["file:new", "sqlite:///new.db"])
def test_what_writes_makes_a_store_that_is_not_there(url: str, command: Command, tmp_path: Path) -> None:
    pattern = b'{"id": "a", "agent_id": "a", "pattern_type": "t", "name": "A"}'
    (tmp_path / "states.jsonl").write_text(STATE % "0.5")
    assert command("patterns", "add", "-", "--store", url, stdin=pattern).err == "added a\n"
    assert command("patterns", "export", "library.json", "--store", url).status == 0
    assert command("patterns", "import", "library.json", "--store", f"{url}2").status == 0
    assert command("states", "import", "states.jsonl", "--store", f"{url}3").status == 0
    assert command("states", "list", "--store", f"{url}3").err == "1 user\n"


@pytest.mark.parametrize("words", [["--store", "file:x"], ["--store=file:x"], ["-s", "file:x"]])
def test_an_option_before_the_command_is_told_where_it_goes(words: list[str], command: Command, people: Store) -> None:
    name = words[0].partition("=")[0]
    example = "empathy-kv states list --store file:.empathy"
    told = f"empathy-kv: {name} stands before the command: options go behind it, as in {example}. See "
    assert command(*words, "states", "list") == Done(2, "", f"{told}empathy-kv --help\n")
    assert command("states", *words, "list") == Done(2, "", f"{told}empathy-kv states --help\n")
    assert 'Unknown command "stores".' in command("stores").err
    assert 'Unknown command "--verison".' in command("--verison").err  # Nothing stands behind it.
    assert "secret" not in command("--store=redis://:secret@host").err
    assert "EMPATHY_KV_URL, or --store behind a command, names a store" in " ".join(command("--help").out.split())


def written(*arguments: str, encoding: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command whose output goes to a pipe in an encoding."""
    return subprocess.run(
        [sys.executable, "-c", "from empathy_kv.cli import main; main()", *arguments],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_an_encoding_cannot_express_is_shown_in_another_way(encoding: str, command: Command, store: Store) -> None:
    command("demo")
    store.states.save_state("\u017bo\xeb", CollaborationState("\u017bo\xeb"))
    store.metrics.record_interaction("\u017bo\xeb", 3, True, 12.5)
    ways = (["metrics", "dashboard"], ["metrics", "show"], ["states", "list"], ["states", "show", "\u017bo\xeb"])
    for arguments in (*ways, ["--help"], ["metrics", "dashboard", "--help"]):
        done = written(*arguments, encoding=encoding)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
        done.stdout.decode(encoding)
    lines = written("metrics", "dashboard", encoding=encoding).stdout.decode(encoding).splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        "ada", "grace", "linus", "\\u017bo\\xeb" if encoding == "ascii" else "\\u017bo\xeb", "all"
    ]  # fmt: skip
    assert len({line.index("100%") for line in lines if "100%" in line}) == 1  # They stand below each other.
    assert re.search(r"  [ .:=#*%@+-]{5}  +@{14}$", lines[1]), lines[1]
    assert "##########" in written("metrics", "show", encoding=encoding).stdout.decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-16"])
def test_a_document_is_the_same_in_every_encoding(encoding: str, command: Command, store: Store) -> None:
    store.states.save_state("\u017bo\xeb \U0001f600", CollaborationState("a"))
    done = written("states", "list", "--json", encoding=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [state["user_id"] for state in json.loads(done.stdout.decode(encoding))] == ["\u017bo\xeb \U0001f600"]


def test_a_store_is_shown_by_its_url(command: Command, people: Store, tmp_path: Path) -> None:
    assert command("store", "info").out.startswith(f"store          file:{tmp_path}/store\n")
    assert command("store", "checkpoint").err == f"file:{tmp_path}/store is up to date\n"
    assert json.loads(command("store", "info", "--json").out)["store"] == f"file:{tmp_path}/store"
    command("demo", "--store", "sqlite:///new.db")
    url = json.loads(command("store", "info", "--json", "--store", "sqlite:///new.db").out)["store"]
    assert url == f"sqlite:///{tmp_path}/new.db"
    assert command("store", "info", "--store", url).status == 0


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://user:secret@host:6379/0", "redis://host:6379/0"),
        ("rediss://:secret@[::1]:6379", "rediss://[::1]:6379"),
        ("redis://secret@host?db=1&password=secret", "redis://host?db=1"),
        ("unix:///run/redis.sock?password=secret&db=7", "unix:///run/redis.sock?db=7"),
        ("unix://user:secret@/run/redis.sock", "unix:///run/redis.sock"),
        ("redis+sentinel://:secret@one:1,two:2/service/0", "redis+sentinel://one:1,two:2/service/0"),
        ("postgresql://user:secret@host/db?sslpassword=secret", "postgresql://host/db"),
        ("postgresql:///db?user=me&password=secret", "postgresql:///db"),
        ("postgresql://user:?secret@host/db", "postgresql:"),
        ("postgresql://user:#secret@host/db", "postgresql:"),
        ("redis://host?password=se@cret", "redis:"),
        ("redis://host/0#secret", "redis:"),
        ("postgresql://user:a/secret@host/db", "postgresql:"),
        ("redis://host/0?db=secret@host", "redis:"),
        ("redis:host", "redis:host"),
        ("memory:", "memory:"),
    ],
)
def test_a_url_is_shown_without_what_may_be_a_password(url: str, shown: str) -> None:
    assert address(url) == shown


def test_a_store_on_a_server_is_shown_by_its_address(command: Command, redis_server: RedisServer) -> None:
    redis_server.flush()
    assert json.loads(command("store", "info", "--json", "--store", redis_server.url).out)["store"] == redis_server.url


FROM_BACKUP = "what is damaged comes back from a backup: empathy-kv backup restore --replace\n"
DOCUMENT = (
    "a document alone: set its key or delete it, as by empathy-kv states import FILE --existing replace, "
    "or empathy-kv states delete USER\n"
)
LIBRARY = "what the library keeps of its patterns alone: empathy-kv patterns repair makes it anew\n"
JOURNAL = "a journal: move it out of the store first, which goes on with what its documents hold\n"
ASIDE = "what is kept aside, or not part of the store: look at it, and move it out of the store\n"


def damaged(tmp_path: Path, store: Store) -> Path:
    """Change a byte of a document of the store, and return it."""
    store.checkpoint()
    (document,) = (tmp_path / "store" / "empathy" / "states").glob("ada.json")
    document.write_bytes(document.read_bytes().replace(b"0.75", b"0.95"))
    return document


def test_damage_of_a_document_is_told_with_what_brings_it_back(command: Command, people: Store, tmp_path: Path) -> None:
    command("backup", "create", "--target", "backups")
    command("states", "export", "states.json")
    for cure in (
        ("backup", "restore", "--replace", "--yes", "--target", "backups"),
        ("states", "import", "states.json", "--existing", "replace", "--yes"),
    ):
        damaged(tmp_path, people)
        assert command("store", "check").err == f"found 1 problem\n{FROM_BACKUP}{DOCUMENT}"
        done = command(*cure)
        assert done.status == 0, done.err
        assert people.states.load_state("ada").trust_level == 0.75
        for kept in tmp_path.glob("store/empathy/states/*.damaged-*"):
            assert command("store", "check", "--json").err == f"found 1 problem\n{ASIDE}"
            kept.rename(tmp_path / "looked at")
        assert command("store", "check").err == "all is well\n"


def test_a_damaged_state_can_be_deleted(command: Command, people: Store, tmp_path: Path) -> None:
    document = damaged(tmp_path, people)
    assert "1 user with another state, as 'ada'" in command("states", "import", str(saved(tmp_path))).err
    assert command("states", "delete", "ada", "--dry-run").err == "would delete 1 state\n"
    assert command("states", "delete", "ada", "--yes").err == "deleted 1 state\n"
    assert command("states", "list").err == "1 user\n"
    assert document.with_name("ada.json.damaged-1").exists()


def saved(tmp_path: Path) -> Path:
    """Return a file of a state of ada."""
    StateManager(state_dir=tmp_path / "saved").save_state("ada", CollaborationState("ada"))
    return tmp_path / "saved" / "ada.json"


def test_a_damaged_journal_is_told_with_what_brings_it_back(command: Command, store: Store, tmp_path: Path) -> None:
    with connect("file:other") as other:
        other.states.save_state("ada", CollaborationState("ada"))
    (journal,) = (each for each in Path("other/empathy/states/journal").iterdir() if each.name.isdecimal())
    journal.write_bytes(b"x" + journal.read_bytes()[1:])
    Path("other/empathy/notes.txt").write_text("mine")
    told = command("store", "check", "--store", "file:other")
    assert (told.status, told.err) == (1, f"found 2 problems\n{FROM_BACKUP}{JOURNAL}{ASIDE}")
    journal.rename(tmp_path / "journal")
    Path("other/empathy/notes.txt").rename(tmp_path / "notes.txt")
    assert command("store", "check", "--store", "file:other").err == "all is well\n"
    assert command("states", "list", "--store", "file:other").err == "1 user\n"


@pytest.mark.parametrize("harm", ["damaged", "deleted"])
def test_a_library_that_lost_its_patterns_is_told_with_what_finds_them(
    harm: str, command: Command, tmp_path: Path
) -> None:
    url = "file:other"
    assert command("demo", "--store", url).status == 0
    order = tmp_path / "other" / "empathy" / "patterns" / "order.json"
    kept = order.rename(tmp_path / "order.json").read_bytes()
    if harm == "damaged":
        order.write_bytes(kept[:-20])
    told = command("store", "check", "--store", url)
    assert (told.status, told.err.partition("\n")[2]) == (1, f"{FROM_BACKUP}{LIBRARY}")
    assert command("patterns", "repair", "--store", url).err == "found 2 patterns again\n"
    assert command("patterns", "repair", "--store", url).err == "found 0 patterns again\n"
    for each in order.parent.glob("*.damaged-*"):
        each.rename(tmp_path / each.name)
    assert command("store", "check", "--store", url).err == "all is well\n"
