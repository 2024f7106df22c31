"""`empathy-kv demo`: something to look at."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Final

from empathy_kv.cli.console import Refused, tell
from empathy_kv.cli.options import HERE, Where, opened
from empathy_kv.records import CollaborationState, Pattern

_USERS: Final = (("ada", 0.95), ("grace", 0.85), ("linus", 0.7))
_DAYS: Final = 14
_A_DAY: Final = 5
"""Interactions of a user on a day."""


def demo(*, store: Where = HERE) -> None:
    """Fill an empty store with two patterns, three users and two weeks of interactions, to be looked at."""
    with opened(store) as open_store:
        if open_store.patterns.patterns or open_store.states.list_users() or open_store.metrics.get_all_users():
            raise Refused("the store is not empty: name another with --store, as file:demo")
        dice = random.Random(1)  # noqa: S311 - the same each time
        open_store.patterns.contribute_patterns("agent_1", _patterns())
        open_store.patterns.link_patterns("retry", "timeout")
        first = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=_DAYS - 1)
        for user, skill in _USERS:
            state = CollaborationState(user_id=user, target_level=4, created_at=first)
            for step in range(_DAYS * _A_DAY):
                day, second = divmod(step, _A_DAY)
                at = first + timedelta(days=day, seconds=second)
                success = dice.random() < skill
                state.record(success, at)
                took = dice.lognormvariate(4, 0.6)
                open_store.metrics.record_interaction(user, state.current_level, success, took, at=at)
            open_store.states.save_state(user, state)
    tell("Look at it: empathy-kv metrics dashboard; empathy-kv patterns find task=api_call; empathy-kv states list")


def _patterns() -> list[Pattern]:
    return [
        Pattern(
            id="retry",
            agent_id="agent_1",
            pattern_type="suggestion",
            name="Retry with backoff",
            context={"task": "api_call", "language": "python"},
            code="Retry up to 3 times, wait 0.1 s, 0.4 s, 1.6 s",
            confidence=0.8,
            tags=["error-handling", "api"],
        ),
        Pattern(
            id="timeout",
            agent_id="agent_1",
            pattern_type="suggestion",
            name="Give every call a timeout",
            context={"task": "api_call", "language": "any"},
            code="connect(timeout=5.0)",
            confidence=0.7,
            tags=["api"],
        ),
    ]
