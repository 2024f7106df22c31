"""A table in memory holds what is needed, and no more, however often a key is written."""

from __future__ import annotations

import gc
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empathy_kv.errors import CheckError
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.kv.operations import INTEGER_MAX, INTEGER_MIN, Batch, Check, Delete, Expire, Get, IncrBy, Operation, Set
from empathy_kv.kv.table import Table, plainly_counts, sums

NAME = ("n",)


def do(table: Table, now: int, *operations: Operation) -> list[Any]:
    return table.execute(Batch(NAME, operations), now, None)[0]


def noted(table: Table) -> int:
    return len(table._expiring) + len(table._due)


@pytest.mark.parametrize("step", [0.5, 0.0, -0.5], ids=["later", "as before", "sooner"])
def test_a_key_that_is_set_again_and_again_to_expire_takes_the_room_of_one(step: float) -> None:
    table = Table()
    for number in range(100_000):
        do(table, number // 100, Set("k", b"", 100_000 + step * number))
        assert noted(table) < 200
    assert do(table, 1000, Get("k")) == [b""]


def test_keys_that_no_longer_expire_take_no_room() -> None:
    table = Table()
    for number in range(20_000):
        key = f"k{number}"
        last = (Delete(key), Set(key, b""), Expire(key, None))[number % 3]
        do(table, 1000, Set(key, b"", 3600), last)
    assert noted(table) < 200
    do(table, 1000, *(Set(f"m{number}", b"", 3600) for number in range(5000)))
    do(table, 1000, *(Delete(f"m{number}") for number in range(5000)))
    assert noted(table) < 200


def test_keys_that_expired_go_though_nobody_asks_for_them() -> None:
    numbers = random.Random(1)
    table = Table()
    for number in range(10_000):
        now = number * 10
        key = f"k{numbers.randrange(2000)}"
        do(table, now, numbers.choice((Set(key, b"", numbers.uniform(0.1, 2)), Set(key, b""), Expire(key, 1.0))))
    end = 10_000 * 10 + 10_000
    for number in range(1000):
        do(table, end, Set(f"other {number}", b"", 60))
    kept = dict(table.items())
    assert not [key for key, entry in kept.items() if entry.expires is not None and entry.expires <= end]
    assert noted(table) < 3 * 1000 + 200


def test_a_key_that_lives_longer_by_now_is_not_dropped_at_its_first_time() -> None:
    table = Table()
    do(table, 0, Set("a", b"a", 1), Set("b", b"b", 1), Set("c", b"c", 1), Set("d", b"d", 5))
    do(table, 500, Set("a", b"a", 10), Expire("b", None), Set("c", b"c"), Expire("d", 0.1))
    for now in (1000, 2000, 6000):
        do(table, now, Set("e", b"", 60))
        assert do(table, now, *map(Get, "abcd")) == [b"a", b"b", b"c", None]
    do(table, 10_500, Set("e", b"", 60))
    assert sorted(key for key, _ in table.items()) == ["b", "c", "e"]


def test_a_namespace_that_was_only_read_takes_no_room() -> None:
    kv = MemoryKV()
    kv.namespace("written").set("k", b"1")

    def tables() -> int:
        gc.collect()
        return sum(type(each) is Table for each in gc.get_objects())

    before = tables()
    for number in range(100):
        ns = kv.namespace("read", str(number))
        assert ns.get("k") is None
        assert list(ns.keys()) == []
        with pytest.raises(CheckError):
            ns.execute(Set("k", b"1"), checks=[Check("k")])
    assert tables() == before
    kv.namespace("written too").delete("k")
    assert tables() == before + 1


@given(
    st.integers(INTEGER_MIN, INTEGER_MAX).map(b"%d".__mod__)
    | st.from_regex(rb"-?0?[0-9]{0,20}", fullmatch=True)
    | st.binary(max_size=20),
    st.integers(INTEGER_MIN, INTEGER_MAX) | st.sampled_from([INTEGER_MIN, 1 - 2**62, 2**62 - 1, INTEGER_MAX]),
)
def test_what_plainly_counts_is_counted(value: bytes, increment: int) -> None:
    if plainly_counts(value, increment):
        assert sums(IncrBy("n", increment), {}, value) == {None: b"%d" % (int(value) + increment)}
