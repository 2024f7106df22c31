"""Strategies for Hypothesis: what a store takes, from a single key to a whole batch.

Those of operations and batches take `Parts`, so that a test can keep to a few keys that repeat:
`batches(parts=Parts(keys=sampled_from("abc")))`.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import field, frozen
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
    "Parts",
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


@frozen(kw_only=True)
class Parts:
    """What operations are made of."""

    fields: SearchStrategy[str] = field(factory=keys)  # Before `keys`, which below means the attribute.
    keys: SearchStrategy[str] = field(factory=keys)
    members: SearchStrategy[bytes] = field(factory=members)
    values: SearchStrategy[bytes] = field(factory=values)
    scores: SearchStrategy[float] = field(factory=scores)
    increments: SearchStrategy[int] = field(factory=increments)
    ttls: SearchStrategy[float | None] = field(factory=ttls)


def reads(parts: Parts | None = None) -> SearchStrategy[Operation]:
    """Return operations that change nothing."""
    of = parts or Parts()
    ranks = st.integers(-5, 5) | st.sampled_from([INTEGER_MIN, INTEGER_MAX])
    bounds = of.scores | st.sampled_from([float("-inf"), float("inf")])
    return st.one_of(
        *(st.builds(kind, of.keys) for kind in (Get, Version, Exists, TTL, HGetAll, ZCard)),
        st.builds(HGet, of.keys, of.fields),
        st.builds(ZScore, of.keys, of.members),
        st.builds(ZRange, of.keys, ranks, ranks),
        st.builds(ZRangeByScore, of.keys, bounds, bounds, st.none() | st.integers(1, 3)),
    )


def writes(parts: Parts | None = None) -> SearchStrategy[Operation]:
    """Return operations that change something."""
    of = parts or Parts()
    several: dict[str, Any] = {"min_size": 1, "max_size": 3}
    conditions: SearchStrategy[Any] = st.sampled_from([None, "NX", "GT", "LT"])
    return st.one_of(
        st.builds(Set, of.keys, of.values, of.ttls),
        st.builds(IncrBy, of.keys, of.increments),
        st.builds(Delete, of.keys),
        st.builds(Expire, of.keys, of.ttls),
        st.builds(HSet, of.keys, st.dictionaries(of.fields, of.values, **several)),
        st.builds(HDel, of.keys, st.lists(of.fields, **several)),
        st.builds(HIncrBy, of.keys, st.dictionaries(of.fields, of.increments, **several)),
        st.builds(ZAdd, of.keys, st.dictionaries(of.members, of.scores, **several), conditions),
        st.builds(ZAppend, of.keys, st.lists(of.members, **several)),
        st.builds(ZRem, of.keys, st.lists(of.members, **several)),
        st.builds(ZTrim, of.keys, st.integers(0, 4) | st.just(INTEGER_MAX)),
    )


def operations(parts: Parts | None = None) -> SearchStrategy[Operation]:
    """Return operations of every class, writes twice as often as reads."""
    of = parts or Parts()
    return st.one_of(writes(of), writes(of), reads(of))


def checks(parts: Parts | None = None) -> SearchStrategy[Check]:
    """Return preconditions, most of them on presence and absence; a version is a small number."""
    of = parts or Parts()
    return st.one_of(
        st.builds(Check, of.keys, st.sampled_from([0, None])),
        st.builds(Check, of.keys, st.integers(1, 20)),
        st.builds(Check, of.keys, st.sampled_from([0, None]), of.members),
    )


def batches(
    parts: Parts | None = None, *, namespaces: SearchStrategy[Name] | None = None, max_size: int = 6
) -> SearchStrategy[Batch]:
    """Return batches without a token, of at most `max_size` operations, one in a few with preconditions."""
    of = parts or Parts()
    return st.builds(
        Batch,
        namespaces or names(),
        st.lists(operations(of), min_size=1, max_size=max_size),
        st.one_of(st.just([]), st.just([]), st.lists(checks(of), max_size=2)),
    )
