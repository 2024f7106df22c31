"""A directory that is removed, moved away, or put back from a copy, while processes have it open."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from empathy_kv.kv.files import FilesKV, view
from empathy_kv.records import CollaborationState
from empathy_kv.states import StateManager

TIMES = 2_000
COUNT = """
import sys
from empathy_kv.kv.files import FilesKV
with FilesKV(sys.argv[1], durability="os", timeout=20.0) as kv:
    for _ in range(int(sys.argv[2])):
        kv.namespace("a").incr("n")
"""


def opened(path: Path) -> FilesKV:
    return FilesKV(path, durability="os", timeout=20.0)


def removed(root: Path) -> None:
    shutil.rmtree(root)


def restored(root: Path) -> None:
    shutil.copytree(root, root.with_name("copy"))
    shutil.rmtree(root)
    shutil.copytree(root.with_name("copy"), root)


def swapped(root: Path) -> None:
    shutil.copytree(root, root.with_name("copy"))
    root.rename(root.with_name("old"))
    root.with_name("copy").rename(root)


def unlocked(root: Path) -> None:
    (root / "empathy" / "a" / "lock").unlink()


REPLACED = pytest.mark.parametrize("replace", [removed, restored, swapped, unlocked])


@REPLACED
def test_who_had_it_open_and_who_comes_after_count_together(tmp_path: Path, replace: Callable[[Path], None]) -> None:
    root = tmp_path / "store"
    with opened(root) as kv:
        counters = kv.namespace("a")
        counters.incr("n")
        kv.checkpoint()
        replace(root)
        time.sleep(view.SURE)
        first = counters.incr("n")
        assert first == (1 if replace is removed else 2)
        others = [subprocess.Popen([sys.executable, "-c", COUNT, root, str(TIMES)]) for _ in range(2)]
        while any(other.poll() is None for other in others):
            counters.incr("n")
            first += 1
        assert [other.returncode for other in others] == [0, 0]
    with opened(root) as kv:
        assert kv.namespace("a").get("n") == b"%d" % (first + 2 * TIMES)
        assert kv.check() == []


@REPLACED
def test_closing_what_was_replaced_loses_nothing_of_what_took_its_place(
    tmp_path: Path, replace: Callable[[Path], None]
) -> None:
    root = tmp_path / "store"
    old = opened(root)
    old.namespace("a").set("k", b"old")
    replace(root)
    with FilesKV(root) as new:
        new.namespace("a").set("k", b"acknowledged")
        old.close()
        assert new.namespace("a").get("k") == b"acknowledged"
        new.namespace("a").set("more", b"1")
        assert new.check() == []
    with FilesKV(root) as fresh:
        assert [fresh.namespace("a").get(key) for key in ("k", "more")] == [b"acknowledged", b"1"]


@REPLACED
def test_a_reader_notices_within_a_moment(tmp_path: Path, replace: Callable[[Path], None]) -> None:
    root = tmp_path / "store"
    with FilesKV(root) as kv:
        kv.namespace("a").set("k", b"old")
    with FilesKV(root) as reader:
        assert reader.namespace("a").get("k") == b"old"
        replace(root)
        with FilesKV(root) as writer:
            writer.namespace("a").set("k", b"new")
        time.sleep(view.SURE)
        assert reader.namespace("a").get("k") == b"new"


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_who_only_read_before_it_was_removed_writes_a_new_one(
    tmp_path: Path, durability: Literal["fsync", "os"]
) -> None:
    root = tmp_path / "store"
    with FilesKV(root) as kv:
        kv.namespace("a").set("k", b"old")
    with FilesKV(root, durability=durability) as kv:
        assert kv.namespace("a").get("k") == b"old"
        shutil.rmtree(root)
        kv.namespace("a").set("more", b"new")
        assert [kv.namespace("a").get(key) for key in ("k", "more")] == [None, b"new"]
    with FilesKV(root) as kv:
        assert dict.fromkeys(kv.keys(("a",))) == {"more": None}
        assert kv.check() == []


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_what_was_removed_is_closed_without_a_word(tmp_path: Path, durability: Literal["fsync", "os"]) -> None:
    root = tmp_path / "store"
    with FilesKV(root, durability=durability) as kv:
        kv.namespace("a").set("k", b"old")
        kv.namespace("b").set("k", b"old")
        shutil.rmtree(root)
    assert not root.exists()


def test_states_in_a_directory_that_was_removed_are_saved_one_at_a_time(tmp_path: Path) -> None:
    root = tmp_path / "states"
    first, second = StateManager(state_dir=root), StateManager(state_dir=root)
    first.save_state("u", CollaborationState("u"))
    shutil.rmtree(root)
    second.save_state("u", CollaborationState("u"))
    _, version = first.load_versioned("u")
    first.save_state("u", CollaborationState("u"), expected_version=version)
    assert (root / ".lock").exists()
    assert second.load_state("u") == first.load_state("u")
