"""The layer under the fault tests: it sees every system call there is, and makes the faults that it is asked for."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve
from calls import LOOKS, Call, Calls, Fault, fail_at, kill_at, record, short_at
from forks import Forks
from scenarios import SCENARIOS
from stage import Say, Stage, perform, plain
from strace import calls, find_strace, tracer


def save(say: Say, place: Path, fault: Fault) -> None:
    """Save as nobody should: over the old value. Say how many bytes were written or why not, and the calls."""
    with Calls(place) as layer, layer.under(fault):
        try:
            with open(place / "file", "wb", buffering=0) as file:
                say(file.write(b"new value"))
        except OSError as error:
            say(error.errno)
    say(layer.made)


@pytest.fixture
def saved(forks: Forks, tmp_path: Path) -> Callable[..., tuple[int, list[object], bytes]]:
    """Let a fault meet the first call of some name in a save. Give the status, what was said, and what is left."""

    def run(name: str, fault: Callable[[int], Fault]) -> tuple[int, list[object], bytes]:
        (tmp_path / "file").write_bytes(b"old value")
        made: list[Call] = forks.run(save, tmp_path, record()).said[-1]
        (tmp_path / "file").write_bytes(b"old value")
        ended = forks.run(save, tmp_path, fault(next(call.number for call in made if call.name == name)))
        said = [item for item in ended.said if not isinstance(item, list)]
        return ended.status, said, (tmp_path / "file").read_bytes()

    return run


def test_files_that_are_opened_with_open_are_seen(forks: Forks, tmp_path: Path) -> None:
    made = forks.run(save, tmp_path, record()).said[-1]
    assert [(call.name, call.file) for call in made if call.name not in LOOKS] == [
        ("open", "file"),
        ("write", "file"),
        ("close", "file"),
    ]
    assert [call.number for call in made] == [*range(1, len(made) + 1)]


def test_files_elsewhere_are_not_seen(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    with Calls(inner) as layer, layer.under(record()):
        (tmp_path / "file").write_bytes(b"")
        (tmp_path / "inner-file").write_bytes(b"")
        assert layer.made == []
        (inner / "file").write_bytes(b"")
    assert {call.file for call in layer.made} == {"file"}


@pytest.mark.parametrize(
    ("name", "part", "left"),
    [("open", None, b"old value"), ("write", None, b""), ("write", 0.5, b"new "), ("close", None, b"new value")],
)
def test_a_kill_leaves_what_was_done_until_then(
    saved: Callable[..., object], name: str, part: float, left: bytes
) -> None:
    said = [9] if name == "close" else []
    assert saved(name, lambda number: kill_at(number, part=part)) == (-signal.SIGKILL, said, left)


@pytest.mark.parametrize(
    ("name", "said", "left"),
    [("open", [5], b"old value"), ("write", [5], b""), ("close", [9, 5], b"new value")],
)
def test_an_errno_is_raised_in_the_place_of_the_call(
    saved: Callable[..., object], name: str, said: list[int], left: bytes
) -> None:
    assert saved(name, lambda number: fail_at(number, errno.EIO)) == (0, said, left)


def test_a_persistent_errno_is_raised_by_each_call_that_can_give_it(saved: Callable[..., object]) -> None:
    assert saved("write", lambda number: fail_at(number, errno.EIO, persistent=True)) == (0, [5], b"")
    assert saved("write", lambda number: fail_at(number, errno.ENOSPC, persistent=True)) == (0, [28], b"")


def test_a_short_write_says_how_short_it_is(saved: Callable[..., object]) -> None:
    assert saved("write", short_at) == (0, [4], b"new ")
    assert saved("write", lambda number: fail_at(number, errno.EIO, persistent=True, part=0.5)) == (0, [4, 5], b"new ")


# What bypasses the layer would never be hit by a fault. strace sees it.


@pytest.mark.skipif(find_strace() is None, reason="no strace works here (scripts/test brings one)")
@pytest.mark.parametrize("durability", ["fsync", "os"])
@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_the_layer_sees_every_call_that_strace_sees(
    forks: Forks, staged: Callable[[str, str], Stage], tmp_path: Path, name: str, durability: str
) -> None:
    stage = staged(name, durability)
    scenario = evolve(stage.scenario, cold=True)  # So that all that the process does is under the layer.
    log = tmp_path / "log"

    def seen(made: list[Call]) -> list[tuple[str, str]]:
        # That a directory is listed is one call of Python's.
        return [("open" if call.name == "scandir" else call.name, call.file) for call in made if call.name not in LOOKS]

    def traced() -> list[tuple[str, str]]:
        return [(call.name, call.file) for call in calls(log, stage.now) if call.name not in LOOKS]

    ended = forks.run(perform, scenario, stage.new(), durability, record(), tracer=tracer(log))
    assert (ended.status, ended.error) == (0, "")
    made = seen(ended.said[-1])
    assert traced() == made
    assert len(made) > len(scenario.steps)
    # Without the layer it is the same.
    assert forks.run(plain, scenario, stage.new(), durability, tracer=tracer(log)).status == 0
    assert traced() == made
