"""Strategies for Hypothesis: what a store takes, from a single key to a whole batch.

Those of operations and batches take strategies for their parts, so that a test can keep to a few keys that repeat:
`batches(operations=operations(keys=sampled_from("abc")))`.
"""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from empathy_kv.kv.operations import (
    INTEGER_MAX,
    INTEGER_MIN,
    MAX_KEY,
    MAX_NAME,
    MAX_TTL,
    TTL,
    Batch,
    Check,
    Delete,
    Exists,
    Expire,
    Get,
    HDel,
    HGet,
    HGetAll,
    HIncrBy,
    HSet,
    IncrBy,
    Name,
    Operation,
    Set,
    Version,
    ZAdd,
    ZAppend,
    ZCard,
    ZRange,
    ZRangeByScore,
    ZRem,
    ZScore,
    ZTrim,
)
from empathy_kv.testing.hostile import HOSTILE, storable

__all__ = [
    "batches",
    "checks",
    "increments",
    "keys",
    "members",
    "names",
    "operations",
    "reads",
    "scores",
    "ttls",
    "values",
    "writes",
]

_EDGES: Final = (0, 1, -1, 2**31, 2**53 - 1, 2**53, 2**53 + 1, 10**9, -(10**9), INTEGER_MAX, INTEGER_MIN)
_SCORES: Final = (0.0, -0.0, 0.1, 1.0, 1.5, -1.0, 2.0**53, 5e-324, -5e-324, 1e308, -1e308, 1 / 3, 1e21, 1e-7)


def keys(limit: int = MAX_KEY) -> SearchStrategy[str]:
    """Return texts that may be keys or fields: of at most `limit` bytes, hostile ones among them."""
    letters = st.characters(exclude_categories=["Cs"])
    return st.one_of(
        st.text(letters, min_size=1, max_size=min(40, limit // 4)),
        st.sampled_from([text for text in HOSTILE if storable(text, limit)]),
    )


def names() -> SearchStrategy[Name]:
    """Return names of namespaces, of one to three parts."""
    return st.lists(keys(MAX_NAME // 3), min_size=1, max_size=3).map(tuple) | st.tuples(keys(MAX_NAME))


def values() -> SearchStrategy[bytes]:
    """Return values: short bytes of any kind, and decimal integers, so that some of them can be counted."""
    return st.one_of(
        st.binary(max_size=32),
        st.sampled_from(_EDGES).map(b"%d".__mod__),
        st.sampled_from([b"", b"01", b"-0", b"+1", b" 1", b"1\n", b"1.0", b"9223372036854775808", b"\0", b"\r\n"]),
    )


def members() -> SearchStrategy[bytes]:
    """Return members of sorted sets."""
    return st.binary(max_size=16)


def scores() -> SearchStrategy[float]:
    """Return scores of sorted sets: finite floats, those that get lost in conversions among them."""
    return st.sampled_from(_SCORES) | st.floats(allow_nan=False, allow_infinity=False)


def increments() -> SearchStrategy[int]:
    """Return increments: small ones, and those near the ends of 64 bits and of the integers of a float."""
    return st.integers(-9, 9) | st.sampled_from(_EDGES) | st.integers(INTEGER_MIN, INTEGER_MAX)


def ttls(minimum: float = 3600.0, maximum: float = MAX_TTL) -> SearchStrategy[float | None]:
    """Return times to live in seconds, or None. As it stands none of them ends within a test."""
    return st.none() | st.floats(minimum, maximum)


def reads(
    *,
    keys: SearchStrategy[str] = keys(),
    fields: SearchStrategy[str] = keys(),
    members: SearchStrategy[bytes] = members(),
    scores: SearchStrategy[float] = scores(),
) -> SearchStrategy[Operation]:
    """Return operations that change nothing."""
    ranks = st.integers(-5, 5) | st.sampled_from([INTEGER_MIN, INTEGER_MAX])
    bounds = scores | st.sampled_from([float("-inf"), float("inf")])
    return st.one_of(
        *(st.builds(kind, keys) for kind in (Get, Version, Exists, TTL, HGetAll, ZCard)),
        st.builds(HGet, keys, fields),
        st.builds(ZScore, keys, members),
        st.builds(ZRange, keys, ranks, ranks),
        st.builds(ZRangeByScore, keys, bounds, bounds, st.none() | st.integers(1, 3)),
    )


def writes(
    *,
    keys: SearchStrategy[str] = keys(),
    fields: SearchStrategy[str] = keys(),
    members: SearchStrategy[bytes] = members(),
    values: SearchStrategy[bytes] = values(),
    scores: SearchStrategy[float] = scores(),
    increments: SearchStrategy[int] = increments(),
    ttls: SearchStrategy[float | None] = ttls(),
) -> SearchStrategy[Operation]:
    """Return operations that change something."""
    several: dict[str, Any] = {"min_size": 1, "max_size": 3}
    conditions: SearchStrategy[Any] = st.sampled_from([None, "NX", "GT", "LT"])
    return st.one_of(
        st.builds(Set, keys, values, ttls),
        st.builds(IncrBy, keys, increments),
        st.builds(Delete, keys),
        st.builds(Expire, keys, ttls),
        st.builds(HSet, keys, st.dictionaries(fields, values, **several)),
        st.builds(HDel, keys, st.lists(fields, **several)),
        st.builds(HIncrBy, keys, st.dictionaries(fields, increments, **several)),
        st.builds(ZAdd, keys, st.dictionaries(members, scores, **several), conditions),
        st.builds(ZAppend, keys, st.lists(members, **several)),
        st.builds(ZRem, keys, st.lists(members, **several)),
        st.builds(ZTrim, keys, st.integers(0, 4) | st.just(INTEGER_MAX)),
    )


def operations(
    *,
    keys: SearchStrategy[str] = keys(),
    fields: SearchStrategy[str] = keys(),
    members: SearchStrategy[bytes] = members(),
    values: SearchStrategy[bytes] = values(),
    scores: SearchStrategy[float] = scores(),
    increments: SearchStrategy[int] = increments(),
    ttls: SearchStrategy[float | None] = ttls(),
) -> SearchStrategy[Operation]:
    """Return operations of every class, writes twice as often as reads."""
    writing = writes(
        keys=keys,
        fields=fields,
        members=members,
        values=values,
        scores=scores,
        increments=increments,
        ttls=ttls,
    )
    reading = reads(keys=keys, fields=fields, members=members, scores=scores)
    return st.one_of(writing, writing, reading)


def checks(*, keys: SearchStrategy[str] = keys(), members: SearchStrategy[bytes] = members()) -> SearchStrategy[Check]:
    """Return preconditions, most of them on presence and absence; a version is a small number."""
    return st.one_of(
        st.builds(Check, keys, st.sampled_from([0, None])),
        st.builds(Check, keys, st.integers(1, 20)),
        st.builds(Check, keys, st.sampled_from([0, None]), members),
    )


def batches(
    *,
    names: SearchStrategy[Name] = names(),
    operations: SearchStrategy[Operation] = operations(),
    checks: SearchStrategy[Check] = checks(),
    max_size: int = 6,
) -> SearchStrategy[Batch]:
    """Return batches without a token, of at most `max_size` operations, one in a few with preconditions."""
    return st.builds(
        Batch,
        names,
        st.lists(operations, min_size=1, max_size=max_size),
        st.just([]) | st.just([]) | st.lists(checks, max_size=2),
    )
