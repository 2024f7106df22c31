"""What the tests stand on: samples, a writer of tokens, threads, and the engine as fixtures."""

from __future__ import annotations

import itertools
import random
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias

import pytest

from empathy_kv.errors import (
    WrongTypeError,
)
from empathy_kv.kv.interface import KV, Namespace
from empathy_kv.kv.operations import (
    INTEGER_MIN,
    TTL,
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
"""A time to live that is over by the time that `Suite.wait` returns."""


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


STORABLE: Final = [text for text in HOSTILE if storable(text)]


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


class Suite:
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
