"""What is done to a store while faults hit it: a `Scenario` is an old state and steps, as data.

A `Home` is an open store of some kind, to which any step can be done. It knows the public methods alone: what stands on
the disk is a black box to these tests.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

from attrs import frozen

from empathy_kv.kv.files import FilesKV, disk
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

State: TypeAlias = dict[str, Any]
"""What a store holds, key by key; a key that is absent is not in it."""

PROFILE: Final = os.environ.get("EMPATHY_KV_PROFILE") or "default"
PATIENCE: Final = 1.0
"""Seconds that a store may take until it has opened, and that a writer waits for the lock."""

# Steps


@frozen
class Write:
    """One batch, with a token of the test's own, or with what the store makes of one that has none."""

    operations: tuple[Operation, ...]
    signed: bool = True


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
class Tend:
    """What the store does of itself when it is idle: a checkpoint, whose failure is no one's who writes."""


@frozen
class Close:
    """Close the store; nothing can follow."""


Step: TypeAlias = Write | Save | Remove | Look | Checkpoint | Tend | Close

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
    def settle(self, token: int | Token) -> bool | None:
        """Return whether the write was applied; None if this kind of store cannot know."""

    @abstractmethod
    def finish(self) -> None:
        """Write something more and close in good order."""


NAMESPACE: Final = ("jobs",)
ISSUED: Final = time.time_ns() // 1_000_000

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
            case Write(operations, signed):
                self._namespace.execute(*operations, token=self._token(token) if signed else None)
            case Look():
                self.read()
            case Checkpoint():
                self._kv.checkpoint()
            case Tend():
                sizes: dict[Any, int] = {}
                self._kv.tend(sizes)
                self._kv.tend(sizes)
            case Close():
                self._kv.close()
            case _:
                raise TypeError(step)

    def settle(self, token: int | Token) -> bool | None:
        return self._kv.settle(self._token(token) if isinstance(token, int) else token)

    @staticmethod
    def _token(number: int) -> Token:
        # A slot for each: in one, a later write would take the place of what `settle` looks for.
        return Token(NAMESPACE, "0123456789abcdef", number, 1, ISSUED)

    def finish(self) -> None:
        self._namespace.set("after", b"written")
        if self._namespace.get("after") != b"written":
            raise AssertionError("what was written at last is not there")
        self._kv.checkpoint()
        self._kv.close()


class ManyHome(KeyValueHome):
    """The same, but a few documents are as many as it syncs together, not one by one."""

    def __init__(self, place: Path, durability: Any) -> None:
        super().__init__(place, durability)
        assert isinstance(disk._FEW, int)
        disk._FEW = 2  # type: ignore[misc]  # in this process, which is a child


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

    def settle(self, token: int | Token) -> bool | None:
        return None

    def finish(self) -> None:
        self._states.save_state("after", CollaborationState("after", created_at=self._CREATED))
        self._states.load_state("after")


class NaiveHome(Home):
    """A directory of values that are written over the old ones. The tests must find it out."""

    def __init__(self, place: Path, _: object) -> None:
        self._place = place
        place.mkdir(exist_ok=True)

    def read(self) -> State:
        return {path.name: path.read_bytes() for path in self._place.iterdir()}

    def take(self, step: Step, token: int) -> None:
        if isinstance(step, Write):
            for operation in step.operations:
                assert isinstance(operation, Set)
                (self._place / operation.key).write_bytes(operation.value)

    def settle(self, token: int | Token) -> bool | None:
        return None

    def finish(self) -> None:
        (self._place / "after").write_bytes(b"written")


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
    Scenario(
        "unsigned",
        (Write(_COUNT.operations, signed=False), Write(_TEN.operations, signed=False)),
        _DOCUMENTS,
        cold=True,
    ),
    Scenario("idle", (_COUNT, Tend(), Write((Delete("v1"),)), Tend()), _DOCUMENTS, _JOURNAL),
    Scenario("many", (Checkpoint(), _COUNT), _DOCUMENTS, _JOURNAL, kind=ManyHome),
    Scenario("close", (_COUNT, Close()), _DOCUMENTS, _JOURNAL),
    Scenario("reopen", (Look(), _COUNT), _DOCUMENTS, _JOURNAL, cold=True),
    Scenario("create", (Look(), _COUNT, _COUNT), cold=True),
    Scenario(
        "save_state",
        (Save("alice", 0.9), Save("Bob / b", 0.2), Remove("alice"), Remove("alice")),
        (Save("alice", 0.5), Save("carol", 0.5)),
        kind=FlatHome,
    ),
)

NAIVE: Final = Scenario(
    "naive",
    (Write((Set("v1", b"a longer one"), Set("v2", b"two"))),),
    (Write((Set("v1", b"one"),)),),
    kind=NaiveHome,
)
