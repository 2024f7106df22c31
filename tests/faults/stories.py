"""What a client does to a store in the tests of power cuts, and what a store may show afterwards."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal, TypeAlias

from attrs import frozen

from empathy_kv.kv.files import FilesKV
from empathy_kv.kv.files.flat import FlatDirectory
from empathy_kv.kv.interface import KV
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.kv.operations import (
    Batch,
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
    ZAdd,
    ZAppend,
    ZRange,
    ZTrim,
)

Form: TypeAlias = Literal["fsync", "os", "flat"]
"""A store with one of its two durabilities, or the flat directory of saved states, whose writes last like "fsync"."""
Content: TypeAlias = dict[str, Any]

Mark: TypeAlias = Callable[[int, int], None]
"""Is told how many batches have begun, and how many of them were acknowledged."""

CHECKPOINT: Final = "checkpoint"
CLOSE: Final = "close, and open again"
SWITCH: Final = "go on with another client"
Step: TypeAlias = tuple[Operation, ...] | str
"""The operations of a batch, or what else the client does."""

NAMESPACE: Final = ("notes", "one")
AFTERWARDS: Final[Step] = (Set("afterwards", b'{"n": 1}'),)
"""One write more than the story has, so that there is always one to be made after the power is back."""


def large(letter: bytes) -> bytes:
    """Return a value that takes some pages, no two of which are alike."""
    return b"".join(b"%c%05d" % (letter, i) for i in range(1800))


@frozen
class Story:
    """Steps that lie so long back that all of it is durable, and the steps that a power cut may meet."""

    before: tuple[Step, ...]
    steps: tuple[Step, ...]

    @property
    def settled(self) -> int:
        """How many batches lie before."""
        return sum(isinstance(step, tuple) for step in self.before)

    def batches(self) -> list[Batch]:
        """Return all writes, each with its token."""
        steps = [step for step in (*self.before, *self.steps, AFTERWARDS) if isinstance(step, tuple)]
        issued = time.time_ns() // 1_000_000
        return [
            Batch(NAMESPACE, operations, token=Token(NAMESPACE, "0123456789abcdef", 0, number, issued))
            for number, operations in enumerate(steps, 1)
        ]

    def reading(self) -> Batch:
        """Return the batch that asks for everything."""
        kinds: dict[str, Operation] = {}
        for batch in self.batches():
            for operation in batch.operations:
                assert isinstance(operation, Operation)
                if isinstance(operation, (HSet, HDel, HIncrBy)):
                    kinds[operation.key] = HGetAll(operation.key)
                elif isinstance(operation, (ZAdd, ZAppend, ZTrim)):
                    kinds[operation.key] = ZRange(operation.key, 0, -1)
                else:
                    kinds.setdefault(operation.key, Get(operation.key))
        return Batch(NAMESPACE, tuple(kinds.values()))


STORIES: Final[dict[str, Story]] = {
    "a store is created": Story((), ((Set("a", b"1st"),), (Set("b", b"2nd"),))),
    "a value is overwritten": Story(
        ((Set("a", b"old"), Set("b", b"old")), CHECKPOINT, (Set("b", b"older"),)),
        ((Set("a", b"new"),), (Set("b", b"new"),), (Set("a", b'{"newer": true}'),)),
    ),
    "a batch on ten keys": Story(
        (
            (Set("a", b"old"), Set("b", b"old"), IncrBy("n", 5), HSet("h", {"x": b"1"}), ZAppend("z", [b"1"])),
            CHECKPOINT,
            (Set("c", b"old"), HIncrBy("counts", {"x": 7})),
        ),
        (
            (
                *(Set("a", large(b"a")), Delete("b"), Set("c", b"new"), Set("d", b"new"), IncrBy("n", 2)),
                *(HSet("h", {"y": b"2"}), HIncrBy("counts", {"x": 1, "y": 1}), HIncrBy("more", {"x": 1})),
                *(ZAppend("z", [b"2", b"3"]), ZAdd("ranks", {b"one": 1.0, b"two": 2.0})),
            ),
            (IncrBy("n"), Set("b", b"back")),
        ),
    ),
    "a document is counted up": Story(
        ((IncrBy("n", 5), HIncrBy("h", {"x": 5})), CHECKPOINT),
        ((IncrBy("n"),), (HIncrBy("h", {"x": 1, "y": 1}),), (IncrBy("n"), HIncrBy("h", {"x": 1}))),
    ),
    "a timeline goes on": Story(
        ((ZAppend("log", [b"1", b"2", b"3"]),), CHECKPOINT),
        tuple((ZAppend("log", [b"%d" % number]), ZTrim("log", 4)) for number in (4, 5, 6)),
    ),
    "keys are deleted": Story(
        ((Set("a", b"1"), Set("b", b"1"), HSet("h", {"x": b"1"})), CHECKPOINT, (Set("c", b"1"),)),
        ((Delete("a"),), (Delete("c"), HDel("h", ["x"])), (Set("a", b"2"),)),
    ),
    "a checkpoint is made": Story(
        ((Set("a", b"1"), Set("b", b"1"), Set("c", b"1")), CHECKPOINT),
        ((Set("new", b"1"),), (Set("b", b"2"), Delete("c")), CHECKPOINT, (IncrBy("n"),)),
    ),
    "two checkpoints are made": Story(
        (),
        ((Set("a", b"1"), IncrBy("n")), CHECKPOINT, (Delete("a"), IncrBy("n")), CHECKPOINT, (Set("a", b"2"),)),
    ),
    "a store is closed": Story(
        ((Set("a", b"1"),), CLOSE), ((Set("a", b"2"), IncrBy("n")), CLOSE, (IncrBy("n"),), CLOSE)
    ),
    "values are large": Story(
        ((Set("a", large(b"0")),), CHECKPOINT),
        ((Set("a", large(b"1")),), (Set("b", large(b"2")),), CHECKPOINT, (Set("a", b"small"),), CHECKPOINT),
    ),
    "many documents are written": Story(
        (tuple(Set(f"k{i}", b"old") for i in range(20)), CHECKPOINT),
        (
            (*(Set(f"k{i}", b"new %d" % i) for i in range(5, 38)), *(Delete(f"k{i}") for i in range(5))),
            CHECKPOINT,
            (Set("k0", b"back"),),
        ),
    ),
    "two clients take turns": Story(
        ((IncrBy("n"), Set("a", b"1")),),
        ((IncrBy("n"),), SWITCH, (IncrBy("n"), Set("a", b"2")), CHECKPOINT, SWITCH, (IncrBy("n"),), CHECKPOINT),
    ),
}

SAVED_STATES: Final[dict[str, Story]] = {
    "a first state is saved": Story((), ((Set("ann", b'{"n": 1}'),), (Set("ann", b'{"n": 2}'),))),
    "states are saved and deleted": Story(
        ((Set("ann", b'{"n": 1}'),), (Set("A/nn", b'{"user_id": "A/nn"}'),)),
        ((Set("ann", b'{"n": 2}'),), (Set("A/nn", b'{"user_id": "A/nn", "n": 2}'),), (Delete("ann"),)),
    ),
}
"""For the flat form, in which a write is one value and values are JSON objects."""

CASES: Final[list[tuple[str, Form]]] = [
    *((name, form) for name in STORIES for form in ("fsync", "os")),
    *((name, "flat") for name in SAVED_STATES),
]


class Stage:
    """A story in one form, on any directory, in which the store is made."""

    def __init__(self, name: str, form: Form) -> None:
        self.story = story = SAVED_STATES[name] if form == "flat" else STORIES[name]
        self.form: Form = form
        self.batches = story.batches()
        self._reading = story.reading()
        with MemoryKV() as model:
            self.contents: list[Content] = [self.look(model)]
            for batch in self.batches:
                model.execute(batch)
                self.contents.append(self.look(model))
        assert all(content not in self.contents[:i] for i, content in enumerate(self.contents)), "two look alike"

    def open(self, directory: Path) -> KV:
        if self.form == "flat":
            return FlatDirectory(directory / "store", NAMESPACE, timeout=2.0)
        return FilesKV(directory / "store", durability=self.form, timeout=2.0)

    def promised(self, settled: int, acknowledged: int) -> int:
        """Return how many batches must outlast a power cut."""
        return settled if self.form == "os" else acknowledged

    def look(self, kv: KV) -> Content:
        """Return all that a store holds."""
        replies = kv.execute(self._reading)
        content = {
            operation.key: reply  # type: ignore[union-attr]
            for operation, reply in zip(self._reading.operations, replies, strict=True)
            if reply
        }
        assert sorted(kv.keys(NAMESPACE)) == sorted(content), "the keys do not fit the values"
        return content

    def found(self, kv: KV) -> int:
        """Return how many batches a store holds: of the first so many all, and of the others nothing."""
        content = self.look(kv)
        assert content in self.contents, f"it holds what no first part of the batches leaves: {shown(content)}"
        return self.contents.index(content)

    def play(self, steps: Sequence[Step], done: int, directory: Path, clients: list[KV], mark: Mark) -> int:
        """Take the steps with the first of the clients, where `done` batches were taken before; return how many now."""
        for step in steps:
            if step == CHECKPOINT:
                checkpoint(clients[0])
            elif step == CLOSE:
                clients[0].close()
                clients[0] = self.open(directory)
            elif step == SWITCH:
                clients.reverse()
            else:
                mark(done + 1, done)
                clients[0].execute(self.batches[done])
                done += 1
                mark(done, done)
        return done

    def check(self, directory: Path, least: int, most: int) -> int:
        """Open what a power cut left, and go on with it; return how many batches were there.

        What was acknowledged is there, nothing is there by half, and the client's retry of what it is not sure of is
        counted once.
        """
        with within(5.0), self.open(directory) as reader, self.open(directory) as writer:
            count = self.found(reader)
            assert least <= count <= most, f"it holds {count} batches, and must hold {least} to {most}"
            for batch in self.batches[max(0, count - 1) :]:
                writer.execute(batch)
            assert self.found(reader) == len(self.batches), "a client does not see what another wrote"
            checkpoint(writer)
            assert self.found(reader) == len(self.batches), "a checkpoint changed what is there"
        with within(5.0), self.open(directory) as kv:
            assert self.found(kv) == len(self.batches), "what was written does not stay"
        return count


def checkpoint(kv: KV) -> None:
    """Make a checkpoint of a store; a flat directory has none."""
    if isinstance(kv, FilesKV):
        kv.checkpoint()


class Hang(BaseException):
    """A store that is not done in time. No `Exception`, so that the store does not take it for one of its own."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise `Hang` if the block takes longer."""

    def late(signum: int, frame: FrameType | None) -> None:
        where = "" if frame is None else f" in {frame.f_code.co_name}, {Path(frame.f_code.co_filename).name}"
        raise Hang(f"not done after {seconds:g} s{where}")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def shown(content: dict[str, Any]) -> str:
    """Return a content as a short text."""
    return ", ".join(f"{key}: {value!r:.40}" for key, value in content.items())
