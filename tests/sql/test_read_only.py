"""A database where nothing may be written: it is read as it is, beside who writes it and while nobody does."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from empathy_kv import CollaborationState, LockTimeoutError, Pattern, StoragePermissionError, Store, connect
from empathy_kv.snapshot import content, dump
from empathy_kv.sql import sqlite

pytestmark = pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no modes here")


@contextlib.contextmanager
def whoever(uid: int, file: int, directory: int, path: Path) -> Iterator[None]:
    """Be a user to whom these modes apply, as far as this process may: those of root are none."""
    user, before = os.geteuid(), path.parent.stat().st_mode
    if user != uid:
        os.seteuid(0)
    path.chmod(file)
    path.parent.chmod(directory)
    os.seteuid(uid)
    try:
        yield
    finally:
        if user != uid:
            os.seteuid(0)
        path.parent.chmod(before)
        os.seteuid(user)


def reader(path: Path) -> contextlib.AbstractContextManager[None]:
    return whoever(65534 if os.getuid() == 0 else os.getuid(), 0o444, 0o555, path)


def owner(path: Path) -> contextlib.AbstractContextManager[None]:
    return whoever(os.getuid(), 0o644, 0o755, path)


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:  # Where others may go: those of pytest are private.
        path = Path(directory) / "learned.db"
        path.touch()
        path.chmod(0o644)  # Of a new one, others can read nothing.
        yield path


def opened(path: Path, **options: Any) -> Store:
    return connect(f"sqlite:///{path}", **options)


def fill(store: Store) -> None:
    store.states.save_state("ada", CollaborationState(trust_level=0.7))
    store.metrics.record_interaction("ada", 3, True, 12.5)
    store.patterns.contribute_pattern("agent", Pattern("retry", "agent", "t", "n", context={"task": "call"}))


def seen(store: Store) -> list[Any]:
    return [
        store.states.load_state("ada").trust_level,
        store.states.list_users(),
        store.metrics.get_user_stats("ada")["total_operations"],
        [match.pattern.id for match in store.patterns.find_patterns({"task": "call"})],
        store.patterns.get_pattern("retry"),
        content(dump(store)),
    ]


def test_a_store_that_everybody_closed_is_read_and_not_written(path: Path) -> None:
    with opened(path) as store:
        fill(store)
        before = seen(store)
    with reader(path), opened(path) as store:
        assert seen(store) == before
        with pytest.raises(StoragePermissionError):
            store.states.save_state("ada", CollaborationState())
        assert seen(store) == before
    assert [each.name for each in path.parent.iterdir()] == ["learned.db"]


def test_beside_who_writes_it_what_was_committed_last_is_read(path: Path) -> None:
    with opened(path) as writer:
        fill(writer)
        with reader(path), opened(path) as store:
            assert seen(store)[2] == 1
            with owner(path):
                writer.metrics.record_interaction("ada", 3, True, 12.5)
            assert seen(store)[2] == 2
            with owner(path):
                writer.metrics.record_interaction("ada", 3, True, 12.5)
                writer.close()
            assert seen(store)[2] == 3


def killed(path: Path, *ends: str) -> None:
    """Make the file one whose writer was killed, with some of what he left beside it."""
    source = path.with_name("source.db")
    source.touch()
    source.chmod(0o644)
    with opened(source) as writer:
        fill(writer)
        for end in ("", *ends):
            shutil.copy(f"{source}{end}", f"{path}{end}")


def test_what_a_killed_writer_left_in_his_log_is_read(path: Path) -> None:
    killed(path, "-wal", "-shm")
    with reader(path), opened(path) as store:
        assert seen(store)[2] == 1


def test_a_log_that_cannot_be_read_is_not_passed_over(path: Path) -> None:
    killed(path, "-wal")
    with reader(path), opened(path) as store:
        for act in (lambda: store.metrics.get_user_stats("ada"), lambda: list(dump(store))):
            with pytest.raises(StoragePermissionError, match=r"it has a log, learned\.db-wal"):
                act()
    with opened(path) as store:
        assert store.metrics.get_user_stats("ada")["total_operations"] == 1
    with reader(path), opened(path) as store:
        assert store.metrics.get_user_stats("ada")["total_operations"] == 1


def meddling(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> None:
    """Let somebody write just after a step of a transaction, whenever nobody is seen to."""
    method: Callable[..., Any] = getattr(sqlite._Connection, name)

    def meddled(self: sqlite._Connection, *arguments: Any, **options: Any) -> Any:
        result = method(self, *arguments, **options)
        if self.stamp is not None:
            act()
        return result

    monkeypatch.setattr(sqlite._Connection, name, meddled)


def test_what_was_read_while_somebody_wrote_is_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as store:
        fill(store)
    left = [1, 2, 3]

    def write() -> None:
        if left and left.pop():
            with owner(path), opened(path) as other:
                other.metrics.record_interaction("ada", 3, True, 12.5)

    meddling(monkeypatch, "execute", write)
    with reader(path), opened(path) as store:
        assert store.metrics.get_user_stats("ada")["total_operations"] == 4
        left[:] = [1] * 1_000
        with opened(path, timeout=0.2) as hasty, pytest.raises(LockTimeoutError):
            hasty.metrics.get_user_stats("ada")


def test_a_dump_in_which_somebody_wrote_has_no_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as store:
        fill(store)

    def write() -> None:
        with owner(path), opened(path) as other:
            other.metrics.record_interaction("ada", 3, True, 12.5)

    meddling(monkeypatch, "begin", write)
    with reader(path), opened(path) as store, pytest.raises(LockTimeoutError):
        list(dump(store))


def test_a_file_without_a_log_is_read_as_ever(path: Path) -> None:
    with opened(path) as store:
        fill(store)
        before = seen(store)
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA journal_mode = DELETE")
    raw.close()
    with reader(path), opened(path) as store:
        assert seen(store) == before
