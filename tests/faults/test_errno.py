"""An errno at every system call on the store's files: the call says so, and nothing that was there is gone."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from calls import LOOKS, SYNCS, WRITES, Call, Fault, fail_at, short_at
from forks import Ended, Forks
from scenarios import NAIVE, PROFILE, SCENARIOS, Close, State, Tend
from stage import Endured, Failure, Outcome, Stage, changes
from strace import calls, find_strace, injector, tracer

ERRNOS: tuple[int, ...] = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.ENOLCK)
NAMES = [scenario.name for scenario in SCENARIOS]
if PROFILE == "nightly":
    ERRNOS += (errno.EDQUOT, errno.EROFS)
    CASES = [(name, durability) for name in NAMES for durability in ("fsync", "os")]
else:  # Without fsync there are the same calls but for those.
    CASES = [(name, "fsync") for name in NAMES] + [(name, "os") for name in ("set", "batch", "unsigned")]


SAMPLE = None if PROFILE == "nightly" else 4
"""How many calls of a scenario strace lets fail; the layer does it with each, and takes a tenth of the time."""
# Not `close`, which strace would not make, and not `flock`, which frees the lock as well.
BY_STRACE = {
    "open": "EMFILE",
    "write": "ENOSPC",
    "fsync": "EIO",
    "fdatasync": "EIO",
    "rename": "ENOSPC",
    "mkdir": "EIO",
}


def errnos(call: Call) -> Iterator[Fault]:
    """Each errno that the call can give, once and from then on; a full disk takes part of what is written."""
    for code in ERRNOS:
        if code in call.errnos:
            yield fail_at(call.number, code)
            if call.name not in LOOKS:  # It would be what it is at the next call.
                yield fail_at(call.number, code, persistent=True)
            if call.name in WRITES:
                yield fail_at(call.number, code, persistent=True, part=0.5)


def lies(stage: Stage, outcome: Outcome) -> Iterator[str]:
    """Say what is not as promised, in the process that met a fault and in those that came after it."""
    fault, seen = outcome.fault, outcome.seen
    if isinstance(seen, Ended):
        yield f"the process could not go on: status {seen.status} {seen.error}"
        return
    for number, met in seen.returned.items():
        if not isinstance(stage.scenario.steps[number], Tend):
            yield from (f"step {number} returned, though its {call} failed" for call in met if call.name in SYNCS)
    if seen.closed_twice:
        yield f"{seen.closed_twice} descriptors were closed twice"
    end = seen.last if seen.stopped else stage.states[-1]
    if seen.last != end:
        yield f"after all steps it is wrong in {changes(seen.last, stage.states[-1])}"
    if seen.failure is not None:
        yield from _after_failure(stage, fault, seen, seen.failure, outcome.failed)
    found = outcome.last
    assert found is not None
    if found.status != 0:
        yield f"at last a fresh process cannot use it: status {found.status} {found.error}"
    elif found.said[0].last != end:
        yield f"at last a fresh process finds {changes(found.said[0].last, end or {})} wrong"
    elif not seen.stopped and found.said[0].files != stage.files[-1]:
        yield f"at last {stage.unlike(found.said[0].files, -1)}"


def _after_failure(stage: Stage, fault: Fault, seen: Endured, failure: Failure, found: Ended | None) -> Iterator[str]:
    before, applied = stage.states[failure.number], stage.states[failure.number + 1]
    allowed: list[State | None] = [before, applied] if failure.unknown else [before]
    yield from _untyped(failure, fault)
    if seen.stopped and isinstance(fault.raises, int):
        yield f"nobody can ask what became of it: {failure.text}"
    if isinstance(seen.during, Failure) and isinstance(stage.scenario.steps[failure.number], Close):
        if not seen.during.closed:
            yield from _untyped(seen.during, fault)
    elif isinstance(seen.during, Failure):
        yield from _untyped(seen.during, fault)
        if not seen.read_met:
            yield f"reading failed, though no call of it did: {seen.during.text}"
    elif seen.during not in allowed:
        yield f"{failure.kind}, and while the fault lasted there was changed {changes(seen.during, before)}"
    if seen.after not in allowed:
        yield f"{failure.kind}, and when the fault was over there was changed {changes(seen.after, before)}"
    if seen.settled is not None and before != applied and seen.settled != (seen.after == applied):
        yield f"the write was settled as {seen.settled}, which is not so"
    assert found is not None
    if found.status != 0:
        yield f"straight after it a fresh process cannot use it: status {found.status} {found.error}"
    elif found.said[0].state not in allowed:
        yield f"{failure.kind}, and a fresh process finds changed {changes(found.said[0].state, before)}"
    elif found.said[0].last != found.said[0].state:
        yield f"{failure.kind}, and a write changes {changes(found.said[0].last, found.said[0].state)}"


def _untyped(failure: Failure, fault: Fault) -> Iterator[str]:
    if not isinstance(fault.raises, int):
        return
    if not failure.typed:
        yield f"an error of another kind: {failure.text}"
    elif not failure.unknown and failure.errno != fault.raises:
        yield f"the errno is {failure.errno}: {failure.text}"


def all_lies(stage: Stage, faults: Callable[[Call], Iterable[Fault]]) -> list[str]:
    every = [fault for call in stage.calls for fault in faults(call)]
    return [f"{stage.call(outcome.fault)}: {text}" for outcome in stage.endured(every) for text in lies(stage, outcome)]


@pytest.mark.parametrize(("name", "durability"), CASES)
def test_a_call_that_fails_is_said_and_nothing_is_lost(
    staged: Callable[[str, str], Stage], name: str, durability: str
) -> None:
    assert all_lies(staged(name, durability), errnos) == []


@pytest.mark.parametrize(("name", "durability"), CASES)
def test_a_short_write_is_no_loss(staged: Callable[[str, str], Stage], name: str, durability: str) -> None:
    assert all_lies(staged(name, durability), lambda call: [short_at(call.number)] * (call.name in WRITES)) == []


@pytest.mark.parametrize(("name", "durability"), CASES)
def test_an_interrupt_at_any_call_leaves_a_store_to_go_on_with(
    staged: Callable[[str, str], Stage], name: str, durability: str
) -> None:
    assert all_lies(staged(name, durability), lambda call: [fail_at(call.number, KeyboardInterrupt)]) == []


def test_a_store_that_writes_over_what_it_has_is_found_out(forks: Forks, memory: Path) -> None:
    found = all_lies(Stage(forks, memory / "naive-errno", NAIVE, "os"), errnos)
    assert any("an error of another kind: OSError" in text for text in found), found
    assert any("while the fault lasted there was changed {'v1': b'a long'}" in text for text in found), found
    assert any("when the fault was over there was changed {'v1': b''}" in text for text in found), found
    assert any("a fresh process finds changed {'v1': b'a longer one', 'v2': b''}" in text for text in found), found


@pytest.mark.skipif(find_strace() is None, reason="no strace works here (scripts/test brings one)")
@pytest.mark.parametrize(("name", "durability"), CASES)
def test_an_errno_by_strace_is_said_as_well(
    staged: Callable[[str, str], Stage], tmp_path: Path, name: str, durability: str
) -> None:
    stage, log = staged(name, durability), tmp_path / "log"
    assert stage.traced(tracer(log)).status == 0
    points = [call for call in calls(log, stage.now) if call.name in BY_STRACE]
    wrong = []
    for call in points[:: max(1, len(points) // SAMPLE)] if SAMPLE else points:
        ended = stage.traced(injector(log, call, f"error={BY_STRACE[call.name]}"))
        found = stage.inspected()
        taken = len(ended.said)
        unknown = "empathy_kv.errors.OutcomeUnknown: " in ended.error
        if ended.status != 0 and not unknown and "empathy_kv.errors.Storage" not in ended.error:
            wrong.append(f"{call}: an error of another kind: {ended.error}")
        if found.status != 0:
            wrong.append(f"{call}: a fresh process cannot use it: {found.error}")
        elif found.said[0].state not in stage.states[taken : taken + 1 + unknown]:
            there = changes(found.said[0].state, stage.states[taken])
            wrong.append(f"{call}: {taken} steps were acknowledged, and {there} is changed")
    assert wrong == []
