"""Directories that others have prepared: nothing is followed out of them, nothing hangs, and errors say where it is.

Each test runs in a process of its own, which is ended when it takes too long, and may not take all the memory.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import resource
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import Factory, define
from faults.apart import apart, become_nobody, private_mounts, remount, tmpfs
from faults.histories import (
    KINDS,
    NEIGHBOUR,
    NEIGHBOURS,
    SPACE,
    History,
    answer,
    opened,
    write_history,
)
from faults.hostile_files import HOSTILE, prepare_outside, put, take_away
from faults.trees import Tree, files, fingerprint, read_tree, write_tree

from empathy_kv.errors import EmpathyKVError, StorageError, StoragePermissionError
from empathy_kv.kv.files import FilesKV
from empathy_kv.records import CollaborationState
from empathy_kv.states import StateManager

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")

PATIENCE: Final = 5.0
"""Seconds after which something hangs. A lock is waited for half a second here."""


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    return write_history(tmp_path_factory.mktemp("history") / "store")


# What is done to the store, and what comes of it


@define
class Outcome:
    """What each call gave, or the error that it raised."""

    replies: dict[str, Any] = Factory(dict)
    errors: dict[str, EmpathyKVError] = Factory(dict)

    def note(self, call: str, work: Callable[[], Any]) -> None:
        try:
            self.replies[call] = work()
        except EmpathyKVError as error:
            self.errors[call] = error


def calls(kv: FilesKV, value: bytes) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield what is asked of a store, and written to it."""
    ns, neighbour, new = kv.namespace(*SPACE), kv.namespace(*NEIGHBOUR), kv.namespace("new")
    for key in KINDS:
        yield f"read {key}", functools.partial(answer, ns, key)
    yield "list", lambda: sorted(ns.keys())
    yield "read k", lambda: neighbour.get("k")
    yield "write quiet", lambda: ns.set("quiet", value)
    yield "write total", lambda: ns.incr("total")
    yield "write k", lambda: neighbour.set("k", value)
    yield "write n", lambda: new.set("n", value)
    yield from calls_again(kv)
    yield "checkpoint", kv.checkpoint


def calls_again(kv: FilesKV) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield what is asked once more."""
    ns, neighbour, new = kv.namespace(*SPACE), kv.namespace(*NEIGHBOUR), kv.namespace("new")
    yield "again value", lambda: answer(ns, "value")
    yield "again quiet", lambda: ns.get("quiet")
    yield "again total", lambda: ns.get("total")
    yield "again k", lambda: neighbour.get("k")
    yield "again n", lambda: new.get("n")


def use(root: Path, value: bytes = b"rescued") -> Outcome:
    """Read and write all over the store, close it and look again. Only errors of the package are expected."""
    outcome = Outcome()
    for number in range(2):
        outcome.note("open", lambda: FilesKV(root, durability="os", timeout=0.5))
        kv = outcome.replies.pop("open", None)
        if kv is None:
            return outcome
        for call, work in calls(kv, value) if number == 0 else calls_again(kv):
            outcome.note(call, work)
        outcome.note(("close", "close again")[number], kv.close)
    return outcome


def require_truth(outcome: Outcome, history: History, value: bytes = b"rescued") -> None:
    """Require of each reply that it is so: the old before a write, the new after it, or else an error."""
    state = history.newest.state
    keys = sorted(key for key, content in state.items() if content is not None)
    expected: dict[str, Any] = {f"read {key}": content for key, content in state.items()}
    expected |= {"list": keys, "read k": NEIGHBOURS, "again value": state["value"]}
    before = {"quiet": state["quiet"][0], "total": b"4321", "k": NEIGHBOURS, "n": None}
    after = {"quiet": value, "total": b"4322", "k": value, "n": value}
    expected |= {f"again {key}": (after if f"write {key}" in outcome.replies else before)[key] for key in before}
    wrong = {call for call in expected.keys() & outcome.replies.keys() if outcome.replies[call] != expected[call]}
    assert not wrong, (
        f"{ ({call: outcome.replies[call] for call in wrong}) }, not { ({call: expected[call] for call in wrong}) }"
    )


def require_kept(root: Path, outcome: Outcome, history: History, value: bytes = b"rescued") -> None:
    """Require that what was written is there, and that all can be written again, once nothing is wrong any more."""
    with opened(root) as kv:
        after = Outcome({call: reply for call, reply in outcome.replies.items() if call.startswith("write")})
        for key in KINDS.keys() - {"quiet", "total"}:
            after.note(f"read {key}", functools.partial(answer, kv.namespace(*SPACE), key))
        for call, work in calls_again(kv):
            after.note(call, work)
        assert not after.errors
        require_truth(after, history, value)
        for name in (SPACE, NEIGHBOUR, ("new",)):
            kv.namespace(*name).set("last", b"last")
    with opened(root) as kv:
        assert [kv.namespace(*name).get("last") for name in (SPACE, NEIGHBOUR, ("new",))] == [b"last"] * 3


# Something else in the place of a file or directory


READS: Final = {"list", "read k", "again value", "again quiet", "again total", *(f"read {key}" for key in KINDS)}
NEIGHBOURING: Final = {"read k", "write k", "again k", "write n", "again n"}

PLACES: Final[Mapping[str, set[str]]] = {
    "root": set(),
    "prefix": set(),
    "namespace": NEIGHBOURING,
    "locks": NEIGHBOURING | READS,
    "journal": NEIGHBOURING,
    "directory of the journal": NEIGHBOURING,
    "document": NEIGHBOURING | {"read value", "read hash", "read total", "write total", "again value", "again total"},
}
"""What can be replaced, and which calls work all the same. The document is that of `quiet`."""

OF_DIRECTORIES: Final = ("root", "prefix", "namespace", "directory of the journal")
NOT_FOR_DIRECTORIES: Final = ("a hard link to what it was", "a directory")
NOT_FOR_ROOTS: Final = ("a link to what it was", "a link to a directory")
"""A user may link the directory of a store to where there is room for it."""


def paths_of(place: str, history: History) -> list[str]:
    """Return the paths of a place below the root."""
    space = history.directory()
    locks = [name for name in files(history.newest.tree) if "lock" in Path(name).name and name.startswith(f"{space}/")]
    above = str(Path(history.journal).parent)
    return {
        "root": ["."],
        "prefix": [str(Path(space).parent)],
        "namespace": [space],
        "locks": locks,
        "journal": [history.journal],
        "directory of the journal": [] if above == space else [above],
        "document": [history.document("quiet")],
    }[place]


def attack(here: Path, tree: Tree, file: str, kind: str, history: History, must: set[str]) -> None:
    """Put something hostile in the place of a file of a whole store, use it, and look at what came of it."""
    root, outside = here / "store", here / "outside"
    write_tree(root, tree)
    prepare_outside(outside)
    place = Path(os.path.normpath(root / file))
    inode = put(kind, place, outside)
    before = fingerprint(outside)

    outcome = use(root)

    assert fingerprint(outside) == before, "something outside was changed"
    for call, error in outcome.errors.items():
        assert str(place) in f"{error} {getattr(error, 'path', '')}", f"{call} does not say where: {error!r}"
    require_truth(outcome, history)
    failed = {call: str(outcome.errors[call]) for call in must & outcome.errors.keys()}
    assert not failed, f"does not work: {failed}"
    take_away(inode, place, outside)
    require_kept(root, outcome, history)


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("place", PLACES)
def test_what_stands_in_the_place_of_a_part_of_the_store_is_not_followed_and_never_hangs(
    place: str, kind: str, history: History, ram: Path
) -> None:
    if place in OF_DIRECTORIES and kind in NOT_FOR_DIRECTORIES:
        kind = "a foreign file"
    if place == "root" and kind in NOT_FOR_ROOTS:
        kind = "a link to nothing"
    for number, file in enumerate(paths_of(place, history)):
        here = ram / str(number)
        here.mkdir()
        apart(lambda: attack(here, history.newest.tree, file, kind, history, PLACES[place]), seconds=PATIENCE)  # noqa: B023


def drafts(root: Path, history: History) -> list[str]:
    """Return the paths of files that are gone after they were made, and whose names can be foreseen; maybe none are."""
    tree, directory = history.newest.tree, root / history.directory()

    def made() -> set[str]:
        paths = set()

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            # A file object made of a descriptor is the same event, with a number for the path.
            if event == "open" and isinstance(arguments[0], (str, os.PathLike)) and arguments[2] & os.O_CREAT:
                paths.add(os.path.relpath(os.path.join(directory, arguments[0]), root))

        sys.addaudithook(watch)  # It cannot be removed, but the process ends.
        write_tree(root, tree)
        use(root)
        return paths - read_tree(root).keys() - tree.keys()

    return sorted(apart(made) & apart(made))


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_stands_in_the_place_of_a_draft_is_not_followed_and_never_hangs(
    kind: str, history: History, ram: Path
) -> None:
    if kind == "a hard link to what it was":
        kind = "a foreign file"
    must = READS | NEIGHBOURING | {"write quiet", "write total"}
    if kind == "a directory":  # It can hold things that are somebody's, so it may be in the way.
        must -= {"write n", "again n"}
    else:
        must |= {"checkpoint", "close", "close again"}
    for number, draft in enumerate(drafts(ram / "store", history)):
        here = ram / str(number)
        here.mkdir()
        apart(lambda: attack(here, history.newest.tree, draft, kind, history, must), seconds=PATIENCE)  # noqa: B023


# Modes


@pytest.mark.parametrize("mode", [0o755, 0o775, 0o777, 0o1777, 0o2770])
def test_a_directory_that_others_may_write_to_is_taken_and_what_is_made_in_it_is_for_its_owner_alone(
    mode: int, tmp_path: Path
) -> None:
    def work() -> None:
        os.umask(0)
        root = tmp_path / "wide"
        root.mkdir()
        root.chmod(mode)
        for path in (root, root / "not yet" / "store"):
            for durability in ("os", "fsync"):
                with FilesKV(path, durability=durability, prefix=durability) as kv:
                    kv.namespace("a").set("k", b"v")
                    kv.checkpoint()
                    kv.namespace("a").set("k", b"w")
                    kv.namespace("a", "b").incr("k")
        StateManager(state_dir=root / "state").save_state("User", CollaborationState("User"))
        assert stat.S_IMODE(root.stat().st_mode) == mode
        modes = {str(path): stat.S_IMODE(path.lstat().st_mode) & 0o1777 for path in root.rglob("*")}
        assert modes == {path: 0o700 if Path(path).is_dir() else 0o600 for path in modes}
        assert len(modes) > 16

    apart(work)


def test_modes_that_others_have_widened_are_no_obstacle_and_are_not_passed_on(history: History, ram: Path) -> None:
    write_tree(ram / "store", history.newest.tree)
    for path in (ram / "store", *(ram / "store").rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    outcome = use(ram / "store")
    assert not outcome.errors
    require_truth(outcome, history)
    replaced = ram / "store" / history.document("total")
    assert stat.S_IMODE(replaced.stat().st_mode) == 0o600


# A directory that can be read and not written


READ_ONLY: Final = {errno.EROFS, errno.EACCES, errno.EPERM}


def require_readable(root: Path, history: History) -> None:
    """Require that everything can be read, nothing written, and that the error says so."""
    before = fingerprint(root)
    for durability in ("os", "fsync"):
        kv, outcome = FilesKV(root, durability=durability, timeout=0.5), Outcome()
        for call, work in calls(kv, b"rescued"):
            if call != "checkpoint":
                outcome.note(call, work)
        outcome.note("close", kv.close)
        require_truth(outcome, history)
        failed = {call: str(error) for call, error in outcome.errors.items() if not call.startswith("write")}
        assert not failed, f"does not work: {failed}"
        assert not [call for call in outcome.replies if call.startswith("write")]
        for error in outcome.errors.values():
            assert isinstance(error, StorageError)
            assert error.errno in READ_ONLY
            assert isinstance(error, StoragePermissionError) == (error.errno != errno.EROFS)
            assert str(root) in error.path
            assert error.path in str(error)
    assert fingerprint(root) == before


LOCKS: Final = pytest.mark.parametrize("locks", [True, False], ids=["with locks", "without locks"])


def image(history: History, name: str, locks: bool) -> Tree:
    tree = history.newest.tree if name == "with a journal" else history.settled
    return {file: content for file, content in tree.items() if locks or "lock" not in Path(file).name}


@LOCKS
@pytest.mark.parametrize("name", ["with a journal", "closed"])
def test_a_store_on_a_read_only_file_system_can_be_read(name: str, locks: bool, history: History, ram: Path) -> None:
    def work() -> None:
        private_mounts()
        place = tmpfs(ram / "mount", "size=1m")
        write_tree(place / "store", image(history, name, locks))
        remount(place, read_only=True)
        require_readable(place / "store", history)
        with opened(place / "nothing") as kv:
            assert kv.namespace("a").get("k") is None
            assert list(kv.namespace("a").keys()) == []

    apart(work)


@LOCKS
@pytest.mark.parametrize("name", ["with a journal", "closed"])
def test_a_store_of_another_user_can_be_read_if_its_modes_allow_it(
    name: str, locks: bool, history: History, for_all: Path
) -> None:
    root = for_all / "store"
    write_tree(root, image(history, name, locks))
    for path in (root, *root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)

    def work() -> None:
        become_nobody()
        require_readable(root, history)

    try:
        apart(work)
    finally:
        for path in (root, *root.rglob("*")):
            path.chmod(0o755)


@pytest.mark.parametrize("closed", ["root", "prefix", "namespace", "journal", "document"])
def test_what_may_not_be_read_is_not_taken_for_absent(closed: str, history: History, for_all: Path) -> None:
    root = for_all / "store"
    write_tree(root, history.newest.tree)
    for path in (root, *root.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    place = Path(os.path.normpath(root / paths_of(closed, history)[0]))
    place.chmod(0)

    def work() -> None:
        become_nobody()
        outcome = use(root)
        require_truth(outcome, history)
        assert isinstance(outcome.errors.get("read quiet") or outcome.errors.get("open"), StoragePermissionError)
        for error in outcome.errors.values():
            assert isinstance(error, StoragePermissionError)
            assert str(place) in error.path

    try:
        apart(work, seconds=PATIENCE)
    finally:
        place.chmod(0o700)


# Nothing left


def require_cured(root: Path, history: History, expected: int, value: bytes, outcome: Outcome) -> None:
    """Require of a store that ran out of something that it said so, told no lies, and works again."""
    for call, error in outcome.errors.items():
        assert isinstance(error, StorageError), f"{call}: {error!r}"
        assert error.errno == expected, f"{call}: {error!r} has errno {error.errno}"
        assert str(root) in error.path
    require_truth(outcome, history, value)
    require_kept(root, outcome, history, value)


def fill(directory: Path, content: bytes) -> Callable[[], None]:
    """Make files until there is no room for one more, and return how to make room again."""
    assert directory.is_mount(), "it would be a disk that others need"
    filler = directory / "filler"
    filler.mkdir()
    try:
        for number in itertools.count():
            (filler / str(number)).write_bytes(content)
    except OSError as error:
        assert error.errno == errno.ENOSPC
    return lambda: shutil.rmtree(filler)


def test_a_full_disk_is_told_nothing_is_lost_and_it_works_again_with_room(history: History, ram: Path) -> None:
    def work() -> None:
        private_mounts()
        place, value = tmpfs(ram / "mount", "size=1m"), b"large " * 20_000
        write_tree(place / "store", history.newest.tree)
        empty = fill(place, bytes(4096))
        outcome = use(place / "store", value)
        assert {"write quiet", "write k", "write n"} <= outcome.errors.keys()
        assert outcome.replies.keys() >= READS
        empty()
        require_cured(place / "store", history, errno.ENOSPC, value, outcome)

    apart(work)


@pytest.mark.parametrize("room", [4, 8, 16, 32, 64, 128])
def test_a_disk_that_becomes_full_on_the_way_is_told_and_nothing_is_lost(
    room: int, history: History, ram: Path
) -> None:
    def work() -> None:
        private_mounts()
        place, value = tmpfs(ram / "mount", "size=1m"), b"large " * 3000
        write_tree(place / "store", history.newest.tree)
        ballast = place / "ballast"
        ballast.write_bytes(bytes(room * 1024))
        empty = fill(place, bytes(4096))
        ballast.unlink()
        outcome = use(place / "store", value)
        assert outcome.replies.keys() >= READS
        empty()
        require_cured(place / "store", history, errno.ENOSPC, value, outcome)

    apart(work)


@pytest.mark.parametrize("left", [0, 1, 2, 3, 5])
def test_a_file_system_without_inodes_is_told_and_works_again_with_some(left: int, history: History, ram: Path) -> None:
    def work() -> None:
        private_mounts()
        place = tmpfs(ram / "mount", f"size=1m,nr_inodes={len(history.newest.tree) + 20}")
        write_tree(place / "store", history.newest.tree)
        empty = fill(place, b"")
        for number in range(left):
            (place / "filler" / str(number)).unlink()
        outcome = use(place / "store")
        assert left or "write n" in outcome.errors
        assert outcome.replies.keys() >= READS
        empty()
        require_cured(place / "store", history, errno.ENOSPC, b"rescued", outcome)

    apart(work)


@pytest.mark.parametrize("left", range(8))
def test_a_process_without_descriptors_is_told_and_works_again_with_some(
    left: int, history: History, ram: Path
) -> None:
    def work() -> None:
        root = ram / "store"
        write_tree(root, history.newest.tree)
        use(root)  # What is imported only when it is needed, is imported.
        write_tree(root, history.newest.tree)
        lowest = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + left, limits[1]))
        outcome = use(root)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert left or "write quiet" in outcome.errors
        require_cured(root, history, errno.EMFILE, b"rescued", outcome)

    apart(work)


@pytest.mark.parametrize("limit", [1, 100, 700, 4096])
def test_a_limit_on_the_size_of_files_is_told_and_nothing_is_lost(limit: int, history: History, ram: Path) -> None:
    def work() -> None:
        root, value = ram / "store", b"large " * 3000
        write_tree(root, history.newest.tree)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        outcome = use(root, value)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert {"write quiet", "write k", "write n"} <= outcome.errors.keys()
        assert outcome.replies.keys() >= READS
        require_cured(root, history, errno.EFBIG, value, outcome)

    apart(work)
