"""Batches: all of it or none, and once."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from datetime import timedelta
from typing import ClassVar, Final

import pytest

from empathy_kv.errors import (
    ArgumentError,
    CheckError,
    CounterError,
    CounterOverflowError,
    EmpathyKVError,
    NotApplied,
    TokenError,
    WrongTypeError,
)
from empathy_kv.kv.interface import KV, Namespace
from empathy_kv.kv.operations import (
    INTEGER_MAX,
    INTEGER_MIN,
    TOKEN_AHEAD,
    TOKEN_LIFE,
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
    Operation,
    Set,
    Settle,
    Token,
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
from empathy_kv.testing.conformance.suite import ALL_BYTES, Suite, Writer, contents, exactly, together

FAILURES: Final[dict[str, tuple[type[EmpathyKVError], tuple[Operation, ...], tuple[Check, ...]]]] = {
    "a check of presence": (CheckError, (), (Check("absent"),)),
    "a check of absence": (CheckError, (), (Check("hash", 0),)),
    "a check of a version": (CheckError, (), (Check("text", 10**15),)),
    "a check of a version of what is absent": (CheckError, (), (Check("absent", 1),)),
    "a check of a member": (CheckError, (), (Check("zset", 0, b"m"),)),
    "the last of many checks": (CheckError, (), (Check("text"), Check("hash"), Check("zset", None, b"m"), Check("no"))),
    "a check of the version of a hash": (WrongTypeError, (), (Check("hash", 1),)),
    "a check of a member of a hash": (WrongTypeError, (), (Check("hash", 0, b"n"),)),
    "a check of a member of a value": (WrongTypeError, (), (Check("text", None, b"a"),)),
    "a read of another kind": (WrongTypeError, (Get("hash"),), ()),
    "a write on another kind": (WrongTypeError, (ZAdd("text", {b"m": 1}),), ()),
    "another kind, made in the batch": (WrongTypeError, (HGetAll("new"),), ()),
    "another kind, emptied in the batch": (WrongTypeError, (ZTrim("zset", 0), HSet("zset", {"f": b"1"})), ()),
    "a value that is no integer": (CounterError, (IncrBy("text"),), ()),
    "a field that is no integer": (CounterError, (HIncrBy("hash", {"n": 1, "word": 1}),), ()),
    "a value set in the batch that is no integer": (CounterError, (Set("number", b"x"), IncrBy("number")), ()),
    "a value that overflows": (CounterOverflowError, (IncrBy("full"),), ()),
    "a field that overflows": (CounterOverflowError, (HIncrBy("hash", {"n": 1, "full": 1, "m": 1}),), ()),
    "a second increment that overflows": (CounterOverflowError, (IncrBy("full", -1), IncrBy("full", 2)), ()),
    "an append without a next score": (
        CounterOverflowError,
        (ZAdd("full zset", {b"m": 2.0**53}), ZAppend("full zset", [b"n"])),
        (),
    ),
    "a counter that goes below": (CounterOverflowError, (HIncrBy("hash", {"empty": INTEGER_MIN, "least": -1}),), ()),
}
"""What a batch is refused for; each stands at its end."""


class Several(Suite):
    def test_several_batches_are_answered_in_order(self, kv: KV) -> None:
        for number in range(5):
            ns = kv.namespace("several", str(number))
            ns.execute(Set("k", b"%d" % number), HSet("h", {"f": b"%d" % number}), ZAdd("z", {b"m": float(number)}))
        batches = [
            batch
            for number in range(6)
            for batch in (
                Batch(("several", str(number)), (Get("k"), HGetAll("h"), ZRange("z"))),
                Batch(("several", str(number)), (Get("k"), Get("absent"))),
                Batch(("several", str(number)), (Get("k"),)),
                Batch(("several", str(number)), ()),
            )
        ]
        assert kv.several(batches) == [kv.execute(batch) for batch in batches]
        assert kv.several(batches)[4] == [b"1", {"f": b"1"}, [(b"m", 1.0)]]
        assert kv.several([]) == []

    def test_what_cannot_be_read_in_one_of_several_raises_as_alone(self, kv: KV, ns: Namespace) -> None:
        ns.execute(HSet("h", {"f": b"1"}), Set("k", b"1"))
        for wrong in (Get("h"), ZRange("k"), HGetAll("k")):
            with pytest.raises(WrongTypeError) as caught:
                kv.several([Batch(ns.name, (Get("k"),)), Batch(ns.name, (Get("k"), wrong))])
            assert caught.value.key == wrong.key

    def test_a_token_that_an_engine_gives_is_for_one_write(self, kv: KV, ns: Namespace) -> None:
        token, other = kv.token(*ns.name), kv.token(*ns.name)
        assert token != other
        batch = Batch(ns.name, (IncrBy("n"),), (), token)
        assert kv.execute(batch) == kv.execute(batch) == [1]
        assert (kv.settle(token), kv.settle(other)) == (True, False)
        assert ns.get("n") == b"1"


class Atomicity(Suite):
    def fill(self, ns: Namespace) -> None:
        """Write keys of every kind."""
        ns.execute(
            Set("text", b"a text"),
            Set("number", b"5", 60),
            Set("full", b"%d" % INTEGER_MAX),
            HSet(
                "hash",
                {"n": b"1", "word": b"word", "full": b"%d" % INTEGER_MAX, "least": b"%d" % INTEGER_MIN},
            ),
            ZAdd("zset", {b"m": 1.0, b"n": 2.0, b"o": 2.0}),
            HSet("other hash", {"f": b"1"}),
            ZAdd("other zset", {b"m": 1.0}),
        )

    def changes(self) -> tuple[Operation, ...]:
        """Return operations of every class that writes; each changes something in what `fill` wrote."""
        return (
            Set("new", b"1"),
            Set("text", b"9"),
            Set("other hash", b"replaced"),
            IncrBy("number", 3),
            IncrBy("new counter"),
            HSet("hash", {"n": b"100", "added": b"1"}),
            HIncrBy("hash", {"m": 4}),
            HDel("hash", ["m"]),
            HSet("new hash", {"f": b"1"}),
            ZAdd("zset", {b"m": 9.0, b"p": 0.5}),
            ZAppend("zset", [b"q"]),
            ZRem("zset", [b"n"]),
            ZTrim("zset", 2),
            ZAppend("new zset", [b"a"]),
            Expire("full", 100),
            Expire("number", None),
            Delete("other zset"),
        )

    @pytest.mark.parametrize("failure", FAILURES)
    def test_a_refused_batch_leaves_everything_as_it_was(self, ns: Namespace, writer: Writer, failure: str) -> None:
        error, last, checks = FAILURES[failure]
        # The failing operations must meet what `fill` wrote, or a key that the batch made.
        first = [operation for operation in self.changes() if not any(operation.key == bad.key for bad in last)]
        if failure == "another kind, made in the batch":
            first.append(Set("new", b"1"))
        self.fill(ns)
        step = ns.set("step", b"1")
        step = ns.set("step", b"2") - step
        before, version = contents(ns), ns.version("step")
        token = writer.token()
        with pytest.raises(NotApplied) as caught:
            ns.execute(*first, *last, checks=checks, token=token)
        assert type(caught.value) is error
        with pytest.raises(error):
            ns.execute(*first, *last, checks=checks)
        assert contents(ns) == before
        # Not even the revision of the namespace tells of it.
        assert ns.set("step", b"3") - version == step
        # And its token was not used up.
        ns.execute(*self.changes(), token=token)
        assert contents(ns) != before

    def test_the_same_batch_without_a_failure_does_all_of_it(self, ns: Namespace) -> None:
        self.fill(ns)
        ns.execute(*self.changes())
        found = {key: (kind, content, expires) for key, (kind, content, _, expires) in contents(ns).items()}
        full, least = b"%d" % INTEGER_MAX, b"%d" % INTEGER_MIN
        assert found == {
            "text": ("string", b"9", False),
            "number": ("string", b"8", False),
            "full": ("string", full, True),
            "hash": (
                "hash",
                {"n": b"100", "word": b"word", "full": full, "least": least, "added": b"1"},
                False,
            ),
            "zset": ("zset", [(b"m", 9.0), (b"q", 10.0)], False),
            "other hash": ("string", b"replaced", False),
            "new": ("string", b"1", False),
            "new counter": ("string", b"1", False),
            "new hash": ("hash", {"f": b"1"}, False),
            "new zset": ("zset", [(b"a", 1.0)], False),
        }

    def test_a_refused_batch_makes_no_namespace(self, kv: KV) -> None:
        other = kv.namespace("conformance", "other")
        with pytest.raises(CheckError):
            other.execute(Set("k", b"1"), checks=[Check("k")])
        assert list(other.keys()) == []
        assert other.get("k") is None

    def test_the_first_reason_counts(self, ns: Namespace) -> None:
        ns.execute(Set("text", b"x"), HSet("hash", {"f": b"1"}))
        with pytest.raises(CheckError) as check:
            ns.execute(HGetAll("text"), checks=[Check("text"), Check("first"), Check("second")])
        assert check.value.key == "first"
        with pytest.raises(CounterError):
            ns.execute(IncrBy("text"), Get("hash"))
        with pytest.raises(WrongTypeError):
            ns.execute(Get("hash"), IncrBy("text"))

    def test_readers_never_see_half_of_a_batch(self, ns: Namespace) -> None:
        done = threading.Event()

        def write() -> None:
            try:
                for number in range(150):
                    value = b"%d" % number
                    ns.execute(
                        Set("a", value), HSet("h", {"a": value, "b": value}), Set("b", value), ZAppend("z", [value])
                    )
            finally:
                done.set()

        def read() -> int:
            seen = set()
            while not done.is_set():
                a, fields, b, count = ns.execute(Get("a"), HGetAll("h"), Get("b"), ZCard("z"))
                assert {a, b, fields.get("a"), fields.get("b")} == {a}
                assert count == (0 if a is None else int(a) + 1)
                fields = ns.hgetall("h")
                assert fields.get("a") == fields.get("b")
                seen.add(a)
            return len(seen)

        together(write, read, read, read)
        assert ns.execute(Get("a"), Get("b"), ZCard("z")) == [b"149", b"149", 150]

    def test_increments_of_many_threads_are_all_counted(self, ns: Namespace) -> None:
        def count() -> list[int]:
            sums = []
            for _ in range(200):
                total, fields, _ = ns.execute(IncrBy("n"), HIncrBy("h", {"f": 1, "g": 2}), ZAppend("z", [b"m"]))
                assert fields == {"f": total, "g": 2 * total}
                sums.append(total)
            return sums

        sums = together(*[count] * 8)
        assert sorted(itertools.chain(*sums)) == list(range(1, 1601))
        assert ns.execute(Get("n"), HGetAll("h")) == [b"1600", {"f": b"1600", "g": b"3200"}]
        assert ns.zrange("z") == [(b"m", 1600.0)]

    def test_threads_that_write_namespaces_of_their_own_do_not_meet(self, kv: KV) -> None:
        def count(number: int) -> int:
            ns = kv.namespace("threads", str(number))
            for _ in range(40):
                ns.incr("n", number)
            assert list(ns.keys()) == ["n"]
            return int(ns.get("n") or b"0")

        assert together(*(lambda number=number: count(number) for number in range(8))) == [40 * n for n in range(8)]


class Tokens(Suite):
    WRITES: ClassVar[tuple[Operation, ...]] = (
        IncrBy("n", 3),
        HIncrBy("h", {"f": INTEGER_MAX - 7, "g": -(2**53) - 1}),
        ZAppend("z", [b"m", ALL_BYTES]),
        ZAdd("z", {b"tenth": 0.1, b"least": 5e-324, b"huge": 1e308}),
        Set("k", ALL_BYTES),
        Set("empty", b""),
        Expire("k", 60),
        Get("k"),
        Get("empty"),
        Get("absent"),
        TTL("n"),
        Version("k"),
        HGet("h", "f"),
        HGet("h", "absent"),
        HGetAll("h"),
        HGetAll("absent"),
        ZRange("z"),
        ZRangeByScore("z", 5, -5),
        ZScore("z", b"least"),
        ZScore("z", b"absent"),
        ZCard("z"),
        Delete("empty"),
        Delete("empty"),
        Exists("n"),
    )

    def test_the_same_token_twice_applies_once_and_gives_the_same_replies(self, ns: Namespace, writer: Writer) -> None:
        token = writer.token()
        first = ns.execute(*self.WRITES, token=token)
        before = contents(ns)
        for _ in range(3):
            assert exactly(ns.execute(*self.WRITES, token=token)) == exactly(first)
        assert contents(ns) == before
        assert ns.get("n") == b"3"

    def test_the_first_replies_come_whatever_happened_since(self, ns: Namespace, writer: Writer) -> None:
        ns.set("n", b"5")
        token = writer.token()
        checks = [Check("new", 0), Check("n", ns.version("n"))]
        first = ns.execute(Set("new", b"1"), IncrBy("n"), Get("new"), checks=checks, token=token)
        assert first[1:] == [6, b"1"]
        ns.incr("n")
        ns.set("new", b"2")
        assert ns.execute(Set("new", b"1"), IncrBy("n"), Get("new"), checks=checks, token=token) == first
        ns.delete("new")
        ns.execute(Delete("n"), HSet("n", {"of": b"another kind"}))
        before = contents(ns)
        assert ns.execute(Set("new", b"1"), IncrBy("n"), Get("new"), checks=checks, token=token) == first
        assert contents(ns) == before

    def test_a_token_with_other_content_is_refused(self, ns: Namespace, writer: Writer) -> None:
        token = writer.token()
        ns.execute(Set("a", b"1"), HSet("h", {"f": b"12"}), token=token)
        before = contents(ns)
        for operations, checks in (
            ((Set("a", b"2"), HSet("h", {"f": b"12"})), ()),
            ((Set("b", b"1"), HSet("h", {"f": b"12"})), ()),
            ((Set("a", b"1", 60), HSet("h", {"f": b"12"})), ()),
            ((Set("a", b"1"), HSet("h", {"f1": b"2"})), ()),
            ((HSet("h", {"f": b"12"}), Set("a", b"1")), ()),
            ((Set("a", b"1"),), ()),
            ((Set("a", b"1"), HSet("h", {"f": b"12"}), Delete("c")), ()),
            ((Set("a", b"1"), HSet("h", {"f": b"12"})), (Check("a"),)),
        ):
            with pytest.raises(TokenError):
                ns.execute(*operations, checks=checks, token=token)
        assert contents(ns) == before
        assert ns.execute(Set("a", b"1"), HSet("h", {"f": b"12"}), token=token)[1] == 1

    def test_the_same_content_in_another_form_gives_the_first_replies(self, ns: Namespace, writer: Writer) -> None:
        forms: dict[str, tuple[Operation, Operation]] = {
            "fields": (HSet("h", {"a": b"1", "b": b"2", "é": b""}), HSet("h", {"é": b"", "b": b"2", "a": b"1"})),
            "increments": (HIncrBy("i", {"a": 1, "b": -2, "c": 0}), HIncrBy("i", {"c": 0, "b": -2, "a": 1})),
            "members": (ZAdd("z", {b"a": 1, b"b": 2.0}), ZAdd("z", {b"b": 2, b"a": 1.0})),
            "zeros": (ZAdd("zeros", {b"a": 0.0, b"b": -0.0}), ZAdd("zeros", {b"a": -0.0, b"b": 0})),
            "fields to remove": (HDel("h", ["a", "b"]), HDel("h", ["b", "a", "b"])),
            "members to remove": (ZRem("z", [b"b", b"a"]), ZRem("z", [b"a", b"b"])),
            "a time to live": (Set("k", b"1", 60.0011), Set("k", b"1", 60.0012)),
            "a time to live, as an interval": (Set("k", b"1", 16.1), Set("k", b"1", timedelta(seconds=16.1))),
            "another time to live": (Expire("k", 3600), Expire("k", 3599.99991)),
            "a range": (ZRangeByScore("z", 0.0, 5), ZRangeByScore("z", -0.0, 5.0)),
        }
        for name, (first, second) in forms.items():
            token = writer.token()
            replies = ns.execute(IncrBy("n"), first, token=token)
            before = contents(ns)
            assert exactly(ns.execute(IncrBy("n"), second, token=token)) == exactly(replies), name
            assert contents(ns) == before, name
        assert ns.get("n") == b"%d" % len(forms)

    def test_a_little_other_content_is_refused(self, ns: Namespace, writer: Writer) -> None:
        for first, second in (
            (HSet("h", {"a": b"1", "b": b"2"}), HSet("h", {"a": b"2", "b": b"1"})),
            (HIncrBy("i", {"a": 1, "b": 2}), HIncrBy("i", {"a": 2, "b": 1})),
            (HIncrBy("i", {"a": 1}), HIncrBy("i", {"a": 1, "b": 0})),
            (ZAdd("z", {b"a": 0.0}), ZAdd("z", {b"a": 5e-324})),
            (ZAdd("z", {b"a": 1}), ZAdd("z", {b"a": 1}, "GT")),
            (ZAppend("z", [b"a", b"b"]), ZAppend("z", [b"b", b"a"])),
            (HDel("h", ["a", "b"]), HDel("h", ["a"])),
            (ZRem("z", [b"a", b"b"]), ZRem("z", [b"a", b"c"])),
            (Set("k", b"1", 60.001), Set("k", b"1", 60.002)),
            (Set("k", b"1", 60), Set("k", b"1")),
            (Expire("k", 60.001), Expire("k", 60.0011)),
            (IncrBy("n"), IncrBy("n", 2)),
        ):
            token = writer.token()
            ns.execute(first, token=token)
            before = contents(ns)
            with pytest.raises(TokenError):
                ns.execute(second, token=token)
            assert contents(ns) == before

    def test_a_settled_token_tells_whether_it_was_applied(self, kv: KV, ns: Namespace, writer: Writer) -> None:
        done, never = writer.token(slot=1), writer.token(slot=2)
        ns.execute(IncrBy("n"), token=done)
        for _ in range(2):
            assert exactly(kv.settle(done)) == exactly(True)
            assert exactly(kv.settle(never)) == exactly(False)
        assert exactly(kv.execute(Batch(ns.name, (Settle(done),)))) == exactly([True])
        assert ns.execute(IncrBy("n"), token=done) == [1]

    def test_a_token_that_was_settled_as_not_applied_is_void(self, kv: KV, ns: Namespace, writer: Writer) -> None:
        token = writer.token()
        assert kv.settle(token) is False
        for _ in range(2):
            with pytest.raises(TokenError):
                ns.execute(Set("k", b"1"), token=token)
        assert kv.settle(token) is False
        assert list(ns.keys()) == []
        assert ns.execute(IncrBy("n"), token=writer.token()) == [1]

    def test_settling_changes_no_key_and_no_version(self, kv: KV, ns: Namespace, writer: Writer) -> None:
        first, second = ns.set("k", b"1"), ns.set("k", b"2")
        before = contents(ns)
        kv.settle(writer.token())
        assert contents(ns) == before
        assert ns.set("k", b"3") - second == second - first

    def test_a_token_of_a_namespace_that_is_not_there_can_be_settled(self, kv: KV) -> None:
        other = kv.namespace("conformance", "nothing here")
        token = Writer(other.name).token()
        assert kv.settle(token) is False
        assert list(other.keys()) == []
        with pytest.raises(TokenError):
            other.execute(Set("k", b"1"), token=token)

    def test_a_token_is_settled_by_its_text(self, kv: KV) -> None:
        for name in (("conformance",), ("a/b", "~", "~1/"), ("a", "b/c"), ("\n\0-1-", "é😀"), ("-", "/", "//")):
            ns = kv.namespace(*name)
            token = Writer(name).token()
            assert Token.parse(str(token)) == token
            ns.execute(IncrBy("n"), token=token)
            assert kv.settle(str(token)) is True
            assert kv.settle(str(Writer(name).token())) is False
            assert ns.execute(IncrBy("n"), token=Token.parse(str(token))) == [1]

    def test_a_text_that_is_no_token_is_refused(self, kv: KV) -> None:
        for text in ("", "x", "0123456789abcdef-1-1-1-", "0123456789abcdef-1-1--a", "0123456789ABCDEF-1-1-1-a"):
            with pytest.raises(ArgumentError):
                kv.settle(text)

    def test_a_refused_batch_does_not_use_up_its_token(self, kv: KV, ns: Namespace, writer: Writer) -> None:
        token = writer.token()
        with pytest.raises(CheckError):
            ns.execute(Set("k", b"1"), checks=[Check("gate")], token=token)
        ns.set("gate", b"open")
        ns.execute(Set("k", b"1"), checks=[Check("gate")], token=token)
        ns.delete("gate")
        ns.execute(Set("k", b"1"), checks=[Check("gate")], token=token)
        refused = writer.token()
        with pytest.raises(CheckError):
            ns.execute(Set("k", b"2"), checks=[Check("gate")], token=refused)
        assert kv.settle(refused) is False

    def test_a_token_is_refused_once_its_slot_went_on(self, kv: KV, ns: Namespace, writer: Writer) -> None:
        old, new = writer.token(), writer.token()
        ns.execute(IncrBy("n"), token=old)
        ns.execute(IncrBy("n"), token=new)
        with pytest.raises(TokenError):
            ns.execute(IncrBy("n"), token=old)
        with pytest.raises(TokenError):
            kv.settle(old)
        assert ns.execute(IncrBy("n"), token=new) == [2]
        assert ns.get("n") == b"2"

    def test_a_token_that_never_arrived_is_refused_once_its_slot_went_on(self, kv: KV, ns: Namespace) -> None:
        writer = Writer(ns.name)
        lost, new = writer.token(), writer.token()
        ns.execute(IncrBy("n"), token=new)
        with pytest.raises(TokenError):
            ns.execute(IncrBy("n"), token=lost)
        with pytest.raises(TokenError):
            kv.settle(lost)
        assert ns.get("n") == b"1"

    def test_slots_and_writers_go_on_by_themselves(self, kv: KV, ns: Namespace) -> None:
        writers = [Writer(ns.name) for _ in range(3)]
        tokens = [writer.token(slot=slot, sequence=9 - slot) for writer in writers for slot in (0, 1, 7)]
        assert [ns.execute(IncrBy("n"), token=token)[0] for token in tokens] == list(range(1, 10))
        assert [ns.execute(IncrBy("n"), token=token)[0] for token in tokens] == list(range(1, 10))
        assert [kv.settle(token) for token in tokens] == [True] * 9
        assert ns.get("n") == b"9"

    def test_sequences_may_have_gaps_and_be_large(self, ns: Namespace, writer: Writer) -> None:
        for number, sequence in enumerate((5, 6, 1000, 10**15, 10**15 + 1), 1):
            token = writer.token(sequence=sequence)
            assert ns.execute(IncrBy("n"), token=token) == [number]
            assert ns.execute(IncrBy("n"), token=token) == [number]

    @pytest.mark.parametrize("sequence", [2**53, 10**18 - 2])
    def test_two_large_sequences_are_not_taken_for_one(self, ns: Namespace, writer: Writer, sequence: int) -> None:
        try:
            first, second = (writer.token(sequence=number) for number in (sequence, sequence + 1))
        except ArgumentError:
            return  # There are no such tokens.
        assert ns.execute(IncrBy("n"), token=first) == [1]
        assert ns.execute(IncrBy("n"), token=second) == [2]

    def test_a_token_is_refused_when_it_is_too_old(self, kv: KV, ns: Namespace, writer: Writer) -> None:
        life = TOKEN_LIFE / 1000
        with pytest.raises(TokenError):
            ns.execute(IncrBy("n"), token=writer.token(slot=0, age=life + 1))
        with pytest.raises(TokenError):
            kv.settle(writer.token(slot=1, age=life + 1))
        assert list(ns.keys()) == []
        young = writer.token(slot=2, age=life - 60)
        assert ns.execute(IncrBy("n"), token=young) == [1]
        assert ns.execute(IncrBy("n"), token=young) == [1]
        assert kv.settle(writer.token(slot=3, age=life - 60)) is False

    def test_a_token_from_too_far_ahead_is_refused(self, kv: KV, ns: Namespace, writer: Writer) -> None:
        # It could be used for longer than its slot is remembered, and so twice.
        ahead = TOKEN_AHEAD / 1000
        for token in (writer.token(slot=0, age=-ahead - 60), writer.token(slot=1, age=-1e9)):
            with pytest.raises(TokenError):
                ns.execute(IncrBy("n"), token=token)
            with pytest.raises(TokenError):
                kv.settle(token)
        assert list(ns.keys()) == []
        near = writer.token(slot=2, age=-ahead + 60)
        assert ns.execute(IncrBy("n"), token=near) == [1]
        assert ns.execute(IncrBy("n"), token=near) == [1]
        assert kv.settle(near) is True
        assert kv.settle(writer.token(slot=3, age=-ahead + 60)) is False

    def test_a_token_does_not_fit_a_batch_that_only_reads(self, ns: Namespace, writer: Writer) -> None:
        token = writer.token()
        for operations, checks in (((Get("k"), TTL("k")), ()), ((), ()), ((), (Check("k", 0),))):
            with pytest.raises(ArgumentError) as caught:
                ns.execute(*operations, checks=checks, token=token)
            assert caught.value.argument == "token"
        assert ns.execute(IncrBy("n"), token=token) == [1]

    def test_a_token_of_one_namespace_does_not_affect_another(self, kv: KV) -> None:
        one, other = kv.namespace("conformance"), kv.namespace("conformance", "x")
        session = secrets.token_hex(8)
        now = time.time_ns() // 1_000_000
        first, second = (Token(ns.name, session, 0, 5, now) for ns in (one, other))
        one.execute(IncrBy("n", 1), token=first)
        assert kv.settle(second) is False
        third = Token(other.name, session, 0, 6, now)
        assert other.execute(IncrBy("n", 2), token=third) == [2]
        assert one.execute(IncrBy("n", 1), token=first) == [1]
        assert kv.settle(first) is True
        assert (one.get("n"), other.get("n")) == (b"1", b"2")

    def test_one_token_in_many_threads_applies_once(self, ns: Namespace, writer: Writer) -> None:
        for _ in range(10):
            token = writer.token()
            replies = together(*[lambda token=token: ns.execute(IncrBy("n"), ZAppend("z", [b"m"]), token=token)] * 6)
            assert replies == [replies[0]] * 6
        assert ns.execute(Get("n"), ZScore("z", b"m")) == [b"10", 10.0]

    def test_changing_a_reply_does_not_change_its_repetition(self, ns: Namespace, writer: Writer) -> None:
        token = writer.token()
        operations = (HIncrBy("h", {"f": 1}), HGetAll("h"), ZAdd("z", {b"m": 1}), ZRange("z"))
        kept = exactly([{"f": 1}, {"f": b"1"}, 1, [(b"m", 1.0)]])
        for _ in range(3):
            replies = ns.execute(*operations, token=token)
            assert exactly(replies) == kept
            replies[0]["f"] = 99
            replies[1].clear()
            replies[3].append((b"x", 1.0))
            del replies[2:]
