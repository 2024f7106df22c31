"""Values, their expiry and their versions, and counters."""

from __future__ import annotations

import itertools
import math
from datetime import timedelta
from typing import Any

import pytest

from empathy_kv.errors import (
    ArgumentError,
    CheckError,
    CounterError,
    CounterOverflowError,
    WrongTypeError,
)
from empathy_kv.kv.interface import KV, Namespace
from empathy_kv.kv.operations import (
    INTEGER_MAX,
    INTEGER_MIN,
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
    Set,
    Version,
    ZAdd,
    ZAppend,
    ZCard,
    ZRange,
    ZRem,
    ZScore,
    ZTrim,
)
from empathy_kv.testing.conformance.suite import (
    ABSENCES,
    ALL_BYTES,
    EMPTYINGS,
    MAKING,
    NO_INTEGERS,
    OF_ABSENT,
    READS,
    SAMPLES,
    SOON,
    VALUES,
    Suite,
    contents,
    exactly,
    shuffler,
    together,
)


class Values(Suite):
    def test_a_value_is_read_back_exactly(self, ns: Namespace) -> None:
        for number, value in enumerate(VALUES):
            ns.set(f"k{number}", value)
        assert [ns.get(f"k{number}") for number in range(len(VALUES))] == list(VALUES)
        assert ns.execute(*(Get(f"k{number}") for number in range(len(VALUES)))) == list(VALUES)

    def test_a_value_is_replaced(self, ns: Namespace) -> None:
        ns.set("k", b"a long first value")
        ns.set("k", b"2")
        assert ns.get("k") == b"2"
        assert list(ns.keys()) == ["k"]

    def test_an_empty_value_is_there(self, ns: Namespace) -> None:
        ns.set("k", b"")
        assert ns.get("k") == b""
        assert ns.exists("k")
        assert list(ns.keys()) == ["k"]

    def test_bytes_like_values_are_stored_as_bytes(self, ns: Namespace) -> None:
        given: list[Any] = [bytearray(b"abc"), memoryview(b"abcd")[::2]]
        ns.execute(Set("a", given[0]), Set("v", given[1]))
        assert exactly(ns.execute(Get("a"), Get("v"))) == exactly([b"abc", b"ac"])

    def test_deleting_twice_is_no_error(self, ns: Namespace) -> None:
        ns.set("k", b"1")
        assert ns.delete("k") is True
        assert ns.delete("k") is False
        assert ns.delete("k") is False
        assert ns.get("k") is None

    @pytest.mark.parametrize("kind", SAMPLES)
    def test_any_kind_of_value_is_deleted(self, ns: Namespace, kind: str) -> None:
        ns.execute(SAMPLES[kind]("k"))
        assert ns.delete("k") is True
        assert not ns.exists("k")
        assert list(ns.keys()) == []

    @pytest.mark.parametrize("how", ABSENCES)
    def test_an_absent_key_gives_the_same_replies_however_it_became_so(self, ns: Namespace, how: str) -> None:
        keys = [f"k{number}" for number in range(len(OF_ABSENT))]
        self.make_absent(ns, keys, how)
        for key, (make, reply) in zip(keys, OF_ABSENT, strict=True):
            operation = make(key)
            assert exactly(ns.execute(operation)) == exactly([reply]), operation
        assert list(ns.keys()) == []

    @pytest.mark.parametrize("how", ABSENCES)
    def test_all_of_it_in_one_batch_gives_the_same_replies(self, ns: Namespace, how: str) -> None:
        self.make_absent(ns, ["k"], how)
        replies = ns.execute(*(make("k") for make, _ in OF_ABSENT))
        assert exactly(replies) == exactly([reply for _, reply in OF_ABSENT])

    @pytest.mark.parametrize("how", ABSENCES)
    def test_an_absent_key_is_made_anew_however_it_became_so(self, ns: Namespace, how: str) -> None:
        keys = [f"k{number}" for number in range(len(MAKING))]
        self.make_absent(ns, keys, how)
        for key, (make, reply, read, content) in zip(keys, MAKING, strict=True):
            operation = make(key)
            found = ns.execute(operation)
            assert reply is ... or exactly(found) == exactly([reply]), operation
            replies = ns.execute(read(key), TTL(key), Exists(key))
            assert exactly(replies) == exactly([content, None, True]), operation
        assert sorted(ns.keys()) == sorted(keys)

    def test_an_operation_sees_what_those_before_it_in_the_batch_did(self, ns: Namespace) -> None:
        replies = ns.execute(
            *(Exists("k"), Set("k", b"5"), Get("k"), IncrBy("k", 2), Get("k"), Delete("k"), Get("k"), Delete("k")),
            *(HSet("h", {"f": b"1"}), HIncrBy("h", {"f": 1, "g": 4}), HDel("h", ["f"]), HGetAll("h"), HGet("h", "f")),
            *(ZAdd("z", {b"b": 2, b"a": 1}), ZAppend("z", [b"c"]), ZTrim("z", 2), ZRange("z"), ZRem("z", [b"b"])),
            *(ZCard("z"), ZScore("z", b"c"), Expire("z", 60), Expire("z", None), TTL("z")),
        )
        version = replies.pop(1)
        assert type(version) is int
        assert version > 0
        assert exactly(replies) == exactly(
            [
                *(False, b"5", 7, b"7", True, None, False),
                *(1, {"f": 2, "g": 4}, 1, {"g": b"4"}, None),
                *(2, 3.0, 1, [(b"b", 2.0), (b"c", 3.0)], 1),
                *(1, 3.0, True, True, None),
            ]
        )

    def test_a_batch_of_nothing_does_nothing(self, kv: KV, ns: Namespace) -> None:
        assert ns.execute() == []
        assert kv.execute(Batch(ns.name, ())) == []
        assert list(ns.keys()) == []

    def test_a_batch_without_a_token_does_the_same(self, kv: KV, ns: Namespace) -> None:
        assert kv.execute(Batch(ns.name, (Set("k", b"1"), IncrBy("k", 4), HSet("h", {"f": b"x"}))))[1:] == [5, 1]
        assert kv.execute(Batch(ns.name, (HIncrBy("h", {"n": 2}),))) == [{"n": 2}]
        assert kv.execute(Batch(ns.name, (Delete("k"),))) == [True]
        assert sorted(contents(ns)) == ["h"]
        with pytest.raises(CounterError):
            kv.execute(Batch(ns.name, (HIncrBy("h", {"f": 1}),)))

    def test_reads_in_one_batch_come_in_its_order(self, ns: Namespace) -> None:
        ns.execute(Set("k", b"v"), HSet("h", {"f": b"1"}), ZAdd("z", {b"m": 1.5}))
        assert exactly(
            ns.execute(ZCard("z"), Get("k"), HGet("h", "f"), Get("no"), ZRange("z"), HGetAll("h"))
        ) == exactly([1, b"v", b"1", None, [(b"m", 1.5)], {"f": b"1"}])

    def test_collected_operations_are_executed_together_at_the_end(self, ns: Namespace) -> None:
        with ns.batch() as batch:
            batch.set("a", b"1").incr("n").hset("h", {"f": b"x"}).zappend("z", b"m")
            assert list(ns.keys()) == []
        assert batch.replies[1:] == [1, 1, 1.0]
        assert sorted(ns.keys()) == ["a", "h", "n", "z"]

    def test_collected_operations_are_dropped_if_the_block_raises(self, ns: Namespace) -> None:
        def collect() -> None:
            with ns.batch() as batch:
                batch.set("a", b"1")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            collect()
        assert list(ns.keys()) == []


class Expiry(Suite):
    def test_the_time_left_is_told_in_seconds(self, ns: Namespace) -> None:
        for ttl, most in (
            (60, 60.0),
            (0.9, 0.9),
            (timedelta(days=1), 86400.0),
            (timedelta(days=400, seconds=1.5), None),
        ):
            ns.set("k", b"1", ttl=ttl)
            left = ns.ttl("k")
            assert type(left) is float
            most = 400 * 86400 + 1.5 if most is None else most
            assert most - 0.8 < left <= most + 0.001

    def test_a_key_lives_for_ever_unless_told_otherwise(self, ns: Namespace) -> None:
        ns.execute(*(SAMPLES[kind](kind) for kind in SAMPLES), IncrBy("n"))
        assert [ns.ttl(key) for key in (*SAMPLES, "n")] == [None] * 4

    @pytest.mark.parametrize("ttl", [0.0004, 5e-324, 0.001, timedelta(microseconds=1)], ids=str)
    def test_a_short_time_is_not_cut_to_none_or_to_for_ever(self, ns: Namespace, ttl: float | timedelta) -> None:
        # In one batch, because a millisecond may be over before the next.
        version, value = ns.execute(Set("k", b"1", ttl), Get("k"))
        assert version > 0
        assert value == b"1"
        ns.set("m", b"1")
        assert ns.execute(Expire("m", ttl), Exists("m")) == [True, True]
        self.wait()
        assert ns.execute(Get("k"), Get("m"), TTL("k"), TTL("m")) == [None, None, 0.0, 0.0]

    def test_an_expired_key_is_not_among_the_keys(self, ns: Namespace) -> None:
        ns.set("stays", b"1", ttl=60)
        for kind, sample in SAMPLES.items():
            ns.execute(sample(kind), Expire(kind, SOON))
        ns.set("goes", b"1", ttl=SOON)
        self.wait()
        assert list(ns.keys()) == ["stays"]

    def test_a_key_that_expires_is_there_until_then(self, ns: Namespace) -> None:
        ns.execute(*(SAMPLES[kind](kind) for kind in SAMPLES), *(Expire(kind, 60) for kind in SAMPLES))
        assert sorted(ns.keys()) == sorted(SAMPLES)
        assert ns.execute(Get("string"), HGet("hash", "f"), ZScore("zset", b"m")) == [b"7", b"7", 7.0]

    def test_setting_a_value_sets_its_time_anew(self, ns: Namespace) -> None:
        ns.set("k", b"1", ttl=60)
        ns.set("k", b"2", ttl=600)
        assert 60 < ns.ttl("k") <= 600  # type: ignore[operator]
        ns.set("k", b"3")
        assert ns.ttl("k") is None

    def test_a_value_that_was_set_again_outlives_its_first_time(self, ns: Namespace) -> None:
        ns.execute(Set("k", b"1", SOON), Set("k", b"2"))
        ns.execute(Set("l", b"1", SOON), Set("l", b"2", 60))
        ns.execute(Set("m", b"1", SOON), Expire("m", 60))
        ns.execute(Set("n", b"1", SOON), Delete("n"), Set("n", b"2"))
        ns.execute(Set("o", b"1", SOON), Expire("o", None))
        self.wait()
        ns.set("other", b"1", ttl=60)
        assert ns.execute(*map(Get, "klmno")) == [b"2", b"2", b"1", b"2", b"1"]
        assert sorted(ns.keys()) == [*"klmno", "other"]

    def test_a_key_that_is_written_after_it_expired_stays(self, ns: Namespace) -> None:
        for kind, sample in SAMPLES.items():
            ns.execute(sample(kind), Expire(kind, SOON))
        self.wait()
        ns.execute(Set("string", b"2"), HIncrBy("hash", {"g": 1}), ZAppend("zset", [b"n"]))
        for number in range(10):  # What sweeps expired keys has its chance now.
            ns.set(f"k{number}", b"1", ttl=60)
        assert ns.execute(Get("string"), HGetAll("hash"), ZRange("zset")) == [b"2", {"g": b"1"}, [(b"n", 1.0)]]
        assert ns.execute(TTL("string"), TTL("hash"), TTL("zset")) == [None] * 3
        assert {"string", "hash", "zset"} <= set(ns.keys())

    @pytest.mark.parametrize("kind", SAMPLES)
    def test_an_expiry_is_set_and_taken_back_on_any_kind(self, ns: Namespace, kind: str) -> None:
        ns.execute(SAMPLES[kind]("k"))
        assert ns.expire("k", timedelta(hours=1)) is True
        assert 3590 < ns.ttl("k") <= 3600  # type: ignore[operator]
        assert ns.expire("k", None) is True
        assert ns.ttl("k") is None
        assert ns.expire("k", None) is True
        assert ns.execute(READS[kind]("k")) == ns.execute(SAMPLES[kind]("l"), READS[kind]("l"))[1:]

    def test_changing_a_key_in_place_keeps_its_expiry(self, ns: Namespace) -> None:
        for kind, sample in SAMPLES.items():
            ns.execute(sample(kind), Expire(kind, 60))
        for change in (
            *(IncrBy("string"), HSet("hash", {"a": b"1", "b": b"1"}), HIncrBy("hash", {"a": 1}), HDel("hash", ["f"])),
            *(ZAdd("zset", {b"a": 9}), ZAppend("zset", [b"b", b"c"]), ZRem("zset", [b"c"]), ZTrim("zset", 1)),
        ):
            ns.execute(change)
            left = ns.ttl(change.key)
            assert left is not None, change
            assert 50 < left <= 60, change

    @pytest.mark.parametrize("name", EMPTYINGS)
    def test_what_was_emptied_and_filled_again_lives_for_ever(self, ns: Namespace, name: str) -> None:
        sample, empty = EMPTYINGS[name]
        ns.execute(sample("k"), Expire("k", 60))
        ns.execute(empty("k"), sample("k"))
        assert ns.ttl("k") is None

    def test_an_expired_counter_starts_at_nothing_again(self, ns: Namespace) -> None:
        ns.execute(Set("n", b"41", SOON), HIncrBy("h", {"f": 41}), Expire("h", SOON), Set("x", b"no number", SOON))
        self.wait()
        assert ns.execute(IncrBy("n"), HIncrBy("h", {"f": 1}), IncrBy("x")) == [1, {"f": 1}, 1]
        assert ns.ttl("n") is None

    def test_an_expired_key_is_absent_for_a_check(self, ns: Namespace) -> None:
        version = ns.set("k", b"1", ttl=SOON)
        ns.execute(ZAdd("z", {b"m": 1}), Expire("z", SOON))
        self.wait()
        for check in (Check("k"), Check("k", version), Check("z"), Check("z", None, b"m")):
            with pytest.raises(CheckError) as caught:
                ns.execute(Set("no", b"1"), checks=[check])
            assert caught.value.actual == 0
        ns.execute(Set("yes", b"1"), checks=[Check("k", 0), Check("z", 0), Check("z", 0, b"m")])
        assert list(ns.keys()) == ["yes"]

    @pytest.mark.parametrize(
        "ttl", [0, -1, 0.0, math.nan, math.inf, 1e300, timedelta(0), timedelta(seconds=-1), True, "1"]
    )
    def test_a_time_that_is_none_is_refused(self, ns: Namespace, ttl: Any) -> None:
        ns.set("k", b"1")
        with pytest.raises(ArgumentError):
            ns.set("k", b"2", ttl=ttl)
        with pytest.raises(ArgumentError):
            ns.expire("k", ttl)
        assert ns.get("k") == b"1"
        assert ns.ttl("k") is None


class Versions(Suite):
    def test_an_absent_value_has_version_0(self, ns: Namespace) -> None:
        assert exactly(ns.version("k")) == exactly(0)

    def test_a_version_is_told_when_it_is_written_and_when_it_is_asked_for(self, ns: Namespace) -> None:
        version = ns.set("k", b"1")
        assert type(version) is int
        assert version > 0
        assert ns.version("k") == version
        assert ns.execute(Set("k", b"2"), Version("k"))[0] == ns.version("k")

    def test_versions_grow_with_each_write(self, ns: Namespace) -> None:
        seen = [0]
        for number in range(20):
            seen.append(ns.set("k", b"the same") if number % 3 else ns.execute(IncrBy("n"), Version("n"))[1])
            ns.hset("h", {"f": b"%d" % number})
        assert seen == sorted(set(seen))

    def test_the_revision_rises_by_one_with_each_batch_that_writes(self, ns: Namespace) -> None:
        version = ns.set("k", b"1")
        for batches, operations in enumerate(
            (
                (Delete("absent"),),
                (Expire("absent", 60),),
                (HDel("absent", ["f"]), ZTrim("absent", 0), IncrBy("n"), IncrBy("n")),
                (Expire("k", None), Get("k")),
            ),
            1,
        ):
            ns.execute(*operations)
            ns.execute(Get("k"), Version("k"))
            with pytest.raises(CheckError):
                ns.execute(Set("k", b"2"), checks=[Check("k", 0)])
            assert ns.set(f"next {batches}", b"1") == version + 2 * batches

    def test_values_of_one_batch_have_one_version(self, ns: Namespace) -> None:
        first, second, third = ns.execute(Set("a", b"1"), Set("b", b"1"), Set("a", b"2"))
        assert first == second == third == ns.version("a") == ns.version("b")

    def test_a_counter_has_a_new_version_when_it_grew(self, ns: Namespace) -> None:
        ns.incr("n")
        first = ns.version("n")
        ns.incr("n")
        assert ns.version("n") > first > 0
        with pytest.raises(CheckError):
            ns.set("n", b"0", expected_version=first)

    def test_other_keys_and_a_new_expiry_leave_a_version_as_it_is(self, ns: Namespace) -> None:
        version = ns.set("k", b"1")
        ns.set("other", b"1")
        ns.expire("k", 60)
        ns.expire("k", None)
        assert ns.version("k") == version

    def test_a_value_is_replaced_only_at_its_version(self, ns: Namespace) -> None:
        first = ns.set("k", b"1", expected_version=0)
        second = ns.set("k", b"2", expected_version=first)
        with pytest.raises(CheckError) as caught:
            ns.set("k", b"3", expected_version=first)
        assert (caught.value.key, caught.value.expected, caught.value.actual) == ("k", first, second)
        assert ns.execute(Get("k"), Version("k")) == [b"2", second]

    def test_a_key_that_came_back_is_not_taken_for_the_one_before(self, ns: Namespace) -> None:
        version = ns.set("k", b"1")
        ns.delete("k")
        assert list(ns.keys()) == []
        assert ns.set("k", b"1") > version
        with pytest.raises(CheckError):
            ns.set("k", b"2", expected_version=version)
        ns.execute(Delete("k"), Set("k", b"1"))
        last = ns.set("k", b"1", ttl=SOON)
        self.wait()
        assert ns.set("k", b"1") > last > version

    def test_a_check_is_tested_before_the_batch_does_anything(self, ns: Namespace) -> None:
        ns.execute(Set("new", b"1"), checks=[Check("new", 0)])
        ns.execute(Delete("new"), checks=[Check("new")])
        with pytest.raises(CheckError):
            ns.execute(Set("new", b"1"), checks=[Check("new")])
        assert not ns.exists("new")

    @pytest.mark.parametrize("kind", SAMPLES)
    def test_any_kind_is_checked_for_being_there(self, ns: Namespace, kind: str) -> None:
        with pytest.raises(CheckError) as caught:
            ns.execute(Set("x", b"1"), checks=[Check("k")])
        assert (caught.value.key, caught.value.expected, caught.value.actual) == ("k", None, 0)
        ns.execute(SAMPLES[kind]("k"), checks=[Check("k", 0)])
        ns.execute(Set("x", b"1"), checks=[Check("k")])
        with pytest.raises(CheckError) as caught:
            ns.execute(Set("y", b"1"), checks=[Check("k", 0)])
        actual = ns.version("k") if kind == "string" else -1
        assert (caught.value.key, caught.value.expected, caught.value.actual) == ("k", 0, actual)
        assert sorted(ns.keys()) == ["k", "x"]

    def test_the_version_of_what_is_no_value_cannot_be_checked(self, ns: Namespace) -> None:
        ns.execute(SAMPLES["hash"]("h"), SAMPLES["zset"]("z"))
        for key in "hz":
            with pytest.raises(WrongTypeError):
                ns.execute(Set("x", b"1"), checks=[Check(key, 1)])
        assert not ns.exists("x")

    def test_a_member_is_checked_for_being_there(self, ns: Namespace) -> None:
        ns.zadd("z", {b"m": 0.0, ALL_BYTES: -1.0, b"": 2.0})
        ns.set("s", b"m")
        ns.execute(Set("x", b"1"), checks=[Check("z", None, m) for m in (b"m", ALL_BYTES, b"")])
        ns.execute(Set("x", b"1"), checks=[Check("z", 0, b"n"), Check("absent", 0, b"m")])
        for check in (Check("z", 0, b"m"), Check("z", 0, b""), Check("z", None, b"n"), Check("absent", None, b"m")):
            with pytest.raises(CheckError) as caught:
                ns.execute(Set("no", b"1"), checks=[check])
            assert (caught.value.key, caught.value.expected) == (check.key, check.version)
            assert caught.value.actual == (0 if check.version is None else -1)
        with pytest.raises(WrongTypeError):
            ns.execute(Set("no", b"1"), checks=[Check("s", None, b"m")])
        assert sorted(ns.keys()) == ["s", "x", "z"]

    def test_each_of_several_checks_must_hold(self, ns: Namespace) -> None:
        ns.set("a", b"1")
        ns.execute(Set("b", b"1"), checks=[Check("a"), Check("c", 0)])
        for checks in ([Check("a"), Check("c")], [Check("a", 0), Check("c", 0)]):
            with pytest.raises(CheckError):
                ns.execute(Set("d", b"1"), checks=checks)
        assert sorted(ns.keys()) == ["a", "b"]

    def test_reads_and_nothing_at_all_can_be_checked_too(self, ns: Namespace) -> None:
        version = ns.set("a", b"1")
        assert ns.execute(Get("a"), checks=[Check("a", version)]) == [b"1"]
        assert ns.execute(checks=[Check("a", version), Check("b", 0)]) == []
        with pytest.raises(CheckError):
            ns.execute(Get("a"), checks=[Check("a", version + 1)])
        with pytest.raises(CheckError):
            ns.execute(checks=[Check("b")])

    def test_compare_and_set_loses_no_update(self, ns: Namespace) -> None:
        def add() -> None:
            for _ in range(15):
                while True:
                    value, version = ns.execute(Get("k"), Version("k"))
                    try:
                        ns.set("k", b"%d" % (int(value or b"0") + 1), expected_version=version)
                    except CheckError:
                        continue
                    break

        together(*[add] * 6)
        assert ns.get("k") == b"90"


class Counters(Suite):
    def test_a_counter_is_a_decimal_value(self, ns: Namespace) -> None:
        ns.set("n", b"-3")
        assert [ns.incr("n", by) for by in (1, 10, -20, 0)] == [-2, 8, -12, -12]
        assert ns.get("n") == b"-12"
        ns.hset("h", {"f": b"-3"})
        assert ns.hincrby("h", {"f": 13, "g": -1}) == {"f": 10, "g": -1}
        assert ns.hgetall("h") == {"f": b"10", "g": b"-1"}

    def test_sums_and_their_replies_are_exact_in_all_64_bits(self, ns: Namespace) -> None:
        numbers = shuffler(64)
        edges = [0, 1, -1, 2**53, 2**53 + 1, -(2**53) - 1, 10**9, -(10**9), 10**18, -(10**18), INTEGER_MAX, INTEGER_MIN]
        pairs = list(itertools.product(edges, repeat=2))
        for _ in range(400):
            a, b = (numbers.choice((1, -1)) * numbers.getrandbits(numbers.randint(1, 63)) for _ in "ab")
            pairs.append((a, b))
        pairs = [(a, b) for a, b in pairs if INTEGER_MIN <= a + b <= INTEGER_MAX]
        sums = [a + b for a, b in pairs]
        replies = ns.execute(*(step for a, b in pairs for step in (Set("n", b"%d" % a), IncrBy("n", b), Get("n"))))
        assert replies[1::3] == sums
        assert replies[2::3] == [b"%d" % total for total in sums]
        fields = {f"f{number}": b"%d" % a for number, (a, _) in enumerate(pairs)}
        increments = {f"f{number}": b for number, (_, b) in enumerate(pairs)}
        replies = ns.execute(HSet("h", fields), HIncrBy("h", increments), HGetAll("h"))
        assert exactly(replies[1]) == exactly(dict(zip(fields, sums, strict=True)))
        assert replies[2] == {field: b"%d" % total for field, total in replies[1].items()}

    @pytest.mark.parametrize(("edge", "step"), [(INTEGER_MAX, 1), (INTEGER_MIN, -1)], ids=["above", "below"])
    def test_a_counter_stops_exactly_at_the_end_of_64_bits(self, ns: Namespace, edge: int, step: int) -> None:
        assert ns.incr("n", edge - step) == edge - step
        assert ns.incr("n", step) == edge
        assert ns.hincrby("h", {"f": edge - step}) == {"f": edge - step}
        assert ns.hincrby("h", {"f": step}) == {"f": edge}
        for by in (step, 2 * step, edge):
            with pytest.raises(CounterOverflowError) as caught:
                ns.incr("n", by)
            assert (caught.value.key, caught.value.field) == ("n", None)
            with pytest.raises(CounterOverflowError) as caught:
                ns.hincrby("h", {"other": 1, "f": by})
            assert (caught.value.key, caught.value.field) == ("h", "f")
        assert ns.execute(Get("n"), HGetAll("h")) == [b"%d" % edge, {"f": b"%d" % edge}]
        assert ns.incr("n", -step) == edge - step
        assert ns.hincrby("h", {"f": -step}) == {"f": edge - step}

    def test_the_ends_of_64_bits_cancel_out(self, ns: Namespace) -> None:
        assert ns.incr("n", INTEGER_MIN) == INTEGER_MIN
        assert ns.incr("n", INTEGER_MAX) == -1
        assert ns.hincrby("h", {"f": INTEGER_MAX}) == {"f": INTEGER_MAX}
        assert ns.hincrby("h", {"f": INTEGER_MIN}) == {"f": -1}

    def test_several_increments_of_one_batch_must_each_stay_within_64_bits(self, ns: Namespace) -> None:
        assert ns.execute(IncrBy("n", INTEGER_MAX), IncrBy("n", -1), IncrBy("n", 1))[2] == INTEGER_MAX
        assert ns.execute(HIncrBy("h", {"f": INTEGER_MAX - 1}), HIncrBy("h", {"f": 1}))[1] == {"f": INTEGER_MAX}
        for operations in (
            (IncrBy("n", -1), IncrBy("n", 1), IncrBy("n", 1)),
            (IncrBy("n", 1), IncrBy("n", -1)),
            (IncrBy("m", INTEGER_MAX), IncrBy("m", 1)),
            (HIncrBy("h", {"f": -1}), HIncrBy("h", {"f": 2})),
            (HIncrBy("h", {"g": INTEGER_MIN}), HIncrBy("h", {"g": -1, "f": -5})),
        ):
            with pytest.raises(CounterOverflowError):
                ns.execute(*operations)
        assert ns.execute(Get("n"), Get("m"), HGetAll("h")) == [b"%d" % INTEGER_MAX, None, {"f": b"%d" % INTEGER_MAX}]

    def test_an_increment_counts_on_from_what_its_batch_did_before(self, ns: Namespace) -> None:
        full, word = b"%d" % INTEGER_MAX, b"word"
        ns.execute(Set("full", full), Set("word", word), HSet("h", {"full": full, "word": word, "n": b"1"}))
        for operations, reply in (
            ((Set("full", b"1"), IncrBy("full")), 2),
            ((Delete("full"), IncrBy("full")), 1),
            ((Delete("word"), IncrBy("word")), 1),
            ((Set("word", b"5"), IncrBy("word")), 6),
            ((HSet("h", {"full": b"2"}), HIncrBy("h", {"full": 1})), {"full": 3}),
            ((HDel("h", ["full"]), HIncrBy("h", {"full": 1, "n": 1})), {"full": 1, "n": 2}),
            ((HDel("h", ["word", "full", "n"]), HIncrBy("h", {"word": 1})), {"word": 1}),
            ((Delete("h"), HIncrBy("h", {"full": 1, "n": 7, "word": 2})), {"full": 1, "n": 7, "word": 2}),
            ((Set("h", b"1"), Delete("h"), HIncrBy("h", {"word": 2})), {"word": 2}),
            ((Delete("h"), IncrBy("h", 3)), 3),
            ((Delete("h"), HSet("h", {"n": b"5"}), HIncrBy("h", {"n": 1, "full": 1})), {"n": 6, "full": 1}),
        ):
            assert exactly(ns.execute(*operations)[-1]) == exactly(reply), operations
            ns.execute(Set("full", full), Set("word", word), Delete("h"))
            ns.hset("h", {"full": full, "word": word, "n": b"1"})

    def test_an_increment_is_refused_for_what_its_batch_did_before(self, ns: Namespace) -> None:
        ns.execute(Set("n", b"1"), HSet("h", {"n": b"1"}))
        before = contents(ns)
        full, word = b"%d" % INTEGER_MAX, b"word"
        for error, operations in (
            (CounterError, (Set("n", word), IncrBy("n"))),
            (CounterOverflowError, (Set("n", full), IncrBy("n"))),
            (CounterOverflowError, (Set("new", full), IncrBy("new"))),
            (CounterError, (Delete("n"), Set("n", word), IncrBy("n"))),
            (CounterError, (HSet("h", {"n": word}), HIncrBy("h", {"n": 1}))),
            (CounterOverflowError, (HSet("h", {"n": full}), HIncrBy("h", {"n": 1}))),
            (CounterOverflowError, (Delete("h"), HSet("h", {"n": full}), HIncrBy("h", {"n": 1}))),
            (CounterOverflowError, (HDel("h", ["n"]), HIncrBy("h", {"n": INTEGER_MIN}), HIncrBy("h", {"n": -1}))),
            (CounterOverflowError, (HSet("new", {"a": full}), HIncrBy("new", {"b": 1, "a": 1}))),
        ):
            with pytest.raises(CounterError) as caught:
                ns.execute(*operations)
            assert type(caught.value) is error, operations
        assert contents(ns) == before

    @pytest.mark.parametrize("value", NO_INTEGERS, ids=lambda value: repr(value[:25]))
    def test_what_is_no_64_bit_integer_is_not_counted(self, ns: Namespace, value: bytes) -> None:
        ns.execute(Set("k", value), HSet("h", {"f": value, "n": b"1"}))
        with pytest.raises(CounterError) as caught:
            ns.incr("k")
        assert type(caught.value) is CounterError
        assert (caught.value.key, caught.value.field) == ("k", None)
        with pytest.raises(CounterError) as caught:
            ns.hincrby("h", {"n": 1, "f": 0})
        assert type(caught.value) is CounterError
        assert (caught.value.key, caught.value.field) == ("h", "f")
        assert ns.execute(Get("k"), HGetAll("h")) == [value, {"f": value, "n": b"1"}]

    @pytest.mark.parametrize("by", [INTEGER_MAX + 1, INTEGER_MIN - 1, 1.0, "1", True, None])
    def test_what_is_no_64_bit_integer_is_not_added(self, ns: Namespace, by: Any) -> None:
        with pytest.raises(ArgumentError):
            ns.incr("n", by)
        with pytest.raises(ArgumentError):
            ns.hincrby("h", {"f": 1, "g": by})
        assert list(ns.keys()) == []
