"""Measuring stores side by side: contenders take turns, round by round, and a figure is what the rounds agree on.

A machine has slow moments. So in each round every contender of a job has one turn, in an order that changes, the median
of a contender is that of its rounds' medians, and a ratio is the median of the ratios within each round: what slows
down a whole round cancels out.
"""

from __future__ import annotations

import contextlib
import gc
import math
import random
import shutil
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from attrs import define, field, frozen

T = TypeVar("T")

RATE: Final = "puts/s"
UNITS: Final = {"us": 1e-6, "ms": 1e-3, RATE: 1.0, "MB": 1e6, "bytes": 1.0}
"""What a sample is divided by: times are sampled in seconds, memory in bytes."""

MANY: Final = 100
"""From so many samples on, the 99th percentile is more than the largest of them."""

LEAST: Final = 5
"""Rounds that count, however little time there is."""

LONG: Final = 10.0
FEW: Final = 3
"""The same of rounds that take so many seconds."""

PACKAGE: Final = "empathy_kv"
"""How the names of this package's rows begin."""


@frozen
class Promise:
    """The worst that a write survives, once it returned."""

    rank: int
    """More is better. What is left after a power cut short of surviving it is not compared."""
    text: str


NOTHING: Final = Promise(0, "nothing")
SERVER: Final = Promise(0, "what the server does")
CLOSE: Final = Promise(0, "close()")
KILL: Final = Promise(1, "kill -9")
PREFIX: Final = Promise(1, "kill -9; of a power cut a prefix")
POWER: Final = Promise(2, "a power cut")

Role = Literal["peer", "reference", "floor", "mark"]
"""Peer: one would use it instead. Reference: how the system does it that this package takes the place of. Floor: the
least that the job takes. Mark: what does less than the job, or more."""


@frozen
class Goal:
    """What a median must not exceed: a number of its unit, or a multiple of another contender's."""

    limit: float
    of: str | None = None
    reach: bool = False
    """Whether it has to be reached instead: of a rate, more is better."""

    def met(self, value: float) -> bool:
        """Return whether a value, in the terms of the limit, is within it."""
        return value >= self.limit if self.reach else value <= self.limit


@frozen
class Room:
    """Where a contender keeps its data: a directory of its own, and one that is shared by the jobs of the run.

    Nothing is removed before the run is over: where thousands of files were just deleted, ext4 takes ten times as long
    to make one, because it does not use their inodes again for some minutes.
    """

    own: Path
    shared: Path


@frozen
class Contender:
    """One row of a job: a store, and which way of using it.

    `turns` is a generator function: it sets up in its room, then yields the samples of one turn after the other, and
    cleans up when it is closed.
    """

    store: str
    turns: Callable[[Room], Iterator[Sequence[float]]]
    way: str = ""
    goals: Sequence[Goal] = ()
    beside: str | None = None
    """Another contender that it is compared with, beside the best peer and the floor."""
    missing: str | None = None
    """Why it cannot be measured here, None if it can."""
    role: Role = "peer"
    """What others are compared with it as. This package's own rows have none: see `ours`."""
    survives: Promise | None = None
    among: str = ""
    """It is compared with those that have the same: a job may do its work in several sizes."""

    @property
    def ours(self) -> bool:
        """Whether it is this package."""
        return self.store.startswith(PACKAGE)

    @property
    def name(self) -> str:
        """The store and the way, as a row is called."""
        return f"{self.store}, {self.way}" if self.way else self.store


@frozen
class Job:
    """What contenders do side by side, in so many rounds."""

    name: str
    title: str
    unit: str
    rounds: int
    contenders: Sequence[Contender]
    warm_up: int = 1
    """Rounds before the first that counts."""
    weight: float = 1.0
    """Its share of the time that a run has."""


@define
class Figure:
    """What was measured of one contender: the samples of each round, in the unit of its job.

    With an `error` it is no figure: some rounds may be missing.
    """

    job: Job
    contender: Contender
    rounds: list[list[float]] = field(factory=list)
    error: str | None = None

    @property
    def medians(self) -> list[float]:
        """The median of each round."""
        return [statistics.median(samples) for samples in self.rounds]

    @property
    def median(self) -> float:
        """The median of the rounds' medians."""
        return statistics.median(self.medians)

    @property
    def mean(self) -> float:
        """The mean of all samples: what is seldom and takes long is in it, but not in the median."""
        return statistics.mean(sample for samples in self.rounds for sample in samples)

    @property
    def best(self) -> float:
        """The median of the best round: what comes out when nobody else uses the machine."""
        return max(self.medians) if self.higher_is_better else min(self.medians)

    @property
    def p99(self) -> float | None:
        """What 99 % of all samples do not exceed; None of too few."""
        samples = sorted(sample for samples in self.rounds for sample in samples)
        return samples[len(samples) * 99 // 100] if len(samples) >= MANY else None

    @property
    def spread(self) -> float | None:
        """How far the middle half of the rounds lies apart, as a share of the median; None of fewer than four rounds.

        It says how quiet the machine was.
        """
        if len(self.rounds) < 4 or not self.median:
            return None
        low, _, high = statistics.quantiles(self.medians, n=4)
        return (high - low) / self.median

    @property
    def higher_is_better(self) -> bool:
        """Whether it is a rate."""
        return self.job.unit == RATE

    def ratio(self, other: Figure) -> float | None:
        """Return how many times the other's this is, round by round, in the middle; None if the other is nothing."""
        pairs = [(mine, theirs) for mine, theirs in zip(self.medians, other.medians, strict=True) if theirs]
        return statistics.median(mine / theirs for mine, theirs in pairs) if pairs else None


def timed(call: Callable[..., object], arguments: Iterable[tuple[Any, ...]]) -> list[float]:
    """Return the seconds of each call. As in `timeit`, no garbage is collected meanwhile.

    Each sample has the cost of looking at the clock in it, a twentieth of a microsecond.
    """
    samples = []
    clock = time.perf_counter
    with uncollected():
        for each in arguments:
            start = clock()
            call(*each)
            samples.append(clock() - start)
    return samples


async def timed_async(call: Callable[..., Awaitable[object]], arguments: Iterable[tuple[Any, ...]]) -> list[float]:
    """Return the seconds of each call, as `timed` does, awaited one after the other in the loop that runs."""
    samples = []
    clock = time.perf_counter
    with uncollected():
        for each in arguments:
            start = clock()
            await call(*each)
            samples.append(clock() - start)
    return samples


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage in a `with` block."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def expect(fact: object, what: str) -> None:
    """Raise unless a store did what it was asked to: one that does nothing is fast."""
    if not fact:
        raise RuntimeError(f"it does not {what}")


def measure(
    job: Job,
    scratch: Path,
    say: Callable[[str], None] = lambda _: None,
    seconds: float = math.inf,
    least: int = LEAST,
    clock: Callable[[], float] = time.monotonic,
) -> list[Figure]:
    """Let the contenders of a job take turns. One that fails is out.

    The rounds that count have so many seconds, which do not pass while it is set up: the round that runs when they are
    over is the last one, unless too few counted. Garbage is collected before each turn that counts, and what setting up
    has made is no garbage: it is not looked at again.
    """
    begin = clock()
    figures = [Figure(job, contender) for contender in job.contenders]
    place = scratch / job.name
    shared = scratch / "shared"
    shared.mkdir(exist_ok=True)
    turns: dict[str, Iterator[Sequence[float]]] = {}
    with contextlib.ExitStack() as stack:
        stack.callback(gc.unfreeze)
        for number, figure in enumerate(figures):
            own = place / str(number)
            own.mkdir(parents=True)
            generator = figure.contender.turns(Room(own, shared))
            stack.callback(_guarded, figure, generator.close)  # type: ignore[attr-defined]
            turns[figure.contender.name] = generator
        for number in range(job.warm_up + job.rounds):
            counts = number >= job.warm_up
            if number == job.warm_up:
                gc.collect()
                gc.freeze()
                begin = clock()
            elif _enough(number - job.warm_up, clock() - begin, seconds, least):
                break
            # Each time in another order, since a turn leaves its successor warm caches and pages to be written.
            for figure in random.Random(number).sample(figures, len(figures)):
                if figure.error is not None:
                    continue
                say(f"{job.name}: round {number + 1} of {job.warm_up + job.rounds}, {figure.contender.name}")
                if counts:
                    gc.collect()
                samples = _guarded(figure, turns[figure.contender.name].__next__)
                if samples is not None and counts:
                    figure.rounds.append([sample / UNITS[job.unit] for sample in samples])
    return figures


def _enough(rounds: int, took: float, seconds: float, least: int) -> bool:
    """Return whether so many rounds that counted are enough, after so much of the time that there was."""
    if took < seconds:
        return False
    return rounds >= (least if took < LONG * rounds else min(least, FEW))


def allowances(
    weights: Sequence[float], seconds: float, clock: Callable[[], float] = time.monotonic
) -> Iterator[float]:
    """Yield how many seconds the rounds of each job of a run may take, which begins with the first of them.

    What one does not need, the later ones have, and what it takes beyond that, as for setting up, they lack: so the
    whole ends in time.
    """
    end = clock() + seconds
    for number, weight in enumerate(weights):
        yield max(0.0, end - clock()) * weight / sum(weights[number:])


def _guarded(figure: Figure, call: Callable[[], T]) -> T | None:
    """Call; an error is noted instead of what was measured, since the figures of others are worth having."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - whatever it is
        figure.error = f"{type(error).__name__}: {error}"
        return None


class Progress:
    """A line on a terminal that says what is being measured; nothing where nobody watches."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def __call__(self, what: str) -> None:
        if self._shown:
            print(f"\r\033[K{what}"[: shutil.get_terminal_size().columns + 3], end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leave the line empty."""
        self("")
