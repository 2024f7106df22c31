"""Signals that come at any moment of a call: what they interrupt keeps no lock, and waits for nobody."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal

import pytest

from empathy_kv.errors import EmpathyKVError, LockTimeoutError
from empathy_kv.kv.files import FilesKV, disk, engine
from empathy_kv.kv.files.overlay import Change

TIMES = 4_000


@pytest.fixture(autouse=True)
def collected_quietly() -> Iterator[None]:
    """Let the collector of garbage call nobody: what hypothesis has it call would be interrupted, too."""
    callbacks = gc.callbacks.copy()
    gc.callbacks.clear()
    yield
    gc.callbacks.extend(callbacks)


@contextmanager
def interrupted(seconds: float) -> Iterator[None]:
    """Raise KeyboardInterrupt in the block after so many seconds, as Ctrl-C does."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_an_interrupted_write_keeps_no_lock(
    tmp_path: Path, durability: Literal["os", "fsync"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "IDLE", 3600.0)  # Who makes a checkpoint in the background has the lock, too.
    with FilesKV(tmp_path, durability=durability, timeout=2.0) as kv:
        counters = kv.namespace("a")
        began = time.perf_counter()
        for _ in range(50):
            counters.incr("n")
        took = (time.perf_counter() - began) / 50
        lock = os.open(tmp_path / "empathy" / "a" / "lock", os.O_RDWR)
        try:
            for _ in range(TIMES):
                try:
                    with interrupted(random.random() * 1.5 * took + 1e-6):
                        counters.incr("n")
                except KeyboardInterrupt:
                    pass  # It came as the block ended.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Nobody else has it.
                fcntl.flock(lock, fcntl.LOCK_UN)
        finally:
            os.close(lock)
        answers: list[int] = []
        other = threading.Thread(target=lambda: answers.append(counters.incr("n")))
        other.start()
        other.join()
        assert answers == [int(counters.get("n") or b"0")]
    with FilesKV(tmp_path) as kv:
        assert int(kv.namespace("a").get("n") or b"0") == answers[0]


def test_who_shares_a_commit_learns_what_became_of_it_though_its_leader_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv = FilesKV(tmp_path, durability="fsync")
    values = kv.namespace("a")
    values.set("first", b"1")
    real = Change.end

    def interrupt(change: Change) -> None:
        monkeypatch.setattr(Change, "end", real)
        raise KeyboardInterrupt  # As if the signal came when the function began.

    monkeypatch.setattr(Change, "end", interrupt)
    outcomes: list[object] = []

    def write(name: str) -> None:
        try:
            outcomes.append(values.set(name, b"2"))
        except BaseException as error:  # noqa: BLE001 - the interrupt
            outcomes.append(type(error))

    held = kv._directories[("a",)]._lock
    threads = [threading.Thread(target=write, args=(name,), daemon=True) for name in "xyz"]
    with held.hold():
        for thread in threads:
            thread.start()
        while len(kv._directories[("a",)]._queue) < len(threads):
            time.sleep(0.001)
    for thread in threads:
        thread.join(10.0)
    assert not any(thread.is_alive() for thread in threads)
    assert outcomes.count(KeyboardInterrupt) == 1
    assert {outcome for outcome in outcomes if outcome is not KeyboardInterrupt} < {2, 3, 4}
    assert {values.get(name) for name in "xyz"} == {b"2"}
    kv.close()


@pytest.mark.parametrize("how", ["write", "close"])
def test_a_handler_that_uses_the_store_within_a_write_is_refused_and_never_waits_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    kv = FilesKV(tmp_path, durability="os", timeout=0.2)
    values = kv.namespace("a")
    values.set("k", b"1")
    real = disk.append
    told: list[type[BaseException] | None] = []

    def handled(descriptor: int, data: bytes) -> None:
        monkeypatch.setattr(disk, "append", real)
        try:
            kv.close() if how == "close" else values.set("other", b"1")  # type: ignore[func-returns-value]
            told.append(None)
        except EmpathyKVError as error:
            told.append(type(error))
        real(descriptor, data)

    monkeypatch.setattr(disk, "append", handled)
    values.set("k", b"2")
    assert told == [LockTimeoutError if how == "write" else None]
    with FilesKV(tmp_path) as fresh:
        assert fresh.namespace("a").get("k") == b"2"
        assert fresh.namespace("a").get("other") is None
    kv.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_child_that_never_uses_the_store_does_not_keep_the_lock_of_a_parent_that_was_killed(tmp_path: Path) -> None:
    with FilesKV(tmp_path, durability="os", timeout=2.0) as kv:
        kv.namespace("a").set("k", b"1")
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        own = FilesKV(tmp_path, durability="os")
        own.namespace("a").set("k", b"2")
        with own._directories[("a",)]._lock.hold():
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            os.write(write, b"%d\n" % child)
            time.sleep(60)
        os._exit(0)
    child = int(os.read(read, 20))
    try:
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        with FilesKV(tmp_path, durability="os", timeout=2.0) as kv:
            assert kv.namespace("a").set("k", b"3")
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("length", ["as long", "longer"])
def test_a_reader_forgets_what_was_taken_back_after_it_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: str
) -> None:
    writer, reader = FilesKV(tmp_path, durability="fsync"), FilesKV(tmp_path)
    values, seen = writer.namespace("a"), reader.namespace("a")
    values.set("k", b"before")
    assert seen.get("k") == b"before"
    real = disk.append

    def fill(descriptor: int, data: bytes) -> None:
        monkeypatch.setattr(disk, "append", real)
        os.write(descriptor, data[: len(data) // 2])  # One of two frames, and the disk is full.
        seen.get("k")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk, "append", fill)
    refused: list[BaseException] = []

    def write(value: bytes) -> None:
        try:
            values.set("k", value)
        except EmpathyKVError as error:
            refused.append(error)

    held = writer._directories[("a",)]
    threads = [threading.Thread(target=write, args=(b"lost-%d" % number,)) for number in range(2)]
    with held._lock.hold():
        for thread in threads:
            thread.start()
        while len(held._queue) < len(threads):
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert [error.errno for error in refused] == [errno.ENOSPC] * 2  # type: ignore[attr-defined]
    value = b"right!" if length == "as long" else b"right, and longer"
    values.set("k", value)
    assert seen.get("k") == value
    reader.checkpoint()
    reader.close()
    writer.close()
    with FilesKV(tmp_path) as fresh:
        assert fresh.namespace("a").get("k") == value
        assert fresh.check() == []
