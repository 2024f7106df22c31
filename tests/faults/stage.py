"""A scenario on the stage: its steps in children that faults hit, and what is found when they are gone.

A `Stage` is a scenario with one durability. It has the old state on the disk, ready to be copied for every point, and
what a run without a fault gives. The functions that take `say` run in children (`forks.py`).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from attrs import Factory, define, frozen
from calls import Call, Calls, Fault, record
from forks import Ended, Forks
from scenarios import ISSUED, Close, Home, Scenario, State, Write

from empathy_kv.errors import ClosedError, NotApplied, OutcomeUnknown, StorageError
from empathy_kv.kv.files import engine

Say: TypeAlias = Callable[[Any], None]


def changes(state: State | None, before: State) -> State:
    """Return the keys of which a state differs from the one before, with what they hold now."""
    there = state or {}
    return {key: there.get(key) for key in sorted({*there, *before}) if there.get(key) != before.get(key)}


_NUMBERED: Final = re.compile(r"/[0-9]+(?=\.|$)")
"""A file that has only a number for a name, which says how many there were before."""

# In children


def replicate(source: Path | str, target: Path | str) -> None:
    """Copy a directory with what is below it. `shutil.copytree` does more, and takes twice as long."""
    os.makedirs(target)
    with os.scandir(source) as entries:
        for entry in entries:
            path = os.path.join(target, entry.name)
            if entry.is_dir(follow_symlinks=False):
                replicate(entry.path, path)
            else:
                with open(entry.path, "rb") as old, open(path, "xb") as new:
                    new.write(old.read())


def arrange(say: Say, scenario: Scenario, place: Path) -> None:
    """Write the old state: documents that were closed, and what was written after that and never closed."""
    for first, steps in ((1000, (*scenario.documents, Close())), (2000, scenario.journal)):
        home = scenario.kind(place, "os")
        for number, step in enumerate(steps, first):
            home.take(step, number)


def walk(say: Say, scenario: Scenario, place: Path, durability: str, until: int) -> None:
    """Take so many of the steps without a fault, close, and say what the store holds then."""
    home = scenario.kind(place, durability)
    for number, step in enumerate(scenario.steps[:until]):
        home.take(step, number)
    home.take(Close(), until)
    say(scenario.kind(place, durability).read())


@contextmanager
def watched(scenario: Scenario, place: Path, durability: str, fault: Fault) -> Iterator[tuple[Home, Calls]]:
    # The clock stands still, so that a disk that would be the same but for a time is the same, and looked at once.
    with Calls(place) as calls:
        time.time_ns = lambda: ISSUED * 1_000_000
        engine.IDLE = 3600.0  # type: ignore[misc]  # Its thread would make a call now and then.
        home = scenario.kind(place, durability)
        if not scenario.cold:
            home.read()
        with calls.under(fault):
            yield home, calls


def perform(say: Say, scenario: Scenario, place: Path, durability: str, fault: Fault) -> None:
    """Take the steps under the fault. Say the number of each that returned, and at last which calls were made."""
    with watched(scenario, place, durability, fault) as (home, calls):
        for number, step in enumerate(scenario.steps):
            home.take(step, number)
            say(number)
    say(calls.made)
    os._exit(0)  # Before the store is let go, whose descriptors would be closed then.


def plain(say: Say, scenario: Scenario, place: Path, durability: str) -> None:
    """Take the steps, with nothing in between; for strace. Say the number of each that returned."""
    home = scenario.kind(place, durability)
    for number, step in enumerate(scenario.steps):
        home.take(step, number)
        say(number)
    os._exit(0)


@frozen
class Failure:
    """How a step failed."""

    number: int
    kind: str
    typed: bool
    closed: bool
    unknown: bool
    errno: int | None
    token: Any
    text: str

    @classmethod
    def of(cls, number: int, error: BaseException) -> Failure:
        """Take from an error what is to be judged."""
        return cls(
            number,
            type(error).__name__,
            isinstance(error, (StorageError, OutcomeUnknown)),
            isinstance(error, ClosedError),
            not isinstance(error, NotApplied),
            getattr(error, "errno", None),
            getattr(error, "token", None),
            _told(error),
        )


def _told(error: BaseException) -> str:
    # A whole traceback takes longer than all that failed.
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = "" if place is None else f" ({place.tb_frame.f_code.co_filename}:{place.tb_lineno})"
    return f"{type(error).__name__}: {error}{where}"


@define
class Endured:
    """What a process saw that met a fault and went on."""

    returned: dict[int, list[Call]] = Factory(dict)
    """The steps that returned, each with the calls that failed meanwhile."""
    failure: Failure | None = None
    during: State | Failure | None = None
    """What was read straight after the failure, while the fault lasted."""
    read_met: list[Call] = Factory(list)
    """The calls that failed while that was read."""
    after: State | None = None
    """What was read when the fault was over."""
    settled: bool | None = None
    stopped: bool = False
    """Whether it ended there, because nobody can ask what became of a write that has no token."""
    last: State | None = None
    """What was read when all steps had been taken after all."""
    closed_twice: int = 0
    """How often a descriptor was closed that was not open: another file may have had its number by then."""


def endure(say: Say, scenario: Scenario, old: Path, place: Path, durability: str, faults: Sequence[Fault]) -> None:
    """For each fault, take the steps under it until one fails; then read, let it end, read, and take what is left.

    What is on the disk straight after the failure goes to `place/failed/<number of the fault>`, and what is there at
    last is in `place/last/<number of the fault>`.
    """
    for number, fault in enumerate(faults):
        last = place / "last" / str(number)
        replicate(old, last)
        say(_endured(scenario, last, place / "failed" / str(number), durability, fault))


def _endured(scenario: Scenario, place: Path, copy: Path, durability: str, fault: Fault) -> Endured:
    seen = Endured()

    def unraisable(ignored: Any) -> None:  # What a destructor raises goes nowhere else.
        seen.closed_twice += getattr(ignored.exc_value, "errno", None) == errno.EBADF

    sys.unraisablehook = unraisable
    with watched(scenario, place, durability, fault) as (home, _):
        for number, step in enumerate(scenario.steps):
            met = len(fault.met)
            try:
                home.take(step, number)
            except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - which one it is, is judged
                seen.failure = Failure.of(number, error)
                break
            seen.returned[number] = fault.met[met:]
        if seen.failure is not None:
            met = len(fault.met)
            try:
                seen.during = home.read()
            except Exception as error:  # noqa: BLE001 - the same
                seen.during = Failure.of(number, error)
            seen.read_met = fault.met[met:]
    if seen.failure is not None:
        replicate(place, copy)
        failed = scenario.steps[number]
        if isinstance(failed, Close):
            home.take(failed, number)
            home = scenario.kind(place, durability)
        seen.after = home.read()
        if isinstance(failed, Write):
            token = number if failed.signed else seen.failure.token
            if token is not None:
                seen.settled = home.settle(token)
            elif seen.failure.unknown:
                seen.stopped, seen.last = True, home.read()
                return seen
        if not seen.settled and not isinstance(failed, Close):
            home.take(failed, 100 + number)
        for later in range(number + 1, len(scenario.steps)):
            home.take(scenario.steps[later], later)
    if isinstance(scenario.steps[-1], Close):
        home = scenario.kind(place, durability)
    seen.last = home.read()
    return seen


@frozen
class Found:
    """What a fresh process finds on the disk."""

    state: State
    seconds: float
    """How long opening and reading took."""
    settled: list[bool | None]
    """For each step, whether its write was applied; None if it cannot be known."""
    settled_state: State
    last: State
    """What there is after one more write, and a close."""
    files: list[str]


def inspect(say: Say, scenario: Scenario, place: Path, durability: str) -> None:
    """Open what is there, read, settle all tokens, write, close, and say what was found."""
    start = time.monotonic()
    home = scenario.kind(place, durability)
    state = home.read()
    seconds = time.monotonic() - start
    settled = [
        home.settle(number) if isinstance(step, Write) and step.signed else None
        for number, step in enumerate(scenario.steps)
    ]
    settled_state = home.read()
    home.finish()
    last = scenario.kind(place, durability).read()
    last.pop("after")
    files = sorted(_NUMBERED.sub("/number", str(path.relative_to(place))) for path in _below(place))
    say(Found(state, seconds, settled, settled_state, last, files))


# Around the children

_TOGETHER: Final = 16
"""How many faults a process endures; forking takes longer than what it does then."""


@frozen
class Outcome:
    """What came of one fault: what the process saw that met it, or how it ended if it could not go on.

    And what fresh processes find: straight after the failure if there was one, and at last.
    """

    fault: Fault
    seen: Endured | Ended
    failed: Ended | None = None
    last: Ended | None = None


class Stage:
    """A scenario with one durability: `states[n]` and `files[n]` are those after n of its steps without a fault."""

    def __init__(self, forks: Forks, directory: Path, scenario: Scenario, durability: str) -> None:
        self._forks = forks
        self._directory = directory.resolve()
        self._directory.mkdir()
        self.scenario = scenario
        self.durability = durability
        self._found: dict[tuple[tuple[str, bytes | bool], ...], Ended] = {}
        self._run(arrange, self._old)
        self._old.mkdir(exist_ok=True)
        self.states: list[State] = []
        self.files: list[list[str]] = []
        for number in range(len(scenario.steps) + 1):
            self.states += self._run(walk, self.new(), durability, number).said
            self.files.append(self.inspected(self.now).said[0].files)
        self.calls: list[Call] = self._run(perform, self.new(), durability, record()).said[-1]

    @property
    def _old(self) -> Path:
        return self._directory / "old"

    @property
    def now(self) -> Path:
        """The directory that is made anew for every point."""
        return self._directory / "now"

    def _run(self, function: Callable[..., None], *arguments: Any) -> Ended:
        ended = self._forks.run(function, self.scenario, *arguments)
        if ended.status != 0:
            raise AssertionError(f"{self.scenario.name} without a fault: status {ended.status}\n{ended.error}")
        return ended

    def new(self) -> Path:
        """Return the directory with the old state in it anew."""
        self._clear()
        replicate(self._old, self.now)
        return self.now

    def _clear(self) -> None:
        shutil.rmtree(self.now, ignore_errors=True)

    def performed(self, fault: Fault) -> Ended:
        """Take the steps on the old state under a fault, and leave behind what there is then."""
        return self._forks.run(perform, self.scenario, self.new(), self.durability, fault)

    def traced(self, tracer: Sequence[str]) -> Ended:
        """Take the steps on the old state under strace alone."""
        return self._forks.run(plain, self.scenario, self.new(), self.durability, tracer=tracer)

    def endured(self, faults: Sequence[Fault]) -> Iterator[Outcome]:
        """Take the steps on the old state under each fault, several of them in one process that goes on."""
        while faults:
            self._clear()
            some = faults[:_TOGETHER]
            ended = self._forks.run(endure, self.scenario, self._old, self.now, self.durability, some)
            for number, seen in enumerate(ended.said):
                failed = None if seen.failure is None else self.inspected(self.now / "failed" / str(number))
                yield Outcome(faults[number], seen, failed, self.inspected(self.now / "last" / str(number)))
            if ended.status != 0:
                yield Outcome(faults[len(ended.said)], ended)
            faults = faults[len(ended.said) + (ended.status != 0) :]

    def unlike(self, files: list[str], steps: int) -> str:
        """Say how files differ from those of a store of the same content that no fault has met."""
        there, clean = Counter(files), Counter(self.files[steps])
        return f"left over {sorted((there - clean).elements())}, missing {sorted((clean - there).elements())}"

    def call(self, fault: Fault) -> str:
        """Say where a fault strikes, and how."""
        assert fault.number is not None
        return f"{self.calls[fault.number - 1]}, {fault}"

    def inspected(self, place: Path | None = None) -> Ended:
        """Look at what was left behind, in a fresh process. The same files, byte for byte, are looked at once."""
        place = place or self.now
        content = tuple((str(path.relative_to(place)), path.is_file() and path.read_bytes()) for path in _below(place))
        if content not in self._found:
            self._found[content] = self._forks.run(inspect, self.scenario, place, self.durability)
        return self._found[content]


def _below(place: Path) -> list[Path]:
    return sorted(place.rglob("*"))
