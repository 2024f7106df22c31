"""What is passed in and given out, closing, opening again, and opening at several places."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from empathy_kv.errors import (
    CheckError,
    ClosedError,
    TokenError,
)
from empathy_kv.kv.interface import KV, Namespace
from empathy_kv.kv.operations import (
    INTEGER_MIN,
    MAX_NAME,
    TTL,
    Batch,
    Delete,
    Expire,
    Get,
    HDel,
    HGet,
    HGetAll,
    HIncrBy,
    HSet,
    IncrBy,
    Set,
    ZAdd,
    ZAppend,
    ZCard,
    ZRange,
)
from empathy_kv.testing.conformance.batches import Tokens
from empathy_kv.testing.conformance.suite import (
    SCORES,
    SOON,
    STORABLE,
    VALUES,
    Suite,
    Writer,
    contents,
    exactly,
    together,
)
from empathy_kv.testing.hostile import storable


class Aliasing(Suite):
    def test_changing_what_was_passed_changes_nothing_stored(self, ns: Namespace) -> None:
        value, fields = bytearray(b"abc"), {"f": b"1"}
        increments, members = {"n": 1}, {b"m": 1.0}
        ns.execute(Set("k", value), HSet("h", fields), HIncrBy("i", increments), ZAdd("z", members))  # type: ignore[arg-type]
        value[0:1] = b"X"
        fields["f"] = b"2"
        increments["n"] = 5
        members[b"n"] = 2.0
        assert ns.execute(Get("k"), HGetAll("h"), HGetAll("i"), ZRange("z")) == [
            *(b"abc", {"f": b"1"}, {"n": b"1"}, [(b"m", 1.0)])
        ]

    def test_an_operation_holds_what_was_passed_then(self, ns: Namespace) -> None:
        fields = {"f": b"1"}
        operation = HSet("h", fields)
        fields["g"] = b"2"
        ns.execute(operation)
        assert ns.hgetall("h") == {"f": b"1"}

    def test_an_operation_may_be_used_again(self, ns: Namespace) -> None:
        operation = HSet("h", {"f": b"1"})
        ns.execute(operation)
        ns.hincrby("h", {"f": 1})
        ns.execute(Delete("h"), operation)
        assert ns.hgetall("h") == {"f": b"1"}
        adding = ZAdd("z", {b"m": 1.0})
        ns.execute(adding)
        ns.zappend("z", b"n")
        ns.execute(Delete("z"), adding)
        assert ns.zrange("z") == [(b"m", 1.0)]

    def test_changing_a_reply_changes_nothing_stored(self, ns: Namespace) -> None:
        ns.execute(HSet("h", {"f": b"1"}), ZAdd("z", {b"m": 1.0}))
        for _ in range(2):
            fields, members = ns.hgetall("h"), ns.zrange("z")
            assert (fields, members) == ({"f": b"1"}, [(b"m", 1.0)])
            fields["f"] = b"2"
            fields["g"] = b"3"
            members.clear()
            sums = ns.hincrby("i", {"n": 1})
            sums["n"] = 99
            some = ns.zrangebyscore("z", 0, 9)
            some.append((b"x", 0.0))
        assert ns.execute(HGet("i", "n"), ZCard("z")) == [b"2", 1]


class Closing(Suite):
    def test_closing_twice_is_no_error(self, place: Any) -> None:
        kv = self.open(place)
        kv.namespace("a").set("k", b"1")
        kv.close()
        kv.close()

    def test_what_was_opened_and_never_used_is_closed(self, place: Any) -> None:
        self.open(place).close()

    def test_what_is_closed_cannot_be_used(self, place: Any) -> None:
        kv = self.open(place)
        ns = kv.namespace("a")
        ns.set("k", b"1")
        token = Writer(ns.name).token()
        kv.close()
        for use in (
            lambda: ns.get("k"),
            lambda: ns.execute(Get("k"), HGetAll("h")),
            lambda: ns.set("k", b"2"),
            lambda: kv.execute(Batch(ns.name, (Delete("k"),))),
            lambda: list(ns.keys()),
            lambda: list(kv.keys(("b",))),
            lambda: kv.namespace("b").incr("n"),
            lambda: kv.settle(token),
        ):
            with pytest.raises(ClosedError):
                use()

    def test_a_with_block_closes(self, place: Any) -> None:
        with self.open(place) as kv:
            ns = kv.namespace("a")
            ns.set("k", b"1")
        with pytest.raises(ClosedError):
            ns.get("k")

    def test_closing_while_threads_write_breaks_off_cleanly(self, place: Any) -> None:
        kv = self.open(place)
        ns = kv.namespace("a")

        def write() -> None:
            end = time.monotonic() + 10
            try:
                while time.monotonic() < end:
                    ns.execute(IncrBy("a"), IncrBy("b"))
            except ClosedError:
                return
            pytest.fail("it is still open")

        def close() -> None:
            time.sleep(0.02)
            kv.close()

        together(write, write, write, close)


class Reopening(Suite):
    @pytest.fixture
    def again(self, place: Any, kv: KV) -> Iterator[Callable[[], KV]]:
        """Give a function that closes the engine and opens it again."""
        if not self.reopens:
            pytest.skip("it keeps nothing when it is closed")
        opened = [kv]

        def again() -> KV:
            opened[-1].close()
            opened.append(self.open(place))
            return opened[-1]

        yield again
        opened[-1].close()

    def test_everything_is_there_when_it_is_opened_again(self, ns: Namespace, again: Callable[[], KV]) -> None:
        ns.execute(
            *(Set(f"k{number}", value) for number, value in enumerate(VALUES)),
            *(HSet("h", {f"f{number}": value for number, value in enumerate(VALUES)}), IncrBy("n", INTEGER_MIN)),
            *(ZAdd("z", {b"%d" % number: score for number, score in enumerate(SCORES)}), Expire("h", 60)),
            *(HSet("emptied", {"f": b"1"}), HDel("emptied", ["f"]), Set("gone", b"1"), Delete("gone")),
        )
        ns.zadd("members", dict.fromkeys(VALUES, 1.5))
        before = contents(ns)
        for _ in range(3):
            ns = again().namespace(*ns.name)
            assert exactly(contents(ns)) == exactly(before)
        assert 0 < ns.ttl("h") <= 60  # type: ignore[operator]

    def test_changes_of_what_was_there_before_are_kept_too(self, ns: Namespace, again: Callable[[], KV]) -> None:
        ns.execute(Set("k", b"1"), HSet("h", {"a": b"1", "b": b"1"}), ZAdd("z", {b"a": 1, b"b": 2}), Set("gone", b""))
        ns = again().namespace(*ns.name)
        ns.execute(IncrBy("k"), HIncrBy("h", {"a": 1}), HDel("h", ["b"]), ZAppend("z", [b"a"]), Delete("gone"))
        ns.execute(Expire("z", 60), Set("new", b"1"))
        before = contents(ns)
        ns = again().namespace(*ns.name)
        assert contents(ns) == before
        assert ns.execute(Get("k"), HGetAll("h"), ZRange("z"), Get("gone")) == [
            *(b"2", {"a": b"2"}, [(b"b", 2.0), (b"a", 3.0)], None)
        ]

    def test_time_goes_on_while_it_is_closed(self, ns: Namespace, again: Callable[[], KV]) -> None:
        ns.execute(Set("soon", b"1", SOON), Set("later", b"1", 60), Set("never", b"1", SOON), Expire("never", None))
        ns = again().namespace(*ns.name)
        self.wait()
        assert sorted(ns.keys()) == ["later", "never"]
        assert ns.execute(Get("soon"), TTL("soon"), TTL("never")) == [None, 0.0, None]
        assert 0 < ns.ttl("later") <= 60  # type: ignore[operator]

    def test_versions_go_on_where_they_were(self, ns: Namespace, again: Callable[[], KV]) -> None:
        version = ns.set("k", b"1")
        ns = again().namespace(*ns.name)
        assert ns.version("k") == version
        second = ns.set("k", b"2", expected_version=version)
        assert second > version
        ns.delete("k")
        ns = again().namespace(*ns.name)
        assert list(ns.keys()) == []
        ns = again().namespace(*ns.name)
        assert ns.set("k", b"2") > second
        with pytest.raises(CheckError):
            ns.set("k", b"3", expected_version=second)

    def test_tokens_are_remembered(self, kv: KV, ns: Namespace, writer: Writer, again: Callable[[], KV]) -> None:
        old, done, void = writer.token(), writer.token(), writer.token(slot=1)
        operations = Tokens.WRITES
        ns.execute(Set("x", b"1"), token=old)
        first = ns.execute(*operations, token=done)
        assert kv.settle(void) is False
        before = contents(ns)
        for _ in range(2):
            kv = again()
            ns = kv.namespace(*ns.name)
            assert exactly(ns.execute(*operations, token=done)) == exactly(first)
            assert contents(ns) == before
            assert (kv.settle(str(done)), kv.settle(void)) == (True, False)
            for operation, token in ((IncrBy("n"), done), (Set("x", b"1"), void), (Set("x", b"1"), old)):
                with pytest.raises(TokenError):
                    ns.execute(operation, token=token)
            assert contents(ns) == before

    def test_hostile_names_and_keys_are_there_too(self, kv: KV, ns: Namespace, again: Callable[[], KV]) -> None:
        ns.execute(*(Set(key, key.encode()) for key in STORABLE))
        names = [text for text in STORABLE if storable(text, MAX_NAME)][::4]
        for name in names:
            kv.namespace("hostile", name[:128]).set("name", name.encode())
        kept = {name[:128]: name.encode() for name in names}
        kv = again()
        ns = kv.namespace(*ns.name)
        assert Counter(ns.keys()) == Counter(STORABLE)
        assert ns.execute(*map(Get, STORABLE)) == [key.encode() for key in STORABLE]
        assert {name: kv.namespace("hostile", name).get("name") for name in kept} == kept

    def test_many_keys_are_there_too(self, ns: Namespace, again: Callable[[], KV]) -> None:
        keys = [f"k{number}" for number in range(2000)]
        for number in range(0, 2000, 200):
            ns.execute(*(Set(key, key.encode()) for key in keys[number : number + 200]))
            ns.execute(HIncrBy("h", dict.fromkeys(keys[number : number + 200], number)), ZAppend("z", [b"%d" % number]))
        ns.execute(*map(Delete, keys[::2]))
        ns = again().namespace(*ns.name)
        assert Counter(ns.keys()) == Counter([*keys[1::2], "h", "z"])
        assert ns.execute(*map(Get, keys[1::2])) == [key.encode() for key in keys[1::2]]
        assert (len(ns.hgetall("h")), ns.zcard("z")) == (2000, 10)


class Sharing(Suite):
    @pytest.fixture
    def second(self, place: Any) -> Iterator[KV]:
        """Give the same place, opened a second time."""
        if not self.shares:
            pytest.skip("a place is open only once")
        with self.open(place) as second:
            yield second

    @pytest.fixture
    def other(self, second: KV, ns: Namespace) -> Namespace:
        """Give the same namespace there."""
        return second.namespace(*ns.name)

    def test_each_sees_at_once_what_the_other_wrote(self, ns: Namespace, other: Namespace) -> None:
        for number in range(20):
            ns.set("k", b"%d" % number)
            assert other.get("k") == b"%d" % number
            other.execute(HIncrBy("h", {"f": 1}), Delete("k"))
            assert ns.execute(Get("k"), HGet("h", "f")) == [None, b"%d" % (number + 1)]
            assert list(ns.keys()) == list(other.keys()) == ["h"]
        other.set("last", b"1", ttl=60)
        assert contents(ns) == contents(other)

    def test_versions_are_those_of_the_place(self, ns: Namespace, other: Namespace) -> None:
        version = ns.set("k", b"1")
        second = other.set("k", b"2", expected_version=version)
        assert second > version
        with pytest.raises(CheckError):
            ns.set("k", b"3", expected_version=version)
        other.delete("k")
        with pytest.raises(CheckError):
            ns.set("k", b"3", expected_version=second)

    def test_a_token_is_known_to_all(self, second: KV, ns: Namespace, other: Namespace, writer: Writer) -> None:
        token, void = writer.token(), writer.token(slot=1)
        first = ns.execute(*Tokens.WRITES, token=token)
        assert exactly(other.execute(*Tokens.WRITES, token=token)) == exactly(first)
        assert second.settle(token) is True
        assert second.settle(void) is False
        with pytest.raises(TokenError):
            ns.execute(Set("x", b"1"), token=void)
        assert contents(ns) == contents(other)

    def test_closing_one_leaves_the_other_open(self, place: Any, second: KV, ns: Namespace) -> None:
        ns.set("k", b"1")
        second.namespace(*ns.name).incr("k", 0)
        second.close()
        assert ns.incr("k") == 2
        with self.open(place) as third:
            assert third.namespace(*ns.name).incr("k") == 3
        assert ns.get("k") == b"3"

    def test_increments_of_both_are_all_counted(self, ns: Namespace, other: Namespace) -> None:
        def count(space: Namespace) -> list[int]:
            return [space.execute(IncrBy("n"), HIncrBy("h", {"f": 1}))[0] for _ in range(100)]

        sums = together(*(lambda space=space: count(space) for space in (ns, other, ns, other)))
        assert sorted(itertools.chain(*sums)) == list(range(1, 401))
        assert other.execute(Get("n"), HGetAll("h")) == [b"400", {"f": b"400"}]

    def test_readers_of_the_one_never_see_half_of_a_batch_of_the_other(self, ns: Namespace, other: Namespace) -> None:
        done = threading.Event()

        def write() -> None:
            try:
                for number in range(100):
                    ns.execute(Set("a", b"%d" % number), HSet("h", {"f": b"%d" % number}), Set("b", b"%d" % number))
            finally:
                done.set()

        def read() -> None:
            while not done.is_set():
                a, f, b = other.execute(Get("a"), HGet("h", "f"), Get("b"))
                assert a == b == f

        together(write, read, read)
        assert contents(ns) == contents(other)
