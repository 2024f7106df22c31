"""The jobs of the family "files": stores on the disk of one machine, without a server.

A function that is called `..._turns` is what `Contender.turns` says, or what `storing.Home` gives a place.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import large
import learning
from attrs import evolve, frozen
from counting import counted_turns, counting_row, first_turns, late_turns
from harness import RATE, Contender, Goal, Job, uncollected
from peers import disk, recording
from peers.disk import DISKCACHE, EVERY, FLOOR, LARGE, LMDB
from peers.shape import Peer, Recorder
from storing import (
    Turns,
    delete_turns,
    documents,
    get_turns,
    list_turns,
    on_disk,
    opened,
    overwrite_turns,
    process_rows,
    put_turns,
    row,
    written_get_turns,
    written_list_turns,
)


@frozen
class Size:
    """How much is done."""

    rounds: int
    turn: int
    """Operations of a contender in a round, where one takes microseconds."""
    durable_rounds: int
    durable_turn: int
    """The same where each waits for the disk."""
    repeats: int
    """Rounds of what takes long."""
    recorded: int
    """How often something was counted or recorded before, at the later of two looks."""
    large: int
    """Documents of the large store."""
    written: int
    """Documents that are written while memory is watched, which is done once."""
    seconds: float
    """For how long processes write side by side."""
    keys: int = 1_000
    """Documents of the small store, which is read, listed and overwritten, and what is recorded at the first look."""
    fill: int = 3_000
    """Documents of a store that is written from the beginning to its end."""


SIZES: Final[Mapping[str, Size]] = {
    "full": Size(
        rounds=30,
        turn=200,
        durable_rounds=50,
        durable_turn=20,
        repeats=5,
        recorded=50_000,
        large=100_000,
        written=10_000,
        seconds=0.2,
    ),
    "quick": Size(
        rounds=10,
        turn=50,
        durable_rounds=10,
        durable_turn=10,
        repeats=2,
        recorded=2_000,
        large=2_000,
        written=500,
        seconds=0.03,
        keys=200,
        fill=300,
    ),
    "tiny": Size(
        rounds=2,
        turn=5,
        durable_rounds=2,
        durable_turn=3,
        repeats=1,
        recorded=50,
        large=40,
        written=40,
        seconds=0.02,
        keys=20,
        fill=20,
    ),
}

WRITTEN: Final = "just written"
READ: Final = "once read"


def jobs(scale: str) -> list[Job]:
    """Return the jobs of this family."""
    size = SIZES[scale]
    every = [peer for peer in EVERY if not (peer.slow and scale == "quick")]
    return [
        _put(size, every),
        _overwrite(size, every),
        _get(size, every),
        _delete(size, every),
        _list(size, every),
        _fill(size),
        _counter(size),
        _timeline(size),
        _record(size),
        *learning.jobs(size.rounds, size.turn),
        _durable(size),
        _durable_record(size),
        Job(
            "processes",
            "put, a new key, by several processes",
            RATE,
            size.repeats,
            process_rows(
                LARGE if scale == "quick" else (*LARGE, disk.LOG), on_disk, size.seconds, apart=True, least=1.0
            ),
        ),
        *large.jobs(size.rounds, size.repeats, size.turn, size.keys, size.large, size.written),
    ]


# One process, microseconds an operation

PUT_GOALS: Final = (Goal(1 / 6, DISKCACHE.name), Goal(1.3, LMDB.name))
LISTED: Final = 1_000
"""Documents of the list that has a goal."""


def _turn(peer: Peer, size: Size) -> int:
    return max(1, size.turn // 10) if peer.slow else size.turn


def _put(size: Size, every: Sequence[Peer]) -> Job:
    rows = [row(peer, on_disk, partial(put_turns, peer, _turn(peer, size)), goals=PUT_GOALS) for peer in every]
    return Job("put", "put, a new key", "us", size.rounds, rows)


def _overwrite(size: Size, every: Sequence[Peer]) -> Job:
    rows = [
        row(peer, on_disk, partial(overwrite_turns, peer, size.keys, _turn(peer, size)), goals=PUT_GOALS)
        for peer in every
    ]
    return Job("overwrite", f"put, one of {size.keys:,} keys", "us", size.rounds, rows)


def _get(size: Size, every: Sequence[Peer]) -> Job:
    goals = (Goal(1 / 2, DISKCACHE.name), Goal(1.2, LMDB.name))
    rows = []
    for peer in every:
        turn = _turn(peer, size)
        rows.append(row(peer, on_disk, partial(get_turns, peer, size.keys, turn), READ if peer.ours else "", goals))
        if peer.ours:
            rows.append(row(peer, on_disk, partial(written_get_turns, peer, size.keys, turn), WRITTEN, goals))
    return Job("get", f"get, one of {size.keys:,}", "us", size.rounds, rows)


def _delete(size: Size, every: Sequence[Peer]) -> Job:
    rows = [row(peer, on_disk, partial(delete_turns, peer, _turn(peer, size))) for peer in every]
    return Job("delete", "delete", "us", size.rounds, rows)


def _list(size: Size, every: Sequence[Peer]) -> Job:
    goals = (Goal(8.0),) if size.keys == LISTED else ()
    rows = []
    for peer in every:
        rows.append(row(peer, on_disk, partial(list_turns, peer, size.keys), READ if peer.ours else "", goals))
        if peer.ours:
            rows.append(row(peer, on_disk, partial(written_list_turns, peer, size.keys), WRITTEN, goals))
    return Job("list", f"list {size.keys:,}", "ms", min(size.rounds, 10), rows)


def _fill(size: Size) -> Job:
    goals = (Goal(0.8, DISKCACHE.name),)
    rows = [row(peer, on_disk, partial(fill_turns, peer, size.fill), goals=goals) for peer in LARGE]
    return Job("fill", f"{size.fill:,} puts, checkpoint, close: a put", "us", size.repeats, rows)


def fill_turns(peer: Peer, count: int, place: str) -> Turns:
    some = documents(peer, range(count))
    for number in itertools.count():
        with uncollected():
            with opened(peer, f"{place}/{number}") as store:
                start = time.perf_counter()
                for name, document in some:
                    store.put(name, document)
                store.checkpoint()
            took = time.perf_counter() - start
        yield [took / count]


# What is counted and recorded: the cost of one more must not grow with how many there are


def _counter(size: Size) -> Job:
    ours = (recording.HINCRBY, recording.INCR)
    others = (recording.DISKCACHE_INCR, recording.LMDB_INCR, recording.SQLITE_UPSERT)
    return Job("counter", "count", "us", size.rounds, _growth(ours, others, size, "counter"), weight=2)


def _timeline(size: Size) -> Job:
    entries = _growth((recording.ZAPPEND,), (recording.LMDB_APPEND, recording.SQLITE_INSERT), size, "entry")
    return Job("timeline", "append an entry to a timeline", "us", size.rounds, entries)


def _record(size: Size) -> Job:
    others = (recording.SQLITE_ROW, recording.REFERENCE_ROW)
    return Job(
        "record", "record an interaction", "us", size.rounds, _growth((recording.RECORD,), others, size, "record")
    )


def _growth(ours: Sequence[Recorder], others: Sequence[Recorder], size: Size, what: str) -> list[Contender]:
    """Return rows of each, at first and later."""
    limit = Goal(12.0)
    rows = []
    for recorder in (*ours, *others, recording.APPEND):
        first = counting_row(
            recorder,
            on_disk,
            partial(first_turns, recorder, size.keys),
            f"the first {size.keys:,}",
            [limit] if recorder in ours else [],
        )
        late = counting_row(
            recorder,
            on_disk,
            partial(late_turns, recorder, size.recorded, size.turn),
            f"after {size.recorded:,}",
            [limit, Goal(1.2, first.name)] if recorder in ours else [],
        )
        if recorder.role != "reference":  # A thousand of its calls take seconds, the first as long as any.
            rows.append(evolve(first, among=f"{what}, first"))
        rows.append(evolve(late, among=f"{what}, later", beside=first.name if recorder in ours else None))
    return rows


# With the disk


def _durable(size: Size) -> Job:
    goals = (Goal(1.3, FLOOR.name),)
    rows = [row(peer, on_disk, partial(put_turns, peer, size.durable_turn), goals=goals) for peer in disk.SYNCED]
    return Job("fsync", "put, a new key, on the disk when it returns", "us", size.durable_rounds, rows)


def _durable_record(size: Size) -> Job:
    ways = (
        *(recording.DURABLE_RECORD, recording.DURABLE_SQLITE_ROW, recording.REFERENCE_ROW),
        recording.SYNCED_APPEND,
    )
    rows = [counting_row(each, on_disk, partial(counted_turns, each, size.durable_turn)) for each in ways]
    title = "record an interaction, on the disk when it returns"
    return Job("fsync-record", title, "us", size.durable_rounds, rows)
