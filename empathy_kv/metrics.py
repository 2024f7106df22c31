"""Metrics: who used which level, how well, how fast. What a collector of them does (`MetricRules`), sans-I/O.

What their figures are stands in `totals`. Where they are kept is a form of `Metrics`: in the namespaces of a store
(`shared_metrics`) or in tables (`sql.metrics`).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypedDict

from empathy_kv.errors import ArgumentError, ArgumentTypeError
from empathy_kv.kv.interface import KV, Steps, method, run
from empathy_kv.kv.operations import (
    boolean,
    integer,
    number,
    text,
)
from empathy_kv.paths import destination
from empathy_kv.records import LEVELS, MAX_ID, Interaction, now, utc
from empathy_kv.totals import MAX_RESPONSE_TIME, YEARS, Totals

if TYPE_CHECKING:
    from empathy_kv.sql.database import Database

_TOGETHER: Final = 500
"""Users that are asked for at a time."""
HISTORY: Final = 10_000
"""How many interactions of a user a store keeps one by one."""


class _Figures(TypedDict):
    success_rate: float
    avg_response_time_ms: float
    p50_response_time_ms: float
    p95_response_time_ms: float
    p99_response_time_ms: float
    level_1_count: int
    level_2_count: int
    level_3_count: int
    level_4_count: int
    level_5_count: int
    first_interaction: datetime | None
    last_interaction: datetime | None
    daily_counts: dict[str, int]


class UserStats(_Figures):
    """What is known of a user. Days are those of UTC, as `2025-01-20`. One who never came has zeros and None."""

    total_operations: int
    current_level: int


class GlobalStats(_Figures):
    """What is known of all users together."""

    total_users: int
    total_interactions: int


def _stats(totals: Totals) -> UserStats:
    return {
        "total_operations": totals.operations,
        "current_level": LEVELS[0] if totals.level is None else totals.level,
        **_figures(totals),
    }


def _figures(totals: Totals) -> _Figures:
    count = totals.operations
    p50, p95, p99 = totals.percentiles(0.50, 0.95, 0.99)
    return {
        "success_rate": totals.successes / count if count else 0.0,
        "avg_response_time_ms": totals.mean,
        "p50_response_time_ms": p50,
        "p95_response_time_ms": p95,
        "p99_response_time_ms": p99,
        **{f"level_{level}_count": totals.levels.get(level, 0) for level in LEVELS},  # type: ignore[typeddict-item]
        "first_interaction": totals.first,
        "last_interaction": totals.last,
        "daily_counts": dict(sorted(totals.days.items())),
    }


class Metrics(Protocol):
    """Where metrics are kept. A form for an engine yields what that engine executes."""

    def record(self, interaction: Interaction, dated: bool) -> Steps[bool]:
        """Count an interaction; False if its id was recorded before, `IdempotencyError` if with other content.

        `dated`: whether the caller said when it was; if not, when it was recorded before is no other content.
        """

    def user(self, user_id: str) -> Steps[Totals]:
        """Return the counters of a user."""

    def each(self, user_ids: Sequence[str]) -> Steps[list[Totals]]:
        """Return the counters of users, in their order, together where the engine has a way to."""

    def everyone(self) -> Steps[tuple[int, Totals]]:
        """Return how many users there are, and the counters of all."""

    def users(self) -> Steps[list[str]]:
        """Return the ids of all users, in no particular order."""

    def history(self, user_id: str) -> Steps[list[Interaction]]:
        """Return the interactions of a user that are kept one by one, oldest first."""


def _moment(at: datetime) -> datetime:
    if not isinstance(at, datetime):
        raise ArgumentTypeError(f"at must be a datetime, not {type(at).__name__}", argument="at")
    try:
        at = utc(at)
    except OverflowError:
        at = datetime.max.replace(tzinfo=UTC)
    if at.year not in YEARS:
        raise ArgumentError(f"at must be of the years {YEARS[0]} to {YEARS[-1]} in UTC, not {at.year}", argument="at")
    return at


class MetricRules:
    """What a collector of metrics does, whoever runs it: every method is a generator of steps."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def record_interaction(
        self,
        user_id: str,
        level: int,
        success: bool,
        response_time_ms: float,
        *,
        at: datetime | None = None,
        interaction_id: str | None = None,
    ) -> Steps[bool]:
        """Count an interaction of a user at a level (1 to 5), and return whether it was counted now.

        `at` is when it was, by default now; a naive one is taken as UTC. With an `interaction_id` of the caller's,
        recording it again does nothing and returns False; `IdempotencyError` if it is another interaction, of another
        time too if `at` is given. At least as many ids of a user are remembered as interactions.
        """
        interaction = Interaction(
            text(user_id, "user_id", MAX_ID),
            integer(level, "level", LEVELS[0], LEVELS[-1]),
            boolean(success, "success"),
            number(response_time_ms, "response_time_ms", 0.0, MAX_RESPONSE_TIME),
            now() if at is None else _moment(at),
            None if interaction_id is None else text(interaction_id, "interaction_id", MAX_ID),
        )
        counted = yield from self._metrics.record(interaction, at is not None)
        return counted

    def get_user_stats(self, user_id: str) -> Steps[UserStats]:
        """Return a user's figures; of an unknown user, zeros and None, `current_level` 1."""
        user_id = text(user_id, "user_id", MAX_ID)
        totals = yield from self._metrics.user(user_id)
        return _stats(totals)

    def get_global_stats(self) -> Steps[GlobalStats]:
        """Return the figures of all users together; of none, zeros and None."""
        users, totals = yield from self._metrics.everyone()
        return {"total_users": users, "total_interactions": totals.operations, **_figures(totals)}

    def get_all_users(self) -> Steps[list[str]]:
        """Return the ids of all users that recorded anything, sorted."""
        users = yield from self._metrics.users()
        return sorted(users)

    def get_history(self, user_id: str) -> Steps[list[Interaction]]:
        """Return the interactions of a user that are kept one by one, oldest first; of an unknown user, none."""
        user_id = text(user_id, "user_id", MAX_ID)
        history = yield from self._metrics.history(user_id)
        return history

    def rows(self) -> Steps[list[dict[str, Any]]]:
        """Return the figures of every user, and last those of all: what an export holds."""
        rows: list[dict[str, Any]] = []
        users = yield from self.get_all_users()
        for start in range(0, len(users), _TOGETHER):
            page = users[start : start + _TOGETHER]
            every = yield from self._metrics.each(page)
            rows += ({"user_id": user_id, **_stats(totals)} for user_id, totals in zip(page, every, strict=True))
        everyone = yield from self.get_global_stats()
        return [*rows, {"user_id": None, **everyone}]


class MetricsCollector:
    """Who used which level, how well, how fast: recorded, and summed up by user and for all.

    `MetricsCollector(db_path=...)` keeps the documented SQLite table; `store.metrics` is the same on a store.
    `durability` is that of the table: with "os" what was recorded survives the end of the process, and a power cut may
    take the last of it; with "fsync" it survives that too once `record_interaction` returned, which then waits for the
    disk.
    """

    def __init__(
        self,
        db_path: str | os.PathLike[str] | None = None,
        *,
        kv: KV | Database | None = None,
        history_limit: int = HISTORY,
        durability: Literal["fsync", "os"] = "os",
    ) -> None:
        if (db_path is None) == (kv is None):
            raise ArgumentError("give either db_path or kv", argument="db_path")
        integer(history_limit, "history_limit", 1)
        if durability not in ("fsync", "os"):
            raise ArgumentError(f"durability must be 'fsync' or 'os', not {durability!r}", argument="durability")
        metrics: Metrics
        if isinstance(kv, KV):
            from empathy_kv.shared_metrics import KVMetrics

            metrics = KVMetrics(kv.shards, history_limit)
        else:
            from empathy_kv.sql.metrics import SQLMetrics
            from empathy_kv.sql.sqlite import SQLite

            metrics = SQLMetrics()
            if kv is None:
                kv = SQLite(destination(db_path, "db_path"), durability=durability)
        self._rules = MetricRules(metrics)
        self._run = functools.partial(run, kv)
        self._kv = kv

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._kv!r})"

    record_interaction = method(MetricRules.record_interaction)
    get_user_stats = method(MetricRules.get_user_stats)
    get_global_stats = method(MetricRules.get_global_stats)
    get_all_users = method(MetricRules.get_all_users)
    get_history = method(MetricRules.get_history)

    _rows = method(MetricRules.rows)

    def export_metrics(self, filepath: str | os.PathLike[str]) -> None:
        """Write the figures of every user and of all to a file, in the form that its suffix says.

        `.json`: an object of `users` (by id) and `global`. `.jsonl`: an object a line, `user_id` null for all. `.csv`:
        a row each, `user_id` empty for all. The file appears whole, in the place of one that was there.
        """
        from empathy_kv.export import export

        export(self._rows(), filepath)
