"""Backups in a directory, through SIGKILL, failing calls and power cuts at every step: whole, or not there."""

from __future__ import annotations

import errno
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from archives import STORIES, creating, filled, held, perform, pruning, restore, small, wrong
from calls import LOOKS, WRITES, Call, fail_at, kill_at, record
from disk import Effort, History
from forks import Forks
from recording import Recorder, build, read_tree
from scenarios import PROFILE

from empathy_kv import Backups, StorageError, connect
from empathy_kv.backup import parts
from empathy_kv.snapshot import content, dump

NIGHTLY = PROFILE == "nightly"
EFFORT = Effort(contents=200, combinations=200, prefixes=20) if NIGHTLY else Effort(6, 6, 4)


@pytest.fixture
def tmp_path(memory: Path) -> Iterator[Path]:
    """A directory in memory: syncs cost nothing there, and nobody cuts the power."""
    path = memory / secrets.token_hex(4)
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with three backups, two of which would be pruned."""
    monkeypatch.setattr(parts, "RAW", parts.RAW)  # What `small` changes is put back.
    monkeypatch.setattr(parts, "_BLOCK", parts._BLOCK)
    small()
    with connect("memory:") as store, Backups(tmp_path / "three") as backups:
        filled(store)
        for _ in range(3):
            assert len(backups.create(store).parts) == 3
    return tmp_path / "three"


def names(directory: Path) -> list[str]:
    with Backups(directory) as backups:
        return [backup.name for backup in backups.list()]


def stays(story: str, directory: Path) -> list[str]:
    """Return the backups that a story does not remove."""
    return names(directory)[-1:] if story == "prune" else names(directory)


class Places:
    """Copies of a directory, each for one fault."""

    def __init__(self, origin: Path) -> None:
        self.origin = origin
        self._number = 0

    def __iter__(self) -> Iterator[Path]:
        while True:
            self._number += 1
            place = self.origin.with_name(f"place {self._number}")
            shutil.copytree(self.origin, place)
            yield place
            shutil.rmtree(place)


def calls_of(forks: Forks, story: str, place: Path) -> list[Call]:
    told = forks.run(perform, story, place, record())
    assert told.status == 0, told.error
    assert told.said[0] is None
    made: list[Call] = told.said[1]
    assert len(made) > 20
    return made


@pytest.mark.parametrize("story", STORIES)
def test_a_process_killed_at_any_call_leaves_whole_backups(story: str, three: Path, forks: Forks) -> None:
    places = iter(Places(three))
    kept = stays(story, three)
    found = []
    for call in calls_of(forks, story, next(places)):
        for part in (None, 0.5) if call.name in WRITES else (None,):
            if call.name in LOOKS and not NIGHTLY:
                continue
            place = next(places)
            killed = forks.run(perform, story, place, kill_at(call.number, part=part))
            assert killed.status == -signal.SIGKILL, killed.error
            found += [f"{call}: {each}" for each in wrong(place, kept, 0)]
    assert found == []


@pytest.mark.parametrize("story", STORIES)
def test_a_call_that_fails_is_an_error_and_leaves_whole_backups(story: str, three: Path, forks: Forks) -> None:
    places = iter(Places(three))
    kept = stays(story, three)
    found = []
    for call in calls_of(forks, story, next(places)):
        if call.name in LOOKS and call.number % 3 and not NIGHTLY:
            continue
        for number in call.errnos if NIGHTLY else call.errnos[:1]:
            place = next(places)
            told = forks.run(perform, story, place, fail_at(call.number, number))
            assert told.status == 0, f"{call} with {errno.errorcode[number]}: {told.error}"
            if told.said[0] is not None and not isinstance(told.said[0], StorageError):
                found.append(f"{call} with {errno.errorcode[number]}: {told.said[0]!r}")
            made = 1 if told.said[0] is None and story == "create" else 0
            found += [f"{call} with {errno.errorcode[number]}: {each}" for each in wrong(place, kept, made)]
    assert found == []


def test_a_full_disk_leaves_no_part_of_a_backup(three: Path, forks: Forks) -> None:
    """Who backs up each night would find it full the next day as well."""
    places = iter(Places(three))
    before = set(three.rglob("*"))
    tried = 0
    for call in calls_of(forks, "create", next(places)):
        if call.name in WRITES:
            place = next(places)
            told = forks.run(perform, "create", place, fail_at(call.number, errno.ENOSPC, part=0.5, persistent=True))
            assert isinstance(told.said[0], StorageError)
            assert told.said[0].errno == errno.ENOSPC
            assert {three / path.relative_to(place) for path in place.rglob("*")} == before
            tried += 1
    assert tried >= 4


def test_a_power_cut_at_any_moment_leaves_whole_backups(three: Path, tmp_path: Path) -> None:
    """What is on the disk then is computed from the calls: whatever was not synced may be there or not, or in part."""
    root = tmp_path / "recorded"
    shutil.copytree(three, root)
    kept = names(root)
    recorder = Recorder(root, History.of(read_tree(root)))
    recorder.mark(0, 0)
    with connect("memory:") as store:
        filled(store)
        with recorder.recording(), Backups(root) as backups:
            creating(backups, store)
            recorder.mark(1, 1)
            creating(backups, store)
            recorder.mark(2, 2)
            pruning(backups, store)
            recorder.mark(3, 3)
    made = [name for name in names(root) if name not in kept]
    assert len(made) == 1
    events = recorder.history.events
    marks = [index for index, event in enumerate(events) if type(event).__name__ == "Mark"]
    seen: set[object] = set()
    found = []
    for end in recorder.history.cuts(1):
        acknowledged = sum(index < end for index in marks[1:])
        pruned = end > marks[2] + 1
        expected = made if pruned else kept
        for tree in recorder.history.until(end).survivors(EFFORT):
            key = (acknowledged, *sorted(tree.items(), key=lambda item: item[0]))
            if key in seen:
                continue
            seen.add(key)
            place = tmp_path / f"state {len(seen)}"
            build(place, tree)
            least = 0 if pruned else acknowledged
            found += [f"cut after {end} of {len(events)}: {each}" for each in wrong(place, expected, least)]
            shutil.rmtree(place)
    assert found == []
    assert len(seen) > 60


def test_a_restore_that_is_killed_at_any_call_is_done_or_not_or_says_that_it_is_not_finished(
    three: Path, tmp_path: Path, forks: Forks
) -> None:
    where = tmp_path / "store"
    with connect(f"file:{where}") as store:
        before = content(dump(filled(store, 7)))
    with Backups(three) as backups, connect("memory:") as store:
        backups.restore(None, store)
        after = content(dump(store))
    assert after != before
    places = iter(Places(where))
    told = forks.run(restore, three, next(places), record())
    assert told.status == 0, told.error
    made = [call for call in told.said[0] if NIGHTLY or call.name not in LOOKS]
    outcomes = []
    for call in made if NIGHTLY else made[:: max(1, len(made) // 20)]:
        place = next(places)
        killed = forks.run(restore, three, place, kill_at(call.number))
        assert killed.status == -signal.SIGKILL, killed.error
        found = held(place)
        outcomes.append(found)
        assert found in (before, after, None), call
        again = forks.run(restore, three, place, record())
        assert again.status == 0, again.error
        assert held(place) == after, call
    assert before in outcomes
    assert None in outcomes
