"""Jobs about whole libraries of patterns: saved, loaded, and what memory loading takes."""

from __future__ import annotations

import functools
import gc
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from harness import PACKAGE, Contender, Goal, Job, Room, expect
from peers.libraries import BY_CALL, BY_HAND, JSON, SQLITE, Keeping
from situations import drawn
from space import alone, most, on_linux, resident

from empathy_kv import Pattern, PatternLibrary, PatternPersistence


def json_jobs(count: int, rounds: int) -> list[Job]:
    """Return the jobs about JSON."""
    return [
        _job("save", f"save JSON, {count:,} patterns", rounds, JSON, partial(save_turns, count), Goal(1 / 6, BY_HAND)),
        _job("load", f"load JSON, {count:,} patterns", rounds, JSON, partial(load_turns, count), Goal(1 / 6, BY_HAND)),
        _peak(count, rounds),
    ]


def sqlite_jobs(count: int, rounds: int) -> list[Job]:
    """Return the jobs about SQLite."""
    save, load = f"save {count:,} patterns to a new file", f"load {count:,} patterns"
    return [
        _job("save", save, rounds, SQLITE, partial(save_turns, count), Goal(1 / 3, BY_CALL)),
        _job("load", load, rounds, SQLITE, partial(load_turns, count)),
    ]


def _job(
    name: str,
    title: str,
    rounds: int,
    ways: Sequence[Keeping],
    turns: Callable[[Keeping, Room], Iterator[Sequence[float]]],
    *goals: Goal,
) -> Job:
    rows = [
        Contender(
            way.store,
            partial(turns, way),
            goals=goals if way.store == PACKAGE else (),
            role=way.role,
            survives=way.survives if name == "save" else None,
        )
        for way in ways
    ]
    return Job(name, title, "ms", rounds, rows)


@functools.lru_cache(maxsize=1)
def _library(count: int) -> tuple[PatternLibrary, Mapping[str, Pattern]]:
    library = PatternLibrary()
    held = {made.id: made for made in drawn(count, skewed=False)}
    library.contribute_patterns("agent", held.values())
    return library, held


def save_turns(count: int, way: Keeping, room: Room) -> Iterator[Sequence[float]]:
    path = room.own / "patterns"
    library, held = _library(count)
    for number in itertools.count():
        path.unlink(missing_ok=True)
        yield [_timed(lambda: way.save(library, held, path))]
        if not number:
            expect(way.loaded(path) == held, "return what was saved")


def load_turns(count: int, way: Keeping, room: Room) -> Iterator[Sequence[float]]:
    path = room.own / "patterns"
    library, held = _library(count)
    way.save(library, held, path)
    expect(way.loaded(path) == held, "return what was saved")
    while True:
        yield [_timed(lambda: way.load(path))]


def _timed(call: Callable[[], object]) -> float:
    # With garbage collection, which is a part of what it costs to make so many objects.
    gc.collect()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _peak(count: int, rounds: int) -> Job:
    library = f"{PACKAGE}, the library"
    ours, text, typed = JSON[0], JSON[-1], JSON[2]
    rows = [
        Contender(PACKAGE, partial(held_turns, count, ours), "the library", among="library"),
        Contender(PACKAGE, partial(peak_turns, count, ours), "the most while loading", [Goal(1.3, library)], library),
        *(
            Contender(way.store, partial(peak_turns, count, way), "the most while loading", (), library, role=way.role)
            for way in (text, typed)
        ),
    ]
    return Job("peak", f"memory of loading {count:,} patterns", "MB", rounds, on_linux(rows), warm_up=0)


def held_turns(count: int, way: Keeping, room: Room) -> Iterator[Sequence[float]]:
    path = _file(count, way, room)
    while True:
        yield [alone(library_growth, path)]


def library_growth(path: Path) -> float:
    """Return by how many bytes a library that is loaded lets this process grow."""
    before = resident()
    library = PatternPersistence.load_from_json(path)
    grown = resident() - before
    expect(len(library.patterns), "load anything")
    return max(1.0, grown)


def peak_turns(count: int, way: Keeping, room: Room) -> Iterator[Sequence[float]]:
    path = _file(count, way, room)
    while True:
        yield [max(1.0, most(way.load, path))]


def _file(count: int, way: Keeping, room: Room) -> Path:
    path = room.own / "patterns"
    way.save(*_library(count), path)
    return path
