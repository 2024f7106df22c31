"""Interactions as rows of the documented table, and what they come to: read, checked, summed up.

Rows of others are read as well: with the times that CURRENT_TIMESTAMP writes, or ISO 8601, and without a response time.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from empathy_kv.errors import CodecError, DamagedError
from empathy_kv.records import Interaction, utc
from empathy_kv.sql.database import Row
from empathy_kv.totals import MAX_RESPONSE_TIME, Totals, bucket, microseconds, moment

COLUMNS: Final = "id, user_id, empathy_level, success, response_time_ms, timestamp"
"""What `read` and `add` take."""


def read(row: Row) -> Interaction:
    """Return the interaction of a row. A response time that is not known is 0.0."""
    number, user, level, success, took, at, *given = row
    place = f"$.interactions[{number}]"
    if type(user) is not str:
        refuse("expected str", f"{place}.user_id")
    if type(level) is not int:
        refuse("expected int", f"{place}.empathy_level")
    if type(success) is not int and type(success) is not bool:
        refuse("expected bool", f"{place}.success")
    if took is None:
        took = 0.0
    elif type(took) is not float or not math.fabs(took) <= MAX_RESPONSE_TIME:
        refuse("expected float of milliseconds", f"{place}.response_time_ms")
    return Interaction(user, level, bool(success), took, when(at, f"{place}.timestamp"), *given)


def when(value: Any, place: str) -> datetime:
    """Return the time that stands in a column."""
    if type(value) is datetime:  # PostgreSQL knows that it is one.
        return value.astimezone(UTC)
    if type(value) is not str:
        refuse("expected datetime as text", place)
    try:
        return utc(datetime.fromisoformat(value))
    except (ValueError, OverflowError):
        refuse("expected datetime in ISO 8601", place)


def refuse(what: str, place: str) -> NoReturn:
    raise CodecError(f"{what} @ {place}", path=place)


_BOOLEAN: Final = (int, bool)


def add(totals: Totals, row: Row) -> None:
    """Count a row. Of two at the same moment the one that is counted later is the last."""
    # Without making an `Interaction`, at half the cost: a million rows may have to be counted at once.
    _, user, level, success, took, at = row
    if type(user) is not str or type(level) is not int or type(success) not in _BOOLEAN:
        read(row)
    if took is not None:
        if type(took) is not float or not -MAX_RESPONSE_TIME <= took <= MAX_RESPONSE_TIME:
            read(row)
        took = round(took * 1000)
        totals.microseconds += took
        place = bucket(took)
        totals.histogram[place] = totals.histogram.get(place, 0) + 1
    # An interaction whose response time is not known is in no bucket of the histogram.
    if type(at) is not str:
        at = read(row).at
    else:
        try:
            at = datetime.fromisoformat(at)
            at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        except (ValueError, OverflowError):
            at = read(row).at
    totals.operations += 1
    if success:
        totals.successes += 1
    totals.levels[level] = totals.levels.get(level, 0) + 1
    day = at.isoformat()[:10]
    totals.days[day] = totals.days.get(day, 0) + 1
    if totals.first is None or at < totals.first:
        totals.first = at
    if totals.last is None or at >= totals.last:
        totals.last, totals.level = at, level


def subtract(totals: Totals, other: Totals) -> None:
    """Take back the counters of another that were added before. Its times are not counters."""
    totals.operations -= other.operations
    totals.successes -= other.successes
    totals.microseconds -= other.microseconds
    for mine, theirs in (
        (totals.levels, other.levels),
        (totals.days, other.days),
        (totals.histogram, other.histogram),
    ):
        counts: dict[Any, int] = mine
        for key, count in theirs.items():
            counts[key] = counts.get(key, 0) - count
            if not counts[key]:
                del counts[key]


# With json and not with msgspec, because a sum may have more than 64 bits.


def dump(totals: Totals) -> str:
    """Return counters as they stand in a column. First and last stand in columns of their own."""
    return json.dumps(
        {
            "operations": totals.operations,
            "successes": totals.successes,
            "microseconds": totals.microseconds,
            "levels": totals.levels,
            "days": totals.days,
            "histogram": totals.histogram,
            "level": totals.level,
        },
        separators=(",", ":"),
    )


def parse(text: Any, place: str, first: Any = None, last: Any = None) -> Totals:
    """Return the counters that stand in a column."""
    if text is None or text == "{}":
        return Totals()
    try:
        kept = json.loads(text)
        return Totals(
            int(kept["operations"]),
            int(kept["successes"]),
            int(kept["microseconds"]),
            {int(level): int(count) for level, count in kept["levels"].items()},
            {str(day): int(count) for day, count in kept["days"].items()},
            {int(index): int(count) for index, count in kept["histogram"].items()},
            None if first is None else moment(first),
            None if last is None else moment(last),
            kept["level"],
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedError(f"{place} is damaged: it holds no counters", path=place) from error


def number(at: datetime | None) -> int | None:
    """Return a time as it stands in `first_at` and `last_at`."""
    return None if at is None else microseconds(at)
