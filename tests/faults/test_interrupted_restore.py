"""A restore, or a migration, that is killed or fails at any system call, and is run again."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calls import LOOKS, Calls, Fault, fail_at, kill_at, record
from forks import Forks

from empathy_kv import CollaborationState, EmpathyKVError, Pattern, StorageError, UnfinishedError, connect
from empathy_kv.cli.app import run
from empathy_kv.snapshot import content, dump, restore

NEW = 3
"""Users of the snapshot; the store that it replaces has one."""


def _fill(url: str, users: int) -> None:
    with connect(url, durability="os") as store:
        library = [Pattern(f"p{number}", "a", "t", f"of {users}") for number in range(users)]
        store.patterns.contribute_patterns("a", library)
        if users > 1:
            store.patterns.link_patterns("p0", "p1")
        for number in range(users):
            store.states.save_state(f"u{number}", CollaborationState(created_at=library[0].discovered_at))
            store.metrics.record_interaction(f"u{number}", 3, True, 1.0, at=library[0].discovered_at)


def _restored(say: Callable[[Any], None], place: str, source: str, fault: Fault) -> None:
    with connect(source, durability="os") as store:
        lines = list(dump(store))
    with Calls(Path(place)) as calls, connect(f"file:{place}") as target, calls.under(fault):
        try:
            restore(target, lines, replace=True)
        except EmpathyKVError as error:
            say(type(error))
        else:
            say(None)
    say([(call.number, call.name) for call in calls.made])


def _migrated(say: Callable[[Any], None], place: str, source: str, fault: Fault) -> None:
    with Calls(Path(place)) as calls, calls.under(fault):
        say(run(["store", "migrate", source, f"file:{place}", "--yes"]))
    say([(call.number, call.name) for call in calls.made])


@pytest.fixture(params=[_restored, _migrated])
def work(request: pytest.FixtureRequest) -> Callable[..., None]:
    return request.param  # type: ignore[no-any-return]


def _points(forks: Forks, work: Callable[..., None], directory: Path, source: str) -> list[int]:
    """Return the calls at which something is to happen: of those that are alike, one after the other, some."""
    place = directory / "whole"
    _fill(f"file:{place}", 1)
    ended = forks.run(work, str(place), source, record())
    assert ended.status == 0, ended.error
    made = [(number, name) for number, name in ended.said[-1] if name not in LOOKS]
    assert len(made) > 100
    return [number for number, _ in made][:: max(1, len(made) // 40)]


def _state(url: str) -> object:
    with connect(url, durability="os") as store:
        return content(dump(store))


def test_a_restore_that_was_killed_says_so_or_left_all_as_it_was(
    forks: Forks, work: Callable[..., None], memory: Path, tmp_path: Path
) -> None:
    source = f"file:{tmp_path}/source"
    _fill(source, NEW)
    new = _state(source)
    found = []
    for number in _points(forks, work, memory / f"kill-{work.__name__}", source):
        place = memory / f"kill-{work.__name__}" / f"{number}"
        _fill(f"file:{place}", 1)
        old = _state(f"file:{place}")
        ended = forks.run(work, str(place), source, kill_at(number))
        assert ended.status == -signal.SIGKILL, (number, ended)
        try:
            state = _state(f"file:{place}")
        except UnfinishedError:
            found.append("unfinished")
        else:
            assert state in (old, new), number
            found.append("old" if state == old else "new")
        again = forks.run(work, str(place), source, record())
        assert again.said[0] in (None, 0), (number, again)
        assert _state(f"file:{place}") == new, number
        with connect(f"file:{place}") as store:
            assert store.check() == [], number
    # All three happen, in this order.
    assert found == sorted(found, key=["old", "unfinished", "new"].index)
    assert {"old", "unfinished"} <= set(found)


def test_a_restore_on_a_full_disk_says_so_or_left_all_as_it_was(forks: Forks, memory: Path, tmp_path: Path) -> None:
    source = f"file:{tmp_path}/source"
    _fill(source, NEW)
    new = _state(source)
    for number in _points(forks, _restored, memory / "full", source)[::3]:
        place = memory / "full" / f"{number}"
        _fill(f"file:{place}", 1)
        old = _state(f"file:{place}")
        ended = forks.run(_restored, str(place), source, fail_at(number, errno.ENOSPC, persistent=True))
        assert ended.status == 0, (number, ended.error)
        assert ended.said[0] is None or issubclass(ended.said[0], StorageError | EmpathyKVError)
        try:
            assert _state(f"file:{place}") in (old, new)
        except UnfinishedError:
            assert ended.said[0] is not None
        assert forks.run(_restored, str(place), source, record()).said[0] is None
        assert _state(f"file:{place}") == new
