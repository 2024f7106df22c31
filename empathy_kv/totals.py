"""The figures of metrics: counters that add up, of one user or of many.

A user's are increments, and global is the sum over users, always. Response times are summed as integer microseconds and
counted in the buckets of a fixed log-linear histogram, so averages and percentiles are free of order, and merge.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from attrs import Factory, define

from empathy_kv.records import Interaction, utc

K = TypeVar("K")

MAX_RESPONSE_TIME: Final = 1e12
"""Milliseconds: 31 years."""
YEARS: Final = range(1900, 2251)
"""When an interaction may have been: their microseconds are exact as scores, which are floats."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_SUBBUCKETS: Final = 32


def microseconds(at: datetime) -> int:
    """Return a time as microseconds since 1970."""
    return (utc(at) - _EPOCH) // _MICROSECOND


def moment(microseconds: float) -> datetime:
    """Return microseconds since 1970 as a time."""
    return _EPOCH + timedelta(microseconds=int(microseconds))


def bucket(value: int) -> int:
    """Return the bucket of the histogram that a number of microseconds falls into.

    Below 64 each number has its own; above, each power of two is cut in 32, so a bucket is at most 3.2 % wide
    (the log-linear scheme of HdrHistogram).
    """
    if value < 2 * _SUBBUCKETS:
        return value
    exponent = value.bit_length() - 6
    return exponent * _SUBBUCKETS + (value >> exponent)


def middle(index: int) -> float:
    """Return the middle of a bucket, in microseconds."""
    if index < 2 * _SUBBUCKETS:
        return float(index)
    exponent = index // _SUBBUCKETS - 1
    low = (index - exponent * _SUBBUCKETS) << exponent
    return low + ((1 << exponent) - 1) / 2


@define
class Totals:
    """Counters of one user, or of many: they add up."""

    operations: int = 0
    successes: int = 0
    microseconds: int = 0
    levels: dict[int, int] = Factory(dict)
    days: dict[str, int] = Factory(dict)
    histogram: dict[int, int] = Factory(dict)
    first: datetime | None = None
    last: datetime | None = None
    level: int | None = None
    """The level of the last interaction, of one user."""

    def add(self, interaction: Interaction) -> None:
        """Count an interaction."""
        took = round(interaction.response_time_ms * 1000)
        one = Totals(
            1,
            int(interaction.success),
            took,
            {interaction.level: 1},
            {interaction.at.date().isoformat(): 1},
            {bucket(took): 1},
            interaction.at,
            interaction.at,
            interaction.level,
        )
        self.merge(one)

    def merge(self, other: Totals) -> None:
        """Add the counters of another."""
        self.operations += other.operations
        self.successes += other.successes
        self.microseconds += other.microseconds
        _merge(self.levels, other.levels)
        _merge(self.days, other.days)
        _merge(self.histogram, other.histogram)
        if other.first is not None and (self.first is None or other.first < self.first):
            self.first = other.first
        if other.last is not None and (self.last is None or other.last >= self.last):
            self.last, self.level = other.last, other.level

    @property
    def mean(self) -> float:
        """The mean response time, in milliseconds, of the interactions that have one: a row of others may have none."""
        timed = sum(self.histogram.values())
        return self.microseconds / timed / 1000 if timed else 0.0

    def percentiles(self, *shares: float) -> list[float]:
        """Return the response times, in milliseconds, that shares of the interactions did not exceed."""
        buckets = sorted(self.histogram)
        reached = list(itertools.accumulate(map(self.histogram.__getitem__, buckets)))
        if not reached:
            return [0.0] * len(shares)
        return [middle(buckets[bisect_left(reached, math.ceil(share * reached[-1]))]) / 1000 for share in shares]


def _merge(mine: dict[K, int], theirs: Mapping[K, int]) -> None:
    for key, count in theirs.items():
        mine[key] = mine.get(key, 0) + count
