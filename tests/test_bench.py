"""The benchmark runs, leaves nothing behind, and its arithmetic is right."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

PROGRAM: Final = Path(__file__).parent.parent / "scripts" / "benchmark"
PEERS: Final = ("diskcache", "lmdb", "sqlitedict")

sys.path.append(str(PROGRAM))

import harness  # noqa: E402 - it is no package, but a directory that Python runs
import peers  # noqa: E402
import report  # noqa: E402
from documents import decode, encode, pattern, solution  # noqa: E402
from harness import Contender, Figure, Goal, Job, Room  # noqa: E402


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], list[Path]]:
    """Everything once, as small as can be: what was printed, the JSON, and what was left in the directory."""
    place = tmp_path_factory.mktemp("bench")
    file = tmp_path_factory.mktemp("json") / "figures.json"
    done = bench("--tiny", "--dir", place, "--json", file)
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stderr == ""
    return done.stdout, json.loads(file.read_text()), list(place.iterdir())


def test_every_job_gives_a_figure_of_this_package_and_of_others(whole: tuple[str, dict[str, Any], list[Path]]) -> None:
    _, written, _ = whole
    listed = {line.partition(" ")[0] for line in bench("--tiny", "--list").stdout.splitlines()}
    assert {item["job"] for item in written["figures"]} == listed
    for job in listed:
        of_job = [item for item in written["figures"] if item["job"] == job]
        assert any(item["store"] == "empathy_kv" for item in of_job), job
        assert any(not item["store"].startswith("empathy_kv") for item in of_job), job
        # What memory grows by may be nothing.
        assert all(item["median"] > 0 for item in of_job if job != "files/memory"), of_job


def test_what_is_not_installed_is_left_out_and_said_so(whole: tuple[str, dict[str, Any], list[Path]]) -> None:
    printed, written, _ = whole
    absent = {name for name in PEERS if importlib.util.find_spec(name) is None}
    assert written["left_out"].keys() == absent | ({"lmdb, sync"} if "lmdb" in absent else set())
    measured = {item["store"] for item in written["figures"]}
    for name in PEERS:
        assert (f"{name} is not installed" in printed) == (name in absent)
        assert (name in measured) == (name not in absent)


def test_the_table_has_a_row_a_figure_of_as_many_cells_as_its_head(
    whole: tuple[str, dict[str, Any], list[Path]],
) -> None:
    printed, written, _ = whole
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(lines) == len(written["figures"]) + 2
    assert {line.count("|") for line in lines} == {len(report.HEAD) + 1}


def test_nothing_is_left_in_the_directory(whole: tuple[str, dict[str, Any], list[Path]]) -> None:
    assert whole[2] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["interrupted", "terminated"])
@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
def test_nothing_is_left_if_it_is_ended_early(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, PROGRAM, "--full", "fill", "--dir", tmp_path, "--stores", "empa"]
    ) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*/files/fill/*/*/*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_jobs_and_stores_are_chosen_by_name(tmp_path: Path) -> None:
    done = bench("--tiny", "--dir", tmp_path, "--json", tmp_path / "figures", "files/get", "put", "--stores", "sq,empa")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures").read_text())["figures"]
    assert {item["job"] for item in figures} == {"files/put", "files/get"}
    assert {"empathy_kv", "sqlite3 OFF"} < {item["store"] for item in figures}
    assert "shelve" not in {item["store"] for item in figures}


@pytest.mark.parametrize(
    "arguments", [("nothing",), ("put", "--stores", "nothing"), ("--quick", "--tiny"), ("--dir", "/nothing")]
)
def test_what_does_not_exist_is_a_usage_error(arguments: Sequence[str]) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert "usage: scripts/bench" in done.stderr


def test_the_document_is_650_bytes_of_json_with_14_fields_and_comes_back() -> None:
    document = pattern(1234)
    data = encode(document)
    assert 640 <= len(data) <= 660
    assert len(json.loads(data)) == 14
    assert decode(data) == document
    assert encode(pattern(1235)) != data
    assert json.loads(data)["name"] == solution(document).name


ALL: Final = [value for value in vars(peers).values() if isinstance(value, peers.Peer) and value is not peers.FLOOR]


@pytest.mark.parametrize("peer", ALL, ids=lambda peer: peer.name)
def test_a_store_keeps_what_it_is_given(peer: peers.Peer, tmp_path: Path) -> None:
    if peer.missing:
        pytest.skip(peer.missing)
    documents = {name: peer.form(pattern(number)) for number, name in enumerate("abc")}
    store = peer.open(tmp_path)
    store.fill({"a": documents["a"], "b": documents["c"]})
    store.put("b", documents["b"])
    store.put("c", documents["c"])
    store.delete("a")
    for _ in range(2):
        assert store.get("a") is None
        assert dict(store.items()) == {"b": documents["b"], "c": documents["c"]}
        store.checkpoint()
        store.close()
        store = peer.open(tmp_path)
    store.close()


def contender(name: str, samples: Sequence[Sequence[float]], log: list[str], **options: Any) -> Contender:
    def turns(room: Room) -> Iterator[Sequence[float]]:
        assert room.own.is_dir()
        log.append(f"{name} begins")
        try:
            for number in itertools.count():
                log.append(name)
                yield samples[number]
        finally:
            log.append(f"{name} ends")

    return Contender(name, turns, **options)


def test_contenders_take_turns_and_the_first_round_does_not_count(tmp_path: Path) -> None:
    log: list[str] = []
    rows = [contender(name, [[9e-3], [1e-6], [2e-6], [3e-6]], log) for name in "abc"]
    figures = harness.measure(Job("j", "a job", "us", 3, rows), tmp_path)
    turns = [entry for entry in log if len(entry) == 1]
    rounds = [turns[i : i + 3] for i in range(0, 12, 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert {entry for entry in log if "ends" in entry} == {"a ends", "b ends", "c ends"}
    assert [figure.rounds for figure in figures] == [[[1.0], [2.0], [3.0]]] * 3
    assert len(list((tmp_path / "j").iterdir())) == 3  # What is removed while others are measured slows them down.


def test_a_ratio_is_that_of_the_rounds_and_not_of_the_medians(tmp_path: Path) -> None:
    # On a machine that gets slower the one takes twice as long as the other, but for one slow moment.
    slow = contender("slow", [[0.0], [2.0], [200.0], [200.0]], [], beside="fast", goals=[Goal(2.0, "fast")])
    fast = contender("fast", [[0.0], [1.0], [10.0], [100.0]], [])
    figures = harness.measure(Job("j", "a job", "puts/s", 3, [slow, fast]), tmp_path)
    item = report.plain(figures)[0]
    assert (item["median"], item["ratio"]) == (200.0, 2.0)
    assert item["goals"] == [{"limit": 2.0, "of": "fast", "reach": False, "value": 2.0, "met": True}]


@pytest.mark.parametrize(
    ("goal", "text"),
    [
        (Goal(5.1), "<= 5.1 us: met (5.00)"),
        (Goal(4.9), "<= 4.9 us: NOT MET (5.00)"),
        (Goal(1 / 6, "other"), "<= 0.167 x other: NOT MET (0.50)"),
        (Goal(0.5, "other"), "<= 0.5 x other: met (0.50)"),
        (Goal(0.6, "other", reach=True), ">= 0.6 x other: NOT MET (0.50)"),
        (Goal(1.0, "absent"), "<= 1 x absent: not measured"),
        (Goal(1.0, "failed"), "<= 1 x failed: not measured"),
    ],
)
def test_a_goal_stands_beside_its_figure(goal: Goal, text: str, tmp_path: Path) -> None:
    log: list[str] = []
    rows = [
        contender("mine", [[], [5e-6], [5e-6]], log, goals=[goal]),
        contender("other", [[], [10e-6], [10e-6]], log),
        contender("failed", [[]], log),
    ]
    items = report.plain(harness.measure(Job("j", "a job", "us", 2, rows), tmp_path))
    table = report.table(items)
    assert f"{text} " in table
    assert "failed" in table.splitlines()[-1]
    assert "IndexError" in table.splitlines()[-1]


def test_the_99th_percentile_is_of_all_samples_if_they_are_many() -> None:
    figure = Figure(Job("j", "a job", "us", 2, ()), Contender("a", lambda _: iter(())))
    figure.rounds = [[float(number) for number in range(50)], [float(number) for number in range(50, 100)]]
    assert figure.p99 == 99.0
    figure.rounds[1].pop()
    assert figure.p99 is None


def test_it_is_timed_without_garbage_collection() -> None:
    import gc

    seen: list[bool] = []
    assert gc.isenabled()
    samples = harness.timed(lambda value: seen.append(gc.isenabled() or value), [(False,), (False,)])
    assert seen == [False, False]
    assert gc.isenabled()
    assert len(samples) == 2
    assert all(sample > 0 for sample in samples)


def test_the_script_can_be_run() -> None:
    assert os.access(PROGRAM.with_name("bench"), os.X_OK)
