"""An errno at every system call on the store's files: the call says so, and nothing that was there is gone."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator

import pytest
from calls import SYNCS, WRITES, Call, Fault, fail_at, short_at
from forks import Ended
from scenarios import PROFILE, SCENARIOS, Close, Endured, Failure, Outcome, Stage, State

ERRNOS = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.ENOLCK)
NAMES = [scenario.name for scenario in SCENARIOS]
if PROFILE == "nightly":
    ERRNOS += (errno.EDQUOT, errno.EROFS)
    CASES = [(name, durability) for name in NAMES for durability in ("fsync", "os")]
else:  # Without fsync there are the same calls but for those.
    CASES = [(name, "fsync") for name in NAMES] + [("set", "os"), ("batch", "os")]


def errnos(call: Call) -> Iterator[Fault]:
    """Each errno that the call can give, once and from then on; a full disk takes part of what is written."""
    for code in ERRNOS:
        if code in call.errnos:
            yield fail_at(call.number, code)
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
        yield from (f"step {number} returned, though its {call} failed" for call in met if call.name in SYNCS)
    if seen.closed_twice:
        yield f"{seen.closed_twice} descriptors were closed twice"
    if seen.last != stage.states[-1]:
        yield f"after all steps there is {seen.last}"
    if seen.failure is not None:
        yield from _after_failure(stage, fault, seen, seen.failure, outcome.failed)
    found = outcome.last
    assert found is not None
    if found.status != 0:
        yield f"at last a fresh process cannot use it: status {found.status} {found.error}"
    elif found.said[0].last != stage.states[-1]:
        yield f"at last a fresh process finds {found.said[0].last}"
    elif found.said[0].files != stage.files[-1]:
        yield f"at last the files are {found.said[0].files}"


def _after_failure(stage: Stage, fault: Fault, seen: Endured, failure: Failure, found: Ended | None) -> Iterator[str]:
    before, applied = stage.states[failure.number], stage.states[failure.number + 1]
    allowed: list[State | None] = [before, applied] if failure.unknown else [before]
    yield from _untyped(failure, fault)
    if isinstance(seen.during, Failure) and isinstance(stage.scenario.steps[failure.number], Close):
        if not seen.during.closed:
            yield f"a store that was closed, though that failed, says {seen.during.text}"
    elif isinstance(seen.during, Failure):
        yield from _untyped(seen.during, fault)
        if not seen.read_met:
            yield f"reading failed, though no call of it did: {seen.during.text}"
    elif seen.during not in allowed:
        yield f"{failure.kind}, and while the fault lasted there is {seen.during}"
    if seen.after not in allowed:
        yield f"{failure.kind}, and when the fault was over there is {seen.after}"
    if seen.settled is not None and before != applied and seen.settled != (seen.after == applied):
        yield f"the write was settled as {seen.settled}, which is not so"
    assert found is not None
    if found.status != 0:
        yield f"straight after it a fresh process cannot use it: status {found.status} {found.error}"
    elif found.said[0].state not in allowed:
        yield f"{failure.kind}, and a fresh process finds {found.said[0].state}"
    elif found.said[0].last != found.said[0].state:
        yield f"{failure.kind}, and a fresh process makes {found.said[0].last} of {found.said[0].state}"


def _untyped(failure: Failure, fault: Fault) -> Iterator[str]:
    if not isinstance(fault.raises, int):
        return
    if not failure.typed:
        yield f"an error of another kind: {failure.text}"
    elif not failure.unknown and failure.errno != fault.raises:
        yield f"the errno is {failure.errno}: {failure.text}"


def all_lies(stage: Stage, faults: Callable[[Call], Iterable[Fault]]) -> list[str]:
    return [
        f"{stage.call(outcome.fault)}: {text}"
        for call in stage.calls
        for outcome in stage.endured([*faults(call)])
        for text in lies(stage, outcome)
    ]


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
