"""Timelines that are kept in pages: nobody sees that, but for the time it takes, and no page is ever missed."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from engines import DATABASES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from empathy_kv import remembered, timelines
from empathy_kv.errors import CheckError, DamagedError, EmpathyKVError, StorageError
from empathy_kv.kv.interface import Namespace, run
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.kv.operations import Batch, Name, Operation
from empathy_kv.records import Interaction
from empathy_kv.remembered import Remembered
from empathy_kv.snapshot import content, dump, restore
from empathy_kv.store import Store
from empathy_kv.timelines import Timelines

if TYPE_CHECKING:
    from domain.conftest import Fresh, Home

AT = datetime(2025, 1, 20, 12, tzinfo=UTC)
SHARD: Name = ("metrics", "00")
SOME = settings(
    max_examples=settings.default.max_examples // 3 + 1,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of four, so that a few interactions make many of them, and few of them at a time."""
    monkeypatch.setattr(timelines, "PAGE", 4)
    monkeypatch.setattr(timelines, "_TOUCHED", 3)
    monkeypatch.setattr(timelines, "_DROPPED", 3)
    monkeypatch.setattr(timelines, "_OFTEN", 2)
    monkeypatch.setattr(remembered, "STAY", 4)
    monkeypatch.setattr(remembered, "_OFTEN", 2)
    monkeypatch.setattr(remembered, "PARTS", 3)


def record(store: Store, number: int, minute: int, user: str = "ann", **more: Any) -> bool:
    """Record an interaction that is known again by its number."""
    at = AT + timedelta(minutes=minute)
    return store.metrics.record_interaction(user, 1 + number % 5, True, float(number), at=at, **more)


def numbers(history: list[Interaction]) -> list[int]:
    return [int(one.response_time_ms) for one in history]


def expected(minutes: list[int], limit: int) -> list[int]:
    """Return the numbers of what is kept: the newest, of the same minute those that were recorded last."""
    return sorted(range(len(minutes)), key=lambda number: (minutes[number], number))[-limit:]


def shards(store: Store) -> list[Namespace]:
    return [store.kv.namespace("metrics", f"{number:02d}") for number in range(store.kv.shards)]


def stored(store: Store, user: str = "ann") -> dict[str, int]:
    """Return how many interactions or ids each key of a user has."""
    found = {}
    for namespace in shards(store):
        for key in namespace.keys():  # noqa: SIM118 - a namespace is no mapping
            kind, _, rest = key.partition(":")
            if kind == "page" and rest.partition(":")[2] == user:
                text = namespace.get(key)
                assert text is not None
                found[key] = len(json.loads(text))
            elif rest == user and kind not in ("user", "pages", "parts"):
                found[key] = namespace.zcard(key)
    return found


ORDERS = st.one_of(
    st.integers(0, 60).map(lambda count: list(range(count))),
    st.integers(0, 60).map(lambda count: list(range(count, 0, -1))),
    st.lists(st.integers(0, 80), max_size=60),
    st.lists(st.integers(0, 2), max_size=60),
    st.integers(0, 60).map(lambda count: [number - 30 * (number % 9 == 8) for number in range(count)]),
)


@pytest.mark.needs_kv
@pytest.mark.usefixtures("small")
@SOME
@given(minutes=ORDERS, limit=st.integers(1, 40))
def test_the_newest_are_kept_in_whatever_order_they_come(fresh: Fresh, minutes: list[int], limit: int) -> None:
    home = fresh()
    stores = [home.open(history_limit=limit)]
    if home.engine.shares:
        stores.append(home.open(history_limit=limit))
    for number, minute in enumerate(minutes):
        assert record(stores[number % len(stores)], number, minute)
    for store in stores:
        assert numbers(store.metrics.get_history("ann")) == expected(minutes, limit)
        assert store.metrics.get_user_stats("ann")["total_operations"] == len(minutes)
    # An eighth more, a page that may go, and what is not in pages yet.
    assert sum(stored(stores[0]).values()) <= limit + limit // 8 + 2 * min(4, limit) + 3 * 4
    home.close()


@pytest.mark.needs_kv
@pytest.mark.usefixtures("small")
@SOME
@given(script=st.lists(st.none() | st.integers(0, 40), max_size=60), limit=st.integers(1, 40), data=st.data())
def test_as_many_ids_are_remembered_as_interactions(
    fresh: Fresh, script: list[int | None], limit: int, data: st.DataObject
) -> None:
    home = fresh()
    store = home.open(history_limit=limit)
    moved = data.draw(st.integers(0, len(script)))  # Before this one, all goes into another store, by a snapshot.
    given_: list[int] = []
    for place, number in enumerate(script):
        if place == moved:
            target = fresh().open(history_limit=limit)
            restore(target, dump(store))
            store = target
        name = None if number is None else f"i{number}"
        counted = store.metrics.record_interaction("ann", 1, True, 1.0, at=AT, interaction_id=name)
        if number is not None:
            assert not counted or number not in given_[-limit:]
            assert counted or number in given_
            if counted:
                given_ = [*(other for other in given_ if other != number), number]
    home.close()


@pytest.mark.usefixtures("small")
def test_ids_that_are_chosen_so_that_they_go_to_one_part_are_remembered_too() -> None:
    store = Store(MemoryKV(), history_limit=50)
    names = [f"i{n}" for n in range(1_000) if remembered._part("ann", b"i%d" % n) == "ids_1:ann"][:200]
    for name in names:
        assert store.metrics.record_interaction("ann", 1, True, 1.0, interaction_id=name)
    assert not any(store.metrics.record_interaction("ann", 1, True, 1.0, interaction_id=name) for name in names[-50:])
    assert sum(count for key, count in stored(store).items() if key.startswith("ids")) < 50 + 20


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("limit", [3, 30])
def test_what_a_store_holds_does_not_depend_on_who_reads_it(limit: int) -> None:
    store = Store(MemoryKV(), history_limit=limit)
    for number in range(100):
        record(store, number, number, interaction_id=f"i{number}")
    for other in (1, 10_000):
        reader = Store(store.kv, history_limit=other)
        assert reader.metrics.get_history("ann") == store.metrics.get_history("ann")
        assert content(dump(reader)) == content(dump(store))
        target = Store(MemoryKV(), history_limit=limit)
        restore(target, dump(reader))
        assert content(dump(target)) == content(dump(reader)) == content(dump(store), history_limit=limit)


@pytest.mark.needs_kv
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("limit", [3, 30, 500])
def test_a_snapshot_has_them_and_the_store_that_it_fills_goes_on(fresh: Fresh, limit: int) -> None:
    home, other = fresh(), fresh()
    source = home.open(history_limit=limit)
    minutes = [number if number % 7 else 1 for number in range(101)]
    for number, minute in enumerate(minutes):
        record(source, number, minute, interaction_id=f"i{number}")
    target = other.open(history_limit=limit)
    lines = list(dump(source))
    restore(target, lines)
    assert sorted(list(dump(target))[1:-1]) == sorted(lines[1:-1])
    assert numbers(target.metrics.get_history("ann")) == expected(minutes, limit)
    assert max(count for key, count in stored(target).items() if not key.startswith("ids_")) <= 8
    for number in range(101 - limit, 101):
        if number >= 0:
            assert not record(target, number, minutes[number], interaction_id=f"i{number}")
    for number in range(101, 150):
        assert record(target, number, number, interaction_id=f"i{number}")
    assert numbers(target.metrics.get_history("ann")) == expected([*minutes, *range(101, 150)], limit)


@pytest.mark.needs_kv
def test_no_key_grows_with_how_many_there_are(home: Home) -> None:
    store = home.open()
    for number in range(1_000):
        record(store, number, number, interaction_id=f"i{number}")
    kept = stored(store)
    assert sum(count for key, count in kept.items() if key.startswith(("page:", "recent:"))) == 1_000
    assert sum(count for key, count in kept.items() if key.startswith("ids")) == 1_000
    assert max(kept.values()) <= 2 * timelines.PAGE
    assert numbers(store.metrics.get_history("ann")) == list(range(1_000))


@pytest.mark.needs_kv
def test_a_store_from_before_there_were_pages_is_cut_up(home: Home) -> None:
    store = home.open()
    record(store, 0, 0, interaction_id="i0")
    (shard,) = [shard for shard in shards(store) if shard.zcard("recent:ann")]
    entries = {
        timelines.encoded(f"{number:020d}", 1, True, float(number), None): (AT.timestamp() + 60 * number) * 1e6
        for number in range(1, 1_000)
    }
    shard.zadd("recent:ann", entries)
    shard.zappend("ids:ann", *(f"i{number}".encode() for number in range(1, 1_000)))
    for number in range(1_000, 1_040):
        record(store, number, number, interaction_id=f"i{number}")
    assert max(stored(store).values()) <= 2 * timelines.PAGE
    assert numbers(store.metrics.get_history("ann")) == list(range(1_040))
    assert not any(store.metrics.record_interaction("ann", 1, True, 1.0, interaction_id=f"i{n}") for n in range(1, 40))


@pytest.mark.needs_kv
@pytest.mark.usefixtures("small")
def test_users_whose_names_look_like_pages_are_kept_apart(home: Home) -> None:
    store = home.open(history_limit=20)
    users = ["ann", "1:ann", "1:1:ann", "ids_1:ann", "page:1:ann", ":ann"]
    for number in range(30):
        for place, user in enumerate(users):
            record(store, 100 * place + number, number, user, interaction_id=f"i{number}")
    for place, user in enumerate(users):
        assert numbers(store.metrics.get_history(user)) == list(range(100 * place + 10, 100 * place + 30))
    target = Store(MemoryKV(), history_limit=20)
    restore(target, dump(store))
    for user in users:
        assert target.metrics.get_history(user) == store.metrics.get_history(user)


@pytest.mark.usefixtures("small")
def test_whoever_reads_while_others_record_misses_none(fresh_shared: Fresh) -> None:
    home = fresh_shared()
    limit, count = 40, 300
    keeps = home.name not in DATABASES  # A database keeps all of them.
    reader, writers = home.open(history_limit=limit), [home.open(history_limit=limit) for _ in range(2)]
    record(reader, 0, 0)
    failed: list[EmpathyKVError] = []

    def work(store: Store, first: int) -> None:
        try:
            for number in range(first, count, 2):
                record(store, number, number)
        except EmpathyKVError as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(store, 1 + place)) for place, store in enumerate(writers)]
    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        seen = numbers(reader.metrics.get_history("ann"))
        assert len(seen) == len(set(seen))
        assert len(seen) >= min(most, limit)
        most = max(most, len(seen))
        dumped = [json.loads(line) for line in dump(reader)]
        kept = sum(len(line["interactions"]) for line in dumped if "interactions" in line)
        (figures,) = [line["metrics"] for line in dumped if "metrics" in line]
        if keeps:
            assert kept == min(figures["operations"], limit)
    for thread in threads:
        thread.join()
    assert not failed
    if keeps:
        assert numbers(reader.metrics.get_history("ann")) == list(range(count - limit, count))


class Refusing(MemoryKV):
    """An engine whose disk is full whenever pages would be written."""

    full = True

    def execute(self, batch: Batch) -> list[Any]:
        written = [each.key for each in batch.operations if isinstance(each, Operation) and each.writes]
        if self.full and any(key.startswith(("pages:", "parts:")) for key in written):
            raise StorageError("no space left on device", path="")
        return super().execute(batch)


@pytest.mark.usefixtures("small")
def test_what_is_recorded_is_recorded_though_it_can_not_be_moved_and_another_moves_it() -> None:
    kv = Refusing()
    store = Store(kv)
    for number in range(20):
        assert record(store, number, number, interaction_id=f"i{number}")
    assert stored(store) == {"recent:ann": 20, "ids:ann": 20}
    assert numbers(store.metrics.get_history("ann")) == list(range(20))
    kv.full = False
    for number in range(20, 22):
        record(store, number, number, interaction_id=f"i{number}")
    assert max(stored(store).values()) <= 12
    assert numbers(store.metrics.get_history("ann")) == list(range(22))


@pytest.mark.usefixtures("small")
def test_two_that_move_at_the_same_time_move_once() -> None:
    kv = Refusing()
    store = Store(kv)
    for number in range(9):
        record(store, number, number, interaction_id=f"i{number}")
    kv.full = False
    waiting: list[Batch] = []
    for slow, fast in ((Timelines(99).move, Timelines(99).move), (Remembered(99).move, Remembered(99).move)):
        steps = slow(SHARD, "ann")
        batch = next(steps)
        while not batch.writes:
            batch = steps.send(kv.execute(batch))
        waiting.append(batch)
        run(kv, fast(SHARD, "ann"))
    before = stored(store)
    with pytest.raises(CheckError):
        kv.execute(waiting[0])
    kv.execute(waiting[1])  # Ids that are moved twice are where they are.
    assert stored(store) == before
    assert (before["recent:ann"], before["page:1:ann"], before["ids:ann"]) == (4, 5, 4)
    assert numbers(store.metrics.get_history("ann")) == list(range(9))


def test_a_part_stays_small_though_all_ids_go_to_it() -> None:
    store = Store(MemoryKV(), history_limit=300)
    names = [f"i{n}" for n in range(200_000) if remembered._part("ann", b"i%d" % n) == "ids_1:ann"][:2_000]
    for name in names:
        assert store.metrics.record_interaction("ann", 1, True, 1.0, interaction_id=name)
    assert sum(count for key, count in stored(store).items() if key.startswith("ids")) < 300 + 3 * remembered.STAY
    assert not any(store.metrics.record_interaction("ann", 1, True, 1.0, interaction_id=name) for name in names[-300:])


@pytest.mark.needs_kv
@pytest.mark.usefixtures("small")
def test_a_page_that_is_gone_is_told_and_never_taken_for_nothing(home: Home) -> None:
    store = home.open()
    for number in range(20):
        record(store, number, number)
    for shard in shards(store):
        shard.delete("page:2:ann")
    with pytest.raises(DamagedError, match=r"4 interactions of the user 'ann' are gone: .* 'page:2:ann'"):
        store.metrics.get_history("ann")
    with pytest.raises(DamagedError, match="page:2:ann"):
        list(dump(store))
    for number in range(20, 60):
        assert record(store, number, number if number != 30 else 5)  # One that belongs into it.
    assert store.metrics.get_user_stats("ann")["total_operations"] == 60
    assert max(stored(store).values()) <= 10, "the others move on"


@pytest.mark.needs_kv
@pytest.mark.usefixtures("small")
def test_a_smaller_limit_counts_from_the_next_page_on(home: Home) -> None:
    store = home.open(history_limit=100)
    for number in range(50):
        record(store, number, number)
    smaller = home.open(history_limit=5) if home.engine.shares else Store(store.kv, history_limit=5)
    assert len(list(numbers(smaller.metrics.get_history("ann")))) == 50
    for number in range(50, 80):
        record(smaller, number, number)
    assert numbers(smaller.metrics.get_history("ann")) == list(range(75, 80))
    assert stored(smaller) == {"recent:ann": 5}
    for number in range(80, 120):
        record(store, number, number)
    assert numbers(store.metrics.get_history("ann")) == list(range(75, 120))


@pytest.mark.needs_kv
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("text", [b"garbage", b'{"limit":"x"}', b"\xff", b"[]"])
def test_what_says_which_pages_there_are_is_damaged_and_what_is_recorded_is_counted(home: Home, text: bytes) -> None:
    store = home.open()
    for number in range(20):
        record(store, number, number)
    for shard in shards(store):
        if shard.exists("pages:ann"):
            shard.set("pages:ann", text)
    for number in range(20, 40):
        assert record(store, number, number)
    assert store.metrics.get_user_stats("ann")["total_operations"] == 40
    with pytest.raises(DamagedError, match="'pages:ann'") as caught:
        store.metrics.get_history("ann")
    assert caught.value.path == "pages:ann"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("limit", [5, 20, 1_000])
def test_of_one_moment_those_that_were_recorded_last_are_the_last(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    store = Store(MemoryKV(), history_limit=limit)
    for number in range(60):
        record(store, number, 7)
    assert numbers(store.metrics.get_history("ann")) == list(range(60))[-limit:]
