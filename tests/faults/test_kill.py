"""kill -9 at every system call on the store's files: nothing torn, no half batch, nothing acknowledged lost."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from calls import LOOKS, WRITES, Fault, kill_at
from forks import Ended, Forks
from scenarios import NAIVE, PATIENCE, PROFILE, SCENARIOS, Write
from stage import Stage, changes
from strace import calls, find_strace, injector, tracer

NIGHTLY = PROFILE == "nightly"
NAMES = [scenario.name for scenario in SCENARIOS]
CASES = [(name, "fsync") for name in NAMES] + [
    (name, "os") for name in NAMES if NIGHTLY or name in ("set", "batch", "unsigned")
]
PARTS = (0.0, 0.02, 0.5, 0.98) if NIGHTLY else (0.5,)
SAMPLE = None if NIGHTLY else 5
"""How many calls of a scenario strace kills at; the layer does at each, and takes a tenth of the time."""


def every_kill(stage: Stage) -> Iterator[Fault]:
    """SIGKILL before each call, and in the middle of each that writes bytes.

    One that only looks leaves the disk as the next one finds it, so a kill before either leaves the same.
    """
    for call in stage.calls:
        if NIGHTLY or call.name not in LOOKS:
            yield kill_at(call.number)
        if call.name in WRITES:
            yield from (kill_at(call.number, part=part) for part in PARTS)


def damage(stage: Stage, killed: Ended, found: Ended) -> Iterator[str]:
    """Say what is not as promised, after a process that was killed and what a fresh one then found."""
    if killed.status != -signal.SIGKILL:
        yield f"the process ended with {killed.status}, not by SIGKILL {killed.error}"
    if found.status != 0:
        yield f"what is left cannot be used: status {found.status} {found.error}"
        return
    there = found.said[0]
    acknowledged = len(killed.said)
    before, applied = stage.states[acknowledged], stage.states[min(acknowledged + 1, len(stage.scenario.steps))]
    if there.state not in (before, applied):
        yield f"{acknowledged} steps were acknowledged, and changed is {changes(there.state, before)}"
    if there.seconds > PATIENCE:
        yield f"opening took {there.seconds} s"
    for number, (step, settled) in enumerate(zip(stage.scenario.steps, there.settled, strict=True)):
        if isinstance(step, Write) and settled is not None:
            truth = number < acknowledged or (number == acknowledged and there.state == applied)
            if settled is not truth:
                yield f"step {number} is settled as {settled}, which is not so"
    if there.settled_state != there.state:
        yield f"settling changed {changes(there.settled_state, there.state)}"
    if there.last != there.state:
        yield f"a write and a close changed {changes(there.last, there.state)}"
    steps = acknowledged if there.state == before else acknowledged + 1
    if there.files != stage.files[steps]:
        yield stage.unlike(there.files, steps)


def all_damage(stage: Stage) -> list[str]:
    return [
        f"{stage.call(fault)}: {text}"
        for fault in every_kill(stage)
        for text in damage(stage, stage.performed(fault), stage.inspected())
    ]


@pytest.mark.parametrize(("name", "durability"), CASES)
def test_a_process_killed_at_any_call_leaves_a_whole_store(
    staged: Callable[[str, str], Stage], name: str, durability: str
) -> None:
    assert all_damage(staged(name, durability)) == []


def test_a_store_that_writes_over_what_it_has_is_found_out(forks: Forks, memory: Path) -> None:
    found = all_damage(Stage(forks, memory / "naive-kill", NAIVE, "os"))
    assert any("0 steps were acknowledged, and changed is {'v1': b''}" in text for text in found), found
    assert any("0 steps were acknowledged, and changed is {'v1': b'a longer one'}" in text for text in found), found


@pytest.mark.skipif(find_strace() is None, reason="no strace works here (scripts/test brings one)")
@pytest.mark.parametrize(("name", "durability"), CASES)
def test_a_process_killed_by_strace_leaves_a_whole_store(
    staged: Callable[[str, str], Stage], tmp_path: Path, name: str, durability: str
) -> None:
    stage, log = staged(name, durability), tmp_path / "log"
    assert stage.traced(tracer(log)).status == 0
    points = calls(log, stage.now)
    wrong = []
    for call in points[:: max(1, len(points) // SAMPLE)] if SAMPLE else points:
        killed = stage.traced(injector(log, call, "signal=SIGKILL"))
        wrong += [f"{call}: {text}" for text in damage(stage, killed, stage.inspected())]
    assert wrong == []
