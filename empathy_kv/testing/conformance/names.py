"""Names of namespaces and keys, and what is too much."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from empathy_kv.errors import (
    ArgumentError,
    CounterError,
    LimitError,
    WrongTypeError,
)
from empathy_kv.kv.interface import KV, Namespace
from empathy_kv.kv.operations import (
    MAX_KEY,
    MAX_NAME,
    MAX_OPERATIONS,
    MAX_VALUE,
    Batch,
    Check,
    Delete,
    Exists,
    Get,
    HGet,
    HGetAll,
    HIncrBy,
    HSet,
    IncrBy,
    Name,
    Operation,
    Set,
    Settle,
    ZAdd,
    ZRange,
)
from empathy_kv.testing.conformance.suite import READS, SAMPLES, STORABLE, Suite, Writer, shuffler, together
from empathy_kv.testing.hostile import HOSTILE, storable


class Namespaces(Suite):
    SIBLINGS: ClassVar[tuple[Name, ...]] = (
        *(("foo",), ("foobar",), ("foo", "bar"), ("fo", "obar"), ("f", "oobar"), ("FOO",), ("foo ",), ("foo.",)),
        *(("a",), ("a", "b"), ("a", "b", "c"), ("a", "b/c"), ("a/b", "c"), ("a/b/c",), ("a/b",), ("a", "b", "c", "d")),
        *(("a:b",), ("a", "b:c"), ("a:b", "c"), ("a:b:c",), ("a%2Fb",), ("a%2fb",), ("a~1b",), ("a~", "b"), ("a\0b",)),
        *(("{a}",), ("{a", "b}"), ("{a}", "b"), ("a", "*"), ("*",), ("a", ".."), ("..",), ("a", "."), ("a", "..", "a")),
        *(("é",), ("e\u0301",), ("a", "#"), ("a#",), ("#keys",), ("a", "k"), ("a", "keys"), ("a\\b",), ("a|b",)),
        *(("a",) * 3, ("aa", "a"), ("a", "aa"), ("aaa",), ("x" * 256, "y" * 256), ("x" * 512,), ("é" * 256,)),
        *(("a",) * 512, ("a",) * 511, ("/",) * 512, ("/" * 512,), ("\n" * 256, "\0" * 256)),
    )

    def test_a_namespace_is_never_part_of_another(self, kv: KV) -> None:
        spaces = [kv.namespace(*name) for name in self.SIBLINGS]
        for number, ns in enumerate(spaces):
            assert list(ns.keys()) == [], ns
            ns.execute(Set("k", b"%d" % number), HSet("h", {"f": b"%d" % number}), Set(f"own {number}", b""))
        for number, ns in enumerate(spaces):
            assert ns.execute(Get("k"), HGet("h", "f")) == [b"%d" % number] * 2, ns
            assert sorted(ns.keys()) == ["h", "k", f"own {number}"], ns
        for ns in spaces[::2]:
            ns.execute(*(Delete(key) for key in list(ns.keys())))
        for number, ns in enumerate(spaces):
            assert sorted(ns.keys()) == (["h", "k", f"own {number}"] if number % 2 else []), ns
            assert ns.get("k") == (b"%d" % number if number % 2 else None), ns

    def test_a_key_is_never_part_of_a_namespace(self, kv: KV) -> None:
        outer, inner = kv.namespace("a"), kv.namespace("a", "b")
        outer.execute(*(Set(key, b"outer") for key in ("b:c", "b/c", "b", "{a}:b:c", "b\0c", "c")))
        inner.set("c", b"inner")
        assert sorted(inner.keys()) == ["c"]
        inner.delete("c")
        assert len(set(outer.keys())) == 6
        assert set(outer.execute(*map(Get, outer.keys()))) == {b"outer"}

    def test_hostile_names_are_taken_exactly_or_refused(self, kv: KV) -> None:
        spaces = {}
        for text in HOSTILE:
            if storable(text, MAX_NAME):
                spaces[text] = kv.namespace(text)
                spaces[text].set("name", text.encode())
            else:
                with pytest.raises(ArgumentError):
                    kv.namespace(text)
                with pytest.raises(ArgumentError):
                    Batch(("a", text), ())
        for text, ns in spaces.items():
            assert (list(ns.keys()), ns.get("name")) == (["name"], text.encode()), text

    @pytest.mark.parametrize(
        "name",
        [
            (),
            ("",),
            ("a", ""),
            ("x" * 513,),
            ("x" * 256, "x" * 257),
            ("é" * 257,),
            ("a", 1),
            (b"a",),
            (None,),
            ("\ud800",),
        ],
        ids=lambda name: repr(name)[:20],
    )
    def test_a_name_that_cannot_be_is_refused(self, kv: KV, name: Any) -> None:
        with pytest.raises(ArgumentError):
            kv.namespace(*name)
        with pytest.raises(ArgumentError):
            Batch(name, (Set("k", b"1"),))

    def test_asking_a_namespace_that_is_not_there_makes_none(self, kv: KV) -> None:
        ns = kv.namespace("conformance", "nothing")
        assert ns.execute(Get("k"), HGetAll("h"), ZRange("z")) == [None, {}, []]
        assert list(ns.keys()) == []


class HostileTexts(Suite):
    def test_hostile_keys_are_taken_exactly(self, ns: Namespace) -> None:
        expected = {key: key.encode() for key in STORABLE}
        for key, value in expected.items():
            ns.set(key, value)
        assert Counter(ns.keys()) == Counter(STORABLE)
        assert {key: ns.get(key) for key in STORABLE} == expected
        assert ns.execute(*map(Get, STORABLE)) == list(expected.values())

    def test_removing_a_hostile_key_disturbs_no_other(self, ns: Namespace) -> None:
        makes = list(SAMPLES.values())
        ns.execute(*(makes[number % 3](key) for number, key in enumerate(STORABLE)))
        assert Counter(ns.keys()) == Counter(STORABLE)
        gone = STORABLE[::2]
        for key in gone:
            assert ns.delete(key) is True, key
            assert ns.delete(key) is False, key
        stays = STORABLE[1::2]
        assert Counter(ns.keys()) == Counter(stays)
        reads = list(READS.values())
        found = ns.execute(*(reads[number % 3](key) for number, key in enumerate(STORABLE) if number % 2))
        answers = [b"7", {"f": b"7"}, [(b"m", 7.0)]]
        assert found == [answers[number % 3] for number in range(len(STORABLE)) if number % 2]
        assert ns.execute(*(Exists(key) for key in gone)) == [False] * len(gone)

    def test_hostile_keys_count_and_have_versions_of_their_own(self, ns: Namespace) -> None:
        for key in STORABLE[:60]:
            assert ns.execute(IncrBy(key, 2), checks=[Check(key, 0)]) == [2], key
        for key in STORABLE[:60]:
            version = ns.version(key)
            assert ns.set(key, b"x", expected_version=version) > version, key

    def test_hostile_fields_are_taken_exactly(self, ns: Namespace) -> None:
        fields = {field: field.encode() for field in STORABLE}
        assert ns.hset("h", fields) == len(fields)
        assert ns.hgetall("h") == fields
        assert ns.execute(*(HGet("h", field) for field in fields)) == list(fields.values())
        assert ns.hincrby("n", dict.fromkeys(STORABLE, 3)) == dict.fromkeys(STORABLE, 3)
        gone = STORABLE[::2]
        assert ns.hdel("h", *gone) == len(gone)
        assert ns.hgetall("h") == {field: field.encode() for field in STORABLE[1::2]}

    def test_hostile_members_are_taken_exactly(self, ns: Namespace) -> None:
        members = {text.encode("utf-8", "surrogatepass")[:5000]: float(number) for number, text in enumerate(HOSTILE)}
        ns.zadd("z", members)
        assert dict(ns.zrange("z")) == members

    def test_other_texts_are_refused_at_once(self, ns: Namespace) -> None:
        refused = [text for text in HOSTILE if not storable(text)]
        assert len(refused) > 10
        for text in (*refused, None, b"bytes", 7, ("a",)):
            with pytest.raises(ArgumentError):
                ns.set(text, b"1")  # type: ignore[arg-type]
            with pytest.raises(ArgumentError):
                ns.get(text)  # type: ignore[arg-type]
            with pytest.raises(ArgumentError):
                Check(text)  # type: ignore[arg-type]
            with pytest.raises(ArgumentError):
                ns.hset("h", {"good": b"1", text: b"1"})  # type: ignore[dict-item]
            with pytest.raises(ArgumentError):
                ns.hget("h", text)  # type: ignore[arg-type]
        assert list(ns.keys()) == []

    def test_errors_name_hostile_keys(self, ns: Namespace) -> None:
        for key in STORABLE[:60]:
            ns.hset(key, {key: b"word"})
            with pytest.raises(WrongTypeError) as wrong:
                ns.incr(key)
            assert wrong.value.key == key
            with pytest.raises(CounterError) as caught:
                ns.hincrby(key, {key: 1})
            assert (caught.value.key, caught.value.field) == (key, key)


class Keys(Suite):
    def test_a_namespace_that_nothing_was_written_to_has_no_keys(self, ns: Namespace) -> None:
        assert list(ns.keys()) == []

    def test_each_of_many_keys_is_given_once(self, ns: Namespace) -> None:
        expected = [f"key {number}" for number in range(3000)]
        makes = list(SAMPLES.values())
        for start in range(0, 3000, 500):
            ns.execute(*(makes[number % 3](expected[number]) for number in range(start, start + 500)))
        assert Counter(ns.keys()) == Counter(expected)

    def test_keys_that_stay_are_given_once_while_others_come_and_go(self, ns: Namespace) -> None:
        stay = [f"stay {number}" for number in range(1500)]
        go = [f"go {number}" for number in range(1500)]
        ns.execute(*(Set(key, b"1") for key in stay))
        ns.execute(*(Set(key, b"1") for key in go))
        walk = ns.keys()
        found = list(itertools.islice(walk, 10))
        ns.execute(*(Delete(key) for key in go[:1000]))
        found += itertools.islice(walk, 200)
        for start in range(0, 1500, 500):
            ns.execute(*(Set(f"come {number}", b"1") for number in range(start, start + 500)))
            ns.execute(*(IncrBy(key) for key in stay[start : start + 250]))
            found += itertools.islice(walk, 100)
        ns.execute(*(Set(key, b"back") for key in go[:500]), *(Delete(key) for key in go[1000:]))
        found += walk
        counts = Counter(found)
        assert max(counts.values()) == 1
        assert set(stay) <= set(counts)
        assert set(counts) <= {*stay, *go, *(f"come {number}" for number in range(1500))}

    def test_keys_that_stay_are_given_while_threads_write(self, ns: Namespace) -> None:
        stay = {f"stay {number}" for number in range(200)}
        ns.execute(*(Set(key, b"1") for key in stay))
        done = threading.Event()

        def churn(name: str) -> None:
            number = 0
            while not done.is_set():
                made = [Set(f"{name} {number + i}", b"1") for i in range(5)]
                ns.execute(*made, *(Delete(f"{name} {number - 500 + i}") for i in range(5)))
                number += 5

        def walk() -> None:
            try:
                for _ in range(15):
                    counts = Counter(ns.keys())
                    assert stay <= set(counts)
                    assert max(counts.values()) == 1
            finally:
                done.set()

        together(walk, lambda: churn("a"), lambda: churn("b"))

    def test_two_walks_at_once_do_not_disturb_each_other(self, ns: Namespace) -> None:
        ns.execute(*(Set(f"k{number}", b"1") for number in range(50)))
        pairs = list(zip(ns.keys(), ns.keys(), strict=True))
        assert {a for a, _ in pairs} == {b for _, b in pairs} == {f"k{number}" for number in range(50)}

    def test_a_walk_may_be_left_before_its_end(self, ns: Namespace) -> None:
        ns.execute(*(Set(f"k{number}", b"1") for number in range(50)))
        walk = ns.keys()
        next(walk)
        del walk
        ns.set("k50", b"1")
        assert len(list(ns.keys())) == 51


class Limits(Suite):
    def test_a_value_of_a_mebibyte_is_fine(self, ns: Namespace) -> None:
        value = shuffler(1).randbytes(1024 * 1024)
        ns.execute(Set("k", value), HSet("h", {"f": value}), ZAdd("z", {value: 1}))
        assert ns.get("k") == value
        assert ns.hget("h", "f") == value
        assert ns.zrange("z") == [(value, 1.0)]

    def test_a_value_of_the_greatest_length_is_fine(self, ns: Namespace) -> None:
        value = shuffler(2).randbytes(1024) * (MAX_VALUE // 1024)
        assert len(value) == MAX_VALUE
        ns.set("k", value)
        assert ns.get("k") == value

    def test_a_value_beyond_is_refused_at_once(self, ns: Namespace) -> None:
        value = b"x" * (MAX_VALUE + 1)
        for write in (
            lambda: ns.set("k", value),
            lambda: ns.hset("k", {"f": value}),
            lambda: ns.zadd("k", {value: 1}),
            lambda: ns.zappend("k", value),
            lambda: ns.execute(Set("k", b"1"), Set("l", value)),
        ):
            with pytest.raises(LimitError) as caught:
                write()
            assert caught.value.limit == MAX_VALUE
        assert list(ns.keys()) == []

    @pytest.mark.parametrize("value", ["text", 1, None, ["x"], 1.5])
    def test_a_value_that_is_no_bytes_is_refused(self, ns: Namespace, value: Any) -> None:
        with pytest.raises(ArgumentError):
            ns.set("k", value)
        with pytest.raises(ArgumentError):
            ns.hset("k", {"f": value})
        assert list(ns.keys()) == []

    def test_keys_and_fields_of_the_greatest_length_are_fine(self, ns: Namespace) -> None:
        longest = ["x" * MAX_KEY, "é" * (MAX_KEY // 2), "\0" * MAX_KEY, "x" * (MAX_KEY - 1) + "y"]
        for text in longest:
            ns.execute(Set(text, b"1"), HIncrBy("h", {text: 1}))
        assert sorted(ns.keys()) == sorted([*longest, "h"])
        assert ns.hgetall("h") == dict.fromkeys(longest, b"1")
        with pytest.raises(LimitError):
            ns.set("x" * (MAX_KEY + 1), b"1")

    def test_a_batch_of_the_greatest_number_of_operations_is_fine(self, ns: Namespace) -> None:
        replies = ns.execute(*(Set(f"k{number}", b"%d" % number) for number in range(MAX_OPERATIONS)))
        assert set(replies) == {ns.version("k0")}
        keys = [f"k{number}" for number in range(MAX_OPERATIONS)]
        assert ns.execute(*map(Get, keys)) == [b"%d" % number for number in range(MAX_OPERATIONS)]
        assert ns.execute(*map(Delete, keys)) == [True] * MAX_OPERATIONS
        assert list(ns.keys()) == []

    def test_an_operation_of_the_greatest_number_of_elements_is_fine(self, ns: Namespace) -> None:
        fields = {f"f{number}": b"%d" % number for number in range(MAX_OPERATIONS)}
        assert ns.hset("h", fields) == MAX_OPERATIONS
        assert ns.hgetall("h") == fields
        assert ns.hincrby("h", dict.fromkeys(fields, 1)) == {field: int(value) + 1 for field, value in fields.items()}
        assert ns.hdel("h", *fields) == MAX_OPERATIONS
        members = {b"%05d" % number: float(number) for number in range(MAX_OPERATIONS)}
        for only in (None, "NX", "GT", "LT"):
            assert ns.zadd("z", members, only=only) == (MAX_OPERATIONS if only is None else 0)
        assert ns.zrange("z") == list(members.items())
        assert ns.zrem("z", *members) == MAX_OPERATIONS
        assert ns.zappend("z", *members) == float(MAX_OPERATIONS)
        assert [member for member, _ in ns.zrange("z")] == list(members)
        assert ns.ztrim("z", 1) == MAX_OPERATIONS - 1

    def test_more_operations_than_that_are_refused(self, ns: Namespace) -> None:
        with pytest.raises(LimitError):
            ns.execute(*(Set(f"k{number}", b"") for number in range(MAX_OPERATIONS + 1)))
        with pytest.raises(LimitError):
            ns.hset("h", {f"f{number}": b"" for number in range(MAX_OPERATIONS + 1)})
        with pytest.raises(LimitError):
            ns.execute(*[Get("k")] * MAX_OPERATIONS, checks=[Check("k", 0)])
        assert list(ns.keys()) == []

    def test_a_batch_is_refused_for_its_bytes_in_all(self, ns: Namespace) -> None:
        value = b"x" * MAX_VALUE
        with pytest.raises(LimitError):
            ns.execute(*(Set(f"k{number}", value) for number in range(4)), Set("one more", b"x"))
        assert list(ns.keys()) == []

    @pytest.mark.parametrize("make", [HSet, HIncrBy, ZAdd], ids=lambda make: make.__name__)
    @pytest.mark.parametrize("what", [{}, [], None, "f"], ids=repr)
    def test_a_write_of_nothing_is_refused(self, make: Callable[..., Operation], what: Any) -> None:
        with pytest.raises(ArgumentError):
            make("k", what)

    def test_a_question_about_a_token_stands_alone(self, kv: KV, ns: Namespace, writer: Writer) -> None:
        token = writer.token()
        for operations, checks in (
            ((Settle(token), Set("k", b"1")), ()),
            ((Set("k", b"1"), Settle(token)), ()),
            ((Settle(token), Settle(token)), ()),
            ((Settle(token),), (Check("k"),)),
        ):
            with pytest.raises(ArgumentError):
                kv.execute(Batch(ns.name, operations, checks))
        assert list(ns.keys()) == []

    def test_a_token_of_another_namespace_is_refused(self, kv: KV, ns: Namespace) -> None:
        token = Writer(("another",)).token()
        with pytest.raises(ArgumentError):
            kv.execute(Batch(ns.name, (Set("k", b"1"),), (), token))
        with pytest.raises(ArgumentError):
            kv.execute(Batch(ns.name, (Settle(token),)))
        assert list(ns.keys()) == []
