"""Figures are those of the rows that are there, whoever wrote, changed or deleted them, and whatever was counted."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from empathy_kv.metrics import MetricsCollector
from empathy_kv.records import Interaction
from empathy_kv.sql import metrics as sql_metrics
from empathy_kv.sql.database import Database, Transaction
from empathy_kv.sql.metrics import SQLMetrics
from empathy_kv.sql.schema import METRICS, NOTHING
from empathy_kv.sql.sqlite import SQLite
from empathy_kv.totals import Totals

DAY = datetime(2025, 1, 20, tzinfo=UTC)


def write(database: Database, sql: str, *values: Any) -> None:
    """Be another program: one statement, which knows nothing of ours."""
    database.execute(Transaction(METRICS, ((sql, values),)))


def recount(database: Database) -> dict[str, Totals]:
    """Sum up every row of the table, one by one."""
    (rows,) = database.execute(
        Transaction(
            METRICS,
            (("SELECT user_id, empathy_level, success, response_time_ms, id FROM interactions ORDER BY id", ()),),
        )
    )
    users: dict[str, Totals] = {}
    for user, level, success, took, number in rows:
        # The times of all rows are those of their numbers here, whoever inserts them.
        users.setdefault(user, Totals()).add(
            Interaction(user, level, bool(success), took, DAY + timedelta(seconds=abs(number)))
        )
    return users


USERS = st.sampled_from(["ann", "bob", "a\0"])
ROWS = st.integers(-2, 12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("record"), USERS, st.integers(1, 5)),
        st.tuples(st.just("insert"), USERS, ROWS),
        st.tuples(st.just("replace"), USERS, ROWS),
        st.tuples(st.just("delete"), ROWS),
        st.tuples(st.just("delete all of"), USERS),
        st.tuples(st.just("level"), ROWS, st.integers(1, 5)),
        st.tuples(st.just("rename"), ROWS, USERS),
        st.tuples(st.just("move"), ROWS, ROWS),
        st.tuples(st.just("count")),
        st.tuples(st.just("ask")),
    ),
    max_size=14,
)

INSERT = """INSERT INTO interactions (id, user_id, empathy_level, success, response_time_ms, timestamp)
VALUES (?, ?, 3, ?, 1.5, ?)"""


def act(database: Database, metrics: MetricsCollector, step: tuple[Any, ...]) -> None:
    at = "UPDATE interactions SET timestamp = ? WHERE id = ?"
    match step:
        case "record", user, level:
            metrics.record_interaction(user, level, level % 2 == 0, 2.5)
        case "insert" | "replace" as how, user, row:
            if how == "replace" and isinstance(database, SQLite):
                write(database, INSERT.replace("INSERT", "INSERT OR REPLACE", 1), row, user, True, stamp(row))
            else:
                write(database, f"{INSERT} ON CONFLICT DO NOTHING", row, user, True, stamp(row))
        case "delete", row:
            write(database, "DELETE FROM interactions WHERE id = ?", row)
        case "delete all of", user:
            write(database, "DELETE FROM interactions WHERE user_id = ?", user)
        case "level", row, level:
            write(database, "UPDATE interactions SET empathy_level = ? WHERE id = ?", level, row)
        case "rename", row, user:
            write(database, "UPDATE interactions SET user_id = ? WHERE id = ?", user, row)
        case "move", row, other if isinstance(database, SQLite):
            write(database, "UPDATE OR REPLACE interactions SET id = ? WHERE id = ?", other, row)
        case ("count",):
            database.run(sql_metrics._count())
        case ("ask",):
            metrics.get_global_stats()
    (rows,) = database.execute(Transaction(METRICS, (("SELECT id FROM interactions", ()),)))
    for (number,) in rows:
        database.execute(Transaction(METRICS, ((f"{at} AND timestamp <> ?", (stamp(number), number, stamp(number))),)))


def stamp(number: int) -> str:
    return (DAY + timedelta(seconds=abs(number))).replace(tzinfo=None).isoformat(" ", "microseconds")


@settings(
    max_examples=max(10, settings.default.max_examples // 2),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(STEPS)
def test_figures_are_those_of_the_rows(opened: Callable[[], Database], steps: list[tuple[Any, ...]]) -> None:
    database = opened()
    metrics = MetricsCollector(kv=database)
    write(database, "DELETE FROM interactions")
    for step in steps:
        act(database, metrics, step)
    expected = recount(database)
    assert sorted(metrics.get_all_users()) == sorted(expected)
    for user in ("ann", "bob", "a\0"):
        assert database.run(SQLMetrics().user(user)) == expected.get(user, Totals())
    everyone = Totals()
    for totals in expected.values():
        everyone.merge(totals)
    everyone.level = None
    assert database.run(SQLMetrics().everyone()) == (len(expected), everyone)
    database.close()


def test_rows_are_counted_once_when_they_are_many(
    opened: Callable[[], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_metrics, "_OWN", 7)
    monkeypatch.setattr(sql_metrics, "_TAIL", 5)
    monkeypatch.setattr(sql_metrics, "_PAGE", 4)
    database = opened()
    metrics = MetricsCollector(kv=database)
    for number in range(60):
        metrics.record_interaction(f"user {number % 3}", 1 + number % 5, True, 1.0)
        if number % 4 == 0:
            assert metrics.get_global_stats()["total_interactions"] == number + 1
    ((counted,),) = database.execute(Transaction(METRICS, (("SELECT counted FROM interaction_progress", ()),)))[0]
    assert counted >= 50
    assert metrics.get_user_stats("user 1")["total_operations"] == 20
    assert metrics.get_global_stats()["total_users"] == 3


# PostgreSQL takes no such row.
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_row_that_is_no_interaction_is_named_until_it_is_put_right(opened: Callable[[], Database]) -> None:
    database = opened()
    metrics = MetricsCollector(kv=database)
    metrics.record_interaction("ann", 1, True, 1.0)
    metrics.record_interaction("bob", 1, True, 1.0)
    write(database, "UPDATE interactions SET empathy_level = 'high' WHERE user_id = 'ann'")
    for _ in range(2):
        database.run(sql_metrics._count())
        with pytest.raises(ValueError, match=r"interactions\[1\]"):
            metrics.get_user_stats("ann")
        with pytest.raises(ValueError, match=r"interactions\[1\]"):
            metrics.get_global_stats()
        assert metrics.get_user_stats("bob")["total_operations"] == 1
    write(database, "UPDATE interactions SET empathy_level = 2 WHERE user_id = 'ann'")
    assert metrics.get_user_stats("ann")["level_2_count"] == 1
    assert metrics.get_global_stats()["total_interactions"] == 2


def test_figures_are_right_where_the_triggers_were_dropped(opened: Callable[[], Database]) -> None:
    database = opened()
    metrics = MetricsCollector(kv=database)
    for _ in range(3):
        metrics.record_interaction("ann", 1, True, 1.0)
    database.run(sql_metrics._count())
    on = "" if isinstance(database, SQLite) else " ON interactions"
    trigger = "interactions_deleted" if isinstance(database, SQLite) else "interactions_changed"
    database.execute(
        Transaction(
            NOTHING,
            ((f"DROP TRIGGER {trigger}{on}", ()), ("DELETE FROM interactions WHERE id IN (1, 2)", ())),
        )
    )
    database.close()
    again = MetricsCollector(kv=opened())
    assert again.get_user_stats("ann")["total_operations"] == 1
    again.record_interaction("ann", 1, True, 1.0)
    assert again.get_global_stats()["total_interactions"] == 2


def test_a_truncated_table_has_no_figures(opened: Callable[[], Database]) -> None:
    database = opened()
    metrics = MetricsCollector(kv=database)
    metrics.record_interaction("ann", 1, True, 1.0)
    database.run(sql_metrics._count())
    truncate = "DELETE FROM interactions" if isinstance(database, SQLite) else "TRUNCATE interactions"
    write(database, truncate)
    assert metrics.get_global_stats()["total_interactions"] == 0
    assert metrics.get_all_users() == []


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_what_a_figure_costs_does_not_grow_with_the_rows_of_others(opened: Callable[[], Database]) -> None:
    """In steps of SQLite's machine, which are the same each time."""
    rows = 1_000_000 if settings.default.max_examples > 1000 else 20_000
    steps: dict[str, list[int]] = {"user": [], "all": []}
    database = opened()
    assert isinstance(database, SQLite)
    metrics = MetricsCollector(kv=database)
    for count in (1_000, rows):
        write(
            database,
            """INSERT INTO interactions (user_id, empathy_level, success, response_time_ms)
            WITH n (i) AS (SELECT (SELECT count(*) FROM interactions) UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?)
            SELECT CASE WHEN i < 1000 AND i % 20 = 0 THEN 'ann' ELSE 'user ' || (i % 97) END, 1 + i % 5, i % 3 > 0, 0.5
            FROM n""",
            count,
        )
        assert metrics.get_global_stats()["total_interactions"] == count
        for name, ask in (("user", partial(metrics.get_user_stats, "ann")), ("all", metrics.get_global_stats)):
            done = itertools.count()
            raw = database._idle[0]._raw
            raw.set_progress_handler(lambda done=done: next(done) < 0, 1)
            ask()
            raw.set_progress_handler(None, 0)
            steps[name].append(next(done))
        assert metrics.get_user_stats("ann")["total_operations"] == 50
    for few, many in steps.values():
        assert few > 10
        assert many <= 2 * few


# On SQLite nobody else writes meanwhile.
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_transaction_that_takes_long_is_not_left_out(opened: Callable[[], Database], url: str) -> None:
    """The row of the later number is there first: nothing is counted past the row that is still to come."""
    database = opened()
    metrics = MetricsCollector(kv=database)
    metrics.record_interaction("ann", 1, True, 1.0)
    with psycopg.connect(url) as slow:
        slow.execute("INSERT INTO interactions (user_id, empathy_level, success) VALUES ('bob', 1, TRUE)")
        metrics.record_interaction("ann", 1, True, 1.0)
        assert database.run(sql_metrics._possibly(sql_metrics._count())) is False
        assert metrics.get_global_stats()["total_interactions"] == 2
    database.run(sql_metrics._count())
    assert metrics.get_global_stats()["total_interactions"] == 3
    assert metrics.get_all_users() == ["ann", "bob"]
