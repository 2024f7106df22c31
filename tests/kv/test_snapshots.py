"""What an engine shows of several namespaces at one moment, and how it fills them anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import ENGINES, Place, place

from empathy_kv.kv.interface import KV
from empathy_kv.kv.operations import Batch, Get, HGetAll, Version, ZRange
from empathy_kv.kv.table import SortedSet

NAMES = ("memory", "files", "files, fsync", "fakeredis", "redis", "cluster")
"""All engines, but for those of an event loop, which have no snapshots."""
ONE, TWO = ("one",), ("two", "parts")


@pytest.fixture(params=NAMES)
def where(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Place]:
    return request.param, place(ENGINES[request.param], tmp_path / "store", request)


@pytest.fixture
def kv(where: tuple[str, Place]) -> Iterator[KV]:
    name, at = where
    with ENGINES[name].open(at) as opened:
        yield opened


def written(kv: KV) -> None:
    one, two = kv.namespace(*ONE), kv.namespace(*TWO)
    one.set("value", b"1")
    one.set("gone", b"1")
    one.delete("gone")
    one.set("short", b"1", ttl=3600)
    two.hset("hash", {"field": b"\xff\x00"})
    two.zadd("zset", {b"a": 1.5, b"b": -1.0})


def seen(kv: KV) -> object:
    """Read a snapshot as one does who needs a moment: what changed is read again, until nothing does."""
    with kv.snapshot([ONE, TWO, ("nothing",)]) as snapshot:
        with snapshot.still():
            found = snapshot.several(
                [Batch(ONE, (Get("value"), Get("gone"), Get("short"))), Batch(TWO, (HGetAll("hash"), ZRange("zset")))]
            )
        keys = [sorted(snapshot.keys(name)) for name in (ONE, TWO, ("nothing",))]
    return found, keys


def test_a_snapshot_has_all_kinds_of_keys(kv: KV) -> None:
    written(kv)
    assert seen(kv) == (
        [[b"1", None, b"1"], [{"field": b"\xff\x00"}, [(b"b", -1.0), (b"a", 1.5)]]],
        [["short", "value"], ["hash", "zset"], []],
    )


def test_a_snapshot_is_of_one_moment_or_names_what_changed(kv: KV) -> None:
    written(kv)
    with kv.snapshot([ONE, TWO]) as snapshot:
        kv.namespace(*ONE).set("value", b"2")
        kv.namespace(*TWO).hset("hash", {"other": b"3"})
        kv.namespace("elsewhere").set("key", b"1")
        changed = snapshot.changed()
        (value,), (fields,) = snapshot.several([Batch(ONE, (Get("value"),)), Batch(TWO, (HGetAll("hash"),))])
        if value == b"1":  # It is that of the beginning.
            assert changed == {}
            assert fields == {"field": b"\xff\x00"}
        else:
            assert changed == {ONE: {"value"}, TWO: {"hash"}}
            assert snapshot.changed() == {}
            kv.namespace(*TWO).delete("zset")
            assert snapshot.changed() == {TWO: {"zset"}}


def test_writes_go_on_during_and_after_a_snapshot(kv: KV) -> None:
    written(kv)
    with kv.snapshot([ONE, TWO]):
        assert kv.namespace(*ONE).incr("value") == 2
    assert kv.namespace(*ONE).incr("value") == 3
    kv.checkpoint()
    assert kv.namespace(*ONE).get("value") == b"3"


def test_a_refill_leaves_what_was_put_and_nothing_else(kv: KV, where: tuple[str, Place]) -> None:
    written(kv)
    kv.namespace("elsewhere").set("key", b"1")
    version = kv.namespace(*ONE).version("value")
    many = {f"field {number}": b"%d" % number for number in range(2500)}
    members = [(float(number), b"member %d" % number) for number in range(2500)]
    for _ in range(2):
        with kv.refill([ONE, TWO, ("three",)]) as into:
            into.put(ONE, "new", b"value")
            into.put(TWO, "../hash*", many)
            into.put(TWO, "zset", members)
    opened = [kv] if where[0] == "memory" else [kv, ENGINES[where[0]].open(where[1])]
    for each in opened:
        assert sorted(each.keys(ONE)) == ["new"]
        assert sorted(each.keys(TWO)) == ["../hash*", "zset"]
        assert list(each.keys(("three",))) == []
        assert each.namespace(*ONE).get("value") is None
        assert each.namespace(*ONE).ttl("short") == 0.0
        assert each.namespace(*TWO).hgetall("../hash*") == many
        assert [(score, member) for member, score in each.namespace(*TWO).zrange("zset")] == members
        assert each.namespace("elsewhere").get("key") == b"1"
    # Versions go on, so that nobody takes what is there for what was.
    assert kv.execute(Batch(ONE, (Version("new"),)))[0] > version
    assert kv.namespace(*ONE).set("new", b"other") > version
    kv.checkpoint()
    assert kv.check() == []
    assert opened[-1].namespace(*ONE).get("new") == b"other"
    for each in opened[1:]:
        each.close()


def left(kv: KV) -> None:
    with kv.refill([ONE, TWO]) as into:
        into.put(ONE, "half", b"1")
        raise KeyboardInterrupt


def test_a_refill_that_is_left_by_an_error_can_be_done_again(kv: KV) -> None:
    written(kv)
    with pytest.raises(KeyboardInterrupt):
        left(kv)
    with kv.refill([ONE, TWO]) as into:
        into.put(TWO, "whole", b"1")
    assert list(kv.keys(ONE)) == []
    assert list(kv.keys(TWO)) == ["whole"]
    kv.namespace(*ONE).set("value", b"1")
    assert kv.namespace(*ONE).get("value") == b"1"


def test_a_copy_of_a_sorted_set_is_its_own() -> None:
    first = SortedSet([(1.0, b"a")])
    second = first.copy()
    second.put(b"b", 2.0)
    second.remove(b"a")
    assert first.order == [(1.0, b"a")]
    assert list(second.scores) == [b"b"]
