"""What has expired on files: it is gone for every process at once, in whatever way clocks run, and leaves no file."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

from empathy_kv.errors import StorageError
from empathy_kv.kv.files import FilesKV, checkpoint, disk, frames, overlay, sweep
from empathy_kv.kv.interface import Namespace
from empathy_kv.kv.table import Session

DURABILITIES = pytest.mark.parametrize("durability", ["os", "fsync"])


class Clock:
    """A clock that others set."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def __call__(self) -> int:
        return int(self.seconds * 1000) * 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time_ns", clock)
    return clock


class Processes:
    """Stores that know nothing of each other, as those of several processes do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: list[FilesKV] = []

    def open(self, durability: Any = "os") -> FilesKV:
        self._opened.append(FilesKV(self.path, durability=durability))
        return self._opened[-1]

    def namespace(self) -> Namespace:
        return self.open().namespace("n")

    def close(self) -> None:
        for kv in self._opened:
            kv.close()

    def documents(self) -> list[str]:
        return sorted(path.stem for path in (self.path / "empathy" / "n").glob("*.json"))


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    processes.close()


@DURABILITIES
def test_a_write_that_failed_changes_nothing_of_another_key_that_has_expired(
    processes: Processes, clock: Clock, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    first, second = processes.open(durability), processes.open(durability)
    ours, theirs = first.namespace("n"), second.namespace("n")
    ours.set("k", b"1", ttl=1)
    clock.seconds += 2
    with monkeypatch.context() as patch:
        patch.setattr(disk, "append", full)
        with pytest.raises(StorageError):
            ours.set("other", b"1", ttl=60)
    theirs.hset("k", {"field": b"kept"})
    assert ours.hgetall("k") == {"field": b"kept"}
    first.checkpoint()
    assert processes.namespace().hgetall("k") == {"field": b"kept"}


@DURABILITIES
def test_the_damaged_document_of_a_key_that_has_expired_is_in_nobodys_way(
    processes: Processes, clock: Clock, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay, "KEPT", 0)
    kv = processes.open(durability)
    ns = kv.namespace("n")
    ns.set("k", b"1", ttl=1)
    kv.checkpoint()
    ns.get("absent")
    (processes.path / "empathy" / "n" / "k.json").write_bytes(b"garbage")
    clock.seconds += 2
    ns.set("sound", b"1", ttl=60)
    kv.checkpoint()
    assert ns.get("sound") == processes.namespace().get("sound") == b"1"
    assert [Path(error.path).name for error in kv.check()] == ["k.json"]


def test_a_clock_that_goes_back_lets_a_key_live_on_in_every_process(processes: Processes, clock: Clock) -> None:
    first, second, third = (processes.open() for _ in range(3))
    ours, theirs, others = (kv.namespace("n") for kv in (first, second, third))
    ours.hincrby("k", {"count": 100})
    ours.expire("k", 1)
    theirs.get("other")  # It has followed that.
    first.checkpoint()
    theirs.get("other")
    clock.seconds += 1.5
    others.set("other", b"1", ttl=60)
    theirs.get("other")
    clock.seconds -= 1
    assert others.hincrby("k", {"count": 1}) == {"count": 101}
    assert others.expire("k", None)
    assert theirs.hgetall("k") == processes.namespace().hgetall("k") == {"count": b"101"}
    second.checkpoint()
    assert processes.namespace().hgetall("k") == {"count": b"101"}


def test_what_one_checkpoint_takes_for_expired_all_processes_do(processes: Processes, clock: Clock) -> None:
    first, second = processes.open(), processes.open()
    ours, theirs = first.namespace("n"), second.namespace("n")
    ours.hset("late", {"count": b"5"})
    ours.expire("late", 1)
    theirs.hgetall("late")
    clock.seconds += 2
    first.checkpoint()  # It had no document, and gets none.
    clock.seconds -= 1.5
    assert ours.exists("late") == theirs.exists("late") == processes.namespace().exists("late")
    ours.hset("early", {"count": b"5"})
    ours.expire("early", 1)
    theirs.hgetall("early")
    first.checkpoint()  # It gets one.
    clock.seconds += 2
    theirs.hgetall("early")
    clock.seconds -= 1.5
    assert theirs.hincrby("early", {"count": 1}) == {"count": 6}
    assert ours.hgetall("early") == processes.namespace().hgetall("early") == {"count": b"6"}


@pytest.mark.parametrize("call", range(12))
def test_a_clock_that_goes_back_during_a_checkpoint_brings_no_old_value_back(
    processes: Processes, clock: Clock, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def back() -> int:
        nonlocal calls
        calls += 1
        return clock() - (3600 * 10**9 if calls > call else 0)

    kv = processes.open()
    ns = kv.namespace("n")
    ns.set("k", b"old")
    kv.checkpoint()
    ns.set("k", b"new", ttl=1)
    clock.seconds += 2
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", back)
        kv.checkpoint()
        assert ns.get("k") == processes.namespace().get("k") != b"old"
    assert ns.get("k") is processes.namespace().get("k") is None


class Killed(BaseException):
    """In the place of the end of a process."""


def killed(*_: object) -> NoReturn:
    raise Killed


@pytest.mark.parametrize("seed", range(40))
def test_all_processes_hold_the_same_in_whatever_way_the_clock_runs(
    processes: Processes, clock: Clock, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = random.Random(seed)
    keys = [f"k{number}" for number in range(4)]

    def shown(ns: Namespace) -> list[object]:
        result: list[object] = []
        for back in (0, 3, 10):  # What has expired is to be the same, too.
            clock.seconds -= back
            result += [(ns.hgetall(key), ns.ttl(key)) for key in keys]
            result += [ns.get("value"), ns.version("value"), ns.ttl("value")]
            clock.seconds += back
        return result

    stores = [processes.open() for _ in range(3)]
    for _ in range(120):
        kv = numbers.choice(stores)
        ns, key = kv.namespace("n"), numbers.choice(keys)
        match numbers.randrange(9):
            case 0 | 1:
                ns.hincrby(key, {"count": 1})
            case 2 | 3:
                ns.expire(key, numbers.choice((None, 0.5, 1, 3)))
            case 4:
                ns.set("value", b"1", ttl=numbers.choice((0.5, 1, 3)))
            case 5:
                ns.delete(key) if numbers.random() < 0.5 else ns.hdel(key, "count")
            case 6:
                kv.checkpoint()
            case 7:
                with monkeypatch.context() as patch, contextlib.suppress(Killed):
                    patch.setattr(checkpoint, "turn", killed)
                    kv.checkpoint()
            case _:
                clock.seconds += numbers.choice((0.4, 0.9, 1.6, 4, -0.4, -0.9, -1.6, -4))
        if numbers.random() < 0.5:  # Not always: some are to lag behind.
            expected = shown(processes.namespace())
            followers = numbers.sample(stores, 2)
            assert [shown(other.namespace("n")) for other in followers] == [expected] * 2
    expected = shown(processes.namespace())
    assert [shown(other.namespace("n")) for other in stores] == [expected] * 3


# What is left on the disk


def test_keys_of_processes_that_have_ended_leave_no_files(processes: Processes, clock: Clock) -> None:
    for run in range(3):
        kv = processes.open()
        for number in range(50):
            kv.namespace("n").set(f"{run}-{number}", b"", ttl=1)
        kv.namespace("n").set(f"kept-{run}", b"")
        kv.namespace("n").set(f"late-{run}", b"", ttl=100)
        kv.close()
        assert len(processes.documents()) == 50 + 2 * (run + 1)
        clock.seconds += 2
    processes.open().checkpoint()
    kept = ["kept-0", "kept-1", "kept-2", "late-0", "late-1", "late-2"]
    assert processes.documents() == sorted(processes.namespace().keys()) == kept
    clock.seconds += 100
    processes.open().checkpoint()
    assert processes.documents() == kept[:3]


def test_a_key_that_is_written_while_the_documents_are_looked_through_stays(
    processes: Processes, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = processes.namespace()
    look = sweep.look

    def meanwhile(path: Path, at: int) -> sweep.Swept:
        swept = look(path, at)
        theirs.hincrby("k", {"count": 1})
        return swept

    kv = processes.open()
    for key in ("k", "other"):
        kv.namespace("n").hset(key, {"count": b"5"})
        kv.namespace("n").expire(key, 1)
    kv.checkpoint()
    clock.seconds += 2
    monkeypatch.setattr(sweep, "look", meanwhile)
    kv.checkpoint()
    assert kv.namespace("n").hgetall("k") == processes.namespace().hgetall("k") == {"count": b"1"}
    assert processes.documents() == ["k"]


def test_a_key_that_a_clock_gives_back_while_the_documents_are_looked_through_stays(
    processes: Processes, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = sweep.look

    def back(path: Path, at: int) -> sweep.Swept:
        swept = look(path, at)
        clock.seconds -= 1.5
        return swept

    kv = processes.open()
    kv.namespace("n").set("k", b"1", ttl=1)
    kv.checkpoint()
    clock.seconds += 2
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "look", back)
        kv.checkpoint()
    assert kv.namespace("n").get("k") == processes.namespace().get("k") == b"1"
    clock.seconds += 10
    kv.checkpoint()
    assert processes.documents() == []


def test_a_crash_before_a_file_is_removed_brings_nothing_back(
    processes: Processes, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink

    def unlinked(path: Any, **options: Any) -> None:
        if str(path).endswith(".json"):
            raise Killed
        unlink(path, **options)

    kv, follower = processes.open(), processes.namespace()
    kv.namespace("n").set("k", b"1", ttl=1)
    kv.checkpoint()
    assert follower.get("k") == b"1"
    clock.seconds += 2
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlinked)
        with contextlib.suppress(Killed):
            kv.checkpoint()
    assert processes.documents() == ["k"]
    clock.seconds -= 2
    assert follower.get("k") is processes.namespace().get("k") is None
    processes.namespace().set("other", b"1")
    processes.open().checkpoint()
    assert processes.documents() == ["other"]


def test_many_files_are_removed_a_part_at_a_time(
    processes: Processes, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "MOST", 10)
    kv = processes.open()
    for number in range(35):
        kv.namespace("n").set(f"k{number}", b"", ttl=1)
    kv.checkpoint()
    clock.seconds += 2
    left = []
    for _ in range(5):
        kv.checkpoint()
        left.append(len(processes.documents()))
        kv.checkpoint()  # Too early for another look.
        assert len(processes.documents()) == left[-1]
        clock.seconds += 1
    assert left == [25, 15, 5, 0, 0]


def test_where_nothing_expires_no_documents_are_looked_through(
    processes: Processes, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    look = sweep.look

    def counted(path: Path, at: int) -> sweep.Swept:
        looks.append(at)
        return look(path, at)

    monkeypatch.setattr(sweep, "look", counted)
    kv = processes.open()
    for number in range(5):
        kv.namespace("n").set(f"k{number}", b"")
        kv.checkpoint()
        clock.seconds += 100
    assert looks == []
    kv.namespace("n").set("k", b"1", ttl=60)
    kv.checkpoint()
    kv.checkpoint()
    assert looks == []
    clock.seconds += 61
    for _ in range(5):
        kv.checkpoint()
        clock.seconds += 100
    assert len(looks) == 1


def test_what_an_older_version_left_is_removed_as_well(
    processes: Processes, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def older(revision: int, sessions: dict[str, Session], boot: str, waiting: list[frames.Line], *_: Any) -> bytes:
        head = {"format": 1, "boot": boot, "revision": revision, "sessions": {}, "waiting": waiting}
        return frames.frame(msgspec.msgpack.encode(head))

    with monkeypatch.context() as patch:
        patch.setattr(frames, "head", older)
        kv, follower = processes.open(), processes.namespace()
        kv.namespace("n").set("k", b"1", ttl=1)
        kv.namespace("n").set("other", b"1")
        kv.checkpoint()
        assert follower.get("k") == b"1"
    clock.seconds += 2
    processes.open().checkpoint()
    assert processes.documents() == ["other"]
    assert follower.get("k") is None


def test_a_document_that_cannot_be_read_spoils_no_checkpoint(
    processes: Processes, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = disk.reading

    def refused(path: Any) -> int:
        if str(path).endswith("k2.json"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return reading(path)

    kv = processes.open()
    for number in range(5):
        kv.namespace("n").set(f"k{number}", b"1", ttl=1)
    kv.checkpoint()
    clock.seconds += 2
    kv.namespace("n").set("other", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(disk, "reading", refused)
        kv.checkpoint()
    assert processes.namespace().get("other") == b"1"
    clock.seconds += 1
    kv.checkpoint()
    assert processes.documents() == ["other"]


def test_the_expiry_of_a_document_is_found_whatever_its_key_is(processes: Processes, clock: Clock) -> None:
    keys = ['","version":1,"expires":null,', "\x01" * 512, "\\", "é" * 256, '"', 'x\\"', "💜"]
    kv = processes.open()
    for key in keys:
        kv.namespace("n").set(key, b"1", ttl=1)
        kv.namespace("n").set(f"{key[:200]} kept", b'{"expires":5,"version":1}')
    kv.checkpoint()
    assert len(processes.documents()) == 2 * len(keys)
    clock.seconds += 2
    kv.checkpoint()
    assert len(processes.documents()) == len(keys)
    assert sorted(processes.namespace().keys()) == sorted(f"{key[:200]} kept" for key in keys)
