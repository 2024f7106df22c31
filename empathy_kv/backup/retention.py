"""Which backups are kept."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from datetime import UTC, datetime
from typing import Final

from attrs import frozen

from empathy_kv.errors import ArgumentError
from empathy_kv.kv.operations import integer

_MOST: Final = 1_000_000


@frozen(kw_only=True)
class Keep:
    """Rules for what `Backups.prune` keeps; what no rule keeps is removed.

    `last`: the newest so many. `daily`, `weekly`, `monthly`: the newest one of each of the last so many days, weeks
    (which begin on Monday) and months that have a backup, in UTC; days without one are not counted. What several rules
    keep is kept once. `ArgumentError` if one is negative, or all are 0, which would remove every backup.
    """

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0

    def __attrs_post_init__(self) -> None:
        for name in ("last", "daily", "weekly", "monthly"):
            integer(getattr(self, name), name, 0, _MOST)
        if not (self.last or self.daily or self.weekly or self.monthly):
            raise ArgumentError(
                "one of last, daily, weekly and monthly must be 1 or more: none would keep no backup at all",
                argument="last",
            )

    def chosen(self, names: Iterable[tuple[str, datetime]]) -> set[str]:
        """Return the names that are kept, of names each with the time of its backup."""
        newest_first = sorted(names, reverse=True)
        kept = {name for name, _ in newest_first[: self.last]}
        for number, period in ((self.daily, _day), (self.weekly, _week), (self.monthly, _month)):
            seen: dict[Hashable, str] = {}
            for name, at in newest_first:
                seen.setdefault(period(at.astimezone(UTC)), name)
            kept.update(list(seen.values())[:number])
        return kept


def _day(at: datetime) -> Hashable:
    return at.date()


def _week(at: datetime) -> Hashable:
    return at.isocalendar()[:2]


def _month(at: datetime) -> Hashable:
    return at.year, at.month
