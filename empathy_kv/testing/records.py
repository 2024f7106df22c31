"""Strategies for Hypothesis: records that a store takes, and whole libraries of patterns.

Those that make records take the ids, so that a test can keep to a few that repeat: `patterns(ids=sampled_from("abc"))`.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from empathy_kv.kv.operations import INTEGER_MAX, INTEGER_MIN
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.records import LEVELS, MAX_ID, CollaborationState, Interaction, Pattern
from empathy_kv.testing.strategies import keys
from empathy_kv.totals import MAX_RESPONSE_TIME, YEARS

__all__ = ["interactions", "json_objects", "json_values", "libraries", "moments", "patterns", "states", "texts"]

_DAY: Final = dt.timedelta(days=1)
_NUMBERS: Final = (0, -1, 2**53 + 1, INTEGER_MAX, INTEGER_MIN, 0.0, -0.0, 0.1, 1.0, 1e16, 5e-324, -1.5e308)


def texts() -> SearchStrategy[str]:
    """Return texts of any kind, short ones and none at all, that UTF-8 can express."""
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | keys(100)


def moments() -> SearchStrategy[dt.datetime]:
    """Return times from the year 1 to 9999, some of them naive (that is: in UTC), some with an offset."""
    # A day off the ends: in UTC the last hours there would be out of range.
    first, last = dt.datetime.min + _DAY, dt.datetime.max - _DAY  # noqa: DTZ901 - the strategy wants naive bounds
    zones = st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=45)), dt.timezone(-_DAY / 2)])
    return st.datetimes(first, last) | st.datetimes(first, last, timezones=zones)


def json_values() -> SearchStrategy[Any]:
    """Return JSON values, nested a little: all that may stand in a pattern's `context`."""
    leaves = (
        st.none()
        | st.booleans()
        | st.integers(INTEGER_MIN, INTEGER_MAX)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.sampled_from(_NUMBERS)
        | texts()
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(), inner, max_size=3),
        max_leaves=5,
    )


def json_objects() -> SearchStrategy[dict[str, Any]]:
    """Return JSON objects."""
    return st.dictionaries(texts(), json_values(), max_size=3)


def _unknown(kind: type) -> SearchStrategy[dict[str, Any]]:
    """Return fields that a class does not know."""
    known = {item.name for item in attrs.fields(kind)} - {"extra"}
    return st.dictionaries(texts().filter(lambda name: name not in known), json_values(), max_size=2)


def _outcomes() -> SearchStrategy[tuple[int, int]]:
    """Return how many uses succeeded and failed, which together is a number of 64 bits."""
    few = st.integers(0, 10)
    return st.tuples(few, few) | st.tuples(st.sampled_from([2**31, 2**53 + 1, INTEGER_MAX]), st.just(0))


def patterns(
    ids: SearchStrategy[str] | None = None, agents: SearchStrategy[str] | None = None
) -> SearchStrategy[Pattern]:
    """Return patterns that can be stored: as contributed, and as used; one in a few has fields that nobody knows."""

    def build(outcomes: tuple[int, int], **fields: Any) -> Pattern:
        succeeded, failed = outcomes
        return Pattern(usage_count=succeeded + failed, success_count=succeeded, failure_count=failed, **fields)

    return st.builds(
        build,
        _outcomes(),
        id=keys(MAX_ID) if ids is None else ids,
        agent_id=keys(MAX_ID) if agents is None else agents,
        pattern_type=st.sampled_from(["suggestion", "sequential"]) | texts(),
        name=texts(),
        description=texts(),
        context=json_objects(),
        code=st.none() | texts(),
        confidence=st.floats(0, 1),
        discovered_at=moments(),
        last_used=st.none() | moments(),
        tags=st.lists(texts(), max_size=3),
        extra=st.just({}) | _unknown(Pattern),
    )


def states(users: SearchStrategy[str] | None = None) -> SearchStrategy[CollaborationState]:
    """Return collaboration states that can be stored."""

    def build(outcomes: tuple[int, int], **fields: Any) -> CollaborationState:
        succeeded, failed = outcomes
        return CollaborationState(
            interaction_count=succeeded + failed, success_count=succeeded, failure_count=failed, **fields
        )

    return st.builds(
        build,
        _outcomes(),
        user_id=keys(MAX_ID) if users is None else users,
        trust_level=st.floats(0, 1),
        current_level=st.sampled_from(LEVELS),
        target_level=st.sampled_from(LEVELS),
        last_interaction=st.none() | moments(),
        created_at=moments(),
        extra=st.just({}) | _unknown(CollaborationState),
    )


def interactions(
    users: SearchStrategy[str] | None = None, ids: SearchStrategy[str | None] | None = None
) -> SearchStrategy[Interaction]:
    """Return interactions that can be recorded; their times lie close together, so that some are equal.

    Half of them have an `id`, as the caller of `record_interaction` may give one.
    """
    start = dt.datetime(2025, 1, 20, 23, 59, 59, tzinfo=dt.UTC)
    steps = st.integers(0, 3).map(lambda seconds: start + dt.timedelta(seconds=seconds))
    first, last = dt.datetime(YEARS[0], 1, 1), dt.datetime(YEARS[-1], 12, 31)  # noqa: DTZ001 - as above
    spread = st.datetimes(first, last, timezones=st.just(dt.UTC))
    return st.builds(
        Interaction,
        user_id=keys(MAX_ID) if users is None else users,
        level=st.sampled_from(LEVELS),
        success=st.booleans(),
        response_time_ms=st.sampled_from([0.0, 0.0004, 0.0005, 145.3]) | st.floats(0, MAX_RESPONSE_TIME),
        at=steps | spread,
        id=st.none() | (keys(MAX_ID) if ids is None else ids),
    )


@st.composite
def libraries(draw: st.DrawFn, max_size: int = 5) -> PatternLibrary:
    """Return libraries in memory: at most `max_size` patterns, of several agents, with links and recorded outcomes."""
    agents = st.sampled_from(["agent_1", "agent_2"]) | keys(MAX_ID).filter(lambda agent: bool(agent.strip()))
    contributed = draw(st.lists(patterns(), max_size=max_size, unique_by=lambda pattern: pattern.id))
    ids = [pattern.id for pattern in contributed]
    library = PatternLibrary()
    for pattern in contributed:
        library.contribute_pattern(draw(agents), pattern)
    if len(ids) > 1:
        pairs = st.lists(st.sampled_from(ids), min_size=2, max_size=2, unique=True)
        for one, other in draw(st.lists(pairs, max_size=4)):
            library.link_patterns(one, other)
    for pattern_id in draw(st.lists(st.sampled_from(ids), max_size=3)) if ids else []:
        pattern = library.patterns[pattern_id]
        # A counter at the end of its range could not be stored any more.
        if pattern.usage_count < INTEGER_MAX:
            library.record_pattern_outcome(pattern_id, draw(st.booleans()))
    return library
