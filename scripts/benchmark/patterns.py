"""The jobs of the family "patterns": libraries that are asked before each action, shared, saved and loaded."""

from __future__ import annotations

import copy
import functools
import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import reference
import saving
from attrs import frozen
from documents import decode, encode, pattern
from harness import PACKAGE, Contender, Goal, Job, Role, Room, expect, timed, uncollected
from situations import Situations, drawn
from space import alone, on_linux, resident

from empathy_kv import PatternLibrary, connect
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.matching import Question, scan
from empathy_kv.store import Store

OURS: Final = PACKAGE
SCAN: Final = "scan"
OBJECTS: Final = "dict of objects"
COPIED: Final = f"{OBJECTS}, deepcopy"


@frozen
class Size:
    """How much is done."""

    library: int
    """Patterns of the library that is asked."""
    large: int
    """Patterns of the larger one, for what must not grow as a library does."""
    smaller: Sequence[int]
    """Patterns of those that are asked besides."""
    rounds: int
    turn: int
    """Questions in a round."""
    scans: int
    """Questions in a round that are answered by a scan, too."""
    repeats: int
    """Rounds of what takes long."""
    whole: int
    """Patterns of the library that is saved and loaded."""
    held: int
    """Patterns of the one whose memory is measured."""


SIZES: Final[Mapping[str, Size]] = {
    "full": Size(
        100_000, 1_000_000, (1_000, 10_000), rounds=15, turn=200, scans=2, repeats=5, whole=30_000, held=20_000
    ),
    "quick": Size(2_000, 5_000, (1_000,), rounds=5, turn=50, scans=1, repeats=2, whole=2_000, held=2_000),
    "tiny": Size(200, 400, (50,), rounds=2, turn=5, scans=2, repeats=1, whole=200, held=200),
}
JUDGED: Final = 100_000
"""Patterns from which on a scan is so slow as the goal beside it says."""


def jobs(scale: str) -> list[Job]:
    """Return the jobs of this family."""
    size = SIZES[scale]
    return [
        _find("ask", "find_patterns", size, skewed=False),
        _find("skewed", "find_patterns, skewed", size, skewed=True),
        _one(size),
        _change(size),
        _index(size),
        *saving.json_jobs(size.whole, size.repeats),
    ]


# Libraries


@functools.lru_cache(maxsize=4)
def _library(count: int, skewed: bool) -> PatternLibrary:
    library = PatternLibrary()
    patterns = drawn(count, skewed)
    while some := list(itertools.islice(patterns, 10_000)):
        library.contribute_patterns("agent", some)
    library.find_patterns({})  # What finds them is made now.
    return library


# Lookups


def _find(name: str, title: str, size: Size, *, skewed: bool) -> Job:
    ours = f"{OURS}, of {size.library:,}"
    scanned = f"{SCAN}, of {size.library:,}"
    beside_scan = [Goal(1 / 200, scanned)] if size.library >= JUDGED else []
    # A million of the skewed ones would say nothing more, and takes as long to make as all other lookups to measure.
    large = [] if skewed else [size.large]
    goals: Mapping[int, Sequence[Goal]] = {size.library: beside_scan, size.large: [Goal(4, ours)]}
    rows = [
        _library_row(OURS, partial(ask_turns, size, skewed), count, goals=goals.get(count, ()))
        for count in (*size.smaller, size.library, *large)
    ]
    slowest = partial(slowest_turns, size, skewed)
    rows.append(_library_row(OURS, slowest, size.library, ", 99th percentile", [Goal(5, ours)], "mark"))
    rows += [
        _library_row(SCAN, partial(scan_turns, size, skewed), count, role="reference")
        for count in (*size.smaller, size.library)
    ]
    rows += [
        _library_row(reference.SCAN, partial(query_turns, size, skewed), count, role="reference")
        for count in (*size.smaller, size.library, *large)
    ]
    return Job(name, title, "us", size.rounds, rows, weight=6)


def _library_row(
    store: str,
    turns: Callable[[int, Room], Iterator[Sequence[float]]],
    count: int,
    way: str = "",
    goals: Sequence[Goal] = (),
    role: Role = "peer",
) -> Contender:
    """Return a row about a library of so many patterns, compared with others about as many."""
    return Contender(store, partial(turns, count), f"of {count:,}{way}", goals, role=role, among=f"{count}")


def ask_turns(size: Size, skewed: bool, count: int, _: Room) -> Iterator[Sequence[float]]:
    find = _library(count, skewed).find_patterns
    questions = Situations(2, skewed)
    while True:
        yield timed(find, [(questions.question(),) for __ in range(size.turn)])


def slowest_turns(size: Size, skewed: bool, count: int, room: Room) -> Iterator[Sequence[float]]:
    for samples in ask_turns(size, skewed, count, room):
        yield [sorted(samples)[len(samples) * 99 // 100]]


def scan_turns(size: Size, skewed: bool, count: int, _: Room) -> Iterator[Sequence[float]]:
    library = _library(count, skewed)
    everything = list(library.patterns.values())
    questions = Situations(2, skewed)
    question = questions.question()
    answer = scan(everything, Question(question, min_confidence=0.5))
    expect(answer == library.find_patterns(question), "answer as the index does")
    while True:
        asked = [questions.question() for __ in range(size.turn)][: size.scans]
        yield timed(scan, [(everything, Question(question, min_confidence=0.5)) for question in asked])


def query_turns(size: Size, skewed: bool, count: int, _: Room) -> Iterator[Sequence[float]]:
    library = _library(count, skewed)
    everything = list(library.patterns.values())
    questions = Situations(2, skewed)
    question = questions.question()
    answer = reference.query(everything, question, 0.5, 10)
    expect(answer == [match.pattern.id for match in library.find_patterns(question)], "answer as the index does")
    while True:
        scans = size.scans if count <= JUDGED else 1
        asked = [questions.question() for __ in range(size.turn)][:scans]
        yield timed(reference.query, [(everything, question, 0.5, 10) for question in asked])


def _one(size: Size) -> Job:
    goal = [Goal(5.0)]
    rows = [
        Contender(OURS, partial(get_turns, size, _in_memory, 0.0), "in memory", goal, COPIED),
        Contender(OURS, partial(get_turns, size, _on_files, 1e9), "on files, stale or not", goal, COPIED),
        Contender(OURS, partial(get_turns, size, _on_files, 0.0), "on files", goal, COPIED),
        Contender("dict of bytes", partial(decoded_turns, size), "msgspec"),
        Contender(OBJECTS, partial(copied_turns, size), "deepcopy"),
    ]
    return Job("pattern", "get_pattern, a copy", "us", size.rounds, rows)


def _in_memory(_: Path) -> PatternLibrary:
    return PatternLibrary()


def _on_files(place: Path) -> PatternLibrary:
    return connect(f"file:{place}", durability="os").patterns


def get_turns(
    size: Size, opened: Callable[[Path], PatternLibrary], max_staleness: float, room: Room
) -> Iterator[Sequence[float]]:
    library = opened(room.own)
    ids = [made.id for made in drawn(1000, skewed=False)]
    library.contribute_patterns("agent", drawn(1000, skewed=False))
    library.max_staleness = max_staleness
    library.find_patterns({})
    dice = random.Random(1)
    while True:
        yield timed(library.get_pattern, [(pattern_id,) for pattern_id in dice.choices(ids, k=size.turn)])


def decoded_turns(size: Size, _: Room) -> Iterator[Sequence[float]]:
    held = {made.id: encode(made) for made in drawn(1000, skewed=False)}
    dice = random.Random(1)
    while True:
        yield timed(lambda wanted: decode(held[wanted]), [(key,) for key in dice.choices(list(held), k=size.turn)])


def copied_turns(size: Size, _: Room) -> Iterator[Sequence[float]]:
    held = {made.id: made for made in drawn(1000, skewed=False)}
    dice = random.Random(1)
    while True:
        yield timed(
            lambda wanted: copy.deepcopy(held[wanted]), [(key,) for key in dice.choices(list(held), k=size.turn)]
        )


# Changes by another worker


def _change(size: Size) -> Job:
    few, many = 100, size.library
    first = f"{OURS}, of {few:,}"
    rows = [
        _library_row(OURS, partial(change_turns, size), few),
        _library_row(OURS, partial(change_turns, size), many, goals=[Goal(2, first)]),
        _library_row("load afresh", afresh_turns, few),
    ]
    return Job("change", "find_patterns after another worker's outcome", "us", size.rounds, rows)


def _two_workers(count: int) -> tuple[PatternLibrary, PatternLibrary, list[str]]:
    kv = MemoryKV()
    one, other = Store(kv).patterns, Store(kv).patterns
    patterns = drawn(count, skewed=False)
    while some := list(itertools.islice(patterns, 10_000)):
        one.contribute_patterns("agent", some)
    other.find_patterns({"task": "task 1"}, limit=1)
    return one, other, [pattern(number).id for number in range(0, count, max(1, count // 100))]


def change_turns(size: Size, count: int, _: Room) -> Iterator[Sequence[float]]:
    one, other, ids = _two_workers(count)
    question = {"unknown": 1}  # It takes no time to answer.
    while True:
        samples = []
        with uncollected():
            for pattern_id in random.Random(1).choices(ids, k=size.turn):
                one.record_pattern_outcome(pattern_id, True)
                start = time.perf_counter()
                other.find_patterns(question)
                samples.append(time.perf_counter() - start)
        expect(other.get_pattern(ids[0]) == one.get_pattern(ids[0]), "see what another did")
        yield samples


def afresh_turns(count: int, _: Room) -> Iterator[Sequence[float]]:
    one = _two_workers(count)[0]
    while True:
        workers = [Store(one._run.args[0]).patterns for __ in range(3)]
        yield timed(lambda worker: worker.find_patterns({"unknown": 1}), [(worker,) for worker in workers])


# Memory


def _index(size: Size) -> Job:
    goal = [Goal(2e-3 * size.held)]  # 2 kB a pattern
    rows = [
        Contender(OURS, partial(alone_turns, index_growth, size.held), "the index", goal, among="index"),
        Contender(OURS, partial(alone_turns, library_growth, size.held), "the library with its index"),
        Contender(OBJECTS, partial(alone_turns, objects_growth, size.held)),
    ]
    return Job("index", f"memory of {size.held:,} patterns", "MB", size.repeats, on_linux(rows), warm_up=0)


def alone_turns(function: Callable[[int], float], count: int, _: Room) -> Iterator[Sequence[float]]:
    while True:
        yield [alone(function, count)]


def index_growth(count: int) -> float:
    """Return by how many bytes what finds the patterns lets this process grow."""
    library = PatternLibrary()
    library.contribute_patterns("agent", drawn(count, skewed=False))
    before = resident()
    library.find_patterns({"task": "task 1"})
    return max(1.0, resident() - before)


def library_growth(count: int) -> float:
    """Return by how many bytes a library lets this process grow."""
    before = resident()
    library = PatternLibrary()
    patterns = drawn(count, skewed=False)
    while some := list(itertools.islice(patterns, 1000)):
        library.contribute_patterns("agent", some)
    library.find_patterns({"task": "task 1"})
    return max(1.0, resident() - before)


def objects_growth(count: int) -> float:
    """Return by how many bytes so many patterns as objects let this process grow."""
    before = resident()
    held = {made.id: made for made in drawn(count, skewed=False)}
    grown = resident() - before
    expect(held, "hold anything")
    return max(1.0, grown)
