"""A library that workers share: what a lookup asks the store for, how stale it may be, and how it is loaded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from empathy_kv import shared_patterns
from empathy_kv.errors import (
    ArgumentError,
    ArgumentTypeError,
    CodecError,
    OutcomeUnknown,
    PatternExistsError,
    PatternNotFoundError,
)
from empathy_kv.kv.interface import KV
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.kv.operations import Batch, Get, HGet, HGetAll, HSet, Name, Reply, ZRange
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.records import Pattern
from empathy_kv.store import Store


class Asked(KV):
    """An engine that takes down what it is asked for."""

    def __init__(self, kv: KV) -> None:
        super().__init__()
        self.kv = kv
        self.batches: list[Batch] = []
        self.before: Callable[[Batch], None] = lambda _: None

    def execute(self, batch: Batch) -> list[Reply]:
        self.before(batch)
        self.batches.append(batch)
        return self.kv.execute(batch)

    def keys(self, namespace: Name) -> Iterator[str]:
        return self.kv.keys(namespace)

    def close(self) -> None:
        self.kv.close()

    def taken(self) -> list[Batch]:
        """Return what it was asked for since the last time."""
        batches, self.batches = self.batches, []
        return batches

    def read(self) -> list[str]:
        """Return the keys of the hashes that it was asked for since the last time."""
        return [op.key for batch in self.taken() for op in batch.operations if isinstance(op, HGetAll)]


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    with mock.patch.object(shared_patterns, "time", clock):
        yield clock


def pattern(id: str, **fields: Any) -> Pattern:
    return Pattern(id, "author", "type", "name", **fields)


@pytest.fixture
def kv() -> Asked:
    return Asked(MemoryKV())


@pytest.fixture
def library(kv: Asked) -> PatternLibrary:
    """What is looked at: a worker that has loaded nothing yet."""
    return Store(kv).patterns


@pytest.fixture
def other(kv: Asked) -> PatternLibrary:
    """Another worker; it has contributed twenty patterns."""
    other = Store(kv.kv).patterns
    other.contribute_patterns("agent", [pattern(str(number), context={"k": number % 3}) for number in range(20)])
    return other


def found(library: PatternLibrary, **options: Any) -> list[str]:
    return [match.pattern.id for match in library.find_patterns({"k": 1}, **options)]


# Round trips


def test_a_lookup_asks_for_one_value_if_nothing_changed(
    kv: Asked, library: PatternLibrary, other: PatternLibrary
) -> None:
    found(library)
    kv.taken()
    lookups: list[Callable[[], object]] = [
        lambda: found(library),
        lambda: library.get_pattern("3"),
        lambda: library.get_pattern("absent"),
        lambda: library.get_related_patterns("3"),
        lambda: library.get_top_patterns(),
        lambda: library.get_library_stats(),
        lambda: library.get_agent_patterns("agent"),
        lambda: library.agent_contributions,
        lambda: library.patterns,
        lambda: len(library.patterns),
        lambda: dict(library.patterns),
        lambda: library.get_links(),
    ]
    for lookup in lookups:
        lookup()
        (batch,) = kv.taken()
        assert batch.operations == (Get("stamp"),)


@pytest.mark.parametrize("asked", range(6))
def test_what_is_contributed_while_an_emptied_library_is_loaded_is_no_damage(
    asked: int, kv: Asked, library: PatternLibrary, other: PatternLibrary
) -> None:
    other.remove_patterns([str(number) for number in range(20)])

    def contribute(_: Batch) -> None:
        if len(kv.batches) == asked:
            kv.before = lambda _: None
            other.contribute_pattern("agent", pattern("new", context={"k": 1}))

    kv.before = contribute
    assert found(library) in ([], ["new"])
    assert found(library) == ["new"]


def test_a_library_to_which_nobody_has_written_is_loaded_once(kv: Asked, library: PatternLibrary) -> None:
    assert found(library) == []
    kv.taken()
    assert found(library) == []
    assert [batch.operations for batch in kv.taken()] == [(Get("stamp"),)]
    Store(kv.kv).patterns.contribute_pattern("agent", pattern("first", context={"k": 1}))
    assert found(library) == ["first"]


def test_only_what_changed_is_read_again(kv: Asked, library: PatternLibrary, other: PatternLibrary) -> None:
    found(library)
    assert len(kv.read()) == 20
    other.record_pattern_outcome("3", True)
    other.remove_pattern("4")
    other.link_patterns("5", "6")
    other.contribute_pattern("agent", pattern("new", context={"k": 1}))
    assert "new" in found(library, limit=50)
    assert sorted(kv.read()) == ["p:3", "p:4", "p:5", "p:6", "p:new"]
    found(library)
    assert kv.read() == []


def test_what_one_has_loaded_is_enough_for_one_pattern_for_how_many_and_for_whether_it_is_there(
    kv: Asked, library: PatternLibrary, other: PatternLibrary
) -> None:
    view = library.patterns
    assert kv.taken() == []
    assert len(view) == len(library.patterns) == 20
    assert "3" in view
    assert "absent" not in view
    assert 3 not in view
    assert "" not in view
    assert "x" * 1000 not in view
    assert view["3"] == library.get_pattern("3") == other.get_pattern("3")
    assert view.get("absent") is library.get_pattern("absent") is None
    with pytest.raises(PatternNotFoundError):
        view["absent"]
    assert set(kv.read()) == {"p:3", "p:absent"}
    assert list(view) == [str(number) for number in range(20)]
    assert len(kv.read()) == 20
    assert [each.id for each in view.values()] == list(view)
    assert kv.read() == []


def test_who_only_writes_loads_nothing(kv: Asked, library: PatternLibrary, other: PatternLibrary) -> None:
    library.contribute_patterns("agent", [pattern("a"), pattern("b")])
    library.restore([("agent", pattern("c"))], [("c", "3")])
    with pytest.raises(PatternExistsError):
        library.contribute_patterns("agent", [pattern("d"), pattern("3")])
    with pytest.raises(PatternNotFoundError):
        library.restore([("agent", pattern("d"))], [("d", "absent")])
    library.record_pattern_outcome("3", True)
    library.link_patterns("3", "4")
    library.remove_patterns(["5", "6"])
    assert kv.read() == []
    assert len(other.patterns) == 21


# Staleness


def test_a_lookup_that_may_be_stale_asks_nobody_for_so_long(
    kv: Asked, library: PatternLibrary, other: PatternLibrary, clock: Clock
) -> None:
    before = found(library, max_staleness=60)
    kv.taken()
    other.contribute_pattern("agent", pattern("new", context={"k": 1}, usage_count=9, success_count=9))
    clock.now += 5.0
    assert found(library, max_staleness=5.0) == before
    assert library.get_pattern("new", max_staleness=5.0) is None
    assert library.query_patterns("agent", {"k": 1}, max_staleness=5.0)[0].pattern.id == before[0]
    assert library.get_library_stats(max_staleness=5.0)["total_patterns"] == 20
    assert kv.taken() == []
    clock.now += 0.001
    assert found(library, max_staleness=5.0)[0] == "new"
    assert kv.taken() != []
    other.remove_pattern("new")
    assert found(library, max_staleness=5.0)[0] == "new"
    assert found(library) == before


def test_what_a_worker_did_itself_it_sees_at_once(kv: Asked, library: PatternLibrary, clock: Clock) -> None:
    library.max_staleness = 60.0
    assert found(library) == []
    library.contribute_pattern("agent", pattern("mine", context={"k": 1}))
    clock.now += 1.0
    assert found(library) == ["mine"]
    library.record_pattern_outcome("mine", True)
    clock.now += 1.0
    assert library.patterns["mine"].usage_count == 1
    kv.taken()
    assert found(library) == ["mine"]
    assert kv.taken() == []


def test_what_a_worker_may_have_done_it_sees_at_once(kv: Asked, library: PatternLibrary, clock: Clock) -> None:
    library.max_staleness = 60.0
    library.contribute_pattern("agent", pattern("mine", context={"k": 1}))
    clock.now += 1.0
    assert found(library) == ["mine"]

    def lose(batch: Batch) -> None:
        if batch.writes:
            kv.before = lambda _: None
            kv.execute(batch)
            raise OutcomeUnknown("the reply was lost", token=batch.token)

    kv.before = lose
    with pytest.raises(OutcomeUnknown):
        library.remove_pattern("mine")
    clock.now += 1.0
    assert found(library) == []


def test_the_staleness_of_a_library_is_that_of_its_lookups(
    kv: Asked, library: PatternLibrary, other: PatternLibrary, clock: Clock
) -> None:
    assert library.max_staleness == 0.0
    library.max_staleness = 5
    before = found(library)
    other.remove_patterns(before)
    assert found(library) == before
    assert library.get_pattern(before[0]) is not None
    assert found(library, max_staleness=0.0) == []
    for wrong in (-1, math.nan, math.inf):
        with pytest.raises(ArgumentError):
            library.max_staleness = wrong
        with pytest.raises(ArgumentError):
            found(library, max_staleness=wrong)
    for wrong_type in ("1", None, True):
        with pytest.raises(ArgumentTypeError):
            library.max_staleness = wrong_type  # type: ignore[assignment]


def test_a_library_in_memory_is_never_stale() -> None:
    library = PatternLibrary()
    library.max_staleness = 60.0
    library.contribute_pattern("agent", pattern("p", context={"k": 1}))
    assert found(library, max_staleness=1e9) == ["p"]


# Loading


def test_loading_tells_how_far_it_is(kv: Asked, library: PatternLibrary, other: PatternLibrary) -> None:
    told: list[tuple[int, int]] = []
    library.on_load = lambda done, total: told.append((done, total))
    with mock.patch.object(shared_patterns, "PAGE", 8):
        found(library)
        assert told == [(8, 20), (16, 20), (20, 20)]
        found(library)
        other.remove_pattern("1")
        found(library)
        assert len(told) == 3
    library.on_load = None
    assert Store(kv).patterns.on_load is None
    with pytest.raises(ArgumentTypeError):
        library.on_load = 5  # type: ignore[assignment]


def test_what_is_told_may_end_the_loading_and_the_next_lookup_loads_anew(
    library: PatternLibrary, other: PatternLibrary
) -> None:
    def cancel(done: int, total: int) -> None:
        raise KeyboardInterrupt

    library.on_load = cancel
    with pytest.raises(KeyboardInterrupt):
        found(library)
    library.on_load = None
    assert found(library) == found(other)


@pytest.mark.parametrize("page", [1, 2, 7])
def test_what_changes_while_a_library_is_loaded_is_not_missed(
    kv: Asked, library: PatternLibrary, other: PatternLibrary, page: int
) -> None:
    """Before each step, another worker removes, adds or counts: among all, early ones, whose ranks others take over."""
    changes: Iterator[Callable[[], object]] = iter(
        [
            lambda: other.remove_pattern("0"),
            lambda: other.contribute_pattern("agent", pattern("0", context={"k": 1})),
            lambda: other.remove_patterns(["1", "2", "19"]),
            lambda: other.contribute_pattern("agent", pattern("20", context={"k": 1})),
            lambda: other.record_pattern_outcome("7", True),
        ]
    )
    kv.before = lambda _: next(changes, lambda: None)()  # type: ignore[misc]
    with mock.patch.object(shared_patterns, "PAGE", page):
        found(library)
        kv.before = lambda _: None
        assert dict(library.patterns) == dict(other.patterns)
        assert list(library.patterns) == list(other.patterns)
        assert next(changes, None) is None


def test_a_worker_that_loads_afresh_answers_from_the_old_library_or_the_new_one(
    kv: Asked, library: PatternLibrary, other: PatternLibrary
) -> None:
    """While a thread loads, another may answer from what was known before: that is never a part of the new."""
    everything = list(library.patterns)
    seen: list[list[str]] = []
    with mock.patch.multiple(shared_patterns, _FEED=3, PAGE=3):
        other.remove_patterns([str(number) for number in range(10)])

        def look(_: Batch) -> None:
            kv.before = lambda _: None
            seen.append([each.id for each in library.get_agent_patterns("agent", max_staleness=60.0)])
            kv.before = look

        kv.before = look
        assert list(library.patterns) == everything[10:]
    assert len(seen) > 5
    assert {tuple(each) for each in seen} <= {tuple(everything), tuple(everything[10:])}


def test_ids_of_any_length_and_kind_stand_in_the_feed(kv: Asked, library: PatternLibrary) -> None:
    found(library)
    ids = ["p:", "é" * 256, "\n", "order"]
    other = Store(kv.kv).patterns
    other.contribute_patterns("agent", [pattern(id, context={"k": 1}) for id in ids])
    assert found(library) == ids
    assert [id for id in itertools.chain(ids, ["x"]) if id in library.patterns] == ids
    assert kv.kv.execute(Batch(("patterns",), (ZRange("changes"),)))[0][-1][0] == b"order"


def test_a_document_that_somebody_spoilt_is_an_error_until_it_is_whole_again(
    kv: Asked, library: PatternLibrary, other: PatternLibrary
) -> None:
    before = found(library)
    (document,) = kv.kv.execute(Batch(("patterns",), (HGet("p:1", "doc"),)))
    for spoilt in (b"{", b'{"id": 1}', document.replace(b'"k":1', b'"k":NaN')):
        kv.kv.execute(Batch(("patterns",), (HSet("p:1", {"doc": spoilt}),)))
        other.remove_pattern("0")
        other.record_pattern_outcome("1", True)
        for _ in range(2):
            with pytest.raises(CodecError):
                found(library)
        kv.kv.execute(Batch(("patterns",), (HSet("p:1", {"doc": document}),)))
        assert sorted(found(library)) == sorted(before)
        assert dict(library.patterns) == dict(other.patterns)
