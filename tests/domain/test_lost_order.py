"""A library whose bookkeeping was damaged or deleted: its patterns are never taken for absent, and found again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from empathy_kv.errors import DamagedError
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.records import Pattern
from empathy_kv.snapshot import dump
from empathy_kv.store import Store
from empathy_kv.urls import connect

if TYPE_CHECKING:
    from domain.conftest import Home

pytestmark = pytest.mark.needs_kv
BOOKS = ("order", "changes", "epoch", "stamp")
FOUND = datetime(2025, 1, 15, tzinfo=UTC)


def filled(store: Store) -> list[Pattern]:
    """Contribute three patterns, the newest discovery first, two of them linked, one used."""
    library = store.patterns
    for number in range(3):
        moment = FOUND - timedelta(days=number)
        library.contribute_pattern("a", Pattern(f"p{number}", "a", "t", "n", context={"k": 1}, discovered_at=moment))
    library.link_patterns("p0", "p2")
    library.record_pattern_outcome("p1", True)
    return list(library.patterns.values())


def everything(library: PatternLibrary) -> Any:
    """Return all that there is but the order, which is what may be lost."""
    found = sorted(library.patterns.values(), key=lambda each: each.id)
    agents = {agent: sorted(ids) for agent, ids in library.agent_contributions.items()}
    return found, {frozenset(link) for link in library.get_links()}, agents


LOOKUPS: dict[str, Callable[[Store], object]] = {
    "find": lambda store: store.patterns.find_patterns({"k": 1}),
    "get": lambda store: store.patterns.get_pattern("p1"),
    "list": lambda store: list(store.patterns.patterns),
    "dump": lambda store: list(dump(store)),
}


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_patterns_that_are_in_no_order_are_not_told_to_be_absent(home: Home, lookup: str) -> None:
    store = home.open()
    filled(store)
    assert store.check() == []
    store.kv.namespace("patterns").delete("order")
    assert [str(error).partition(" is ")[0] for error in store.check()] == [f"the pattern 'p{n}'" for n in range(3)]
    fresh = home.open() if home.engine.shares else Store(store.kv)
    with pytest.raises(DamagedError, match=r"repair\(\)") as caught:
        LOOKUPS[lookup](fresh)
    assert caught.value.path == "patterns/order"


def test_they_are_found_again_by_when_they_were_discovered_with_all_that_was_recorded(home: Home) -> None:
    store = home.open()
    before = filled(store)
    all_but_order = everything(store.patterns)
    store.kv.namespace("patterns").delete("order")
    fresh = Store(store.kv).patterns
    assert fresh.repair() == 3
    assert list(fresh.patterns.values()) == before[::-1]
    assert everything(fresh) == all_but_order
    assert list(store.patterns.patterns) == list(fresh.patterns)  # Who had it loaded notices.
    assert fresh.repair() == 0
    fresh.contribute_pattern("a", Pattern("new", "a", "t", "n"))
    assert list(store.patterns.patterns) == ["p2", "p1", "p0", "new"]


def test_one_that_is_lost_alone_comes_after_the_others(home: Home) -> None:
    store = home.open()
    filled(store)
    store.kv.namespace("patterns").zrem("order", b"p0")
    fresh = Store(store.kv).patterns
    with pytest.raises(DamagedError, match="'p0'"):
        fresh.get_pattern("p0")
    assert fresh.repair() == 1
    assert list(fresh.patterns) == list(store.patterns.patterns) == ["p1", "p2", "p0"]


def test_a_library_that_is_whole_or_empty_is_left_as_it_is(home: Home) -> None:
    store = home.open()
    assert store.patterns.repair() == 0
    filled(store)
    ns = store.kv.namespace("patterns")
    revision = ns.set("own", b"")
    assert store.patterns.repair() == 0
    assert ns.set("own", b"") == revision + 1
    store.patterns.remove_patterns(["p0", "p1", "p2"])
    fresh = Store(store.kv).patterns
    assert list(fresh.patterns) == []
    assert fresh.repair() == 0


@pytest.mark.parametrize("damage", ["cut", "deleted"])
@pytest.mark.parametrize("book", BOOKS)
def test_a_file_of_the_bookkeeping_that_is_damaged_or_deleted_costs_no_pattern(
    tmp_path: Path, book: str, damage: str
) -> None:
    with connect(f"file:{tmp_path}") as store:
        filled(store)
        before = everything(store.patterns)
    document = tmp_path / "empathy" / "patterns" / f"{book}.json"
    if damage == "cut":
        document.write_bytes(document.read_bytes()[:-20])
    else:
        document.unlink()
    with connect(f"file:{tmp_path}") as store:
        assert (store.check() != []) == (damage == "cut" or book == "order")
        assert store.patterns.repair() == (3 if book == "order" else 0)
        assert everything(store.patterns) == before
        store.patterns.contribute_pattern("a", Pattern("new", "a", "t", "n"))
    with connect(f"file:{tmp_path}") as store:
        assert len(store.patterns.patterns) == 4
        assert [error for error in store.check() if "kept aside" not in str(error)] == []
