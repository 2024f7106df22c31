"""What is true of the file engine alone: what stands on the disk, and what a crash leaves."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NoReturn

import pytest

from empathy_kv.errors import (
    ArgumentError,
    DamagedError,
    LockTimeoutError,
    OutcomeUnknown,
    StorageError,
    StoragePermissionError,
)
from empathy_kv.kv.files import FilesKV, checkpoint, directory, disk, documents, engine, journal, lock, overlay, view
from empathy_kv.kv.files.directory import Directory
from empathy_kv.kv.files.overlay import Stamp
from empathy_kv.kv.files.view import View
from empathy_kv.kv.operations import Batch, Get, IncrBy, Set, Token, ZAppend
from empathy_kv.kv.table import Entry
from empathy_kv.records import CollaborationState
from empathy_kv.states import StateManager


def opened(path: Path, timeout: float = 5.0) -> FilesKV:
    return FilesKV(path, durability="os", timeout=timeout)


def journals(path: Path) -> list[Path]:
    return sorted((path / "empathy" / "a" / "journal").glob("0*"))


def grown(path: Path) -> int:
    """Return the size of the newest journal."""
    with contextlib.suppress(FileNotFoundError):  # The next has just begun.
        return journals(path)[-1].stat().st_size
    return sys.maxsize


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something that is done in the background."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_reading_creates_nothing(tmp_path: Path) -> None:
    place = tmp_path / "store"
    with opened(place) as kv:
        assert kv.namespace("a").get("k") is None
        assert list(kv.namespace("a").keys()) == []
    assert not place.exists()


def test_who_asked_before_there_was_anything_sees_what_is_written_then(tmp_path: Path) -> None:
    with opened(tmp_path) as early, opened(tmp_path) as kv:
        assert early.namespace("a").get("k") is None
        kv.namespace("a").set("k", b"1")
        kv.checkpoint()
        assert early.namespace("a").get("k") == b"1"
        assert early.namespace("a").incr("k") == 2


def test_a_repetition_that_cannot_look_does_not_say_that_the_write_was_not_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> NoReturn:
        raise OSError(errno.EIO, "the disk fails")

    with FilesKV(tmp_path, timeout=0.1) as kv:
        kv.namespace("a").set("k", b"0")
        batch = Batch(("a",), (IncrBy("n"),), (), kv.token("a"))
        with monkeypatch.context() as patch:
            patch.setattr(disk, "sync_data", failing)
            patch.setattr(checkpoint, "turn", failing)
            with pytest.raises(OutcomeUnknown):
                kv.execute(batch)
        with opened(tmp_path) as other, other._directory(("a",)).still():
            with pytest.raises(OutcomeUnknown, match="an earlier try may have been applied") as caught:
                kv.execute(batch)
            assert caught.value.token == batch.token
            with pytest.raises(LockTimeoutError):
                kv.execute(Batch(("a",), (IncrBy("n"),), (), kv.token("a")))
        assert kv.execute(batch) == [1]
        assert kv.namespace("a").get("n") == b"1"


def test_documents_are_readable_json_after_close(tmp_path: Path) -> None:
    with opened(tmp_path) as kv:
        ns = kv.namespace("a")
        ns.set("note", b'{"text": "hello",  "n": 1}')
        ns.hincrby("totals", {"count": 3})
        ns.zappend("log", b"first", b"\xff")
    found = {path.name: json.loads(path.read_text()) for path in (tmp_path / "empathy" / "a").glob("*.json")}
    assert found["note.json"]["value"] == {"json": {"text": "hello", "n": 1}}
    assert found["totals.json"]["hash"] == {"count": 3}
    assert found["log.json"]["zset"] == [[1.0, "first"], [2.0, {"base64": "/w=="}]]


def test_a_value_comes_back_byte_for_byte_from_its_document(tmp_path: Path) -> None:
    values = [
        b'{"a" : 1 }',
        b"[1,\n2]",
        b"{",
        b"12",
        b"-0",
        b"007",
        b" 1",
        b'"quoted"',
        b"",
        b"\x00\xff",
        b"1e3",
        b"{}x",
    ]
    with opened(tmp_path) as kv:
        for i, value in enumerate(values):
            kv.namespace("a").set(str(i), value)
    with opened(tmp_path) as kv:
        assert [kv.namespace("a").get(str(i)) for i in range(len(values))] == values


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as kv:
        kv.namespace("a").set("k", b"v")
    for path in (tmp_path / "store").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_frame_that_was_cut_short_was_never_committed(tmp_path: Path) -> None:
    kv = opened(tmp_path)
    ns = kv.namespace("a")
    ns.set("k", b"old")
    journal = tmp_path / "empathy" / "a" / "journal" / "00000001"
    whole = journal.read_bytes()
    ns.set("k", b"new")
    longer = journal.read_bytes()
    for length in range(len(whole), len(longer)):
        place = tmp_path / str(length) / "empathy" / "a" / "journal"
        place.mkdir(parents=True)
        (place / "00000001").write_bytes(longer[:length])
        with opened(tmp_path / str(length)) as other:
            assert other.namespace("a").get("k") == b"old"
            other.namespace("a").set("k", b"newer")
        with opened(tmp_path / str(length)) as other:
            assert other.namespace("a").get("k") == b"newer"
    kv.close()


def test_a_flipped_byte_is_damage_and_never_data(tmp_path: Path) -> None:
    with opened(tmp_path) as kv:
        kv.namespace("a").set("k", b"value")
        kv.namespace("a").set("other", b"value")
    document = tmp_path / "empathy" / "a" / "k.json"
    good = document.read_bytes()
    for at in range(len(good)):
        document.write_bytes(good[:at] + bytes([good[at] ^ 0x20]) + good[at + 1 :])
        with opened(tmp_path) as kv:
            with pytest.raises(DamagedError, match=r"k\.json") as caught:
                kv.namespace("a").get("k")
            assert caught.value.path == str(document)
            assert kv.namespace("a").get("other") == b"value"


def test_a_flipped_byte_in_the_journal_is_named(tmp_path: Path) -> None:
    kv = opened(tmp_path)
    kv.namespace("a").set("k", b"value")
    journal = tmp_path / "empathy" / "a" / "journal" / "00000001"
    data = bytearray(journal.read_bytes())
    data[-3] ^= 1
    journal.write_bytes(data)
    with pytest.raises(DamagedError, match="journal"):
        opened(tmp_path).namespace("a").get("k")


def test_a_link_in_the_place_of_a_document_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    with opened(tmp_path / "store") as kv:
        kv.namespace("a").set("other", b"value")
        (tmp_path / "store" / "empathy" / "a" / "k.json").symlink_to(tmp_path / "secret.json")
        with pytest.raises(DamagedError, match=r"k\.json"):
            kv.namespace("a").get("k")


def test_a_writer_waits_no_longer_than_its_timeout(tmp_path: Path) -> None:
    holder = (
        "import fcntl, sys, time\n"
        f"file = open({str(tmp_path / 'empathy' / 'a' / 'lock')!r}, 'r+')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    with opened(tmp_path, timeout=0.2) as kv:
        ns = kv.namespace("a")
        ns.set("k", b"old")
        with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            with pytest.raises(LockTimeoutError) as caught:
                ns.set("k", b"new")
            assert caught.value.timeout == 0.2
            assert ns.get("k") == b"old"
            process.kill()
        ns.set("k", b"new")
        assert ns.get("k") == b"new"


def test_a_journal_that_has_grown_becomes_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "GROWN", 20_000)
    monkeypatch.setattr(directory, "FULL", 20_000)
    with opened(tmp_path) as kv, opened(tmp_path) as reader:
        ns, seen = kv.namespace("a"), reader.namespace("a")
        for i in range(1000):
            ns.execute(Set(f"k{i % 50}", b"%d" % i * 20), ZAppend("log", [b"%d" % i]))
            if i % 37 == 0:
                assert seen.get(f"k{i % 50}") == b"%d" % i * 20
                assert seen.zcard("log") == i + 1
        deadline = time.monotonic() + 10
        while grown(tmp_path) > 25_000:
            assert time.monotonic() < deadline
        assert sorted(seen.keys()) == sorted(ns.keys()) == sorted([*(f"k{i}" for i in range(50)), "log"])


def test_a_reader_never_sees_half_a_batch_through_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "GROWN", 2_000)
    stop = threading.Event()
    torn: list[object] = []

    def read() -> None:
        with opened(tmp_path) as kv:
            ns = kv.namespace("a")
            while not stop.is_set():
                with ns.batch() as batch:
                    batch.get("x").get("y")
                if batch.replies[0] != batch.replies[1]:
                    torn.append(batch.replies)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    with opened(tmp_path) as kv:
        for i in range(600):
            with kv.namespace("a").batch() as batch:
                batch.set("x", b"%d" % i).set("y", b"%d" % i)
    stop.set()
    for reader in readers:
        reader.join()
    assert torn == []


def test_what_was_acknowledged_is_there_after_kill_9(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from empathy_kv.kv.files import FilesKV\n"
        f"ns = FilesKV({str(tmp_path)!r}, durability='os').namespace('a')\n"
        "for i in range(10**9):\n"
        "    with ns.batch() as batch:\n"
        "        batch.incr('x').incr('y')\n"
        "    print(batch.replies[0], flush=True)\n"
    )
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(50)]
            os.kill(process.pid, signal.SIGKILL)
            lines += process.stdout.readlines()
        acknowledged = int([line for line in lines if line.endswith("\n")][-1])
        with opened(tmp_path) as kv:
            x, y = kv.namespace("a").get("x"), kv.namespace("a").get("y")
        assert x == y
        assert int(x or b"0") in (acknowledged, acknowledged + 1)


def test_what_waits_for_a_damaged_document_outlives_a_write_that_fails_to_replace_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "empathy" / "a" / "h.json"
    with FilesKV(tmp_path) as kv:
        kv.namespace("a").hincrby("h", {"n": 1})
    sound = document.read_bytes()
    kv = FilesKV(tmp_path)
    kv.namespace("a").hincrby("h", {"n": 1})
    document.write_bytes(b"{")
    other = FilesKV(tmp_path)
    append = disk.append

    def full(descriptor: int, data: bytes) -> None:
        monkeypatch.setattr(disk, "append", append)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk, "append", full)
    with pytest.raises(StorageError):
        other.namespace("a").set("h", b"another")
    other.checkpoint()
    other.close()
    document.write_bytes(sound)
    with FilesKV(tmp_path) as fresh:
        assert fresh.namespace("a").hgetall("h") == {"n": b"2"}
    kv.close()


def test_a_full_disk_is_said_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as kv:
        ns = kv.namespace("a")
        ns.set("k", b"old")
        write = os.write

        def full(descriptor: int, data: bytes) -> int:
            if len(data) > 10:
                return write(descriptor, data[:10])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(StorageError) as caught:
            ns.set("k", b"a value that is longer than ten")
        assert caught.value.errno == 28
        assert ns.get("k") == b"old"
        monkeypatch.undo()
        ns.set("k", b"new")
        assert ns.get("k") == b"new"


def test_a_set_that_looks_at_nothing_stands_among_what_others_wrote_in_the_order_of_the_commits(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as other:
        ours, theirs = one.namespace("a"), other.namespace("a")
        theirs.set("k", b"first")
        ours.set("k", b"second")
        theirs.incr("n")
        assert ours.set("k", b"third") == 4
        theirs.set("other", b"fifth")
        assert ours.set("other", b"sixth") == 6  # And of `n`, our side has not read yet.
        token = f"0123456789abcdef-1-1-{time.time_ns() // 10**6}-a"
        assert one.execute(Batch(("a",), (IncrBy("n"),), token=Token.parse(token))) == [2]
        assert theirs.version("n") == 7
        for ns in (ours, theirs):
            assert [ns.get(key) for key in ("k", "n", "other")] == [b"third", b"2", b"sixth"]
    with opened(tmp_path) as again:
        assert [again.namespace("a").version(key) for key in ("k", "n", "other")] == [4, 7, 6]


def test_what_was_written_during_a_checkpoint_is_written_out_before_others_have_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []
    write = checkpoint.write

    def written(view: View, stamps: dict[str, Stamp], at: int | None = None) -> int:
        count = write(view, stamps, at)
        rounds.append(count)
        if len(rounds) < 4:
            for number in range(4_000 // len(rounds)):
                ns.set(f"{len(rounds)}-{number}", b"later")
        return count

    with opened(tmp_path) as kv:
        ns = kv.namespace("a")
        for number in range(1_500):
            ns.set(f"0-{number}", b"early")
        monkeypatch.setattr(checkpoint, "write", written)
        kv.checkpoint()
        # The last one is the only one with the lock of those who write.
        assert rounds == [1_500, 4_000, 2_000, 1_333, 0, 0]
        monkeypatch.undo()
        assert len(list(ns.keys())) == 8_833


def test_who_writes_faster_than_documents_are_written_waits_for_a_checkpoint_that_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "GROWN", 10_000)
    with opened(tmp_path, timeout=60.0) as kv:
        ns = kv.namespace("a")
        ns.set("k", b"1")
        here = kv._directory(("a",))
        with here._keeper.hold():  # As during a checkpoint, here that of another process.
            done = threading.Event()
            writer = threading.Thread(target=lambda: (ns.set("k", b"2" * 50_000), done.set()))
            writer.start()
            assert not done.wait(0.3)
            assert ns.get("k") == b"2" * 50_000  # It is written, and only its writer waits.
        assert done.wait(30)
        writer.join()
        ns.set("k", b"3" * 50_000)  # Nobody makes one: nothing to wait for.


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets few make a link")
@pytest.mark.parametrize("below", ["", "sub", "a/b"])
@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_a_link_that_the_user_made_above_the_store_is_followed(
    below: str, durability: Literal["fsync", "os"], tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with FilesKV(tmp_path / "link" / below, durability=durability) as kv:
        for number in range(50):  # More than are synced one by one.
            kv.namespace("a").set(f"k{number}", b"1")
        with kv.refill([("b",)]) as filled:
            filled.put(("b",), "k", b"2")
    with opened(tmp_path / "real" / below) as kv:
        assert len(list(kv.namespace("a").keys())) == 50
        assert kv.namespace("b").get("k") == b"2"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets few make a link")
@pytest.mark.parametrize("below", ["", "sub"])
def test_a_directory_of_states_may_be_a_link(below: str, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    manager = StateManager(state_dir=tmp_path / "link" / below)
    manager.save_state("u", CollaborationState("u"))
    assert StateManager(state_dir=tmp_path / "real" / below).list_users() == ["u"]


def test_no_directory_is_made_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # macOS says EISDIR of "/", Windows EACCES of "C:\\".
    mkdir = os.mkdir

    def made(path: str | os.PathLike[str], mode: int = 0o777) -> None:
        assert not os.path.isdir(path)
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", made)
    with opened(tmp_path / "some" / "where") as kv:
        kv.namespace("a").set("k", b"1")


def test_a_write_needs_no_thread_and_the_next_one_that_can_be_started_makes_the_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(directory, "GROWN", 10_000)
    with opened(tmp_path) as kv:
        ns = kv.namespace("a")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            assert ns.incr("n") == 1
            assert ns.set("k", b"1" * 50_000) == 2
        assert journals(tmp_path) == [tmp_path / "empathy" / "a" / "journal" / "00000001"]
        assert ns.incr("n") == 2
        until(lambda: journals(tmp_path)[-1].name != "00000001")


def test_a_write_that_happens_while_the_interpreter_ends_is_told_as_applied(tmp_path: Path) -> None:
    script = f"""if True:
        import atexit, threading
        from empathy_kv.kv.files import FilesKV
        kv = FilesKV({str(tmp_path)!r})
        atexit.register(lambda: print(kv.namespace("a").incr("n")))
    """
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("1\n", "")


@pytest.mark.parametrize("failing", ["_keeper", "_look"])
def test_who_cannot_see_how_far_a_checkpoint_is_has_written_all_the_same(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(directory, "GROWN", 10_000)
    with opened(tmp_path) as kv:
        ns = kv.namespace("a")
        ns.set("k", b"1")
        here = kv._directory(("a",))
        with here._keeper.hold(), monkeypatch.context() as patch:
            if failing == "_keeper":
                patch.setattr(here._keeper, "acquire", fail)
            else:
                patch.setattr(here, "_look", fail)
            assert ns.set("k", b"2" * 50_000) == 2
        assert ns.get("k") == b"2" * 50_000


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such lock: who writes waits now and then")
def test_nobody_waits_for_a_checkpoint_that_a_snapshot_forbids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "GROWN", 10_000)
    with opened(tmp_path) as kv, opened(tmp_path, timeout=60.0) as other:
        kv.namespace("a").set("k", b"1")
        with kv.snapshot([("a",)]):
            began = time.monotonic()
            for writer in (kv, other) * 5:
                writer.namespace("a").set("k", b"2" * 50_000)
            assert time.monotonic() - began < 2.0  # A single wait is one of 2.5 s.
            assert len(journals(tmp_path)) == 1


def test_who_waited_in_vain_for_a_checkpoint_waits_again_only_when_the_journal_has_grown_as_much_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "GROWN", 10_000)
    with opened(tmp_path, timeout=1.0) as kv:
        ns = kv.namespace("a")
        ns.set("k", b"1")
        with kv._directory(("a",))._keeper.hold():  # As during a checkpoint that hangs.
            took = []
            for _ in range(11):
                began = time.monotonic()
                ns.set("k", b"2" * 10_000)
                took.append(time.monotonic() - began)
        assert [seconds >= 0.5 for seconds in took] == [False] * 3 + [True] + [False] * 3 + [True] + [False] * 3


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(sys.platform != "linux", reason="counts what is open by /proc")
def test_so_many_namespaces_are_open_at_most_and_all_have_their_documents_after_close(tmp_path: Path) -> None:
    before = descriptors()
    with opened(tmp_path) as kv:
        for number in range(200):
            kv.namespace("user", str(number)).set("k", b"1")
        assert descriptors() - before <= 2 * engine.OPEN
        for number in range(200):
            assert kv.namespace("user", str(number)).incr("k") == 2
        assert descriptors() - before <= 2 * engine.OPEN
    assert descriptors() == before
    assert len(list(tmp_path.glob("empathy/*/k.json"))) == 200
    assert all(b'"value":2' in path.read_bytes() for path in tmp_path.glob("empathy/*/k.json"))


def test_the_documents_of_namespaces_that_were_let_go_are_made_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "OPEN", 4)
    monkeypatch.setattr(engine, "IDLE", 0.1)
    with opened(tmp_path) as kv:
        for number in range(20):
            kv.namespace("user", str(number)).set("k", b"1")
        until(lambda: len(list(tmp_path.glob("empathy/*/k.json"))) == 20)
        until(lambda: not kv._left)


def test_a_checkpoint_covers_namespaces_that_were_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "OPEN", 4)
    with opened(tmp_path) as kv:
        for number in range(20):
            kv.namespace("user", str(number)).set("k", b"1")
        kv.checkpoint()
        assert len(list(tmp_path.glob("empathy/*/k.json"))) == 20


def test_a_namespace_in_use_stays_open_when_many_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "OPEN", 4)
    with opened(tmp_path) as kv:
        busy = kv.namespace("busy")
        busy.set("k", b"1")
        here = kv._directory(("busy",))
        for number in range(100):
            assert kv.namespace("absent", str(number)).get("k") is None
            assert busy.get("k") == b"1"
        assert kv._directory(("busy",)) is here
        assert len(kv._directories) == 4


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_threads_that_use_more_namespaces_than_are_kept_open_lose_nothing(
    durability: Literal["fsync", "os"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "OPEN", 2)
    monkeypatch.setattr(engine, "IDLE", 0.05)

    def work(seed: int) -> None:
        for number in range(60):
            kv.namespace(str((number * seed) % 7)).incr("n")
            list(kv.namespace(str(number % 7)).keys())

    with FilesKV(tmp_path, durability=durability, timeout=60.0) as kv:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, (1, 2, 3, 5)))
        assert sum(int(kv.namespace(str(number)).get("n") or 0) for number in range(7)) == 240
    with opened(tmp_path) as kv:
        assert sum(int(kv.namespace(str(number)).get("n") or 0) for number in range(7)) == 240


@pytest.mark.skipif(sys.platform != "linux", reason="counts what is open by /proc")
def test_a_snapshot_of_many_namespaces_keeps_only_their_locks_open(tmp_path: Path) -> None:
    with opened(tmp_path) as kv:
        spaces = [("user", str(number)) for number in range(200)]
        for space in spaces:
            kv.namespace(*space).set("k", b"1")
        with kv.snapshot(spaces) as moment:
            assert descriptors() <= 2 * len(spaces) + 2 * engine.OPEN + 40
            kv.namespace(*spaces[0]).set("k", b"2")
            reads = [Batch(space, (Get("k"),)) for space in spaces]
            assert moment.several(reads) == [[b"1"]] * 200
        with kv.snapshot([]) as moment:
            assert moment.changed() == {}


def test_a_namespace_that_is_removed_while_a_snapshot_begins_does_not_keep_it_from_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Directory.kept

    def removed(here: Directory) -> contextlib.AbstractContextManager[None]:
        if here.path.name == "b":
            shutil.rmtree(tmp_path / "empathy" / "a")
        return kept(here)

    with opened(tmp_path) as kv:
        for space in "ab":
            kv.namespace(space).set("k", b"1")
        monkeypatch.setattr(Directory, "kept", removed)
        with kv.snapshot([("a",), ("b",)]) as moment:
            assert list(moment.keys(("b",))) == ["k"]


def test_a_namespace_that_cannot_be_closed_keeps_no_other_from_having_its_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = disk.create

    def created(path: str | Path, data: bytes, *, durable: bool) -> None:
        if f"{os.sep}a{os.sep}k" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        create(path, data, durable=durable)

    kv = opened(tmp_path)
    for space in "abc":
        kv.namespace(space).set("k", b"1")
    monkeypatch.setattr(disk, "create", created)
    with pytest.raises(StoragePermissionError, match=r"k\.json"):
        kv.close()
    assert sorted(path.parent.name for path in tmp_path.glob("empathy/*/k.json")) == ["b", "c"]


def test_a_journal_whose_number_has_more_digits_is_found(tmp_path: Path) -> None:
    with opened(tmp_path) as kv:
        kv.namespace("a").set("n", b"1")
    journals(tmp_path)[0].rename(tmp_path / "empathy" / "a" / "journal" / "99999999")
    for expected in (2, 3, 4):
        with opened(tmp_path) as kv:
            assert kv.namespace("a").incr("n") == expected
            kv.checkpoint()
    assert (tmp_path / "empathy" / "a" / "journal" / "100000002").exists()


def test_keys_are_all_told_once_while_documents_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def moving(path: Path) -> Iterator[str]:
        # What tmpfs does: a document that is replaced is named again, or, if it stood further on, no more.
        documents = sorted(real(path))
        for number, document in enumerate(documents):
            yield document
            if number == 10 and not replaced:
                replaced.append(document)
                for key in (0, 150):
                    other.namespace("a").set(f"k{key:03}", b"2")
                other.checkpoint()
                yield documents[0]
                documents.remove(str(path / "k150.json"))

    real, replaced = overlay.listed, list[str]()
    with opened(tmp_path) as kv, opened(tmp_path) as other:
        for number in range(200):
            kv.namespace("a").set(f"k{number:03}", b"1")
        kv.checkpoint()
        monkeypatch.setattr(view, "listed", moving)
        found = list(kv.keys(("a",)))
        assert replaced
    assert sorted(found) == [f"k{number:03}" for number in range(200)]


@pytest.mark.parametrize("pattern", [b"[%b]", b'{"[": %b}', b'["\\"", {"a": %b}]'])
def test_a_value_comes_back_from_its_document_however_deep_it_is_nested(pattern: bytes, tmp_path: Path) -> None:
    def nested(depth: int) -> bytes:
        value = b"1"
        for _ in range(depth):
            value = pattern % value
        return value

    depths = [1, 90, 198, 199, 200, 201, 400, 900, *range(940, 1010, 3), 2000]
    with opened(tmp_path) as kv:
        for depth in depths:
            kv.namespace("a").set(str(depth), nested(depth))
    with opened(tmp_path) as kv:
        for depth in depths:
            assert kv.namespace("a").get(str(depth)) == nested(depth)
        assert len(list(kv.namespace("a").keys())) == len(depths)
        assert kv.check() == []
    shallow = json.loads((tmp_path / "empathy" / "a" / "90.json").read_text())
    assert "json" in shallow["value"]


def test_a_document_that_was_nested_as_deep_as_the_stack_can_be_read_with_less_of_it() -> None:
    def below(frames: int) -> tuple[str, Entry]:
        return below(frames - 1) if frames else documents.decode(data, "file")

    value = b"[" * 900 + b"]" * 900
    body = b'{"key":"k","version":1,"value":{"json":%b}' % value
    data = b'%b,"crc32":"%08x"}\n' % (body, zlib.crc32(body))
    assert below(500) == ("k", Entry(value, 1))
    deeper = body.replace(value, b"[" * 100_000 + b"]" * 100_000)
    data = b'%b,"crc32":"%08x"}\n' % (deeper, zlib.crc32(deeper))
    with pytest.raises(DamagedError):
        below(0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows locks in another way")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_with_the_file_and_what_to_do(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock, "flock", flock)
    with (
        opened(tmp_path) as kv,
        pytest.raises(StorageError, match="keep the store on a local disk") as caught,
    ):
        kv.namespace("a").set("k", b"1")
    assert caught.value.errno == number
    assert Path(caught.value.path).name == "lock"


def test_a_lock_that_is_not_to_be_had_is_told_with_the_name_of_the_argument(tmp_path: Path) -> None:
    with opened(tmp_path) as kv, opened(tmp_path, timeout=0.1) as other:
        kv.namespace("a").set("k", b"1")
        with kv._directory(("a",)).still(), pytest.raises(LockTimeoutError, match="which is the timeout="):
            other.namespace("a").set("k", b"2")


def test_a_root_that_no_file_system_has_is_refused() -> None:
    with pytest.raises(ArgumentError, match="null") as caught:
        FilesKV("a\0b")
    assert caught.value.argument == "root"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_store_that_may_only_be_read_has_snapshots(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str | Path, data: bytes, *, durable: bool) -> NoReturn:
        raise OSError(number, os.strerror(number), str(path))

    with opened(tmp_path) as kv:
        kv.namespace("a").set("old", b"1")
        kv.checkpoint()
        kv.namespace("a").set("new", b"2")
        with monkeypatch.context() as patch, opened(tmp_path) as reader:
            patch.setattr(disk, "create", refuse)
            with reader.snapshot([("a",)]) as moment:
                assert sorted(moment.keys(("a",))) == ["new", "old"]
                assert moment.several([Batch(("a",), (Get("new"), Get("old")))]) == [[b"2", b"1"]]


def test_a_full_stack_of_the_caller_is_no_damage(tmp_path: Path) -> None:
    def below(frames: int) -> bytes | None:
        return below(frames - 1) if frames else kv.namespace("a").get("k")

    with opened(tmp_path) as kv:
        kv.namespace("a").set("k", b'{"a": [[[[1]]]]}')
    for frames in range(880, 1000, 8):
        with opened(tmp_path) as kv, contextlib.suppress(RecursionError):
            below(frames)
    with opened(tmp_path) as kv:
        assert kv.check() == []


def test_what_is_open_at_the_end_of_the_interpreter_is_closed_though_modules_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as kv:
        kv.namespace("a").set("k", b"1")
        here = kv._directory(("a",))
        for module in (journal, lock):
            for name in ("disk", "os", "contextlib"):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, None)
        for thing, attribute in ((here._lock, "_descriptor"), (here._view.journal, "descriptor")):
            descriptor = getattr(thing, attribute)
            thing.__del__()
            setattr(thing, attribute, disk.NONE)
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)
        monkeypatch.undo()


@pytest.mark.parametrize("limit", [1, overlay.KEPT_LARGE])
def test_large_documents_that_are_written_all_the_time_are_not_read_again(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    load = disk.load

    def noted(path: str) -> bytes:
        read.append(Path(path).name)
        return load(path)

    monkeypatch.setattr(overlay, "KEPT", 5_000)
    monkeypatch.setattr(overlay, "KEPT_LARGE", limit)
    with FilesKV(tmp_path, durability="os") as kv:
        ns = kv.namespace("n")
        ns.zadd("large", {b"%030d" % number: number for number in range(2_000)})
        ns.zadd("larger", {b"%030d" % number: number for number in range(4_000)})
        for number in range(20):
            ns.set(f"small{number}", b"x" * 1_000)
        kv.checkpoint()
        monkeypatch.setattr(disk, "load", noted)
        for turn in range(3):
            ns.zappend("larger", b"new%d" % turn)
            ns.zappend("large", b"new%d" % turn)
            for number in range(20):
                assert ns.get(f"small{number}") == b"x" * 1_000
            kv.checkpoint()
        assert not {"large.json", "larger.json"} & set(read)
        assert len(read) > 40, "the small ones are more than what is kept of them"
