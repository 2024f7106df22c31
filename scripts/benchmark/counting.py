"""What every store does that counts or records, wherever it keeps that."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from harness import Contender, Goal, expect, timed
from peers.shape import Recorder
from storing import Home, Turns


def counting_row(
    recorder: Recorder, home: Home, turns: Callable[[str], Turns], way: str = "", goals: Sequence[Goal] = ()
) -> Contender:
    """Return the row of a way of counting or recording."""
    return Contender(
        recorder.store,
        partial(home, turns),
        ", ".join(filter(None, (recorder.name, way))),
        goals,
        missing=recorder.missing,
        role=recorder.role,
        survives=recorder.survives,
    )


def first_turns(recorder: Recorder, count: int, place: str) -> Turns:
    for number in itertools.count():
        at = Path(place, str(number))
        at.mkdir()
        with contextlib.closing(recorder.open(str(at))) as opened_recorder:
            opened_recorder.one(*recorder.arguments(0))  # This one makes directories and tables.
            samples = timed(opened_recorder.one, [recorder.arguments(n) for n in range(1, count)])
            expect(opened_recorder.count() == count, "count")
        yield samples


def late_turns(recorder: Recorder, before: int, turn: int, place: str) -> Turns:
    with contextlib.closing(recorder.open(place)) as opened_recorder:
        opened_recorder.many(map(recorder.arguments, range(before)))
        for first in itertools.count(before, turn):
            expect(opened_recorder.count() == first, "count")
            samples = timed(opened_recorder.one, [recorder.arguments(n) for n in range(first, first + turn)])
            opened_recorder.checkpoint()
            yield samples


def counted_turns(recorder: Recorder, turn: int, place: str) -> Turns:
    with contextlib.closing(recorder.open(place)) as opened_recorder:
        recorded_before = opened_recorder.count()
        for first in itertools.count(step=turn):
            samples = timed(opened_recorder.one, [recorder.arguments(n) for n in range(first, first + turn)])
            expect(opened_recorder.count() == recorded_before + first + turn, "count")
            opened_recorder.checkpoint()
            yield samples
