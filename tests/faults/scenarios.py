"""What is done to a store while it is hit by faults, and what is looked at afterwards.

A `Scenario` is data: an old state, and steps. A `Stage` is a scenario with one durability, with its old state on the
disk, ready to be copied for every point, and with what a run without a fault gives. The functions that take `say` run
in children (`forks.py`). The disk is a black box to all of them: they know the public methods alone.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

from attrs import Factory, define, frozen
from calls import Call, Calls, Fault, record
from forks import Ended, Forks

from empathy_kv.errors import ClosedError, NotApplied, OutcomeUnknown, StorageError
from empathy_kv.kv.files import FilesKV
from empathy_kv.kv.interface import Namespace
from empathy_kv.kv.operations import (
    Delete,
    Get,
    HDel,
    HGetAll,
    HIncrBy,
    HSet,
    IncrBy,
    Operation,
    Set,
    Token,
    ZAppend,
    ZRange,
    ZTrim,
)
from empathy_kv.records import CollaborationState
from empathy_kv.states import StateManager

Say: TypeAlias = Callable[[Any], None]
State: TypeAlias = dict[str, Any]
"""What a store holds, key by key; a key that is absent is not in it."""

PROFILE: Final = os.environ.get("EMPATHY_KV_PROFILE") or "default"

PATIENCE: Final = 1.0
"""Seconds that a store may take until it has opened, and that a writer waits for the lock."""

# Steps


@frozen
class Write:
    """One batch."""

    operations: tuple[Operation, ...]


@frozen
class Save:
    """One saved state."""

    user: str
    trust: float


@frozen
class Remove:
    """One deleted state."""

    user: str


@frozen
class Look:
    """Read everything; it changes nothing."""


@frozen
class Checkpoint:
    """Bring the documents up to date; it changes nothing that is seen."""


@frozen
class Close:
    """Close the store; nothing can follow."""


Step: TypeAlias = Write | Save | Remove | Look | Checkpoint | Close

# Stores


class Home(ABC):
    """An open store: the same few things can be done to every kind of it."""

    @abstractmethod
    def __init__(self, place: Path, durability: str) -> None: ...

    @abstractmethod
    def read(self) -> State:
        """Return all that it holds, as what is read and what is listed agree."""

    @abstractmethod
    def take(self, step: Step, token: int) -> None:
        """Do a step; a write is named by the number `token`."""

    @abstractmethod
    def settle(self, token: int) -> bool | None:
        """Return whether the write was applied; None if this kind of store cannot know."""

    @abstractmethod
    def finish(self) -> None:
        """Write something more and close in good order."""


NAMESPACE: Final = ("jobs",)
_ISSUED: Final = time.time_ns() // 1_000_000

_READS: Final[tuple[Operation, ...]] = (
    *(Get(key) for key in ("v1", "v2", "v3", "v4", "Key: with / all ~ of it", "n", "after")),
    *(HGetAll(key) for key in ("h1", "h2")),
    *(ZRange(key) for key in ("z1", "z2")),
)


class KeyValueHome(Home):
    def __init__(self, place: Path, durability: Any) -> None:
        self._options = (place / "store", durability)

    @cached_property
    def _kv(self) -> FilesKV:
        # Opened by the first step: where a fault hits the opening, it is the step that fails.
        root, durability = self._options
        return FilesKV(root, durability=durability, timeout=PATIENCE)

    @property
    def _namespace(self) -> Namespace:
        return self._kv.namespace(*NAMESPACE)

    def read(self) -> State:
        replies = self._namespace.execute(*_READS)
        state = {item.key: reply for item, reply in zip(_READS, replies, strict=True) if reply not in (None, {}, [])}
        listed = sorted(self._namespace.keys())
        if listed != sorted(state):
            raise AssertionError(f"the keys are listed as {listed}, and read as {sorted(state)}")
        return state

    def take(self, step: Step, token: int) -> None:
        match step:
            case Write(operations):
                self._namespace.execute(*operations, token=self._token(token))
            case Look():
                self.read()
            case Checkpoint():
                self._kv.checkpoint()
            case Close():
                self._kv.close()
            case _:
                raise TypeError(step)

    def settle(self, token: int) -> bool | None:
        return self._kv.settle(self._token(token))

    @staticmethod
    def _token(number: int) -> Token:
        # A slot for each: in one, a later write would take the place of what `settle` looks for.
        return Token(NAMESPACE, "0123456789abcdef", number, 1, _ISSUED)

    def finish(self) -> None:
        self._namespace.set("after", b"written")
        if self._namespace.get("after") != b"written":
            raise AssertionError("what was written at last is not there")
        self._kv.checkpoint()
        self._kv.close()


class FlatHome(Home):
    _CREATED: Final = datetime(2024, 1, 1, tzinfo=UTC)

    def __init__(self, place: Path, _: object) -> None:
        self._states = StateManager(place / "store")

    def read(self) -> State:
        return {user: self._states.load_versioned(user) for user in self._states.list_users()}

    def take(self, step: Step, token: int) -> None:
        match step:
            case Close():
                pass
            case Save(user, trust):
                self._states.save_state(user, CollaborationState(user, trust, created_at=self._CREATED))
            case Remove(user):
                self._states.delete_state(user)
            case Look():
                self.read()
            case _:
                raise TypeError(step)

    def settle(self, token: int) -> bool | None:
        return None

    def finish(self) -> None:
        self._states.save_state("after", CollaborationState("after", created_at=self._CREATED))
        self._states.load_state("after")


# Scenarios


@frozen
class Scenario:
    """Steps, and what was done before them: `documents` and a close, then `journal` and no close.

    `cold`: opening the store belongs to what is hit by faults.
    """

    name: str
    steps: tuple[Step, ...]
    documents: tuple[Step, ...] = ()
    journal: tuple[Step, ...] = ()
    cold: bool = False
    kind: type[Home] = KeyValueHome


_DOCUMENTS: Final = (
    Write((Set("v1", b"one"), Set("v2", b'{"two": 2}'), Set("v3", b"\x00\xff three"))),
    Write((HSet("h1", {"note": b"text"}), HIncrBy("h1", {"count": 3, "sum": 1000}), IncrBy("n", 5))),
    Write((ZAppend("z1", [b"a", b"b", b"c"]),)),
)
_JOURNAL: Final = (
    Write((Set("v2", b'{"two": 22}'), Delete("v3"), Set("Key: with / all ~ of it", b"new"))),
    Write((HIncrBy("h1", {"count": 1, "sum": 20}), ZAppend("z1", [b"d"]), ZTrim("z1", 3))),
)
_TEN: Final = Write(
    (
        Set("v1", b"uno"),
        Set("v4", b"quattro"),
        Delete("v2"),
        IncrBy("n", 37),
        HIncrBy("h1", {"count": 1, "sum": -7}),
        HSet("h2", {"x": b"1", "y": b"2"}),
        HDel("h1", ["note"]),
        ZAppend("z1", [b"x", b"y"]),
        ZTrim("z1", 2),
        ZAppend("z2", [b"first"]),
    )
)
_TEN_MORE: Final = Write(
    (
        Set("v1", b"un"),
        Delete("v4"),
        Set("v2", b"deux"),
        IncrBy("n", -1),
        HIncrBy("h1", {"count": 1}),
        HSet("h2", {"x": b"3"}),
        HDel("h2", ["y"]),
        ZAppend("z1", [b"z"]),
        ZTrim("z2", 0),
        Set("v3", b"trois"),
    )
)
_COUNT: Final = Write((HIncrBy("h1", {"count": 1, "sum": 250}),))

SCENARIOS: Final = (
    Scenario("set", (Write((Set("v1", b"a longer one"),)), Write((Set("v1", b"1"),))), _DOCUMENTS),
    Scenario("batch", (_TEN, _TEN_MORE), _DOCUMENTS, _JOURNAL),
    Scenario("counter", (_COUNT, _COUNT), _DOCUMENTS),
    Scenario(
        "timeline",
        tuple(Write((ZAppend("z1", [member]), ZTrim("z1", 3))) for member in (b"e", b"f")),
        _DOCUMENTS,
        _JOURNAL,
    ),
    Scenario("compaction", (Checkpoint(), Write((Delete("v1"),)), Checkpoint(), _COUNT), _DOCUMENTS, _JOURNAL),
    Scenario("close", (_TEN, Close()), _DOCUMENTS, _JOURNAL),
    Scenario("reopen", (Look(), _COUNT), _DOCUMENTS, _JOURNAL, cold=True),
    Scenario("create", (Look(), _TEN, Close()), cold=True),
    Scenario(
        "save_state",
        (Save("alice", 0.9), Save("Bob / b", 0.2), Remove("alice"), Remove("alice")),
        (Save("alice", 0.5), Save("carol", 0.5)),
        kind=FlatHome,
    ),
)

# In children


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
def _watched(scenario: Scenario, place: Path, durability: str, fault: Fault) -> Iterator[tuple[Home, Calls]]:
    # The clock stands still, so that a disk that would be the same but for a time is the same, and looked at once.
    with Calls(place) as calls:
        time.time_ns = lambda: _ISSUED * 1_000_000
        home = scenario.kind(place, durability)
        if not scenario.cold:
            home.read()
        with calls.under(fault):
            yield home, calls


def perform(say: Say, scenario: Scenario, place: Path, durability: str, fault: Fault) -> None:
    """Take the steps under the fault. Say the number of each that returned, and at last which calls were made."""
    with _watched(scenario, place, durability, fault) as (home, calls):
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
            "".join(traceback.format_exception(error)),
        )


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
        shutil.copytree(old, last)
        say(_endured(scenario, last, place / "failed" / str(number), durability, fault))


def _endured(scenario: Scenario, place: Path, copy: Path, durability: str, fault: Fault) -> Endured:
    seen = Endured()

    def unraisable(ignored: Any) -> None:  # What a destructor raises goes nowhere else.
        seen.closed_twice += getattr(ignored.exc_value, "errno", None) == errno.EBADF

    sys.unraisablehook = unraisable
    with _watched(scenario, place, durability, fault) as (home, _):
        for number, step in enumerate(scenario.steps):
            met = len(fault.met)
            try:
                home.take(step, number)
            except (Exception, KeyboardInterrupt) as error:
                seen.failure = Failure.of(number, error)
                break
            seen.returned[number] = fault.met[met:]
        if seen.failure is not None:
            met = len(fault.met)
            try:
                seen.during = home.read()
            except Exception as error:
                seen.during = Failure.of(number, error)
            seen.read_met = fault.met[met:]
    if seen.failure is not None:
        shutil.copytree(place, copy)
        failed = scenario.steps[number]
        if isinstance(failed, Close):
            home.take(failed, number)
            home = scenario.kind(place, durability)
        seen.after = home.read()
        if isinstance(failed, Write):
            seen.settled = home.settle(number)
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
    settled = [home.settle(number) if isinstance(step, Write) else None for number, step in enumerate(scenario.steps)]
    settled_state = home.read()
    home.finish()
    last = scenario.kind(place, durability).read()
    last.pop("after")
    files = [str(path.relative_to(place)) for path in _below(place)]
    say(Found(state, seconds, settled, settled_state, last, files))


# Around the children


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
        shutil.copytree(self._old, self.now)
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
        """Take the steps on the old state under each fault, in one process that goes on."""
        while faults:
            self._clear()
            ended = self._forks.run(endure, self.scenario, self._old, self.now, self.durability, faults)
            for number, seen in enumerate(ended.said):
                failed = None if seen.failure is None else self.inspected(self.now / "failed" / str(number))
                yield Outcome(faults[number], seen, failed, self.inspected(self.now / "last" / str(number)))
            if ended.status != 0:
                yield Outcome(faults[len(ended.said)], ended)
            faults = faults[len(ended.said) + 1 :]

    def call(self, fault: Fault) -> str:
        """Say where a fault strikes, and how."""
        assert fault.number is not None
        return f"{self.calls[fault.number - 1]}, {fault}"

    def inspected(self, place: Path | None = None) -> Ended:
        """Look at what was left behind, in a fresh process. Files that were looked at before, byte for byte, are not."""
        place = place or self.now
        content = tuple((str(path.relative_to(place)), path.is_file() and path.read_bytes()) for path in _below(place))
        if content not in self._found:
            self._found[content] = self._forks.run(inspect, self.scenario, place, self.durability)
        return self._found[content]


def _below(place: Path) -> list[Path]:
    return sorted(place.rglob("*"))
