"""Many processes on one store: nothing is lost, nothing is counted twice, and a reader sees whole records only."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from empathy_kv.records import Pattern
from empathy_kv.sql.store import SQLStore
from empathy_kv.store import Store
from empathy_kv.urls import connect, connect_async

WORKERS: Final = 8
TIMES: Final = 1000

_OPEN = """
import json, sys, time
from empathy_kv import connect
url, prefix, number, times = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = connect(url, prefix=prefix, durability="os", timeout=30.0)
"""
_READY = """
print("ready", flush=True)
if not sys.stdin.readline():
    sys.exit("the test is gone")
deadline = time.monotonic() + 60
"""
_RECORD = (
    _OPEN
    + _READY
    + """
for i in range(times):
    store.metrics.record_interaction(f"user{(number + i) % 5}", 1 + i % 5, i % 4 != 0, float(i % 50))
store.close()
"""
)
_OUTCOME = (
    _OPEN
    + _READY
    + """
for i in range(times):
    store.patterns.record_pattern_outcome("p", i % 4 != 0)
store.close()
"""
)
_WATCH_METRICS = (
    _OPEN
    + _READY
    + """
seen, last, users, looks = 0, {}, 0, 0
while seen < times and time.monotonic() < deadline:
    for user in [f"user{i}" for i in range(5)]:
        stats = store.metrics.get_user_stats(user)
        count = stats["total_operations"]
        assert count >= last.get(user, 0), (user, count, last)
        last[user] = count
        # All of one record, or none of it.
        assert sum(stats[f"level_{level}_count"] for level in range(1, 6)) == count, stats
        assert sum(stats["daily_counts"].values()) == count, stats
        assert (stats["last_interaction"] is None) == (count == 0), stats
    everyone = store.metrics.get_global_stats()
    assert everyone["total_interactions"] >= seen, (everyone, seen)
    assert everyone["total_interactions"] >= sum(last.values()), (everyone, last)
    assert everyone["total_users"] >= users
    seen, users, looks = everyone["total_interactions"], everyone["total_users"], looks + 1
    time.sleep(0.02)
print(json.dumps([seen, looks]))
"""
)
_WATCH_PATTERN = (
    _OPEN
    + _READY
    + """
seen, looks = 0, 0
while seen < times and time.monotonic() < deadline:
    each = store.patterns.get_pattern("p")
    assert each is not None
    assert each.usage_count == each.success_count + each.failure_count >= seen, (each, seen)
    assert (each.last_used is None) == (each.usage_count == 0)
    assert each.usage_count < 5 or each.confidence == each.success_rate
    (match,) = store.patterns.find_patterns({"k": 1}, min_confidence=0.0)
    assert match.pattern.usage_count >= each.usage_count
    seen, looks = each.usage_count, looks + 1
    time.sleep(0.02)
print(json.dumps([seen, looks]))
"""
)


@pytest.fixture(params=["files", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file:{tmp_path}/store" if request.param == "files" else request.getfixturevalue("redis_server").url


@pytest.fixture
def opened(url: str) -> Callable[[], Store]:
    prefix = f"test-{os.urandom(6).hex()}"

    def again() -> Store:
        return connect(url, prefix=prefix, durability="os", timeout=30.0)

    again.place = (url, prefix)  # type: ignore[attr-defined]
    return again


def together(place: tuple[str, str], work: str, watch: str) -> list[int]:
    """Run the workers and the reader, all at the same moment, and return what the reader says."""
    arguments = [(work, number, TIMES) for number in range(WORKERS)] + [(watch, WORKERS, WORKERS * TIMES)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *place, str(number), str(times)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for code, number, times in arguments
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line == "ready\n", process.stderr and process.stderr.read()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        told = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                assert stream is not None
                stream.close()
    assert [error for _, error in told] == [""] * len(told)
    result: list[int] = json.loads(told[-1][0])
    return result


def test_eight_processes_record_interactions_and_none_is_lost_or_seen_in_part(opened: Any) -> None:
    seen, looks = together(opened.place, _RECORD, _WATCH_METRICS)
    assert (seen, looks > 3) == (WORKERS * TIMES, True)
    with opened() as store:
        everyone = store.metrics.get_global_stats()
        users = store.metrics.get_all_users()
        assert users == [f"user{number}" for number in range(5)]
        each = [store.metrics.get_user_stats(user) for user in users]
        assert everyone["total_interactions"] == sum(one["total_operations"] for one in each) == WORKERS * TIMES
        for level in range(1, 6):
            count = everyone[f"level_{level}_count"]  # type: ignore[literal-required]
            assert count == sum(one[f"level_{level}_count"] for one in each) == WORKERS * TIMES // 5  # type: ignore[literal-required]
        assert everyone["success_rate"] == 0.75
        assert everyone["avg_response_time_ms"] == 24.5
        assert sum(everyone["daily_counts"].values()) == WORKERS * TIMES
        assert sum(len(store.metrics.get_history(user)) for user in users) == WORKERS * TIMES


def test_eight_processes_record_outcomes_of_one_pattern_and_none_is_lost_or_seen_in_part(opened: Any) -> None:
    with opened() as store:
        store.patterns.contribute_pattern("a", Pattern("p", "a", "t", "n", context={"k": 1}))
    seen, looks = together(opened.place, _OUTCOME, _WATCH_PATTERN)
    assert (seen, looks > 3) == (WORKERS * TIMES, True)
    with opened() as store:
        each = store.patterns.get_pattern("p")
        assert each is not None
        assert (each.usage_count, each.success_count, each.failure_count) == (8000, 6000, 2000)
        assert each.confidence == 0.75


# Forks. In a process of its own: a fork of the one that runs the tests would have their threads' locks.

_FORK = (
    _OPEN
    + """
import os
from datetime import UTC, datetime
from empathy_kv import CollaborationState, Pattern
def work(who):
    for i in range(times):
        # Alike in everything: parent and child are in step.
        store.metrics.record_interaction("u", 3, True, 10.0)
        store.patterns.record_pattern_outcome("p", True)
        store.kv.namespace("counters").incr("n")
        store.patterns.contribute_pattern(who, Pattern(f"{who}{i}", who, "t", "n"))
        store.states.save_state(f"{who}{i}", CollaborationState())
store.patterns.contribute_pattern("a", Pattern("p", "a", "t", "n"))
store.metrics.record_interaction("u", 3, True, 10.0)
store.patterns.get_pattern("p")
children = []
for name in ("b", "c"):
    child = os.fork()
    if child == 0:
        work(name)
        if name == "b":
            store.close()
        os._exit(0)
    children.append(child)
work("a")
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
work("d")  # the parent works on after its children are gone
stats = store.metrics.get_user_stats("u")
print(json.dumps([
    codes, stats["total_operations"], store.metrics.get_global_stats()["total_interactions"],
    len(store.metrics.get_history("u")), store.patterns.get_pattern("p").usage_count,
    int(store.kv.namespace("counters").get("n")), len(store.patterns.patterns), len(store.states.list_users()),
]))
store.close()
"""
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_of_a_process_with_an_open_store_is_a_worker_of_its_own(opened: Any) -> None:
    times = 50
    done = subprocess.run(
        [sys.executable, "-c", _FORK, *opened.place, "0", str(times)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    codes, operations, everywhere, history, uses, counter, patterns, states = json.loads(done.stdout)
    assert codes == [0, 0]
    assert (operations, everywhere, uses, counter) == (4 * times + 1, 4 * times + 1, 4 * times, 4 * times)
    assert (patterns, states) == (4 * times + 1, 4 * times)
    assert history == operations
    with opened() as store:
        assert store.metrics.get_user_stats("u")["total_operations"] == operations
        assert len(store.metrics.get_history("u")) == operations
        assert store.patterns.get_library_stats()["total_usage"] == uses


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_works_whatever_the_threads_of_its_parent_were_doing(opened: Any) -> None:
    code = (
        _OPEN
        + """
import os, threading
going, counted = True, [0, 0]
def busy(mine):
    while going:
        store.metrics.record_interaction("u", 1, True, 1.0)
        counted[mine] += 1
threads = [threading.Thread(target=busy, args=(mine,), daemon=True) for mine in range(2)]
for thread in threads:
    thread.start()
for _ in range(times):
    child = os.fork()
    if child == 0:
        store.metrics.record_interaction("u", 1, True, 1.0)
        os._exit(0)
    deadline = time.monotonic() + 10
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, 9)
        time.sleep(0.001)
    assert ended[1] == 0, ended
going = False
for thread in threads:
    thread.join()
print(sum(counted) + times - store.metrics.get_user_stats("u")["total_operations"])
"""
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *opened.place, "0", "40"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_that_only_ends_leaves_the_store_of_its_parent_as_it_is(opened: Any) -> None:
    code = (
        _OPEN
        + """
import os
store.metrics.record_interaction("u", 1, True, 1.0)
child = os.fork()
if child == 0:
    store.close()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
for _ in range(times):
    store.metrics.record_interaction("u", 1, True, 1.0)
print(store.metrics.get_user_stats("u")["total_operations"])
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *opened.place, "0", "10"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("11\n", "")


def test_a_process_that_is_killed_leaves_whole_records(opened: Any) -> None:
    killed = 0
    for number in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", _RECORD, *opened.place, str(number), "1000000"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("\n")
        process.stdin.flush()
        with opened() as store:
            while store.metrics.get_global_stats()["total_interactions"] <= killed:
                assert process.poll() is None
                time.sleep(0.01)
        time.sleep(0.05)
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        with opened() as store:
            everyone = store.metrics.get_global_stats()
            each = [store.metrics.get_user_stats(user) for user in store.metrics.get_all_users()]
            count = everyone["total_interactions"]
            assert count == sum(one["total_operations"] for one in each)
            assert (
                count == sum(len(store.metrics.get_history(user)) for user in store.metrics.get_all_users())
                or count > 50_000
            )
            assert sum(everyone[f"level_{level}_count"] for level in range(1, 6)) == count  # type: ignore[literal-required]
            assert sum(everyone["daily_counts"].values()) == count > killed
            killed = count
            assert store.metrics.record_interaction("after", 1, True, 1.0, at=datetime(2025, 1, 1, tzinfo=UTC)) is True
            killed += 1


# What goes to another process


def parts(store: Store) -> Iterator[object]:
    yield from (store, store.patterns, store.states, store.metrics)
    if not isinstance(store, SQLStore):
        yield from (store.kv, store.collection("notes", Pattern), store.kv.namespace("n"))


async def awaited(url: str) -> list[object]:
    store = await connect_async(url)
    return [store, store.patterns, store.states, store.metrics]


@pytest.mark.parametrize("url", ["memory:", "file:{}", "redis://127.0.0.1:1", "sqlite:///{}/learned.db"])
def test_a_store_goes_to_another_process_by_its_url_alone(url: str, tmp_path: Path) -> None:
    url = url.format(tmp_path)
    store = connect(url)
    for each in (*parts(store), *asyncio.run(awaited(url))):
        for take in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match="open the store by its URL in each process"):
                take(each)
    store.close()
