"""The jobs of the family "patterns": libraries that are asked before each action, shared, saved and loaded."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import reference
from attrs import frozen
from documents import pattern
from harness import PACKAGE, Contender, Goal, Job, Role, Room, expect, timed, uncollected
from situations import Situations, drawn
from space import alone, on_linux, resident

from empathy_kv import Pattern, PatternLibrary, PatternPersistence, connect
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.matching import Question, scan
from empathy_kv.store import Store

OURS: Final = PACKAGE
SCAN: Final = "scan"
BY_HAND: Final = "json by hand"
OBJECTS: Final = "dict of objects"


@frozen
class Size:
    """How much is done."""

    library: int
    """Patterns of the library that is asked, saved and loaded."""
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


SIZES: Final[Mapping[str, Size]] = {
    "full": Size(100_000, 1_000_000, (1_000, 10_000), rounds=15, turn=200, scans=2, repeats=5),
    "quick": Size(5_000, 20_000, (1_000,), rounds=5, turn=50, scans=2, repeats=3),
    "tiny": Size(200, 400, (50,), rounds=2, turn=5, scans=2, repeats=1),
}


def jobs(scale: str) -> list[Job]:
    """Return the jobs of this family."""
    size = SIZES[scale]
    return [
        _find("ask", "find_patterns", size, skewed=False),
        _find("skewed", "find_patterns, skewed", size, skewed=True),
        _one(size),
        _change(size),
        _index(size),
        _json("json", "save and load JSON", size, ("save", "load")),
        _json("save", "save JSON", size, ("save",)),
        _json("load", "load JSON", size, ("load",)),
        _peak(size),
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
    goals: Mapping[int, Sequence[Goal]] = {size.library: [Goal(1 / 200, scanned)], size.large: [Goal(4, ours)]}
    rows = [
        _library_row(OURS, partial(ask_turns, size, skewed), count, goals=goals.get(count, ()))
        for count in (*size.smaller, size.library, size.large)
    ]
    slowest = partial(slowest_turns, size, skewed)
    rows.append(_library_row(OURS, slowest, size.library, ", 99th percentile", [Goal(5, ours)], "mark"))
    for count in (*size.smaller, size.library):
        rows.append(_library_row(SCAN, partial(scan_turns, size, skewed), count))
        rows.append(_library_row(reference.SCAN, partial(query_turns, size, skewed), count))
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
    while True:
        asked = [questions.question() for __ in range(size.turn)][: size.scans]
        yield timed(scan, [(everything, Question(question, min_confidence=0.5)) for question in asked])
        answer = scan(everything, Question(asked[0], min_confidence=0.5))
        expect(answer == library.find_patterns(asked[0]), "answer as the index does")


def query_turns(size: Size, skewed: bool, count: int, _: Room) -> Iterator[Sequence[float]]:
    library = _library(count, skewed)
    everything = list(library.patterns.values())
    questions = Situations(2, skewed)
    while True:
        asked = [questions.question() for __ in range(size.turn)][: size.scans]
        yield timed(reference.query, [(everything, question, 0.5, 10) for question in asked])
        answer = reference.query(everything, asked[0], 0.5, 10)
        expect(answer == [match.pattern.id for match in library.find_patterns(asked[0])], "answer as the index does")


def _one(size: Size) -> Job:
    goal = [Goal(5.0)]
    rows = [
        Contender(OURS, partial(get_turns, size, _in_memory, 0.0), "in memory", goal, OBJECTS),
        Contender(OURS, partial(get_turns, size, _on_files, 1e9), "on files, stale or not", goal, OBJECTS),
        Contender(OURS, partial(get_turns, size, _on_files, 0.0), "on files", goal, OBJECTS),
        Contender(OBJECTS, partial(copied_turns, size)),
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
    goal = [Goal(2e-3 * size.library)]  # 2 kB a pattern
    rows = [
        Contender(OURS, partial(alone_turns, index_growth, size.library), "the index", goal, among="index"),
        Contender(OURS, partial(alone_turns, library_growth, size.library), "the library with its index"),
        Contender(OBJECTS, partial(alone_turns, objects_growth, size.library)),
    ]
    return Job("index", f"memory of {size.library:,} patterns", "MB", 1, on_linux(rows), warm_up=0)


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


# Whole libraries in JSON


@functools.cache
def _saved(count: int) -> tuple[PatternLibrary, dict[str, Pattern]]:
    library = PatternLibrary()
    held = {made.id: made for made in drawn(count, skewed=False)}
    library.contribute_patterns("agent", held.values())
    return library, held


def _json(name: str, title: str, size: Size, parts: Sequence[str]) -> Job:
    rows = [
        Contender(OURS, partial(ours_turns, size, parts), "", [Goal(1 / 6, BY_HAND)], BY_HAND),
        Contender(BY_HAND, partial(by_hand_turns, size, parts)),
    ]
    return Job(name, f"{title}, {size.library:,} patterns", "ms", size.repeats, rows)


def ours_turns(size: Size, parts: Sequence[str], room: Room) -> Iterator[Sequence[float]]:
    path = room.own / "patterns.json"
    library, held = _saved(size.library)
    PatternPersistence.save_to_json(library, path)
    calls: dict[str, Callable[[], object]] = {
        "save": lambda: PatternPersistence.save_to_json(library, path),
        "load": lambda: PatternPersistence.load_from_json(path),
    }
    expect(dict(PatternPersistence.load_from_json(path).patterns) == held, "return what was saved")
    while True:
        yield [sum(_timed(calls[part]) for part in parts)]


def by_hand_turns(size: Size, parts: Sequence[str], room: Room) -> Iterator[Sequence[float]]:
    path = room.own / "patterns.json"
    _, held = _saved(size.library)
    save_by_hand(held, path)
    calls: dict[str, Callable[[], object]] = {
        "save": lambda: save_by_hand(held, path),
        "load": lambda: load_by_hand(path),
    }
    expect(load_by_hand(path)[0] == held, "return what was saved")
    while True:
        yield [sum(_timed(calls[part]) for part in parts)]


def _timed(call: Callable[[], object]) -> float:
    # With garbage collection, which is a part of what it costs to make so many objects.
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


_PLAIN: Final = (
    *("id", "agent_id", "pattern_type", "name", "description", "context", "code", "confidence"),
    *("usage_count", "success_count", "failure_count", "tags"),
)


def save_by_hand(held: Mapping[str, Pattern], path: Path) -> None:
    """Write patterns as one does with the standard library: neither durably nor atomically."""
    patterns = [
        {
            **{name: getattr(made, name) for name in _PLAIN},
            "discovered_at": made.discovered_at.replace(tzinfo=None).isoformat(),
            "last_used": None if made.last_used is None else made.last_used.replace(tzinfo=None).isoformat(),
        }
        for made in held.values()
    ]
    document = {
        "patterns": patterns,
        "agent_contributions": {"agent": list(held)},
        "metadata": {"saved_at": datetime.now(UTC).isoformat(), "pattern_count": len(held), "version": "1.0"},
    }
    with path.open("w") as file:
        json.dump(document, file, indent=2)


def load_by_hand(path: Path) -> tuple[dict[str, Pattern], dict[str, list[str]]]:
    """Read them again, and check nothing."""
    with path.open() as file:
        document = json.load(file)
    held = {}
    for item in document["patterns"]:
        last_used = item.pop("last_used")
        made = Pattern(
            **{name: item[name] for name in _PLAIN},
            discovered_at=datetime.fromisoformat(item["discovered_at"]),
            last_used=None if last_used is None else datetime.fromisoformat(last_used),
        )
        held[made.id] = made
    return held, document["agent_contributions"]


def _peak(size: Size) -> Job:
    library = f"{OURS}, the library"
    rows = [
        Contender(OURS, partial(loading_turns, size, False), "the library", among="library"),
        Contender(OURS, partial(loading_turns, size, True), "the most while loading", [Goal(1.3, library)], library),
        Contender(BY_HAND, partial(hand_loading_turns, size), "the most while loading", (), library),
    ]
    return Job("peak", f"memory of loading {size.library:,} patterns", "MB", 1, on_linux(rows), warm_up=0)


def loading_turns(size: Size, peak: bool, room: Room) -> Iterator[Sequence[float]]:
    path = room.own / "patterns.json"
    PatternPersistence.save_to_json(_saved(size.library)[0], path)
    while True:
        yield [alone(loading_growth, path, peak)]


def loading_growth(path: Path, peak: bool) -> float:
    """Return by how many bytes loading lets this process grow, at its end or at the most."""
    before = resident()
    library = PatternPersistence.load_from_json(path)
    grown = resident(peak) - before
    expect(len(library.patterns), "load anything")
    return max(1.0, grown)


def hand_loading_turns(size: Size, room: Room) -> Iterator[Sequence[float]]:
    path = room.own / "patterns.json"
    save_by_hand(_saved(size.library)[1], path)
    while True:
        yield [alone(hand_loading_growth, path)]


def hand_loading_growth(path: Path) -> float:
    """Return by how many bytes loading by hand lets this process grow at the most."""
    before = resident()
    load_by_hand(path)
    return max(1.0, resident(peak=True) - before)
