"""The benchmark runs, leaves nothing behind, and its arithmetic is right. Nothing here is timed."""

from __future__ import annotations

import json
import mmap
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import evolve
from test_bench_figures import Clock, agrees_with_itself, taking

PROGRAM: Final = Path(__file__).parent.parent / "scripts" / "benchmark"

sys.path.append(str(PROGRAM))

import command  # noqa: E402 - it is no package, but a directory that Python runs
import counting  # noqa: E402
import files  # noqa: E402
import growth  # noqa: E402
import harness  # noqa: E402
import interactions  # noqa: E402
import reference  # noqa: E402
import report  # noqa: E402
import results  # noqa: E402
import space  # noqa: E402
import storing  # noqa: E402
from documents import decode, encode, from_plain, pattern, solution, to_plain  # noqa: E402
from peers import disk, local, server  # noqa: E402
from peers.shape import Documents, Peer, Recorder, Recording  # noqa: E402
from served import binary  # noqa: E402

import empathy_kv  # noqa: E402


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=600
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
        assert any(item["role"] == "ours" for item in of_job), job
        assert any(item["role"] != "ours" for item in of_job), job
        # What memory grows by may be nothing, or less.
        assert all(item["median"] > 0 for item in of_job if item["unit"] not in ("MB", "bytes")), of_job


def test_what_is_not_installed_is_left_out_and_said_so(whole: tuple[str, dict[str, Any], list[Path]]) -> None:
    printed, written, _ = whole
    rows = [row for job in command.planned("tiny") for row in job.contenders]
    absent = {row.store: row.missing for row in rows if row.missing is not None}
    assert written["left_out"] == absent
    assert all(f"{store} ({reason})" in printed for store, reason in absent.items())
    measured = {(item["job"], item["store"]) for item in written["figures"]}
    for job in command.planned("tiny"):
        assert {row.store for row in job.contenders if row.missing is None} == {
            store for name, store in measured if name == job.name
        }


def test_the_table_has_a_row_a_figure_of_as_many_cells_as_its_head(
    whole: tuple[str, dict[str, Any], list[Path]],
) -> None:
    printed, written, _ = whole
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(lines) == len(written["figures"]) + 2 > 100
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
    done = bench(
        "--tiny", "--dir", tmp_path, "--json", tmp_path / "figures", "files/get", "overwrite", "--stores", "sq,empa"
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures").read_text())["figures"]
    assert {item["job"] for item in figures} == {"files/overwrite", "files/get"}
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
    assert 650 <= len(data) <= 670
    assert len(json.loads(data)) == 15  # With `extra`, which is empty.
    assert decode(data) == document
    assert encode(pattern(1235)) != data
    assert json.loads(data)["name"] == solution(document).name
    assert json.loads(json.dumps(to_plain(document))) == to_plain(document)
    assert from_plain(to_plain(document)) == document


ALL: Final = {
    (module.__name__, peer.name): peer
    for module in (disk, local, server)
    for peer in vars(module).values()
    if isinstance(peer, Peer)
}


@pytest.mark.parametrize("peer", [peer for peer in ALL.values() if peer.keeps], ids=lambda peer: peer.name)
def test_a_store_keeps_what_it_is_given(peer: Peer, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if peer.missing:
        pytest.skip(peer.missing)
    on_server = peer in vars(server).values()
    place = request.getfixturevalue("redis_server").url if on_server else str(tmp_path)
    documents = {name: peer.form(pattern(number)) for number, name in enumerate("abc")}
    store = peer.open(place)
    store.fill({"a": documents["a"], "b": documents["c"]})
    assert len(store.time(store.put, [("b", documents["b"]), ("c", documents["c"])])) == 2
    store.do(store.delete, "a")
    for reopened in range(2):
        assert store.do(store.get, "a") is None
        assert store.do(store.get, "b") == documents["b"]
        assert dict(store.do(store.items, ["a", "b", "c"])) == {"b": documents["b"], "c": documents["c"]}
        store.checkpoint()
        if not reopened and peer not in vars(local).values():
            store.close()
            store = peer.open(place)
    store.close()


def test_the_floor_of_the_files_reads_what_it_wrote(tmp_path: Path) -> None:
    store = disk.BARE.open(str(tmp_path))
    for number in range(3):
        store.put(f"{number}", pattern(number))
    assert store.get("0") == pattern(0)
    assert store.items([]) == [(pattern(number).id, pattern(number)) for number in range(3)]
    store.close()


def test_every_peer_of_the_plan_is_one_that_is_tested() -> None:
    stores = {
        row.store
        for job in command.planned("full")
        if job.name in ("files/put", "memory/put", "redis/put")
        for row in job.contenders
    }
    assert stores == {peer.name for module in (disk, local, server) for peer in module.EVERY}


# What is timed


class Noted:
    """A store that notes what is done with it, and takes its time to be closed."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.held: dict[str, Any] = {}

    def peer(self) -> Peer:
        calls = (self._put, self.held.get, self._delete, self._items, self._close, self._checkpoint)
        return Peer("noted", lambda _: Documents(*calls), harness.KILL)

    def _put(self, key: str, document: Any) -> None:
        self.log.append("put")
        self.held[key] = document

    def _delete(self, key: str) -> None:
        self.log.append("delete")
        del self.held[key]

    def _items(self, _: Sequence[str]) -> list[tuple[str, Any]]:
        return list(self.held.items())

    def _checkpoint(self) -> None:
        self.log.append("checkpoint")
        time.sleep(0.02)

    def _close(self) -> None:
        self.log.append("close")
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("turns", "written"),
    [
        (partial(storing.put_turns, turn=2), ["put", "put"]),
        (partial(storing.overwrite_turns, keys=4, turn=2), ["put", "put"]),
        (partial(storing.delete_turns, turn=2), ["put", "put", "delete", "delete"]),
        (partial(storing.written_get_turns, keys=4, turn=2), ["put", "put"]),
        (partial(storing.written_list_turns, keys=3), ["put", "put", "put"]),
    ],
)
def test_a_turn_that_writes_leaves_nothing_to_be_done_in_that_of_another(
    turns: Any, written: Sequence[str], tmp_path: Path
) -> None:
    store = Noted()
    taken = turns(store.peer(), place=str(tmp_path))
    next(taken)
    store.log.clear()
    samples = next(taken)
    assert store.log == [*written, "checkpoint"]
    assert max(samples) < 0.02
    taken.close()


@pytest.mark.parametrize(
    ("turns", "ends"),
    [
        (partial(counting.first_turns, count=4), ["one", "one", "one", "one", "close"]),
        (partial(counting.late_turns, before=4, turn=2), ["one", "one", "checkpoint"]),
        (partial(counting.counted_turns, turn=2), ["one", "one", "checkpoint"]),
    ],
)
def test_a_turn_that_counts_leaves_nothing_to_be_done_in_that_of_another(
    turns: Any, ends: Sequence[str], tmp_path: Path
) -> None:
    log: list[str] = []

    def opened(_: str) -> Recording:
        first = len(log)
        return Recording(
            lambda: log.append("one"),
            lambda: log[first:].count("one"),
            lambda: log.append("close"),
            lambda: log.append("checkpoint"),
        )

    taken = turns(Recorder("noted", "", opened, lambda _: (), harness.KILL), place=str(tmp_path))
    next(taken)
    log_before = len(log)
    next(taken)
    assert log[log_before:] == ends
    taken.close()


def test_filling_a_store_is_timed_to_its_end(tmp_path: Path) -> None:
    store = Noted()
    (sample,) = next(files.fill_turns(store.peer(), 4, str(tmp_path)))
    assert sample * 4 >= 0.04
    assert store.log == ["put"] * 4 + ["checkpoint", "close"]


def test_what_a_process_writes_is_timed_to_its_end(tmp_path: Path) -> None:
    store = Noted()
    storing._enter({1: threading.Barrier(1)})
    rate, last = storing.write(store.peer(), str(tmp_path), 1, 1, 0.01)
    count = store.log.count("put") - 1
    assert last in store.held
    assert store.log[-2:] == ["checkpoint", "close"]
    assert 0 < rate <= count / 0.05


def hoard_and_forget(size: int) -> None:
    assert len(bytearray(size)) == size


def mapped_growth(path: Path) -> float:
    before = space.resident()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        assert sum(pages[:: mmap.PAGESIZE]) == 0
        return space.resident() - before


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux only")
def test_memory_is_what_a_process_has_for_itself_and_its_peak_is_seen(tmp_path: Path) -> None:
    size = 64 << 20
    grown = space.most(hoard_and_forget, size)
    assert 0.9 * size < grown < 1.5 * size
    with (tmp_path / "large").open("wb") as file:
        file.truncate(size)
    assert space.alone(mapped_growth, tmp_path / "large") < 0.1 * size


def test_a_goal_that_holds_of_many_patterns_is_not_judged_of_few() -> None:
    judged = {
        scale: [
            goal
            for job in command.planned(scale)
            for row in job.contenders
            for goal in row.goals
            if goal.of is not None and goal.of.startswith("scan")
        ]
        for scale in ("quick", "full")
    }
    assert [len(judged["quick"]), len(judged["full"])] == [0, 2]


def test_the_page_says_what_was_measured(tmp_path: Path) -> None:
    from surroundings import surroundings

    about = surroundings(tmp_path)
    assert re.fullmatch(r"\d+\.\d+\.\d+(, commit [0-9a-z.-]+)?", about["empathy_kv"])


def test_the_script_can_be_run() -> None:
    assert os.access(PROGRAM.with_name("bench"), os.X_OK)


# The time that there is


@pytest.mark.parametrize(("scale", "seconds"), [("quick", 60.0), ("full", 600.0)])
def test_the_plan_of_a_run_fits_its_time(scale: str, seconds: float, tmp_path: Path) -> None:
    # Every turn takes a tenth of what is planned for its job, so that the end of the time ends all of them.
    clock = Clock()
    jobs = command.planned(scale)
    for job, allowed in zip(
        jobs, harness.allowances([job.weight for job in jobs], command.SECONDS[scale], clock), strict=True
    ):
        one = evolve(job, rounds=15, contenders=[taking(clock, allowed / 10)])
        harness.measure(one, tmp_path, seconds=allowed, clock=clock)
    assert clock.now <= seconds


# How the system does it that this package takes the place of


def test_the_scan_by_hand_answers_as_the_library_does() -> None:
    from situations import Situations, drawn

    library = empathy_kv.PatternLibrary()
    library.contribute_patterns("agent", drawn(300, skewed=True))
    questions = Situations(2, skewed=True)
    for _ in range(50):
        question = questions.question()
        found = [match.pattern.id for match in library.find_patterns(question)]
        assert reference.query(library.patterns.values(), question, 0.5, 10) == found
        assert found


def test_figures_by_hand_are_those_of_the_collector(tmp_path: Path) -> None:
    table = reference.Table(tmp_path)
    with empathy_kv.connect("memory:") as store:
        calls = list(interactions.interactions(250))
        for each in calls[:100]:
            table.record(*each)
            store.metrics.record_interaction(*each)
        table.record_many(calls[100:])
        interactions.record_many(store, calls[100:])
        for mine, theirs in (
            (store.metrics.get_user_stats("user_3"), table.user("user_3")),
            (store.metrics.get_global_stats(), table.everyone()),
        ):
            names = (mine.keys() & theirs.keys()) - {"first_use", "last_use"}
            assert len(names) > 5
            assert {name: theirs[name] for name in names} == pytest.approx({name: mine[name] for name in names})


@pytest.mark.parametrize("url", ["memory:", "file:{}"])
def test_many_interactions_at_once_leave_what_single_ones_do(url: str, tmp_path: Path) -> None:
    calls = list(interactions.interactions(1000))
    with (
        empathy_kv.connect(url.format(tmp_path / "one"), durability="os", history_limit=8) as one,
        empathy_kv.connect(url.format(tmp_path / "many"), durability="os", history_limit=8) as many,
    ):
        for each in calls:
            one.metrics.record_interaction(*each)
        interactions.record_many(many, calls, 8)
        for ask in ("get_global_stats", "get_all_users"):
            assert plainly(getattr(one.metrics, ask)()) == plainly(getattr(many.metrics, ask)())
        for user in ("user_0", "user_99"):
            assert plainly(one.metrics.get_user_stats(user)) == plainly(many.metrics.get_user_stats(user))
            kept = [[evolve(each, at=None) for each in store.metrics.get_history(user)] for store in (one, many)]
            assert kept[0] == kept[1]


def plainly(figures: Any) -> Any:
    """Return figures without what depends on when something was recorded."""
    if not isinstance(figures, dict):
        return figures
    dated = {"first_interaction", "last_interaction", "daily_counts"}
    return {name: value for name, value in figures.items() if name not in dated}


# Growth


def test_growth_is_measured_for_every_call_on_every_engine(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = bench("--growth", "--tiny", "--dir", tmp_path, "--json", file)
    written = json.loads(file.read_text())
    assert not [item for item in written["figures"] if "error" in item], done.stdout
    measured = {item["store"] for item in written["figures"]}
    assert measured == set(growth.ENGINES) - written["left_out"].keys()
    assert measured >= {"memory", "files"} | ({"redis"} if binary() else set())
    rows = sum(len(measured.intersection(call.engines)) for call in growth.CALLS.values())
    assert len(written["figures"]) == rows * len(growth.SIZES["tiny"].counts)
    assert len([line for line in done.stdout.splitlines() if line.startswith("|")]) == 2 + rows
    assert done.returncode == int("GROWS" in done.stdout), done.stderr


# What is kept of a run


def test_the_figures_in_short_are_those_of_the_whole(whole: tuple[str, dict[str, Any], list[Path]]) -> None:
    _, written, _ = whole
    page = results.document(written["about"], written["figures"], written["left_out"])
    assert f"- python: {written['about']['python']}\n" in page
    assert re.search(r"^- date: \d{4}-\d\d-\d\d$", page, re.MULTILINE)
    agrees_with_itself(page)


def test_only_a_whole_run_is_kept(tmp_path: Path) -> None:
    for wrong in (("--quick",), ("--stores", "empathy"), ("files",)):
        done = bench("--save", *wrong)
        assert done.returncode == 2
        assert "--save" in done.stderr
