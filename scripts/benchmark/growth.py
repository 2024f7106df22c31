"""Whether a cost grows where it should not: the same call on stores that hold a thousand and a million.

Stores of one engine take turns, round by round, so that what slows down the machine slows down all sizes.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import frozen
from documents import pattern
from harness import Contender, Figure, Job, Room, timed
from interactions import USERS, interactions, record_many
from report import markdown, number
from served import binary, running
from situations import Situations, drawn
from storing import key

import empathy_kv
from empathy_kv import ArgumentError, Pattern

Turns = Iterator[Sequence[float]]


@frozen
class Size:
    """How much is done."""

    counts: Sequence[int]
    rounds: int
    turn: int


SIZES: Final[Mapping[str, Size]] = {
    "full": Size((1_000, 10_000, 100_000, 1_000_000), rounds=20, turn=20),
    "quick": Size((1_000, 10_000), rounds=10, turn=20),
    "tiny": Size((20, 200), rounds=2, turn=3),
}
PAGE: Final = 5_000
ENGINES: Final = ("memory", "files", "redis", "sqlite")
BOUNDS: Final[Mapping[str, float]] = {"put": 2.0, "record_interaction": 2.0, "get_user_stats": 2.0, "find_patterns": 4}
"""How many times what a call takes may grow; of `find_patterns`, when a library grows tenfold."""


def jobs(scale: str) -> list[Job]:
    """Return a job for each engine and each call, with a contender for each size."""
    size = SIZES[scale]
    return [
        Job(
            f"{engine}/{call}",
            call,
            "us",
            size.rounds,
            [
                Contender(engine, partial(turns, engine, count, size.turn), f"{count:,}", missing=missing(engine))
                for count in size.counts
            ],
        )
        for engine in ENGINES
        for call, turns in CALLS.items()
    ]


def missing(engine: str) -> str | None:
    """Return why an engine cannot be measured here, None if it can."""
    if engine == "redis" and binary() is None:
        return "no redis-server or valkey-server in PATH"
    if engine == "sqlite":
        with tempfile.TemporaryDirectory() as place:
            try:
                empathy_kv.connect(f"sqlite:///{place}/store.db").close()
            except ArgumentError:
                return "connect() knows no sqlite: URL"
    return None


@contextlib.contextmanager
def opened(engine: str, name: str, room: Room) -> Iterator[Any]:
    """Open an empty store of an engine."""
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {}
        if engine == "memory":
            url = "memory:"
        elif engine == "files":
            url, options = f"file:{room.own / 'store'}", {"durability": "os"}
        elif engine == "redis":
            url, options = stack.enter_context(running(room.shared)), {"prefix": name}
        else:
            url = f"sqlite:///{database(room)}"
        yield stack.enter_context(empathy_kv.connect(url, timeout=60.0, **options))


def database(room: Room) -> Path:
    """Return the file of a SQLite store."""
    return room.own / "store.db"


def put_turns(engine: str, count: int, turn: int, room: Room) -> Turns:
    """Put new documents, and remove them between the turns: the size stays."""
    with opened(engine, f"put{count}", room) as store:
        put: Callable[[str, Pattern], object]
        remove: Callable[[list[str]], object]
        if engine == "sqlite":
            put, remove = _contribute(store), store.patterns.remove_patterns
            for page in _pages(count):
                store.patterns.contribute_patterns("agent", page)
        else:
            collection = store.collection("patterns", Pattern)
            put, remove = collection.put, _each(collection.delete)
            for page in _pages(count):
                collection.put_many({each.id: each for each in page})
            store.checkpoint()
        while True:
            some = [(key(number), pattern(number)) for number in range(count, count + turn)]
            yield timed(put, some)
            remove([name for name, _ in some])


def _contribute(store: Any) -> Callable[[str, Pattern], object]:
    return lambda _, document: store.patterns.contribute_pattern("agent", document)


def _each(call: Callable[[str], object]) -> Callable[[list[str]], object]:
    return lambda names: [call(name) for name in names]


def _pages(count: int) -> Iterator[list[Pattern]]:
    for first in range(0, count, PAGE):
        yield [pattern(number) for number in range(first, min(first + PAGE, count))]


def record_turns(engine: str, count: int, turn: int, room: Room) -> Turns:
    with _recorded(engine, f"record{count}", count, room) as metrics:
        while True:
            yield timed(metrics.record_interaction, list(interactions(turn)))


def stats_turns(engine: str, count: int, turn: int, room: Room) -> Turns:
    """Ask for the figures of a user with ten interactions, whatever others have recorded."""
    with _recorded(engine, f"stats{count}", count, room) as metrics:
        for level in range(10):
            metrics.record_interaction("ann", 1 + level % 5, True, 12.5)
        while True:
            yield timed(metrics.get_user_stats, [("ann",)] * turn)


@contextlib.contextmanager
def _recorded(engine: str, name: str, count: int, room: Room) -> Iterator[Any]:
    with opened(engine, name, room) as store:
        if engine == "sqlite":
            store.metrics.record_interaction("ann", 1, True, 12.5)  # It makes the table.
            with contextlib.closing(sqlite3.connect(database(room))) as connection, connection:
                connection.executemany(
                    "INSERT INTO interactions (user_id, empathy_level, success, response_time_ms) VALUES (?, ?, ?, ?)",
                    interactions(count),
                )
        else:
            record_many(store, interactions(count))
            store.checkpoint()
        yield store.metrics


def find_turns(engine: str, count: int, turn: int, room: Room) -> Turns:
    with opened(engine, f"find{count}", room) as store:
        patterns = drawn(count, skewed=False)
        while page := list(itertools.islice(patterns, PAGE)):
            store.patterns.contribute_patterns("agent", page)
        find = store.patterns.find_patterns
        find({})  # What finds them is made now.
        questions = Situations(2, skewed=False)
        while True:
            yield timed(find, [(questions.question(),) for _ in range(turn)])


CALLS: Final[Mapping[str, Callable[[str, int, int, Room], Turns]]] = {
    "put": put_turns,
    "record_interaction": record_turns,
    "get_user_stats": stats_turns,
    "find_patterns": find_turns,
}


def table(figures: Sequence[Figure]) -> str:
    """Return a row for each engine and call: the medians, and how many times the first the last is."""
    sizes = list(dict.fromkeys(figure.contender.way for figure in figures))
    head = ("call", "engine", *(f"at {size}" for size in sizes), "unit", "last / first", "bound", "")
    rows = []
    for call in CALLS:
        for engine in ENGINES:
            row = [f for f in figures if f.job.title == call and f.contender.store == engine]
            if not row:
                continue
            failed = [figure for figure in row if figure.error is not None]
            if failed:
                rows.append((call, engine, *["failed"] * len(sizes), "", "", "", failed[0].error or ""))
                continue
            ratio = row[-1].ratio(row[0]) or 0.0
            limit = bound(call, row)
            medians = [number(figure.median) for figure in row]
            medians += [""] * (len(sizes) - len(medians))
            verdict = "" if ratio <= limit else "GROWS"
            rows.append((call, engine, *medians, row[0].job.unit, number(ratio), number(limit), verdict))
    return markdown(head, rows, (*head[2 : 2 + len(sizes)], "last / first", "bound"))


def bound(call: str, row: Sequence[Figure]) -> float:
    """Return how many times the first the last of a row may be."""
    if call != "find_patterns":
        return BOUNDS[call]
    first, last = (int(figure.contender.way.replace(",", "")) for figure in (row[0], row[-1]))
    tenfold = 0
    while first < last:
        first, tenfold = first * 10, tenfold + 1
    return float(BOUNDS[call] ** tenfold)


def grown(figures: Sequence[Figure]) -> bool:
    """Return whether a cost grew more than it may."""
    return "| GROWS" in table(figures)


def page(about: str, figures: Sequence[Figure]) -> str:
    """Return the results as a page."""
    return f"""\
# Whether a cost grows: what `scripts/bench --growth` measured last

{about}

The same call on stores that hold so many documents, interactions or patterns: medians in microseconds. The
interactions are of {USERS} users; the figures asked for are of one with ten of them. A `put` on SQLite is
`contribute_pattern`.

{table(figures)}
"""
