"""What a power cut may leave of a store, computed: every state is built, opened, looked at and gone on with.

The calls of a story are recorded once (`recording`), the states come from a model of a file system (`disk`), and what a
store may show then is a matter of the story (`stories`). Real power cuts are in `test_power_cut`.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import pytest
from attrs import evolve, frozen
from disk import Effort, History, Mark, Sync, Tree
from machine import Machine, forget
from recording import Recorder, build, read_tree
from scenarios import PROFILE
from stories import CASES, Form, Hang, Stage, checkpoint, within
from strace import find_strace

T = TypeVar("T")

NIGHTLY: Final = PROFILE == "nightly"

FEW: Final = Effort(contents=250, combinations=100, prefixes=12)
FIRST: Final = Effort(contents=5000, combinations=1000, prefixes=40) if NIGHTLY else FEW
"""For the states that a story leaves."""
SHARE: Final = 20_000 if NIGHTLY else 400
"""How many of these are looked at, by a random choice if there are more."""
SECTORS: Final = Effort(contents=2000, combinations=500, prefixes=40, piece=512)
AGAIN: Final = FEW if NIGHTLY else Effort(contents=20, combinations=20, prefixes=5)
"""For the states that another power cut leaves, from each of many beginnings."""
BEGINNINGS, MOMENTS, EACH = (500, 500, 60) if NIGHTLY else (20, 40, 8)
"""How many beginnings are tried, how many moments to be killed at, and how many states of each are looked at."""

cases = pytest.mark.parametrize(("name", "form"), CASES)


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    with machine.running():
        yield machine


@frozen
class State:
    """What a power cut may leave, and how many batches must and may be in it."""

    tree: Tree
    least: int
    most: int
    cut: str


def record(stage: Stage, root: Path) -> History:
    """Play a story and return what was done below `root`, which is made, since what lies before it."""
    root.mkdir()
    clients = [stage.open(root), stage.open(root)]
    done = stage.play(stage.story.before, 0, root, clients, lambda *_: None)
    recorder = Recorder(root, History.of(read_tree(root)))
    recorder.mark(done, done)
    with recorder.recording():
        stage.play(stage.story.steps, done, root, clients, recorder.mark)
    for client in clients:
        client.close()
    shutil.rmtree(root)
    return recorder.history


def go_on(stage: Stage, root: Path, history: History, acknowledged: int | None) -> int:
    """Open a store, make a write and a checkpoint, and add what was done to the history; return what it held first.

    `acknowledged`: how many batches must last until that write returns, by default all that are there.
    """
    recorder = Recorder(root, history)
    with recorder.recording(), within(5.0):
        kv = stage.open(root)
        count = stage.found(kv)
        recorder.mark(count + 1, count if acknowledged is None else acknowledged)
        kv.execute(stage.batches[count])
        recorder.mark(count + 1, count + 1)
        checkpoint(kv)
    kv.close()
    return count


def states(stage: Stage, history: History, effort: Effort, first: int = 0) -> list[State]:
    """Return each different state that a power cut may leave after the event `first` or later."""
    marks = [(index, event) for index, event in enumerate(history.events) if isinstance(event, Mark)]
    settled = marks[0][1].acknowledged
    found: dict[tuple[object, ...], State] = {}
    for end in history.cuts(max(first, 1)):
        mark = max((index, mark.begun, mark.acknowledged) for index, mark in marks if index < end)
        least = stage.promised(settled, mark[2])
        for tree in history.until(end).survivors(effort):
            key = tuple(sorted(tree.items()))
            before = found.get(key)
            if before is None or before.least < least:
                found[key] = State(tree, least, mark[1], f"cut after {end} of {len(history.events)} events")
    return list(found.values())


class Examination:
    """Looks at states, one after the other, and keeps what is wrong with them."""

    def __init__(self, stage: Stage, machine: Machine, directory: Path) -> None:
        self.stage, self._machine, self._directory = stage, machine, directory
        self.checked = 0
        self.found: list[str] = []

    def examine(self, states: Sequence[State], origin: str = "") -> None:
        """Build each of the states and see whether a store stands on it."""
        for state in states:
            self.checked += 1
            self._machine.restart()
            root = self._directory / f"state-{self.checked}"  # Never the same path: a new machine has no caches either.
            build(root, state.tree)
            with self.noted(f"{origin}{state.cut}", state.tree):
                self.stage.check(root, state.least, state.most)
            shutil.rmtree(root)

    @contextlib.contextmanager
    def noted(self, cut: str, tree: Tree) -> Iterator[None]:
        try:
            yield
        except (Exception, Hang) as error:  # noqa: BLE001 - whatever it is, the next state is looked at as well
            shown = ", ".join(f"{path} ({len(data)} bytes)" for path, data in tree.items() if data is not None)
            said = f"{cut}: {type(error).__name__}: {error}\n    on the disk: {shown}"[:1500]
            if isinstance(error, Hang):  # The others may hang as well, and each would take its time.
                self.found.insert(0, said)
                self.report()
            self.found.append(said)

    def report(self) -> None:
        """Fail with the first of them, if there is any."""
        if self.found:
            shown = "\n".join(self.found[:5])
            pytest.fail(f"{len(self.found)} of {self.checked} states are bad, the first:\n{shown}", pytrace=False)


def chosen(items: Sequence[T], count: int, seed: int = 0) -> Sequence[T]:
    """Return so many of the items, or all if there are no more."""
    return items if len(items) <= count else random.Random(seed).sample(items, count)


@cases
def test_a_store_stands_on_whatever_a_power_cut_leaves(name: str, form: Form, machine: Machine, ram: Path) -> None:
    stage = Stage(name, form)
    history = record(stage, ram / "disk")
    examination = Examination(stage, machine, ram)
    examination.examine(chosen(states(stage, history, FIRST), SHARE))
    assert examination.checked > 10
    examination.report()


@cases
def test_a_power_cut_while_a_store_recovers_from_another_changes_nothing(
    name: str, form: Form, machine: Machine, ram: Path
) -> None:
    stage = Stage(name, form)
    examination = Examination(stage, machine, ram)
    for number, state in enumerate(chosen(states(stage, record(stage, ram / "disk"), FEW), BEGINNINGS)):
        root = ram / f"first-{number}"
        build(root, state.tree)
        machine.restart()
        history = History.of(state.tree)
        with examination.noted(f"recovery, {state.cut}", state.tree):
            count = go_on(stage, root, history, None)
            history.events.insert(0, Mark(count, count))
            again = chosen(states(stage, history, AGAIN), EACH, number)
            examination.examine(again, f"{state.cut}, then ")
        shutil.rmtree(root)
    examination.report()


@cases
def test_a_writer_is_killed_and_the_power_cut_comes_while_the_next_one_writes(
    name: str, form: Form, machine: Machine, ram: Path
) -> None:
    """What was not yet durable when the first was killed is still seen by the second, and may still be lost."""
    stage = Stage(name, form)
    whole = record(stage, ram / "disk")
    moments = [end for end, event in enumerate(whole.events[:-1], 1) if not isinstance(event, Mark)]
    examination = Examination(stage, machine, ram)
    for end in chosen(moments, MOMENTS):
        history, root = whole.until(end), ram / f"killed-{end}"
        build(root, history.tree())
        mark = [event for event in history.events if isinstance(event, Mark)][-1]
        forget()  # The process is another one, on the same machine.
        killed = f"killed after {end} of {len(whole.events)} events"
        with examination.noted(killed, history.tree()):
            count = go_on(stage, root, history, mark.acknowledged)
            assert mark.acknowledged <= count <= mark.begun, "what was acknowledged does not outlive its process"
            again = chosen(states(stage, history, AGAIN, end), EACH, end)
            examination.examine(again, f"{killed}, then ")
        shutil.rmtree(root)
    examination.report()


@pytest.mark.skipif(not NIGHTLY, reason="pages torn at every sector are for the nightly profile")
@cases
def test_a_store_stands_on_pages_that_were_torn_at_a_sector(name: str, form: Form, machine: Machine, ram: Path) -> None:
    stage = Stage(name, form)
    examination = Examination(stage, machine, ram)
    examination.examine(chosen(states(stage, record(stage, ram / "disk"), SECTORS), SHARE))
    examination.report()


@pytest.mark.skipif(not NIGHTLY, reason="names that last in any order are for the nightly profile")
@pytest.mark.parametrize(("name", "form"), [(name, form) for name, form in CASES if form != "os"])
def test_a_durable_store_needs_no_order_of_names(name: str, form: Form, machine: Machine, ram: Path) -> None:
    """Not "os": what is never synced can only be in order where the file system keeps the order."""
    stage = Stage(name, form)
    examination = Examination(stage, machine, ram)
    found = states(stage, record(stage, ram / "disk"), evolve(FEW, any_order=True))
    examination.examine(chosen(found, SHARE))
    examination.report()


# That these tests can fail


def test_a_sync_that_is_left_out_is_found(machine: Machine, ram: Path) -> None:
    """Each of them but one or two is needed: without any, what was acknowledged is lost."""
    stage = Stage("a value is overwritten", "fsync")
    history = record(stage, ram / "disk")
    history.events[:] = [event for event in history.events if not isinstance(event, Sync)]
    examination = Examination(stage, machine, ram)
    examination.examine(states(stage, history, FIRST))
    assert any("and must hold" in failure for failure in examination.found)


def test_a_write_that_is_acknowledged_too_early_is_found(machine: Machine, ram: Path) -> None:
    stage = Stage("a value is overwritten", "fsync")
    history = record(stage, ram / "disk")
    history.events[:] = [
        Mark(event.begun, event.begun) if isinstance(event, Mark) else event for event in history.events
    ]
    examination = Examination(stage, machine, ram)
    examination.examine(states(stage, history, FIRST))
    assert any("and must hold" in failure for failure in examination.found)


def saved(path: Path, how: str) -> None:
    """Save a file in one of the ways of the field, of which only the last is right."""
    if how == "in place":
        path.write_bytes(b"the new")
        return
    draft = path.with_suffix(".draft")
    with draft.open("wb") as file:
        file.write(b"the new")
        if how != "renamed":
            file.flush()
            os.fsync(file.fileno())
    draft.replace(path)
    if how == "renamed, both synced":
        descriptor = os.open(path.parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


@pytest.mark.parametrize("any_order", [False, True])
@pytest.mark.parametrize(
    ("how", "during", "afterwards"),
    [
        ("in place", {b"the old", b"the\0\0\0\0", b"", b"the new"}, {b"the old", b"", b"the new"}),
        ("renamed", {b"the old", b"", b"the new", b"\0\0\0\0\0\0\0"}, {b"the old", b"", b"the new"}),
        ("renamed, the file synced", {b"the old", b"the new"}, {b"the old", b"the new"}),
        ("renamed, both synced", {b"the old", b"the new"}, {b"the new"}),
    ],
)
def test_the_model_knows_what_each_way_to_save_a_file_is_worth(
    how: str, during: set[bytes], afterwards: set[bytes], any_order: bool, tmp_path: Path
) -> None:
    root = tmp_path / "disk"
    build(root, {"file": b"the old"})
    recorder = Recorder(root, History.of(read_tree(root)))
    with recorder.recording():
        saved(root / "file", how)
    effort = Effort(100, 100, 100, any_order=any_order)
    history = recorder.history
    last = {tree["file"] for tree in history.survivors(effort)}
    ever = {tree["file"] for end in history.cuts() for tree in history.until(end).survivors(effort)}
    assert last >= afterwards
    assert ever >= during
    if "synced" in how:
        assert (ever, last) == (during, afterwards)


# That nothing passes by the recorder


STRACED: Final = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from disk import History, Mark, Names
from machine import Machine, forget
from recording import Recorder
from strace import find_strace
from stories import Stage
stage, root = Stage("two checkpoints are made", "fsync"), Path(sys.argv[1])
clients = [stage.open(root), stage.open(root)]
recorder = Recorder(root, History.of({}))
with recorder.recording():
    stage.play(stage.story.steps, 0, root, clients, recorder.mark)
for event in recorder.history.events:
    # A name that only comes, and is no directory's, is that of a file that was opened.
    opened = isinstance(event, Names) and not {None, *recorder.history.directories}.intersection(event.changes.values())
    if not isinstance(event, Mark) and not opened:
        print(type(event).__name__)
sys.stdout.flush()
os._exit(0)  # The clients are not closed: what that does was not recorded.
"""

CALLS: Final = {
    "Write": "write,writev,pwrite64,pwritev,pwritev2",
    "Sync": "fsync,fdatasync,sync,syncfs,msync,sync_file_range",
    "Names": "?rename,renameat,renameat2,?link,linkat,?unlink,unlinkat,?mkdir,mkdirat,?rmdir,?symlink,symlinkat",
    "Resize": "truncate,ftruncate,fallocate",
    "": "copy_file_range,sendfile,splice,mmap",
}


def test_the_recorder_sees_the_calls_that_the_kernel_sees(ram: Path) -> None:
    """But for those that open a file: they do not say whether they made it. What is there is compared anyway."""
    strace = find_strace()
    if strace is None:
        pytest.skip("no strace that works here (scripts/test brings one where it can)")
    root, log = ram / "disk", ram / "log"
    root.mkdir()
    here = Path(__file__).parent
    result = subprocess.run(
        [
            *(strace, "-f", "-y", "-qq", "-e", "signal=none", "-e", f"trace={','.join(CALLS.values())}", "-o", log),
            *(sys.executable, "-c", STRACED, root, here, here.parent.parent),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    kinds = {call.strip("?"): kind for kind, calls in CALLS.items() for call in calls.split(",")}
    calls = re.findall(rf"^\d+ +(\w+)\((?:\)|.*{re.escape(str(root))}).* = \d+$", log.read_text(), re.MULTILINE)
    assert [kinds[call] for call in calls] == result.stdout.split()
    assert len(calls) > 20
