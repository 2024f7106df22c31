"""Which backups the rules keep."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empathy_kv import ArgumentError, ArgumentTypeError, Keep
from empathy_kv.backup.manifest import new_name

START = datetime(2024, 12, 20, tzinfo=UTC)  # With the end of a year before it, and after it.

times = st.lists(
    st.builds(
        lambda days, seconds: START + timedelta(days=days, seconds=seconds),
        st.integers(-40, 400) | st.integers(-5, 15),
        st.integers(0, 86_399) | st.sampled_from([0, 86_399]),
    ),
    max_size=40,
)
numbers = st.integers(0, 6)


def modelled(names: list[tuple[str, datetime]], number: int, same: Callable[[datetime, datetime], bool]) -> set[str]:
    """Go back in time; each that is the first of its period is one of so many."""
    found: list[tuple[str, datetime]] = []
    for name, at in sorted(names, reverse=True):
        if not any(same(at, other) for _, other in found):
            found.append((name, at))
    return {name for name, _ in found[:number]}


@given(times, numbers, numbers, numbers, numbers)
def test_the_rules_keep_what_a_plain_model_keeps(
    moments: list[datetime], last: int, daily: int, weekly: int, monthly: int
) -> None:
    if not (last or daily or weekly or monthly):
        last = 1
    names = [(new_name(at), at) for at in moments]
    newest = sorted((name for name, _ in names), reverse=True)[:last]
    monday = lambda at: (at - timedelta(days=at.weekday())).date()  # noqa: E731
    expected = (
        set(newest)
        | modelled(names, daily, lambda a, b: a.strftime("%Y-%m-%d") == b.strftime("%Y-%m-%d"))
        | modelled(names, weekly, lambda a, b: monday(a) == monday(b))
        | modelled(names, monthly, lambda a, b: a.strftime("%Y-%m") == b.strftime("%Y-%m"))
    )
    keep = Keep(last=last, daily=daily, weekly=weekly, monthly=monthly)
    kept = keep.chosen(names)
    assert kept == expected
    if names:
        assert max(names)[0] in kept or not last
        assert kept  # Whatever the rules, not all are removed.
    assert keep.chosen([each for each in names if each[0] in kept]) == kept  # Pruning again changes nothing.


@given(st.integers(1, 30), st.integers(1, 90))
def test_a_backup_a_day_is_kept_for_so_many_days(daily: int, days: int) -> None:
    names = [(new_name(START + timedelta(days=day)), START + timedelta(days=day)) for day in range(days)]
    assert all(before < after for before, after in pairwise(name for name, _ in names))
    assert Keep(daily=daily).chosen(names) == {name for name, _ in names[-daily:]}


def test_days_without_a_backup_are_not_counted() -> None:
    """Who was away for a year still has his seven days."""
    names = [(new_name(START - timedelta(days=300 * n)), START - timedelta(days=300 * n)) for n in range(10)]
    assert len(Keep(daily=7).chosen(names)) == 7


def test_a_week_begins_on_monday_and_may_lie_in_two_years() -> None:
    sunday, monday, wednesday = (
        datetime(*day, 12, tzinfo=UTC) for day in ((2024, 12, 29), (2024, 12, 30), (2025, 1, 1))
    )
    names = {at: new_name(at) for at in (sunday, monday, wednesday)}
    kept = Keep(weekly=2).chosen([(name, at) for at, name in names.items()])
    assert kept == {names[sunday], names[wednesday]}


def test_the_same_week_and_month_of_two_years_are_two() -> None:
    names = [(new_name(at), at) for at in (START, START + timedelta(days=364))]
    assert len(Keep(weekly=5).chosen(names)) == 2
    assert len(Keep(monthly=5).chosen(names)) == 2


@pytest.mark.parametrize("rules", [{}, {"last": 0}, {"last": -1}, {"daily": -1, "last": 3}, {"monthly": 10**9}])
def test_rules_that_keep_nothing_are_refused(rules: dict[str, int]) -> None:
    with pytest.raises(ArgumentError):
        Keep(**rules)


@pytest.mark.parametrize("number", ["7", 7.0, True, None])
def test_a_rule_is_an_integer(number: object) -> None:
    with pytest.raises(ArgumentTypeError):
        Keep(last=number)  # type: ignore[arg-type]
