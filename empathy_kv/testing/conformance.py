"""What every engine does, as tests that an engine's own test file inherits::

    from empathy_kv.testing.conformance import KVConformance

    class TestMine(KVConformance):
        reopens = True
        shares = True

        def open(self, place):
            return MyKV(place)

`place` is a fixture: a fresh directory (pytest's `tmp_path`), unless the class overrides it. No test knows how an
engine keeps what it holds: a write is checked by other operations than its own, by `keys`, and after opening again.
"""

from __future__ import annotations

import itertools
import math
import random
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias

import pytest

from empathy_kv.errors import (
    ArgumentError,
    CheckError,
    ClosedError,
    CounterError,
    CounterOverflowError,
    EmpathyKVError,
    LimitError,
    NotApplied,
    TokenError,
    WrongTypeError,
)
from empathy_kv.kv.interface import KV, Namespace
from empathy_kv.kv.operations import (
    INTEGER_MAX,
    INTEGER_MIN,
    MAX_KEY,
    MAX_NAME,
    MAX_OPERATIONS,
    MAX_VALUE,
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
    Name,
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
from empathy_kv.testing.hostile import HOSTILE, storable

Make: TypeAlias = Callable[[str], Operation]

ALL_BYTES: Final = bytes(range(256))
VALUES: Final = (
    b"",
    b"\0",
    b"0",
    b" ",
    b"\r\n",
    b"$-1\r\n",
    b"null",
    b"\xff\xfe",
    "é😀".encode(),
    ALL_BYTES,
    ALL_BYTES * 9,
)
SCORES: Final = (
    *(0.0, -0.0, 0.1, 0.2, 0.1 + 0.2, 1 / 3, -1.5, 1e-7, 1e21, 123456789.12345678, 1e308, -1e308, sys.float_info.max),
    *(5e-324, -5e-324, sys.float_info.min, 2.0**53, 2.0**53 - 1, 2.0**53 + 2, 2.0**63, float(INTEGER_MIN)),
)
NO_INTEGERS: Final = (
    *(b"", b"x", b"1.0", b"1e3", b" 1", b"1 ", b"1\n", b"+1", b"-", b"-0", b"00", b"01", b"0x1", b"1_0", b"\xd9\xa1"),
    *(b"1\x00", b"9223372036854775808", b"-9223372036854775809", b"1" * 400, b"nan", b"inf", b"None"),
)

SAMPLES: Final[dict[str, Make]] = {
    "string": lambda key: Set(key, b"7"),
    "hash": lambda key: HSet(key, {"f": b"7"}),
    "zset": lambda key: ZAdd(key, {b"m": 7.0}),
}
READS: Final[dict[str, Make]] = {
    "string": lambda key: Get(key),
    "hash": lambda key: HGetAll(key),
    "zset": lambda key: ZRange(key),
}
OF_ABSENT: Final[tuple[tuple[Make, object], ...]] = (
    (Get, None),
    (Version, 0),
    (Exists, False),
    (TTL, 0.0),
    (lambda key: HGet(key, "f"), None),
    (HGetAll, {}),
    (ZRange, []),
    (lambda key: ZRange(key, 3, -3), []),
    (ZRangeByScore, []),
    (lambda key: ZScore(key, b"m"), None),
    (ZCard, 0),
    (Delete, False),
    (lambda key: Expire(key, 60), False),
    (lambda key: Expire(key, None), False),
    (lambda key: HDel(key, ["f", "g"]), 0),
    (lambda key: ZRem(key, [b"m", b"n"]), 0),
    (lambda key: ZTrim(key, 0), 0),
    (lambda key: ZTrim(key, 1), 0),
)
"""Operations that leave an absent key absent, and their replies."""
MAKING: Final[tuple[tuple[Make, object, Make, object], ...]] = (
    (lambda key: Set(key, b"new"), ..., Get, b"new"),
    (lambda key: IncrBy(key, -5), -5, Get, b"-5"),
    (lambda key: IncrBy(key, 0), 0, Get, b"0"),
    (lambda key: HSet(key, {"g": b"new"}), 1, HGetAll, {"g": b"new"}),
    (lambda key: HIncrBy(key, {"g": 5, "h": 0}), {"g": 5, "h": 0}, HGetAll, {"g": b"5", "h": b"0"}),
    (lambda key: ZAdd(key, {b"n": 2.5}), 1, ZRange, [(b"n", 2.5)]),
    (lambda key: ZAdd(key, {b"n": 2.5}, "NX"), 1, ZRange, [(b"n", 2.5)]),
    (lambda key: ZAdd(key, {b"n": 2.5}, "GT"), 1, ZRange, [(b"n", 2.5)]),
    (lambda key: ZAdd(key, {b"n": -2.5}, "LT"), 1, ZRange, [(b"n", -2.5)]),
    (lambda key: ZAppend(key, [b"n", b"a"]), 2.0, ZRange, [(b"n", 1.0), (b"a", 2.0)]),
)
"""Operations that make an absent key, their replies (... is any), and what is read then."""
ON_A_KIND: Final[dict[str, tuple[Make, ...]]] = {
    "string": (Get, Version, IncrBy),
    "hash": (
        lambda key: HGet(key, "f"),
        HGetAll,
        lambda key: HSet(key, {"f": b"1"}),
        lambda key: HDel(key, ["f"]),
        lambda key: HIncrBy(key, {"f": 1}),
    ),
    "zset": (
        lambda key: ZAdd(key, {b"m": 1}),
        lambda key: ZAppend(key, [b"m"]),
        ZRange,
        lambda key: ZRange(key, 5, 3),
        ZRangeByScore,
        lambda key: ZScore(key, b"m"),
        ZCard,
        lambda key: ZRem(key, [b"m"]),
        lambda key: ZTrim(key, 0),
    ),
}
WRONG: Final = [
    pytest.param(held, make, id=f"{type(make('k')).__name__}-on-a-{held}")
    for held in SAMPLES
    for kind, makes in ON_A_KIND.items()
    if kind != held
    for make in makes
]
"""Each operation on each kind of value that it does not work on."""
EMPTYINGS: Final[dict[str, tuple[Make, Make]]] = {
    "HDel": (SAMPLES["hash"], lambda key: HDel(key, ["f", "g"])),
    "ZRem": (SAMPLES["zset"], lambda key: ZRem(key, [b"m", b"n"])),
    "ZTrim": (SAMPLES["zset"], lambda key: ZTrim(key, 0)),
}
ABSENCES: Final = ("never written", "deleted", "expired", "emptied")

SOON: Final = 0.001
"""A time to live that is over by the time that `_Suite.wait` returns."""


def exactly(reply: Any) -> Any:
    """Return the reply with the type of each part beside it: in Python 1 is True and 1.0, but not as a reply."""
    match reply:
        case dict():
            return "dict", {key: exactly(value) for key, value in reply.items()}
        case list() | tuple():
            return type(reply).__name__, [exactly(item) for item in reply]
        case float():
            return "float", reply + 0.0  # The two zeros are one score.
    return type(reply).__name__, reply


def shuffler(seed: int) -> random.Random:
    """Return the source of a test's numbers, the same in every run."""
    return random.Random(seed)  # noqa: S311 - no secret


def contents(namespace: Namespace) -> dict[str, Any]:
    """Return all that a namespace holds: of each key its content, and its version or None, and whether it expires."""
    found: dict[str, Any] = {}
    for key in namespace.keys():  # noqa: SIM118 - no mapping
        expires = namespace.ttl(key) is not None
        for kind, read in READS.items():
            try:
                content = namespace.execute(read(key))[0]
            except WrongTypeError:
                continue
            found[key] = kind, content, namespace.version(key) if kind == "string" else None, expires
    return found


def together(*tasks: Callable[[], Any]) -> list[Any]:
    """Run tasks in threads that start at the same moment, and return their results, or raise what one raised."""
    barrier = threading.Barrier(len(tasks))

    def started(task: Callable[[], Any]) -> Any:
        barrier.wait()
        return task()

    with often_switching(), ThreadPoolExecutor(len(tasks)) as pool:
        return [future.result() for future in [pool.submit(started, task) for task in tasks]]


@contextmanager
def often_switching() -> Iterator[None]:
    """Let threads interrupt each other as often as they can; else most races are never seen."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


class Writer:
    """Makes tokens as a writer does: it numbers its writes in slots."""

    def __init__(self, namespace: Name) -> None:
        self.namespace = namespace
        self.session = secrets.token_hex(8)
        self.sequence = itertools.count(1)

    def token(self, *, slot: int = 0, sequence: int | None = None, age: float = 0.0) -> Token:
        """Return the next token of a slot, or that of a sequence number, issued `age` seconds ago."""
        number = next(self.sequence) if sequence is None else sequence
        issued = time.time_ns() // 1_000_000 - int(age * 1000)
        return Token(self.namespace, self.session, slot, number, issued)


class _Suite:
    """What the tests stand on."""

    reopens: ClassVar[bool] = False
    """Whether opening a place again, after it was closed, finds what was written."""
    shares: ClassVar[bool] = False
    """Whether a place can be open several times at once, each seeing what the others write."""

    def open(self, place: Any) -> KV:
        """Open the engine at a place. To be overridden."""
        raise NotImplementedError("the test class of an engine overrides open()")

    @pytest.fixture
    def place(self, tmp_path: Path) -> Any:
        """Give a place where nothing is yet. May be overridden."""
        return tmp_path

    @pytest.fixture
    def kv(self, place: Any) -> Iterator[KV]:
        """Give the engine, opened."""
        kv = self.open(place)
        yield kv
        kv.close()

    @pytest.fixture
    def ns(self, kv: KV) -> Namespace:
        """Give an empty namespace."""
        return kv.namespace("conformance")

    @pytest.fixture
    def writer(self, ns: Namespace) -> Writer:
        """Give a writer of tokens for that namespace."""
        return Writer(ns.name)

    def wait(self) -> None:
        """Wait until what was to live for `SOON` is gone. A remote engine with a slow clock may override it."""
        time.sleep(SOON + 0.01)

    def make_absent(self, ns: Namespace, keys: Sequence[str], how: str) -> None:
        """Make keys absent in one of the ways of `ABSENCES`."""
        for key, sample in zip(keys, itertools.cycle(SAMPLES.values()), strict=False):
            if how == "deleted":
                ns.execute(sample(key))
                ns.execute(Delete(key))
            elif how == "expired":
                ns.execute(sample(key))
                ns.execute(Expire(key, SOON))
        if how == "emptied":
            for key, (sample, empty) in zip(keys, itertools.cycle(EMPTYINGS.values()), strict=False):
                ns.execute(sample(key))
                ns.execute(empty(key))
        if how == "expired":
            self.wait()


class _Values(_Suite):
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


class _Expiry(_Suite):
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


class _Versions(_Suite):
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


class _Counters(_Suite):
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


class _Hashes(_Suite):
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


class _SortedSets(_Suite):
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


class _Kinds(_Suite):
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


FAILURES: Final[dict[str, tuple[type[EmpathyKVError], tuple[Operation, ...], tuple[Check, ...]]]] = {
    "a check of presence": (CheckError, (), (Check("absent"),)),
    "a check of absence": (CheckError, (), (Check("hash", 0),)),
    "a check of a version": (CheckError, (), (Check("text", 10**15),)),
    "a check of a version of what is absent": (CheckError, (), (Check("absent", 1),)),
    "a check of a member": (CheckError, (), (Check("zset", 0, b"m"),)),
    "the last of many checks": (CheckError, (), (Check("text"), Check("hash"), Check("zset", None, b"m"), Check("no"))),
    "a check of the version of a hash": (WrongTypeError, (), (Check("hash", 1),)),
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
    "a counter that goes below": (CounterOverflowError, (HIncrBy("hash", {"empty": INTEGER_MIN, "least": -1}),), ()),
}
"""What a batch is refused for; each stands at its end."""


class _Atomicity(_Suite):
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


class _Tokens(_Suite):
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


class _Namespaces(_Suite):
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


STORABLE: Final = [text for text in HOSTILE if storable(text)]


class _HostileTexts(_Suite):
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


class _Keys(_Suite):
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
                ns.execute(*(Set(f"{name} {number + i}", b"1") for i in range(5)), Delete(f"{name} {number - 5}"))
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


class _Limits(_Suite):
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


class _Aliasing(_Suite):
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


class _Closing(_Suite):
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


class _Reopening(_Suite):
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
        operations = _Tokens.WRITES
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


class _Sharing(_Suite):
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
        first = ns.execute(*_Tokens.WRITES, token=token)
        assert exactly(other.execute(*_Tokens.WRITES, token=token)) == exactly(first)
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


class KVConformance(
    _Values,
    _Expiry,
    _Versions,
    _Counters,
    _Hashes,
    _SortedSets,
    _Kinds,
    _Atomicity,
    _Tokens,
    _Namespaces,
    _HostileTexts,
    _Keys,
    _Limits,
    _Aliasing,
    _Closing,
    _Reopening,
    _Sharing,
):
    """All that every engine does. A subclass, named `Test...`, overrides `open`; and where it differs from memory,
    `reopens`, `shares` and the fixture `place`."""
