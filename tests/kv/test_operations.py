"""What can be known of operations, batches and tokens without an engine."""

from __future__ import annotations

import pickle
import random
from datetime import timedelta
from typing import Any

import pytest

from empathy_kv.errors import ArgumentError, ArgumentTypeError, LimitError
from empathy_kv.kv.interface import Tokens
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.kv.operations import (
    MAX_BATCH,
    MAX_TTL,
    MAX_VALUE,
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
    milliseconds,
    seconds,
)

NAME = ("n",)
TOKEN = Token(NAME, "0123456789abcdef", 1, 2, 3)

ORDERLESS: list[tuple[Operation, Operation]] = [
    (HSet("k", {"b": b"1", "a": b"2"}), HSet("k", {"a": b"2", "b": b"1"})),
    (HIncrBy("k", {"b": 1, "a": 2}), HIncrBy("k", {"a": 2, "b": 1})),
    (ZAdd("k", {b"b": 0, b"a": -0.0}), ZAdd("k", {b"a": 0.0, b"b": -0.0})),
    (HDel("k", ["b", "a", "b"]), HDel("k", {"a", "b"})),
    (ZRem("k", [b"b", b"a", b"b"]), ZRem("k", {b"a", b"b"})),
    (Set("k", b"1", 0.0011), Set("k", memoryview(b"1"), timedelta(microseconds=1999))),
    (Expire("k", 0.0011), Expire("k", 0.002)),
    (ZRangeByScore("k", -0.0, 0), ZRangeByScore("k", 0.0, -0.0)),
]


@pytest.mark.parametrize(("one", "other"), ORDERLESS, ids=lambda item: type(item).__name__)
def test_operations_that_mean_the_same_are_the_same_to_the_last_byte(one: Operation, other: Operation) -> None:
    assert one == other
    assert repr(one) == repr(other)
    assert pickle.dumps(one) == pickle.dumps(other)
    assert pickle.loads(pickle.dumps(one)) == one


def test_members_that_are_appended_keep_their_order() -> None:
    assert ZAppend("k", [b"b", b"a", b"b"]).members == (b"b", b"a")


def test_a_time_to_live_is_rounded_up_to_whole_milliseconds_once() -> None:
    numbers = random.Random(1)
    samples = [16.1, 0.001, 0.0011, 1e-300, 5e-324, 1.005, 4.35, 8.2, MAX_TTL, MAX_TTL - 0.0001]
    samples += [numbers.uniform(0, 10 ** numbers.uniform(-3, 9)) for _ in range(2000)]
    for sample in samples:
        kept = seconds(sample)
        assert kept is not None
        assert sample <= kept <= min(MAX_TTL, sample + 0.001 + 1e-6)
        assert seconds(kept) == kept
        assert milliseconds(kept) == milliseconds(sample)
    for whole in [*range(1, 20_000), *(numbers.randrange(1, int(MAX_TTL * 1000)) for _ in range(2000))]:
        assert milliseconds(whole / 1000) == whole
        assert seconds(timedelta(milliseconds=whole)) == whole / 1000


BIG = b"x" * 1000
CARRIED: dict[str, tuple[int, tuple[Operation, ...], tuple[Check, ...]]] = {
    **{
        kind.__name__: (4, (kind("kéy"),), ())
        for kind in (Get, Version, IncrBy, Delete, Exists, TTL, HGetAll, ZRange, ZRangeByScore, ZCard)
    },
    "Expire": (3, (Expire("key", 60),), ()),
    "ZTrim": (3, (ZTrim("key", 1),), ()),
    "Set": (1003, (Set("key", BIG),), ()),
    "HGet": (3 + 2, (HGet("key", "é"),), ()),
    "HSet": (3 + 2 + 1000 + 1 + 1, (HSet("key", {"é": BIG, "f": b"x"}),), ()),
    "HDel": (3 + 2 + 1, (HDel("key", ["é", "f"]),), ()),
    "HIncrBy": (3 + 2 + 1, (HIncrBy("key", {"é": 1, "f": 1}),), ()),
    "ZAdd": (3 + 1000 + 1, (ZAdd("key", {BIG: 1, b"m": 1}),), ()),
    "ZAppend": (3 + 1000 + 1, (ZAppend("key", [BIG, b"m"]),), ()),
    "ZScore": (3 + 1000, (ZScore("key", BIG),), ()),
    "ZRem": (3 + 1000 + 1, (ZRem("key", [BIG, b"m"]),), ()),
    "a check": (4, (), (Check("kéy"),)),
    "a check of a member": (3 + 1000, (), (Check("key", None, BIG),)),
    "all together": (3 + 1003 + 4, (Get("key"), Set("key", BIG)), (Check("kéy"),)),
}
"""Operations and checks, and how many bytes they carry."""


@pytest.mark.parametrize("name", CARRIED)
def test_a_batch_is_refused_for_all_the_bytes_that_it_carries(name: str) -> None:
    size, operations, checks = CARRIED[name]
    most = b"x" * MAX_VALUE
    filling = [Set("a", most), Set("b", most), Set("c", most)]
    room = MAX_BATCH - 3 * (MAX_VALUE + 1) - 1 - size
    Batch(NAME, [*filling, Set("d", b"x" * room), *operations], checks)
    with pytest.raises(LimitError) as caught:
        Batch(NAME, [*filling, Set("d", b"x" * (room + 1)), *operations], checks)
    assert caught.value.limit == MAX_BATCH


def test_a_batch_knows_whether_it_writes() -> None:
    assert Batch(NAME, [Get("k"), Set("k", b"1")]).writes is True
    assert Batch(NAME, [Get("k"), TTL("k")], [Check("k")]).writes is False
    assert Batch(NAME, ()).writes is False
    assert Batch(NAME, [Settle(TOKEN)]).writes is True
    signed = Batch(NAME, [Set("k", b"1")]).signed(TOKEN)
    assert signed == Batch(NAME, [Set("k", b"1")], (), TOKEN)
    assert signed.writes is True
    assert pickle.loads(pickle.dumps(signed)) == signed


REFUSED: list[tuple[str, type[ArgumentError], Any]] = [
    ("operations", ArgumentTypeError, lambda: Batch(NAME, None)),  # type: ignore[arg-type]
    ("operations", ArgumentTypeError, lambda: Batch(NAME, Set("k", b"1"))),  # type: ignore[arg-type]
    ("operations", ArgumentTypeError, lambda: Batch(NAME, "operations")),  # type: ignore[arg-type]
    ("operations", ArgumentTypeError, lambda: Batch(NAME, [None])),  # type: ignore[list-item]
    ("checks", ArgumentTypeError, lambda: Batch(NAME, [Set("k", b"1")], None)),  # type: ignore[arg-type]
    ("checks", ArgumentTypeError, lambda: Batch(NAME, [Set("k", b"1")], Check("k"))),  # type: ignore[arg-type]
    ("checks", ArgumentTypeError, lambda: Batch(NAME, [Set("k", b"1")], [Get("k")])),  # type: ignore[list-item]
    ("token", ArgumentTypeError, lambda: Batch(NAME, [Set("k", b"1")], (), str(TOKEN))),  # type: ignore[arg-type]
    ("token", ArgumentError, lambda: Batch(("m",), [Set("k", b"1")], (), TOKEN)),
    ("token", ArgumentError, lambda: Batch(NAME, [Get("k")], (), TOKEN)),
    ("token", ArgumentError, lambda: Batch(NAME, [], [Check("k")], TOKEN)),
    ("namespace", ArgumentTypeError, lambda: Batch("n", ())),  # type: ignore[arg-type]
    ("token", ArgumentTypeError, lambda: Settle("x")),  # type: ignore[arg-type]
    ("token", ArgumentTypeError, lambda: Settle(None)),  # type: ignore[arg-type]
    ("token", ArgumentTypeError, lambda: MemoryKV().settle(5)),  # type: ignore[arg-type]
    ("token", ArgumentTypeError, lambda: MemoryKV().settle(None)),  # type: ignore[arg-type]
    ("token", ArgumentError, lambda: MemoryKV().settle("x")),
    ("session", ArgumentTypeError, lambda: Token(NAME, 1, 1, 1, 1)),  # type: ignore[arg-type]
    ("session", ArgumentError, lambda: Token(NAME, "", 1, 1, 1)),
    ("session", ArgumentError, lambda: Token(NAME, "0123456789abcde", 1, 1, 1)),
    ("session", ArgumentError, lambda: Token(NAME, "0123456789ABCDEF", 1, 1, 1)),
    ("session", ArgumentError, lambda: Token(NAME, "0123456789abcdef\n", 1, 1, 1)),
    ("slot", ArgumentTypeError, lambda: Token(NAME, TOKEN.session, "1", 1, 1)),  # type: ignore[arg-type]
    ("slot", ArgumentTypeError, lambda: Token(NAME, TOKEN.session, True, 1, 1)),
    ("slot", ArgumentError, lambda: Token(NAME, TOKEN.session, -1, 1, 1)),
    ("slot", ArgumentError, lambda: Token(NAME, TOKEN.session, 10**9, 1, 1)),
    ("sequence", ArgumentTypeError, lambda: Token(NAME, TOKEN.session, 1, 1.5, 1)),  # type: ignore[arg-type]
    ("sequence", ArgumentError, lambda: Token(NAME, TOKEN.session, 1, -1, 1)),
    ("sequence", ArgumentError, lambda: Token(NAME, TOKEN.session, 1, 2**53, 1)),
    ("issued", ArgumentTypeError, lambda: Token(NAME, TOKEN.session, 1, 1, None)),  # type: ignore[arg-type]
    ("issued", ArgumentError, lambda: Token(NAME, TOKEN.session, 1, 1, -1)),
    ("issued", ArgumentError, lambda: Token(NAME, TOKEN.session, 1, 1, 2**53)),
    ("namespace", ArgumentTypeError, lambda: Token("n", TOKEN.session, 1, 1, 1)),  # type: ignore[arg-type]
    ("namespace", ArgumentTypeError, lambda: Token((), TOKEN.session, 1, 1, 1)),
    ("namespace", ArgumentError, lambda: Token(("",), TOKEN.session, 1, 1, 1)),
    ("only", ArgumentError, lambda: ZAdd("k", {b"m": 1}, "XX")),  # type: ignore[arg-type]
    ("only", ArgumentError, lambda: ZAdd("k", {b"m": 1}, 1)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("place", range(len(REFUSED)))
def test_what_is_wrong_is_refused_by_its_name(place: int) -> None:
    argument, kind, make = REFUSED[place]
    with pytest.raises(kind) as caught:
        make()
    assert caught.value.argument == argument


def test_every_token_has_a_text_form_that_is_read_back() -> None:
    own = Tokens().take(("a/b", "~"))
    for token in (
        own,
        Token(NAME, "f" * 16, 0, 0, 0),
        Token(("é\n", "/", "~1"), "0" * 16, 10**9 - 1, 2**53 - 1, 2**53 - 1),
    ):
        assert Token.parse(str(token)) == token
        assert hash(Token.parse(str(token))) == hash(token)
    assert own == Token(own.namespace, own.session, own.slot, own.sequence, own.issued)
