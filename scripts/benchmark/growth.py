"""Whether a cost grows where it should not: the same call on stores that hold a thousand and a million.

Stores of one engine take turns, round by round, so that what slows down the machine slows down all sizes.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import frozen
from documents import pattern
from harness import Contender, Figure, Job, Room, expect, timed
from interactions import INSERT_ROW, USERS, interactions, record_many
from peers.disk import collected
from peers.shape import Documents
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
    "full": Size((1_000, 10_000, 100_000, 1_000_000), rounds=20, turn=40),
    "quick": Size((1_000, 10_000), rounds=10, turn=20),
    "tiny": Size((20, 200), rounds=2, turn=3),
}
PAGE: Final = 5_000
ENGINES: Final = ("memory", "files", "redis", "sqlite")
ON_DISK: Final = ("files", "sqlite")


@frozen
class Call:
    """What is called on stores of each size, and how many times what it takes may grow in all."""

    turns: Callable[[str, int, int, Room], Turns]
    bound: float | None
    """None of what reads the whole store, and so takes as long as that is large."""
    engines: Sequence[str] = ENGINES
    once: bool = False
    """Whether it takes so long that it is done once."""


def jobs(scale: str) -> list[Job]:
    """Return a job for each engine and each call, with a contender for each size."""
    size = SIZES[scale]
    return [
        Job(
            f"{engine}/{name}",
            name,
            "us",
            1 if call.once else size.rounds,
            [
                Contender(engine, partial(call.turns, engine, count, size.turn), f"{count:,}", missing=missing(engine))
                for count in size.counts
            ],
            warm_up=0 if call.once else 1,
        )
        for engine in ENGINES
        for name, call in CALLS.items()
        if engine in call.engines
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
    """Open the store of an engine that has a name: on a disk it stays until the run is over."""
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {}
        if engine == "memory":
            url = "memory:"
        elif engine == "files":
            url, options = f"file:{room.shared / name}", {"durability": "os"}
        elif engine == "redis":
            url, options = stack.enter_context(running(room.shared)), {"prefix": name}
        else:
            url = f"sqlite:///{database(name, room)}"
        yield stack.enter_context(empathy_kv.connect(url, timeout=60.0, **options))


def database(name: str, room: Room) -> Path:
    """Return the file of a SQLite store."""
    return room.shared / f"{name}.db"


@contextlib.contextmanager
def _filled(engine: str, count: int, room: Room) -> Iterator[Documents]:
    """Open a store of so many documents: on a disk one that has been written before it was opened."""
    if engine in ON_DISK:
        with _documents(engine, count, room) as documents:
            _put_all(documents, count)
    with _documents(engine, count, room) as documents:
        _put_all(documents, count)
        yield documents


@contextlib.contextmanager
def _documents(engine: str, count: int, room: Room) -> Iterator[Documents]:
    with opened(engine, f"documents{count}", room) as store:
        yield _patterns_of(store) if engine == "sqlite" else collected(store)


def _put_all(documents: Documents, count: int) -> None:
    if documents.get(key(count - 1)) is None:
        for page in _pages(count):
            documents.fill({each.id: each for each in page})
        documents.checkpoint()


def _patterns_of(store: Any) -> Documents:
    """Return the library of a store: what a database has in the place of collections."""
    library = store.patterns
    return Documents(
        lambda _, document: library.contribute_pattern("agent", document),
        library.get_pattern,
        library.remove_pattern,
        lambda _: list(library.patterns.items()),
        store.close,
        bulk=lambda documents: library.contribute_patterns("agent", documents.values()),
    )


def put_turns(engine: str, count: int, turn: int, room: Room) -> Turns:
    """Put new documents, and remove them between the turns: the size stays."""
    with _filled(engine, count, room) as documents:
        while True:
            some = [(key(number), pattern(number)) for number in range(count, count + turn)]
            samples = timed(documents.put, some)
            for name, _ in some:
                documents.delete(name)
            documents.checkpoint()
            yield samples


def checkpoint_turns(engine: str, count: int, turn: int, room: Room) -> Turns:
    """Make a checkpoint after some documents were put: all that a store leaves to be done later."""
    with _filled(engine, count, room) as documents:
        while True:
            names = [key(number) for number in range(count, count + turn)]
            documents.fill({name: pattern(number) for number, name in enumerate(names)})
            samples = timed(documents.checkpoint, [()])
            for name in names:
                documents.delete(name)
            documents.checkpoint()
            yield samples


def get_turns(engine: str, count: int, turn: int, room: Room) -> Turns:
    """Get documents, each for the first time."""
    with _filled(engine, count, room) as documents:
        numbers = random.Random(1).sample(range(count), min(count, MOST))
        while True:
            for first in range(0, len(numbers) - turn + 1, turn):
                yield timed(documents.get, [(key(number),) for number in numbers[first : first + turn]])


MOST: Final = 100_000
"""Documents that are got at the most."""


def open_turns(engine: str, count: int, turn: int, room: Room) -> Turns:
    """Open a store and get a document."""
    with _filled(engine, count, room):
        pass
    dice = random.Random(1)

    def first_get(name: str) -> None:
        documents = stack.enter_context(_documents(engine, count, room))
        found.append(documents.get(name))

    while True:
        found: list[Any] = []
        asked = [key(n) for n in dice.choices(range(count), k=max(1, turn // 10))]
        samples = []
        for name in asked:
            with contextlib.ExitStack() as stack:
                samples += timed(first_get, [(name,)])
        expect([each.id for each in found] == asked, "return what was put")
        yield samples


def _pages(count: int) -> Iterator[list[Pattern]]:
    for first in range(0, count, PAGE):
        yield [pattern(number) for number in range(first, min(first + PAGE, count))]


def record_turns(engine: str, count: int, turn: int, room: Room) -> Turns:
    with _recorded(engine, f"record{count}", count, room) as store:
        while True:
            samples = timed(store.metrics.record_interaction, list(interactions(turn)))
            if engine not in ("memory", "sqlite"):
                store.checkpoint()
            yield samples


def stats_turns(user: str, engine: str, count: int, turn: int, room: Room) -> Turns:
    """Ask for the figures of a user, whatever others have recorded."""
    with _recorded(engine, f"stats{count}", count, room) as store:
        metrics = store.metrics
        if metrics.get_user_stats(FEW)["total_operations"] == 0:
            for level in range(10):
                metrics.record_interaction(FEW, 1 + level % 5, True, 12.5)
        while True:
            yield timed(metrics.get_user_stats, [(user,)] * turn)


FEW: Final = "ann"
"""A user with ten interactions."""
MANY: Final = "user_0"
"""One with a hundredth of all."""


@contextlib.contextmanager
def _recorded(engine: str, name: str, count: int, room: Room) -> Iterator[Any]:
    with opened(engine, name, room) as store:
        if not store.metrics.get_all_users():
            _record(engine, name, count, store, room)
        yield store


def _record(engine: str, name: str, count: int, store: Any, room: Room) -> None:
    if engine == "sqlite":
        first, *others = interactions(count)
        store.metrics.record_interaction(*first)  # It makes the table.
        with contextlib.closing(sqlite3.connect(database(name, room))) as connection, connection:
            connection.executemany(INSERT_ROW, others)
    else:
        record_many(store, interactions(count))
        store.checkpoint()


def find_turns(engine: str, count: int, turn: int, room: Room) -> Turns:
    with _library(engine, count, room) as store:
        find = store.patterns.find_patterns
        find({})  # What finds them is made now.
        questions = Situations(2, skewed=False)
        while True:
            yield timed(find, [(questions.question(),) for _ in range(turn)])


def contribute_turns(engine: str, count: int, turn: int, room: Room) -> Turns:
    """Contribute patterns, and remove them between the turns."""
    with _library(engine, count, room) as store:
        while True:
            some = [("agent", pattern(number)) for number in range(count, count + turn)]
            samples = timed(store.patterns.contribute_pattern, some)
            store.patterns.remove_patterns(each.id for _, each in some)
            store.checkpoint()
            yield samples


def first_find_turns(engine: str, count: int, _: int, room: Room) -> Turns:
    """Ask the first question of a store that was just opened: what finds patterns is made of all of them."""
    question = Situations(2, skewed=False).question()
    with _library(engine, count, room) as store:
        while engine == "memory":
            yield timed(store.patterns.find_patterns, [(question,)])
        while True:
            with opened(engine, f"library{count}", room) as another:
                yield timed(another.patterns.find_patterns, [(question,)])


@contextlib.contextmanager
def _library(engine: str, count: int, room: Room) -> Iterator[Any]:
    with opened(engine, f"library{count}", room) as store:
        if store.patterns.get_pattern(key(count - 1)) is None:
            patterns = drawn(count, skewed=False)
            while page := list(itertools.islice(patterns, PAGE)):
                store.patterns.contribute_patterns("agent", page)
        yield store


CALLS: Final[Mapping[str, Call]] = {
    "put": Call(put_turns, 2.0),
    "checkpoint": Call(checkpoint_turns, 2.0, ["files"]),
    "get": Call(get_turns, 2.0),
    "open and get": Call(open_turns, 2.0, ON_DISK),
    "record_interaction": Call(record_turns, 2.0),
    "get_user_stats": Call(partial(stats_turns, FEW), 2.0),
    "get_user_stats, of a hundredth": Call(partial(stats_turns, MANY), 4.0),
    "contribute_pattern": Call(contribute_turns, 2.0, ["files", "redis"]),
    "first find_patterns": Call(first_find_turns, None, once=True),
    "find_patterns": Call(find_turns, 10.0),
}


def table(figures: Sequence[Figure]) -> str:
    """Return a row for each engine and call: median, mean and p99, and how many times the first the last is."""
    sizes = list(dict.fromkeys(figure.contender.way for figure in figures))
    head = ("call", "engine", *(f"at {size}" for size in sizes), "unit", "last / first", "of the means", "bound", "")
    rows = []
    for name, call in CALLS.items():
        for engine in call.engines:
            row = [f for f in figures if f.job.title == name and f.contender.store == engine]
            if not row:
                continue
            failed = [figure for figure in row if figure.error is not None]
            if failed:
                rows.append((name, engine, *["failed"] * len(sizes), "", "", "", "", failed[0].error or ""))
                continue
            ratio = row[-1].ratio(row[0]) or 0.0
            cells = [_cell(figure) for figure in row]
            cells += [""] * (len(sizes) - len(cells))
            verdict = "GROWS" if call.bound is not None and ratio > call.bound else ""
            limit = "" if call.bound is None else number(call.bound)
            means = number(row[-1].mean / row[0].mean)
            rows.append((name, engine, *cells, row[0].job.unit, number(ratio), means, limit, verdict))
    return markdown(head, rows, (*head[2 : 2 + len(sizes)], "last / first", "of the means", "bound"))


def _cell(figure: Figure) -> str:
    return " / ".join(number(value) for value in (figure.median, figure.mean, figure.p99) if value is not None)


def grown(figures: Sequence[Figure]) -> bool:
    """Return whether a cost grew more than it may."""
    return "| GROWS" in table(figures)


def page(about: str, figures: Sequence[Figure]) -> str:
    """Return the results as a page."""
    return f"""\
# Whether a cost grows: what `scripts/bench --growth` measured last

{about}

The same call on stores that hold so many documents, interactions or patterns: median / mean / 99th percentile, which is
left out where there are too few samples. A cost grows if the median does by more than its bound. The interactions are
of {USERS} users; the figures asked for are of a user with ten interactions of his own, and of one with a hundredth of
all, which are counted in 10 buckets of response times at first and in 150 from 100,000 on. Documents are got each for
the first time. A checkpoint is that of files, after {SIZES["full"].turn} documents were put: what they leave to be done
later. A `put` and a `get` on SQLite are `contribute_pattern` and `get_pattern`. The first `find_patterns` of a process
reads the whole library, and has no bound.

{table(figures)}
"""
