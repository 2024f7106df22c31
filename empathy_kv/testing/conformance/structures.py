"""Hashes, sorted sets, and the kinds of what a key holds."""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any

import pytest

from empathy_kv.errors import (
    ArgumentError,
    CounterOverflowError,
    WrongTypeError,
)
from empathy_kv.kv.interface import Namespace
from empathy_kv.kv.operations import (
    INTEGER_MAX,
    INTEGER_MIN,
    TTL,
    Check,
    Delete,
    Exists,
    Expire,
    Get,
    HGet,
    IncrBy,
    Set,
    Version,
    ZAdd,
    ZAppend,
    ZCard,
    ZRem,
    ZScore,
)
from empathy_kv.testing.conformance.suite import (
    EMPTYINGS,
    SAMPLES,
    SCORES,
    VALUES,
    WRONG,
    Make,
    Suite,
    contents,
    exactly,
    shuffler,
)


class Hashes(Suite):
    def test_fields_are_stored_beside_those_that_are_there(self, ns: Namespace) -> None:
        assert ns.hset("h", {"a": b"1", "b": b"2"}) == 2
        assert ns.hset("h", {"b": b"3", "c": b""}) == 1
        assert ns.hset("h", {"b": b"3"}) == 0
        assert ns.hgetall("h") == {"a": b"1", "b": b"3", "c": b""}
        assert exactly(ns.execute(HGet("h", "b"), HGet("h", "c"), HGet("h", "d"))) == exactly([b"3", b"", None])

    def test_fields_are_removed_once(self, ns: Namespace) -> None:
        ns.hset("h", {"a": b"1", "b": b"2", "c": b""})
        assert ns.hdel("h", "a", "x", "a", "c") == 2
        assert ns.hdel("h", "a", "c") == 0
        assert ns.hgetall("h") == {"b": b"2"}

    def test_values_of_fields_are_read_back_exactly(self, ns: Namespace) -> None:
        fields = {f"f{number}": value for number, value in enumerate(VALUES)}
        ns.hset("h", fields)
        assert ns.hgetall("h") == fields
        assert [ns.hget("h", field) for field in fields] == list(fields.values())

    @pytest.mark.parametrize("name", EMPTYINGS)
    def test_what_lost_its_last_element_is_absent(self, ns: Namespace, name: str) -> None:
        sample, empty = EMPTYINGS[name]
        ns.execute(sample("k"))
        assert ns.execute(empty("k")) == [1]
        assert ns.execute(Exists("k"), TTL("k"), Delete("k"), Expire("k", 5)) == [False, 0.0, False, False]
        assert list(ns.keys()) == []
        ns.execute(Set("other", b"1"), checks=[Check("k", 0)])
        ns.execute(Set("k", b"any kind is welcome"))
        assert ns.get("k") == b"any kind is welcome"

    @pytest.mark.parametrize("name", EMPTYINGS)
    def test_what_lost_its_last_element_in_the_batch_is_absent_for_the_rest_of_it(
        self, ns: Namespace, name: str
    ) -> None:
        sample, empty = EMPTYINGS[name]
        assert ns.execute(sample("k"), empty("k"), Exists("k"), TTL("k"), Delete("k"))[1:] == [1, False, 0.0, False]
        assert list(ns.keys()) == []


class SortedSets(Suite):
    def test_members_come_in_order_of_score_and_of_bytes(self, ns: Namespace) -> None:
        same = [b"", b"\0", b"\0\0", b"B", b"a", b"aa", b"b", b"\x7f", b"\x80", "é".encode(), b"\xff", b"\xff\0"]
        shuffled = shuffler(0).sample(same, len(same))
        assert ns.zadd("z", {**dict.fromkeys(shuffled, 1.0), b"first": -1.0, b"last": 1.5}) == len(same) + 2
        expected = [(b"first", -1.0), *((member, 1.0) for member in same), (b"last", 1.5)]
        assert exactly(ns.zrange("z")) == exactly(expected)
        assert exactly(ns.zrangebyscore("z", 1, 1)) == exactly(expected[1:-1])
        assert ns.zrangebyscore("z", 1, 1, limit=3) == expected[1:4]

    def test_scores_are_exact(self, ns: Namespace) -> None:
        members = {b"%d" % number: score for number, score in enumerate(SCORES)}
        assert ns.zadd("z", members) == len(members)
        order = sorted(((score, member) for member, score in members.items()))
        assert exactly(ns.zrange("z")) == exactly([(member, score) for score, member in order])
        for member, score in members.items():
            assert exactly(ns.zscore("z", member)) == exactly(score)
            assert (member, score) in ns.zrangebyscore("z", score, score)
        assert exactly(ns.zrangebyscore("z", -math.inf, math.inf)) == exactly(ns.zrange("z"))

    def test_integers_are_scores_too(self, ns: Namespace) -> None:
        ns.zadd("z", {b"a": 2**53, b"b": -7})
        assert exactly(ns.zrange("z")) == exactly([(b"b", -7.0), (b"a", 2.0**53)])

    def test_the_two_zeros_are_one_score(self, ns: Namespace) -> None:
        ns.zadd("z", {b"b": -0.0, b"a": 0.0, b"c": -0.0})
        assert [member for member, _ in ns.zrange("z")] == [b"a", b"b", b"c"]
        assert len(ns.zrangebyscore("z", 0.0, -0.0)) == 3
        assert ns.zadd("z", {b"b": 0.0}, only="GT") == 0
        assert [member for member, _ in ns.zrange("z")] == [b"a", b"b", b"c"]

    def test_only_new_members_are_counted(self, ns: Namespace) -> None:
        assert ns.zadd("z", {b"a": 1, b"b": 2}) == 2
        assert ns.zadd("z", {b"a": 5, b"c": 3}) == 1
        assert ns.zadd("z", {b"a": 5}) == 0
        assert ns.zrange("z") == [(b"b", 2.0), (b"c", 3.0), (b"a", 5.0)]

    @pytest.mark.parametrize(
        ("only", "expected"),
        [
            (None, {b"low": 1.0, b"same": 5.0, b"high": 9.0, b"new": 4.0}),
            ("NX", {b"low": 5.0, b"same": 5.0, b"high": 5.0, b"new": 4.0}),
            ("GT", {b"low": 5.0, b"same": 5.0, b"high": 9.0, b"new": 4.0}),
            ("LT", {b"low": 1.0, b"same": 5.0, b"high": 5.0, b"new": 4.0}),
        ],
        ids=str,
    )
    def test_scores_change_only_as_asked_for(self, ns: Namespace, only: Any, expected: dict[bytes, float]) -> None:
        ns.zadd("z", {b"low": 5, b"same": 5, b"high": 5})
        assert ns.zadd("z", {b"low": 1, b"same": 5, b"high": 9, b"new": 4}, only=only) == 1
        assert dict(ns.zrange("z")) == expected
        assert {member: ns.zscore("z", member) for member in expected} == expected
        assert ns.zcard("z") == 4
        order = sorted(expected.items(), key=lambda item: (item[1], item[0]))
        assert ns.zrange("z") == order

    def test_ranks_count_from_both_ends(self, ns: Namespace) -> None:
        ns.zadd("z", {b"%d" % number: number for number in range(5)})
        everything = ns.zrange("z")
        for start, stop in itertools.product([*range(-8, 8), INTEGER_MIN, INTEGER_MAX], repeat=2):
            first = max(0, start + 5 if start < 0 else start)
            last = stop + 5 if stop < 0 else stop
            expected = [item for rank, item in enumerate(everything) if first <= rank <= last]
            assert ns.zrange("z", start, stop) == expected, (start, stop)

    def test_ranges_of_scores_hold_both_ends(self, ns: Namespace) -> None:
        scores = [-1e308, -1.0, 0.0, 0.1, 0.1, 2.0, 1e308]
        ns.zadd("z", {b"%d" % number: score for number, score in enumerate(scores)})
        bounds = [-math.inf, *scores, math.nextafter(0.1, 0), math.nextafter(0.1, 1), 1, math.inf]
        for minimum, maximum, limit in itertools.product(bounds, bounds, [None, 1, 2, 100]):
            expected = [(b"%d" % n, score) for n, score in enumerate(scores) if minimum <= score <= maximum][:limit]
            assert ns.zrangebyscore("z", minimum, maximum, limit=limit) == expected, (minimum, maximum, limit)

    def test_members_are_removed_once(self, ns: Namespace) -> None:
        ns.zadd("z", {b"a": 1, b"b": 2, b"c": 2})
        assert ns.zrem("z", b"b", b"x", b"b") == 1
        assert ns.zrem("z", b"b") == 0
        assert ns.zrange("z") == [(b"a", 1.0), (b"c", 2.0)]
        assert exactly(ns.execute(ZCard("z"), ZScore("z", b"b"), ZScore("z", b"a"))) == exactly([2, None, 1.0])
        assert ns.zadd("z", {b"b": 0}) == 1
        assert ns.zrange("z", 0, 0) == [(b"b", 0.0)]

    def test_appended_members_stand_at_the_end_in_their_order(self, ns: Namespace) -> None:
        assert exactly(ns.zappend("z", b"b", b"a")) == exactly(2.0)
        assert ns.zappend("z", b"c") == 3.0
        assert ns.zrange("z") == [(b"b", 1.0), (b"a", 2.0), (b"c", 3.0)]

    def test_an_appended_member_that_is_there_moves(self, ns: Namespace) -> None:
        ns.zappend("z", b"a", b"b", b"c")
        assert ns.zappend("z", b"a") == 4.0
        assert ns.zappend("z", b"a") == 5.0
        assert ns.zappend("z", b"c", b"new", b"b") == 8.0
        assert ns.zrange("z") == [(b"a", 5.0), (b"c", 6.0), (b"new", 7.0), (b"b", 8.0)]
        assert ns.zcard("z") == 4

    def test_appending_starts_above_the_highest_score(self, ns: Namespace) -> None:
        ns.zadd("z", {b"a": 0.25, b"b": -3})
        assert ns.zappend("z", b"c") == 1.25
        ns.zrem("z", b"c", b"a")
        assert ns.zappend("z", b"d") == -2.0
        ns.zadd("big", {b"a": 2.0**53 - 2})
        assert ns.zappend("big", b"b", b"c") == 2.0**53

    @pytest.mark.parametrize("score", [2.0**53, 2.0**53 + 2, 2.0**53 - 1, 1e308, sys.float_info.max])
    def test_an_append_beyond_the_last_exact_score_is_refused(self, ns: Namespace, score: float) -> None:
        ns.execute(ZAdd("z", {b"a": 1, b"top": score}), Set("k", b"1"))
        before = contents(ns)
        for operations in (
            (ZAppend("z", [b"b", b"c"]),),
            (ZAppend("z", [b"top", b"a"]),),
            (Set("k", b"2"), ZAppend("z", [b"b"]), ZAppend("z", [b"c"])),
            (ZRem("z", [b"top"]), ZAdd("z", {b"b": score}), ZAppend("z", [b"c", b"d"])),
            (Delete("new"), ZAdd("new", {b"b": score}), ZAppend("new", [b"c", b"d"])),
            (ZRem("z", [b"top"]), ZAppend("z", [b"b", b"c"])),
        ):
            with pytest.raises(CounterOverflowError) as caught:
                ns.execute(*operations)
            assert (caught.value.key, caught.value.field) == (operations[-1].key, None)
            assert contents(ns) == before
        ns.zrem("z", b"top")
        assert ns.zappend("z", b"b", b"c") == 3.0

    def test_an_append_is_possible_up_to_the_last_exact_score(self, ns: Namespace) -> None:
        ns.zadd("z", {b"a": 2.0**53 - 3})
        assert ns.execute(ZAppend("z", [b"b", b"c"]), ZAppend("z", [b"d"]))[1] == 2.0**53
        with pytest.raises(CounterOverflowError):
            ns.zappend("z", b"e")
        assert ns.execute(Delete("z"), ZAppend("z", [b"e"])) == [True, 1.0]

    def test_an_append_after_the_lowest_scores_stands_at_the_end_too(self, ns: Namespace) -> None:
        for number, score in enumerate((-sys.float_info.max, -(2.0**53) - 2, -(2.0**53), -1.0)):
            ns.zadd(f"z{number}", {b"z": score})
            last = ns.zappend(f"z{number}", b"b", b"a")
            assert last == max(score, -(2.0**53)) + 2
            assert [member for member, _ in ns.zrange(f"z{number}")] == [b"z", b"b", b"a"]

    def test_trimming_keeps_the_highest(self, ns: Namespace) -> None:
        members = {b"%d" % number: number // 2 for number in range(6)}
        for keep in (0, 1, 2, 5, 6, 7, INTEGER_MAX):
            ns.zadd("z", members)
            everything = ns.zrange("z")
            assert ns.ztrim("z", keep) == max(0, 6 - keep), keep
            assert ns.zrange("z") == (everything[-keep:] if keep else []), keep
            assert ns.zcard("z") == min(6, keep), keep
            assert ns.ztrim("z", keep) == 0, keep
        assert ns.zadd("z", {b"0": 0}) == 0

    def test_members_are_any_bytes(self, ns: Namespace) -> None:
        members = {bytes([number]): float(number % 7) for number in range(256)} | dict.fromkeys(VALUES, 3.5)
        ns.zadd("z", members)
        assert dict(ns.zrange("z")) == members
        assert [ns.zscore("z", member) for member in VALUES] == [3.5] * len(VALUES)
        assert ns.zrem("z", *VALUES) == len(VALUES)

    @pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, "1", True, None, 10**400])
    def test_a_score_that_is_no_finite_number_is_refused(self, ns: Namespace, score: Any) -> None:
        with pytest.raises(ArgumentError):
            ns.zadd("z", {b"a": 1, b"b": score})
        assert list(ns.keys()) == []


class Kinds(Suite):
    @pytest.mark.parametrize(("held", "make"), WRONG)
    def test_an_operation_is_refused_on_another_kind_of_value(self, ns: Namespace, held: str, make: Make) -> None:
        ns.execute(SAMPLES[held]("k"), Expire("k", 60))
        before = contents(ns)
        for operations in ((make("k"),), (Exists("k"), make("k")), (Set("new", b"1"), make("k"))):
            with pytest.raises(WrongTypeError) as caught:
                ns.execute(*operations)
            assert caught.value.key == "k"
        assert contents(ns) == before

    @pytest.mark.parametrize("held", SAMPLES)
    def test_any_kind_is_replaced_by_a_value(self, ns: Namespace, held: str) -> None:
        ns.execute(SAMPLES[held]("k"), Expire("k", 60))
        version = ns.set("k", b"new")
        assert ns.execute(Get("k"), TTL("k"), Version("k")) == [b"new", None, version]
        assert ns.execute(SAMPLES[held]("l"), Set("l", b"1"), Get("l"))[2] == b"1"

    @pytest.mark.parametrize(("held", "make"), WRONG)
    def test_a_key_takes_another_kind_once_it_was_deleted(self, ns: Namespace, held: str, make: Make) -> None:
        ns.execute(SAMPLES[held]("k"))
        replies = ns.execute(Delete("k"), make("k"))
        other = ns.execute(make("new"))
        assert replies[0] is True
        assert exactly(replies[1]) == exactly(other[0])

    @pytest.mark.parametrize(("held", "make"), WRONG)
    def test_the_kind_of_a_key_that_the_batch_made_counts(self, ns: Namespace, held: str, make: Make) -> None:
        with pytest.raises(WrongTypeError) as caught:
            ns.execute(SAMPLES[held]("new"), make("new"))
        assert caught.value.key == "new"
        assert list(ns.keys()) == []

    @pytest.mark.parametrize("name", EMPTYINGS)
    def test_a_key_that_the_batch_empties_keeps_its_kind_in_it(self, ns: Namespace, name: str) -> None:
        sample, empty = EMPTYINGS[name]
        ns.execute(sample("k"))
        before = contents(ns)
        with pytest.raises(WrongTypeError):
            ns.execute(empty("k"), IncrBy("k"))
        assert contents(ns) == before
        ns.execute(empty("k"), sample("k"))
        assert contents(ns) == before
        assert ns.execute(empty("k"), Set("k", b"1"), Get("k"))[2] == b"1"

    @pytest.mark.parametrize(("held", "make"), WRONG)
    def test_the_error_says_what_the_key_holds(self, ns: Namespace, held: str, make: Make) -> None:
        ns.execute(SAMPLES[held]("k"))
        for operations in ((make("k"),), (Exists("k"), make("k")), (Set("new", b"1"), make("k"))):
            with pytest.raises(WrongTypeError) as caught:
                ns.execute(*operations)
            assert (caught.value.key, caught.value.kind) == ("k", held)
