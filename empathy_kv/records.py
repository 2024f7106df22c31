"""What the store keeps, as plain attrs classes without I/O.

Datetimes are aware and in UTC; a naive one that is given is taken as UTC. What a record may hold is checked when it is
stored, and again when it is read (`empathy_kv.codec`). Fields of a document that a class does not know are kept in its
`extra` and are written back.
"""

from __future__ import annotations

import copy
import math
from datetime import UTC, datetime
from typing import Any, Final

from attrs import define, field

MAX_ID: Final = 512
"""Bytes of an id (of a pattern, a user, an agent, a document), in UTF-8."""
LEVELS: Final = range(1, 6)
"""The levels of empathy."""
TRUST_GAIN: Final = 0.05
TRUST_LOSS: Final = 0.10
"""What a success adds to trust, and what a failure takes."""
PROVEN: Final = 5
"""From so many uses on, a pattern's confidence is its success rate."""


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def utc(value: datetime) -> datetime:
    """Return a datetime in UTC; a naive one is taken as UTC."""
    if value.tzinfo is UTC:
        return value
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _utc(value: Any) -> Any:
    # What is no datetime, or has none in UTC, is refused when the record is stored, with the place where it stands.
    try:
        return utc(value) if isinstance(value, datetime) else value
    except OverflowError:
        return value


def _require_outcome(success: object) -> None:
    if not isinstance(success, bool):
        # Here, and not above: records are plain classes that bring no other module of the package along.
        from empathy_kv.errors import ArgumentTypeError

        raise ArgumentTypeError(f"success must be a bool, not {type(success).__name__}", argument="success")


def _require_share(trust: object) -> None:
    if type(trust) not in (float, int) or not 0 <= trust <= 1:  # type: ignore[operator]
        from empathy_kv.errors import CodecError

        what = "expected float from 0 to 1" if type(trust) in (float, int) else "expected float"
        raise CodecError(f"{what} @ $.trust_level", path="$.trust_level", argument="trust_level")


@define
class Pattern:
    """A reusable solution, and how often it helped.

    `context` is a JSON object of what the pattern fits, `code` its solution. `confidence` is within 0..1; from five
    recorded uses on it is the success rate.
    """

    id: str
    agent_id: str
    pattern_type: str
    name: str
    description: str = ""
    context: dict[str, Any] = field(factory=dict)
    code: str | None = None
    confidence: float = 0.5
    usage_count: int = 0
    success_count: int = 0
    failure_count: int = 0
    discovered_at: datetime = field(factory=now, converter=_utc)
    last_used: datetime | None = field(default=None, converter=_utc)
    tags: list[str] = field(factory=list)
    extra: dict[str, Any] = field(factory=dict, kw_only=True)

    @property
    def success_rate(self) -> float:
        """The share of uses that succeeded, 0.0 if it was never used. Never above 1, whatever was counted elsewhere."""
        return min(1.0, self.success_count / self.usage_count) if self.usage_count else 0.0

    def record_usage(self, success: bool, at: datetime | None = None) -> None:
        """Count one use. In a library, `PatternLibrary.record_pattern_outcome` is what counts."""
        _require_outcome(success)
        self.usage_count += 1
        if success:
            self.success_count += 1
        else:
            self.failure_count += 1
        self.last_used = now() if at is None else at
        if self.usage_count >= PROVEN:
            self.confidence = self.success_rate

    def copy(self) -> Pattern:
        """Return a pattern of its own: changing one leaves the other as it is."""
        twin = copy.copy(self)
        twin.context = copy.deepcopy(self.context)
        twin.tags = list(self.tags)
        twin.extra = copy.deepcopy(self.extra) if self.extra else {}
        return twin


@define
class PatternMatch:
    """A pattern that fits a question. `relevance` is within 0..1; `matching_factors` says why, for people."""

    pattern: Pattern
    relevance: float
    matching_factors: list[str] = field(factory=list)

    @property
    def relevance_score(self) -> float:
        """The relevance, by its older name."""
        return self.relevance

    @property
    def confidence(self) -> float:
        """The pattern's confidence."""
        return self.pattern.confidence


def level_of(trust: float, target: int) -> int:
    """Return the level that trust has earned: one for every fifth, at least 1, at most `target`."""
    return max(1, min(target, math.floor(trust * 5)))


class _Usual(int):
    """A level that nobody gave. It stands before the target in the constructor, which is not known there yet."""


@define
class CollaborationState:
    """How far a user and an agent trust each other. `trust_level` is within 0..1, the levels within 1..5.

    `current_level` begins at 2, or at a `target_level` below that.
    """

    user_id: str = ""
    trust_level: float = 0.5
    current_level: int = _Usual(2)
    target_level: int = 3
    interaction_count: int = 0
    success_count: int = 0
    failure_count: int = 0
    last_interaction: datetime | None = field(default=None, converter=_utc)
    created_at: datetime = field(factory=now, converter=_utc)
    extra: dict[str, Any] = field(factory=dict, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if type(self.current_level) is _Usual:
            # What is no level is refused when the state is stored, as all that is wrong in it.
            below = type(self.target_level) is int and self.target_level < self.current_level
            self.current_level = max(LEVELS[0], self.target_level) if below else int(self.current_level)

    @property
    def success_rate(self) -> float:
        """The share of interactions that succeeded, 0.0 if there were none."""
        return self.success_count / self.interaction_count if self.interaction_count else 0.0

    def record(self, success: bool, at: datetime | None = None) -> None:
        """Count one interaction: trust moves by +0.05 or -0.10 within 0..1, and the level with it.

        `CodecError` if it is not within 0..1 before, as for storing such a state.
        """
        _require_outcome(success)
        _require_share(self.trust_level)
        self.interaction_count += 1
        if success:
            self.success_count += 1
        else:
            self.failure_count += 1
        # Rounded, so that steps of a twentieth meet the borders of the levels: 0.7 - 0.1 is a little less than 0.6.
        moved = round(self.trust_level + (TRUST_GAIN if success else -TRUST_LOSS), 9)
        self.trust_level = min(1.0, max(0.0, moved))
        self.current_level = level_of(self.trust_level, self.target_level)
        self.last_interaction = now() if at is None else at


@define(frozen=True)
class Interaction:
    """One use of a level by a user. `id` is the caller's own, and makes recording it again do nothing."""

    user_id: str
    level: int
    success: bool
    response_time_ms: float
    at: datetime = field(factory=now, converter=_utc)
    id: str | None = None
