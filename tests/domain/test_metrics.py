"""Metrics on every engine, against a model that keeps every interaction and knows nothing of counters."""

from __future__ import annotations

import collections
import csv
import enum
import json
import math
import threading
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import Factory, define
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from empathy_kv import connect
from empathy_kv.errors import ArgumentError, DamagedError, EmpathyKVError, IdempotencyError, StorageError
from empathy_kv.kv.interface import run
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.metrics import HISTORY, MetricRules, MetricsCollector
from empathy_kv.records import Interaction
from empathy_kv.shared_metrics import KVMetrics
from empathy_kv.store import Store
from empathy_kv.totals import bucket, middle

if TYPE_CHECKING:
    from domain.conftest import Fresh, Home

MANY = settings(
    max_examples=settings.default.max_examples // 3 + 1,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NOON = datetime(2025, 1, 20, 12, tzinfo=UTC)

FIGURES = {
    *("success_rate", "avg_response_time_ms", "p50_response_time_ms", "p95_response_time_ms", "p99_response_time_ms"),
    *("level_1_count", "level_2_count", "level_3_count", "level_4_count", "level_5_count"),
    *("first_interaction", "last_interaction", "daily_counts"),
}


def in_memory() -> Store:
    return Store(MemoryKV())


@define
class One:
    user: str
    level: int
    success: bool
    took: float
    at: datetime

    @property
    def moment(self) -> datetime:
        return self.at.replace(tzinfo=UTC) if self.at.tzinfo is None else self.at.astimezone(UTC)


@define
class Model:
    """Everything that was recorded, in the order in which it was."""

    recorded: list[One] = Factory(list)

    def of(self, user: str | None) -> list[One]:
        return [one for one in self.recorded if user in (None, one.user)]

    @property
    def users(self) -> list[str]:
        return sorted({one.user for one in self.recorded})

    def check(self, stats: Any, user: str | None) -> None:
        mine = self.of(user)
        count = len(mine)
        if user is None:
            assert stats.keys() == FIGURES | {"total_users", "total_interactions"}
            assert (stats["total_users"], stats["total_interactions"]) == (len(self.users), count)
        else:
            assert stats.keys() == FIGURES | {"total_operations", "current_level"}
            assert stats["total_operations"] == count
            assert stats["current_level"] == (max(mine, key=lambda one: one.moment).level if mine else 1)
        assert stats["success_rate"] == (sum(one.success for one in mine) / count if count else 0.0)
        # The sum is exact in microseconds, so the average is off by half of one at most.
        exact = float(sum((Fraction(one.took) for one in mine), Fraction())) / count if count else 0.0
        assert stats["avg_response_time_ms"] == pytest.approx(exact, rel=1e-9, abs=0.0006)
        for share, name in ((50, "p50_response_time_ms"), (95, "p95_response_time_ms"), (99, "p99_response_time_ms")):
            times = sorted(one.took for one in mine)
            rank = math.ceil(Fraction(share, 100) * count)
            assert stats[name] == pytest.approx(times[rank - 1] if mine else 0.0, rel=0.02, abs=0.0006)
        for level in range(1, 6):
            assert stats[f"level_{level}_count"] == sum(one.level == level for one in mine)
        assert stats["first_interaction"] == min((one.moment for one in mine), default=None)
        assert stats["last_interaction"] == max((one.moment for one in mine), default=None)
        days = collections.Counter(one.moment.date().isoformat() for one in mine)
        assert stats["daily_counts"] == days
        assert list(stats["daily_counts"]) == sorted(days)

    def agrees(self, metrics: MetricsCollector) -> None:
        assert metrics.get_all_users() == self.users
        for user in [*self.users, "nobody"]:
            self.check(metrics.get_user_stats(user), user)
            mine = sorted(self.of(user), key=lambda one: one.moment)
            assert metrics.get_history(user) == [
                Interaction(user, one.level, one.success, one.took, one.moment) for one in mine
            ]
        self.check(metrics.get_global_stats(), None)


def record(metrics: MetricsCollector, one: One) -> bool:
    return metrics.record_interaction(one.user, one.level, one.success, one.took, at=one.at)


zones = st.sampled_from([None, UTC, *(timezone(timedelta(minutes=m)) for m in (-720, -210, 345, 840))])
moments = st.datetimes(datetime(1970, 1, 3), datetime(2199, 1, 1), timezones=zones)  # noqa: DTZ001 - naive ones are some
times = st.one_of(
    st.floats(0, 1e6),
    st.sampled_from([0.0, 0.0004, 0.001, 0.063, 0.064, 0.065, 0.127, 0.128, 1, 145.3, 999.9999, 1e12]),
    st.integers(0, 10**9),
)
interactions = st.lists(
    st.builds(One, st.sampled_from(["u", "v", "é", "U"]), st.integers(1, 5), st.booleans(), times, moments),
    max_size=25,
    unique_by=lambda one: one.moment,
)


@given(script=interactions)
@MANY
def test_the_figures_agree_with_the_model(fresh: Fresh, script: list[One]) -> None:
    metrics, model = fresh().open().metrics, Model()
    for one in script:
        assert record(metrics, one) is True
        model.recorded.append(one)
    model.agrees(metrics)


@given(script=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), max_size=20), ones=interactions)
@settings(MANY, max_examples=settings.default.max_examples // 6 + 1)
def test_two_workers_count_into_the_same_figures(
    fresh_shared: Fresh, script: list[tuple[int, int]], ones: list[One]
) -> None:
    home, model = fresh_shared(), Model()
    workers = [home.open().metrics, home.open().metrics]
    for (who, look), one in zip(script, ones, strict=False):
        record(workers[who], one)
        model.recorded.append(one)
        if look == 0:
            model.agrees(workers[1 - who])
    for metrics in (*workers, home.open().metrics):
        model.agrees(metrics)
    home.close()


@given(times=st.lists(st.floats(0.001, 1e7), min_size=1, max_size=300))
@settings(MANY, max_examples=settings.default.max_examples)
def test_percentiles_are_within_two_percent(times: list[float]) -> None:
    metrics = in_memory().metrics
    for number, took in enumerate(times):
        metrics.record_interaction("u", 1, True, took, at=NOON + timedelta(seconds=number))
    model = Model([One("u", 1, True, took, NOON + timedelta(seconds=number)) for number, took in enumerate(times)])
    model.check(metrics.get_user_stats("u"), "u")


@given(value=st.integers(0, 10**15))
def test_a_bucket_is_narrow_and_its_neighbours_follow_without_a_gap(value: int) -> None:
    index = bucket(value)
    assert abs(middle(index) - value) <= 0.016 * value
    assert bucket(value + 1) in (index, index + 1)
    assert middle(index) < middle(index + 1)
    assert bucket(int(middle(index))) == index


def test_users_that_never_came_have_zeros(store: Store) -> None:
    expected = {
        **dict.fromkeys(FIGURES, 0),
        "first_interaction": None,
        "last_interaction": None,
        "daily_counts": {},
    }
    assert store.metrics.get_user_stats("nobody") == {**expected, "total_operations": 0, "current_level": 1}
    assert store.metrics.get_global_stats() == {**expected, "total_users": 0, "total_interactions": 0}
    assert store.metrics.get_all_users() == []
    assert store.metrics.get_history("nobody") == []


def test_the_example_of_the_reference(store: Store) -> None:
    collector = store.metrics
    assert collector.record_interaction(user_id="user_123", level=3, success=True, response_time_ms=145.3) is True
    stats = collector.get_user_stats("user_123")
    assert stats["total_operations"] == 1
    assert f"{stats['success_rate']:.0%} {stats['avg_response_time_ms']:.0f}ms" == "100% 145ms"
    assert [stats.get(f"level_{level}_count", 0) for level in range(1, 6)] == [0, 0, 1, 0, 0]
    assert stats.get("current_level", 1) == 3
    everyone = collector.get_global_stats()
    assert (everyone["total_users"], everyone["total_interactions"], everyone["success_rate"]) == (1, 1, 1.0)
    assert collector.get_all_users() == ["user_123"]


def test_without_a_time_it_was_now(store: Store) -> None:
    before = datetime.now(UTC)
    store.metrics.record_interaction("u", 1, True, 1.0)
    stats = store.metrics.get_user_stats("u")
    assert stats["first_interaction"] == stats["last_interaction"]
    assert stats["last_interaction"] is not None
    assert before <= stats["last_interaction"] <= datetime.now(UTC)


def test_a_naive_time_is_taken_as_utc_and_days_are_those_of_utc(store: Store) -> None:
    late = datetime(2025, 1, 20, 23, 30)  # noqa: DTZ001 - the documented form
    store.metrics.record_interaction("u", 1, True, 1.0, at=late)
    store.metrics.record_interaction("u", 1, True, 1.0, at=late.replace(tzinfo=timezone(timedelta(hours=-2))))
    stats = store.metrics.get_user_stats("u")
    assert stats["first_interaction"] == datetime(2025, 1, 20, 23, 30, tzinfo=UTC)
    assert stats["last_interaction"] == datetime(2025, 1, 21, 1, 30, tzinfo=UTC)
    assert stats["daily_counts"] == {"2025-01-20": 1, "2025-01-21": 1}


@given(at=st.datetimes(timezones=zones))
@MANY
def test_any_time_is_kept_exactly_or_refused_at_once(fresh: Fresh, at: datetime) -> None:
    metrics = fresh().open().metrics
    metrics.record_interaction("u", 1, True, 1.0, at=NOON)
    before = (metrics.get_user_stats("u"), metrics.get_history("u"), metrics.get_global_stats())
    try:
        metrics.record_interaction("u", 2, True, 1.0, at=at)
    except EmpathyKVError as error:
        assert isinstance(error, ValueError)
        assert (metrics.get_user_stats("u"), metrics.get_history("u"), metrics.get_global_stats()) == before
    else:
        moment = One("u", 2, True, 1.0, at).moment
        assert metrics.get_user_stats("u")["first_interaction"] == min(NOON, moment)
        assert metrics.get_user_stats("u")["last_interaction"] == max(NOON, moment)
        assert moment in [one.at for one in metrics.get_history("u")]


@pytest.mark.parametrize(
    "at",
    [
        datetime.max,
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        datetime.min,
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
    ],
    ids=["max", "beyond max", "min", "beyond min"],
)
def test_the_ends_of_time_spoil_nothing(store: Store, at: datetime) -> None:
    try:
        store.metrics.record_interaction("u", 1, True, 1.0, at=at)
    except ArgumentError as error:
        assert error.argument == "at"
    store.metrics.record_interaction("u", 1, True, 1.0)
    assert store.metrics.get_user_stats("u")["total_operations"] in (1, 2)
    assert store.metrics.get_global_stats()["total_users"] == 1
    assert store.metrics.get_history("u")


def test_of_two_at_the_same_moment_the_later_recorded_is_the_last(store: Store) -> None:
    # A timestamp of whole seconds or days makes such.
    for level in (3, 5, 4, 1, 2):
        store.metrics.record_interaction("u", level, level % 2 == 0, float(level), at=NOON)
        assert store.metrics.get_user_stats("u")["current_level"] == level
    assert [one.level for one in store.metrics.get_history("u")] == [3, 5, 4, 1, 2]


def test_interactions_that_are_alike_in_everything_are_counted_each(store: Store) -> None:
    for _ in range(20):
        store.metrics.record_interaction("u", 3, True, 10.0, at=NOON)
    assert store.metrics.get_user_stats("u")["total_operations"] == 20
    assert len(store.metrics.get_history("u")) == 20


def test_a_level_of_an_enumeration_is_the_level(store: Store) -> None:
    class Level(int, enum.Enum):
        ANTICIPATORY = 4

    class Named(enum.IntEnum):
        PROACTIVE = 3

    store.metrics.record_interaction("u", Level.ANTICIPATORY, True, 1.0)
    store.metrics.record_interaction("u", Named.PROACTIVE, True, 1.0)
    stats = store.metrics.get_user_stats("u")
    assert (stats["level_3_count"], stats["level_4_count"], stats["current_level"]) == (1, 1, 3)


def test_a_user_of_an_enumeration_is_the_user(store: Store) -> None:
    class User(str, enum.Enum):
        ANN = "ann"

    store.metrics.record_interaction(User.ANN, 1, True, 1.0)
    assert store.metrics.get_all_users() == ["ann"]
    assert store.metrics.get_user_stats("ann")["total_operations"] == 1
    assert store.metrics.get_user_stats(User.ANN)["total_operations"] == 1
    assert len(store.metrics.get_history("ann")) == 1


# What is kept one by one


@pytest.mark.needs_kv
def test_the_history_is_trimmed_and_the_counters_are_not(home: Home) -> None:
    metrics = home.open(history_limit=5).metrics
    for number in range(12):
        metrics.record_interaction(
            "u", 1 + number % 5, number % 2 == 0, float(number), at=NOON + timedelta(hours=number)
        )
    metrics.record_interaction("v", 1, True, 1.0, at=NOON)
    assert [one.response_time_ms for one in metrics.get_history("u")] == [7.0, 8.0, 9.0, 10.0, 11.0]
    stats = metrics.get_user_stats("u")
    assert (stats["total_operations"], stats["success_rate"], stats["avg_response_time_ms"]) == (12, 0.5, 5.5)
    assert stats["first_interaction"] == NOON
    assert stats["daily_counts"] == {"2025-01-20": 12}
    assert len(metrics.get_history("v")) == 1


@pytest.mark.needs_kv
def test_one_that_comes_late_is_counted_though_the_history_has_no_room_for_it(home: Home) -> None:
    metrics = home.open(history_limit=3).metrics
    for number in range(3):
        metrics.record_interaction("u", 2, True, 1.0, at=NOON + timedelta(hours=number))
    metrics.record_interaction("u", 5, True, 1.0, at=NOON - timedelta(days=9))
    assert [one.level for one in metrics.get_history("u")] == [2, 2, 2]
    stats = metrics.get_user_stats("u")
    assert (stats["total_operations"], stats["level_5_count"], stats["current_level"]) == (4, 1, 2)
    assert stats["first_interaction"] == NOON - timedelta(days=9)


@pytest.mark.needs_kv
def test_a_history_of_one_is_the_last(home: Home) -> None:
    metrics = home.open(history_limit=1).metrics
    for number in range(5):
        metrics.record_interaction(
            "u", number + 1, True, 1.0, at=NOON + timedelta(hours=number), interaction_id=str(number)
        )
    assert [(one.level, one.id) for one in metrics.get_history("u")] == [(5, "4")]
    assert metrics.get_user_stats("u")["current_level"] == 5


def test_the_figures_of_a_user_are_read_without_the_history(tmp_path: Path) -> None:
    with connect(f"file:{tmp_path}") as store:
        for level in (2, 4):
            store.metrics.record_interaction("u", level, True, 1.0)
    (history,) = tmp_path.rglob("recent*.json")
    history.write_bytes(b"{")
    with connect(f"file:{tmp_path}") as store:
        assert store.metrics.get_user_stats("u")["current_level"] == 4
        with pytest.raises(DamagedError):
            store.metrics.get_history("u")


# Ids of the caller's


def test_an_interaction_with_an_id_is_counted_once(store: Store) -> None:
    for expected in (True, False, False):
        counted = store.metrics.record_interaction("u", 2, True, 10.0, at=NOON, interaction_id="i1")
        assert counted is expected
    assert store.metrics.record_interaction("u", 2, True, 10.0, interaction_id="i1") is False
    assert store.metrics.record_interaction("v", 2, True, 10.0, at=NOON, interaction_id="i1") is True
    assert store.metrics.record_interaction("u", 2, True, 10.0, at=NOON, interaction_id="i2") is True
    assert store.metrics.record_interaction("u", 2, True, 10.0, at=NOON) is True
    assert store.metrics.get_user_stats("u")["total_operations"] == 3
    assert store.metrics.get_global_stats()["total_interactions"] == 4
    assert collections.Counter(one.id for one in store.metrics.get_history("u")) == {"i1": 1, "i2": 1, None: 1}


def test_an_id_that_was_used_for_another_time_is_refused(store: Store) -> None:
    def record(id: str, at: datetime | None) -> bool:
        return store.metrics.record_interaction("u", 2, True, 10.0, at=at, interaction_id=id)

    assert record("then", NOON) is True
    assert record("now", None) is True
    counted = {one.id: one.at for one in store.metrics.get_history("u")}
    for id, at in counted.items():
        assert id is not None
        for same in (None, at, at.astimezone(timezone(timedelta(hours=5))), at.replace(tzinfo=None)):
            assert record(id, same) is False
        for other in (at + timedelta(microseconds=1), at - timedelta(days=1)):
            with pytest.raises(IdempotencyError) as caught:
                record(id, other)
            assert caught.value.id == id
    assert {one.id: one.at for one in store.metrics.get_history("u")} == counted
    assert store.metrics.get_user_stats("u")["total_operations"] == 2


@pytest.mark.parametrize("other", [{"level": 3}, {"success": False}, {"response_time_ms": 10.5}])
def test_an_id_that_was_used_for_another_interaction_is_refused(store: Store, other: dict[str, Any]) -> None:
    first: dict[str, Any] = {"level": 2, "success": True, "response_time_ms": 10}
    store.metrics.record_interaction("u", **first, interaction_id="i1")
    with pytest.raises(IdempotencyError) as caught:
        store.metrics.record_interaction("u", **{**first, **other}, interaction_id="i1")
    assert isinstance(caught.value, ValueError)
    assert caught.value.id == "i1"
    assert store.metrics.record_interaction("u", **first, interaction_id="i1") is False
    assert store.metrics.get_user_stats("u")["total_operations"] == 1


@pytest.mark.needs_kv
def test_as_many_ids_are_remembered_as_interactions(home: Home) -> None:
    metrics = home.open(history_limit=3).metrics
    for number in range(4):
        metrics.record_interaction("u", 1, True, 1.0, at=NOON + timedelta(hours=number), interaction_id=str(number))
    for number in (1, 2, 3):
        assert not metrics.record_interaction("u", 1, True, 1.0, interaction_id=str(number))
    assert metrics.get_user_stats("u")["total_operations"] == 4


@pytest.mark.needs_kv
def test_an_interaction_that_comes_late_is_counted_once_too(home: Home) -> None:
    # A retry of a backfill: the id was given a moment ago, only the interaction is old.
    metrics = home.open(history_limit=3).metrics
    for number in range(3):
        metrics.record_interaction("u", 1, True, 1.0, at=NOON + timedelta(hours=number), interaction_id=str(number))
    late = NOON - timedelta(days=1)
    assert metrics.record_interaction("u", 1, True, 1.0, at=late, interaction_id="late") is True
    assert metrics.record_interaction("u", 1, True, 1.0, at=late, interaction_id="late") is False
    assert metrics.get_user_stats("u")["total_operations"] == 4


def test_one_id_given_by_many_threads_is_counted_once(store: Store) -> None:
    counted: list[bool] = []

    def work() -> None:
        for number in range(25):
            counted.append(store.metrics.record_interaction("u", 1, True, 1.0, at=NOON, interaction_id=str(number)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (counted.count(True), counted.count(False)) == (25, 75)
    assert store.metrics.get_user_stats("u")["total_operations"] == 25


# Where the counters are


def test_the_global_figures_are_the_sum_over_many_users(store: Store) -> None:
    for number in range(200):
        store.metrics.record_interaction(
            f"user {number % 150}", 1 + number % 5, number % 3 == 0, float(number), at=NOON
        )
    everyone = store.metrics.get_global_stats()
    each = [store.metrics.get_user_stats(user) for user in store.metrics.get_all_users()]
    assert (
        (everyone["total_users"], everyone["total_interactions"])
        == (150, 200)
        == (
            len(each),
            sum(one["total_operations"] for one in each),
        )
    )
    for level in range(1, 6):
        assert everyone[f"level_{level}_count"] == sum(one[f"level_{level}_count"] for one in each)  # type: ignore[literal-required]
    assert everyone["avg_response_time_ms"] == 99.5
    assert everyone["daily_counts"] == {"2025-01-20": 200}


@pytest.mark.needs_kv
def test_how_the_users_are_spread_is_recorded_in_the_store(shared: Home) -> None:
    def collector(shards: int) -> Any:
        kv, rules = shared.open().kv, MetricRules(KVMetrics(shards, HISTORY))
        return lambda name, *arguments: run(kv, getattr(rules, name)(*arguments))

    three, many = collector(3), collector(64)
    for number in range(20):
        (three if number % 2 else many)("record_interaction", f"u{number}", 1, True, 1.0)
    one = collector(1)
    for each in (three, many, one):
        assert each("get_global_stats")["total_users"] == 20
        assert len(each("get_all_users")) == 20
        assert all(each("get_user_stats", f"u{number}")["total_operations"] == 1 for number in range(20))


@pytest.mark.needs_kv
def test_a_redis_spreads_its_users_and_the_others_do_not(home: Home) -> None:
    store = home.open()
    for number in range(100):
        store.metrics.record_interaction(f"u{number}", 1, True, 1.0)
    used = [number for number in range(64) if list(store.kv.keys(("metrics", f"{number:02d}")))]
    assert len(used) > 32 if "redis" in home.name else used == [0]


@pytest.mark.needs_kv
def test_looking_creates_nothing(home: Home) -> None:
    store = home.open()
    store.metrics.get_user_stats("u")
    store.metrics.get_global_stats()
    store.metrics.get_all_users()
    store.metrics.get_history("u")
    store.states.list_users()
    store.patterns.find_patterns({"a": 1})
    assert list(store.kv.keys(("store",))) == []
    assert not home.place.directory.exists()


def test_metrics_survive_being_closed(shared: Home) -> None:
    model = Model()
    for hour in range(3):
        metrics = shared.open().metrics
        for number in range(10):
            one = One(f"u{number % 3}", 1 + number % 5, True, 3.0**number, NOON + timedelta(hours=hour, minutes=number))
            record(metrics, one)
            model.recorded.append(one)
        shared.close()
    model.agrees(shared.open().metrics)


# Exports


@pytest.fixture
def filled(store: Store) -> Store:
    for number, user in enumerate(["ann", "bob", 'a "quoted", one', "line\nbreak", "=1+1", "é😀", "\0", "null"]):
        for times in range(number + 1):
            store.metrics.record_interaction(
                user, 1 + times % 5, times % 2 == 0, 100.0 * times, at=NOON + timedelta(days=times)
            )
    return store


def plain(stats: Any) -> dict[str, Any]:
    """Figures as JSON has them."""
    times = {name: stats[name].isoformat().replace("+00:00", "Z") for name in ("first_interaction", "last_interaction")}
    return {**stats, **times}


def test_an_export_as_json_has_users_and_global(filled: Store, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    filled.metrics.export_metrics(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document.keys() == {"users", "global"}
    users = filled.metrics.get_all_users()
    assert list(document["users"]) == users
    for user in users:
        assert document["users"][user] == plain(filled.metrics.get_user_stats(user))
    assert document["global"] == plain(filled.metrics.get_global_stats())


def test_an_export_as_jsonl_has_an_object_a_line(filled: Store, tmp_path: Path) -> None:
    filled.metrics.export_metrics(str(tmp_path / "metrics.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_bytes().splitlines()]
    users = filled.metrics.get_all_users()
    assert [line.pop("user_id") for line in lines] == [*users, None]
    assert lines == [
        *(plain(filled.metrics.get_user_stats(user)) for user in users),
        plain(filled.metrics.get_global_stats()),
    ]


def test_an_export_as_csv_has_a_row_each(filled: Store, tmp_path: Path) -> None:
    path = tmp_path / "metrics.CSV"
    filled.metrics.export_metrics(path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    users = filled.metrics.get_all_users()
    assert [row["user_id"] for row in rows] == [*users, ""]
    for row, user in zip(rows, users, strict=False):
        stats = filled.metrics.get_user_stats(user)
        assert int(row["total_operations"]) == stats["total_operations"]
        assert float(row["p95_response_time_ms"]) == stats["p95_response_time_ms"]
        assert json.loads(row["daily_counts"]) == stats["daily_counts"]
        assert datetime.fromisoformat(row["last_interaction"]) == stats["last_interaction"]
        assert row["total_users"] == ""
    assert rows[-1]["total_users"] == str(len(users))


def test_an_export_of_nothing_is_zeros(store: Store, tmp_path: Path) -> None:
    for suffix in ("json", "jsonl", "csv"):
        store.metrics.export_metrics(tmp_path / "new" / "directory" / f"metrics.{suffix}")
    document = json.loads((tmp_path / "new" / "directory" / "metrics.json").read_text())
    assert document["users"] == {}
    assert document["global"]["total_interactions"] == 0


def test_an_export_takes_the_place_of_the_file_whole_and_leaves_nothing_beside_it(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("x" * 100_000)
    store.metrics.export_metrics(path)
    assert json.loads(path.read_text())["users"] == {}
    assert [each.name for each in tmp_path.glob("*.json")] == [path.name]
    assert not list(tmp_path.glob(".*"))


def test_two_exports_to_one_file_at_a_time_leave_a_whole_one(tmp_path: Path) -> None:
    path, errors = tmp_path / "metrics.json", []
    stores = [in_memory(), in_memory()]
    for number, store in enumerate(stores):
        for user in range(100 * (number + 1)):
            store.metrics.record_interaction(f"u{user}", 1, True, 1.0, at=NOON)

    def work(store: Store) -> None:
        try:
            for _ in range(25):
                store.metrics.export_metrics(path)
                assert len(json.loads(path.read_text())["users"]) in (100, 200)
        except Exception as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_place_that_cannot_be_written_is_told_and_leaves_the_old_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(StorageError):
        store.metrics.export_metrics(tmp_path / "file" / "metrics.json")
    (tmp_path / "d.json").mkdir()
    with pytest.raises(ArgumentError):
        store.metrics.export_metrics(tmp_path / "d.json")
    assert (tmp_path / "file").read_text() == "old"
