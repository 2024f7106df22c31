"""What a store of one kind holds, a store of any other kind can hold, exactly."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import KINDS, Place, everything, fill, new, places

import empathy_kv.sql.snapshot
from empathy_kv import ArgumentTypeError, CollaborationState, NotEmptyError, Pattern, PatternLibrary, connect_async
from empathy_kv.records import Interaction
from empathy_kv.snapshot import content, dump, restore
from empathy_kv.testing.hostile import HOSTILE, storable
from empathy_kv.testing.records import interactions, libraries, states

__all__ = ["places"]

USERS = st.sampled_from(["ada", "grace", "../../x"])
AT = datetime(2025, 1, 20, 23, 59, 59, 999_999, tzinfo=UTC)


def records(lines: list[bytes]) -> list[bytes]:
    """Return the lines of a snapshot but the first and the last, in an order that does not depend on the engine."""
    return sorted(lines[1:-1])


@pytest.mark.parametrize("other", ["file:agents", None, PatternLibrary()])
def test_what_is_no_store_for_threads_is_refused(other: Any) -> None:
    for call in (dump, lambda store: restore(store, [])):
        with pytest.raises(ArgumentTypeError, match="store must be a Store") as caught:
            call(other)
        assert caught.value.argument == "store"


def test_a_store_of_an_event_loop_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="not AsyncStore"):
        dump(asyncio.run(connect_async("memory:")))  # type: ignore[arg-type]


def tour(
    request: pytest.FixtureRequest,
    kinds: tuple[str, ...],
    content_of: tuple[PatternLibrary, list[CollaborationState], list[Interaction]],
    limit: int,
) -> None:
    """Move what a store holds from one kind to the next."""
    with tempfile.TemporaryDirectory() as directory:
        stops = [new(kind, Path(directory), request) for kind in ("memory", *kinds, "memory")]
        source = stops[0].open(history_limit=limit)
        fill(source, *content_of)
        lines, seen = list(dump(source)), everything(source)
        for stop in stops[1:]:
            target = stop.open(history_limit=limit)
            restore(target, dump(source))
            assert records(list(dump(target))) == records(lines)
            assert everything(target) == seen
            source = target
        for stop in stops:
            stop.close()


CONTENTS = st.tuples(
    libraries(),
    st.lists(states(users=USERS), max_size=3),
    st.lists(interactions(users=USERS, ids=st.sampled_from(["a", "b", "c"])), max_size=12),
)


# A quarter of the examples: each of them fills four stores.
@settings(max_examples=max(10, settings.default.max_examples // 4))
@given(CONTENTS, st.integers(1, 5), st.permutations(["files", "sqlite"]))
def test_any_content_is_the_same_after_a_tour_of_what_needs_no_server(
    request: pytest.FixtureRequest, content_of: Any, limit: int, kinds: list[str]
) -> None:
    tour(request, tuple(kinds), content_of, limit)


# Less of them: to fill a server takes 64 shards.
@settings(max_examples=max(3, settings.default.max_examples // 20))
@given(CONTENTS, st.integers(1, 5))
def test_any_content_is_the_same_after_a_tour_of_servers(
    request: pytest.FixtureRequest, content_of: Any, limit: int
) -> None:
    tour(request, ("fakeredis", "sqlite"), content_of, limit)


def much(store: object) -> None:
    library = PatternLibrary()
    texts = [text for text in HOSTILE if storable(text, 512) and text.strip()]
    for text in texts:
        library.contribute_pattern(text, Pattern(text, text, text, text, text, {text: text}, text, tags=[text]))
    library.contribute_patterns("agent", [Pattern(f"p{n}", "agent", "t", "n", extra={"later": n}) for n in range(700)])
    for one, other in (("p1", "p3"), ("p650", "p2"), ("p2", "p1")):
        library.link_patterns(one, other)
    for n in range(8):
        library.record_pattern_outcome("p7", n % 3 == 0)
    fill(
        store,  # type: ignore[arg-type]
        library,
        [CollaborationState(text, 0.7, created_at=AT, extra={"note": [text]}) for text in texts],
        [
            Interaction(
                user, n % 5 + 1, n % 3 > 0, n * 1.5, AT + timedelta(microseconds=n // 2), f"{n}" if n % 4 else None
            )
            for user in ("ada", texts[0], texts[-1])
            for n in range(30)
        ],
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_was_written_to_all_along_comes_back_from_every_kind(
    kind: str, places: Callable[[str], Place]
) -> None:
    source = places(kind).open()
    much(source)
    # What was removed, or changed, since.
    source.patterns.remove_pattern("p3")
    source.patterns.contribute_pattern("other", Pattern("p3", "other", "t", "again"))
    source.patterns.record_pattern_outcome("p8", True)
    source.states.delete_state(source.states.list_users()[0])
    lines = list(dump(source))
    target = places("memory").open()
    counts = restore(target, lines)
    assert counts == content(lines).counts
    assert everything(target) == everything(source)
    back = places(kind).open() if kind != "redis" else source
    restore(back, dump(target), replace=kind == "redis")
    assert records(list(dump(back))) == records(lines)
    assert content(dump(back)) == content(lines)
    # It goes on to be a store as any other.
    back.patterns.contribute_pattern("new", Pattern("the last", "new", "t", "n"))
    assert list(back.patterns.patterns)[-1] == "the last"
    assert back.metrics.record_interaction("ada", 2, True, 1.5, interaction_id="1") is False
    assert back.metrics.record_interaction("ada", 3, True, 1.0, interaction_id="new") is True
    assert back.metrics.get_user_stats("ada")["total_operations"] == 31
    user = back.states.list_users()[0]
    _, version = back.states.load_versioned(user)
    assert back.states.save_state(user, CollaborationState(), expected_version=version) > version


@pytest.mark.parametrize("kind", KINDS)
def test_figures_of_what_is_not_kept_one_by_one_go_along(kind: str, places: Callable[[str], Place]) -> None:
    source = places("memory").open(history_limit=3)
    for n in range(10):
        source.metrics.record_interaction(
            "ada", n % 5 + 1, n < 7, 10.0 * n, at=AT + timedelta(days=n), interaction_id=f"{n}"
        )
    source.metrics.record_interaction("grace", 2, True, 1.0, at=AT)
    place = places(kind)
    target = place.open(history_limit=3)
    restore(target, dump(source))
    for store in (target, place.open(history_limit=3)):
        assert store.metrics.get_user_stats("ada") == source.metrics.get_user_stats("ada")
        assert store.metrics.get_global_stats() == source.metrics.get_global_stats()
        assert store.metrics.get_all_users() == ["ada", "grace"]
        assert len(store.metrics.get_history("ada")) == 3
        again = {"at": AT + timedelta(days=9), "interaction_id": "9"}
        assert store.metrics.record_interaction("ada", 5, False, 90.0, **again) is False
    target.metrics.record_interaction("ada", 1, True, 5.0, at=AT + timedelta(days=20))
    source.metrics.record_interaction("ada", 1, True, 5.0, at=AT + timedelta(days=20))
    assert target.metrics.get_user_stats("ada") == source.metrics.get_user_stats("ada")


@pytest.mark.parametrize("kind", ["files", "fakeredis"])
def test_a_store_that_keeps_fewer_takes_the_newest(kind: str, places: Callable[[str], Place]) -> None:
    source = places("sqlite").open()
    for n in range(20):
        source.metrics.record_interaction("ada", 3, True, float(n), at=AT + timedelta(hours=n), interaction_id=f"{n}")
    lines = list(dump(source))
    target = places(kind).open(history_limit=5)
    restore(target, lines)
    assert [each.response_time_ms for each in target.metrics.get_history("ada")] == [15.0, 16.0, 17.0, 18.0, 19.0]
    assert target.metrics.get_user_stats("ada") == source.metrics.get_user_stats("ada")
    assert content(dump(target)) == content(lines, history_limit=5)
    assert content(dump(target)) != content(lines)


@pytest.mark.parametrize("order", ["as they were", "the last first", "any"])
@pytest.mark.parametrize("count", [6, 7, 8, 50])
def test_a_history_of_a_database_is_sorted_in_runs_as_it_is_at_once(
    count: int, order: str, places: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = places("sqlite").open()
    numbers = list(range(count))
    if order == "the last first":
        numbers.reverse()
    elif order == "any":
        random.Random(1).shuffle(numbers)
    for n in numbers:  # Two each at one time, of which the one that was recorded first is the first.
        at = AT + timedelta(hours=n // 2)
        source.metrics.record_interaction("ada", 3, True, float(n), at=at, interaction_id=f"{n}")
    at_once = list(dump(source))
    monkeypatch.setattr(empathy_kv.sql.snapshot, "_RUN", 7)
    assert list(dump(source))[1:-1] == at_once[1:-1]
    assert content(dump(source)).counts.interactions == count


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_holds_something_is_replaced_only_if_told(kind: str, places: Callable[[str], Place]) -> None:
    source = places("memory").open()
    fill(source, states=[CollaborationState("ada", 0.9)])
    lines = list(dump(source))
    place = places(kind)
    for part in range(3):
        target = place.open()
        if part == 0:
            target.patterns.contribute_pattern("x", Pattern("x", "x", "t", "n"))
        elif part == 1:
            target.states.save_state("grace", CollaborationState())
        else:
            target.metrics.record_interaction("grace", 3, True, 1.0)
        before = everything(target)
        with pytest.raises(NotEmptyError) as caught:
            restore(target, lines)
        assert isinstance(caught.value, FileExistsError)
        assert everything(target) == before
        restore(target, lines, replace=True)
        again = place.open()
        assert everything(again) == everything(source)
        again.states.delete_state("ada")
    assert restore(place.open(), lines).states == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_store_is_a_snapshot_too(kind: str, places: Callable[[str], Place]) -> None:
    lines = list(dump(places(kind).open()))
    assert len(lines) == 2
    target = places("memory").open()
    fill(target, states=[CollaborationState("ada")])
    restore(target, lines, replace=True)
    assert target.states.list_users() == []


def test_a_dump_of_files_creates_nothing_where_nothing_is(tmp_path: Path) -> None:
    place = Place(f"file:{tmp_path}/nothing")
    list(dump(place.open()))
    place.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["memory", "files", "redis"])
def test_what_is_no_part_of_a_snapshot_is_left_alone(kind: str, places: Callable[[str], Place]) -> None:
    target = places(kind).open()
    target.kv.namespace("mine").set("key", b"value")
    restore(target, dump(places("memory").open()), replace=True)
    assert target.kv.namespace("mine").get("key") == b"value"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_rows_that_others_inserted_are_moved_too(
    kind: str, places: Callable[[str], Place], request: pytest.FixtureRequest
) -> None:
    place = places(kind)
    source = place.open()
    source.metrics.record_interaction("ada", 3, True, 10.0, at=AT)
    insert = (
        "INSERT INTO interactions (user_id, empathy_level, success, response_time_ms, timestamp) "
        "VALUES ('ada', 9, {no}, NULL, '2025-01-01T00:00:00+02:00')"
    )
    if kind == "sqlite":
        import sqlite3

        with sqlite3.connect(place.url.removeprefix("sqlite:///")) as raw:
            raw.execute(insert.format(no="0"))
        raw.close()
    else:
        import psycopg

        with psycopg.connect(place.url) as connection:
            connection.execute(insert.format(no="FALSE"))
    lines = list(dump(source))
    for stop in ("files", "fakeredis", kind):
        target = places(stop).open()
        restore(target, dump(source))
        assert records(list(dump(target))) == records(lines)
        assert target.metrics.get_user_stats("ada") == source.metrics.get_user_stats("ada")
        assert target.metrics.get_history("ada") == source.metrics.get_history("ada")
        source = target


def test_workers_on_postgres_are_told_once_that_the_library_is_another_one(places: Callable[[str], Place]) -> None:
    import psycopg

    source, target = places("memory").open(), places("postgresql")
    source.patterns.contribute_patterns("a", [Pattern(f"{n}", "a", "t", "n") for n in range(300)])
    worker, other = target.open(), target.open()
    worker.patterns.contribute_pattern("a", Pattern("before", "a", "t", "n"))
    assert list(worker.patterns.patterns) == ["before"]
    feed = "SELECT number FROM pattern_feed"
    with psycopg.connect(target.url, autocommit=True) as connection:
        (before,) = connection.execute(feed).fetchone() or (0,)
        restore(other, dump(source), replace=True)
        (after,) = connection.execute(feed).fetchone() or (0,)
    assert after <= before + 10  # To tell each of many would take ever longer.
    assert list(worker.patterns.patterns) == [f"{n}" for n in range(300)]
    other.patterns.contribute_pattern("a", Pattern("after", "a", "t", "n"))
    assert list(worker.patterns.patterns)[-1] == "after"


def test_progress_is_told_to_its_end(places: Callable[[str], Place]) -> None:
    source = places("memory").open()
    source.patterns.contribute_patterns("a", [Pattern(f"{n}", "a", "t", "n") for n in range(2500)])
    told: list[tuple[int, int | None]] = []
    lines = list(dump(source, progress=lambda *both: told.append(both)))
    assert told == [(1000, None), (2000, None), (2500, 2500)]
    told.clear()
    restore(places("memory").open(), lines, progress=lambda *both: told.append(both))
    assert told == [(1000, 2500), (2000, 2500), (2500, 2500)]
