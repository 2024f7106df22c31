"""What a match is: how relevant a pattern is to a question, and which patterns answer it.

Relevance, as empathy-framework has it: half of it is the share of equal values among the context keys that pattern and
question both have; 0.3 is the share of the pattern's tags that stand in the question's `tags`; 0.2 is the pattern's
success rate, if it was ever used. Above 0.3 is a match. The best come first, ties in the order of contribution.

`scan` answers a question by looking at every pattern. `empathy_kv.index` gives the same answer without.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import field, frozen

from empathy_kv.records import Pattern, PatternMatch

THRESHOLD: Final = 0.3
_HIGH: Final = 0.7
"""Above it, a success rate is named among the reasons of a match."""


def _tags(context: Mapping[str, Any]) -> frozenset[str]:
    tags = context.get("tags")
    return frozenset(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else frozenset()


@frozen
class Question:
    """What is asked: a situation, as a JSON object, and which patterns come into question."""

    context: Mapping[str, Any]
    pattern_type: str | None = None
    min_confidence: float = 0.0
    limit: int = 10
    tags: frozenset[str] = field(init=False)
    """The tags that the context asks for."""

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "tags", _tags(self.context))

    def admits(self, pattern: Pattern) -> bool:
        """Return whether a pattern comes into question, however relevant it is."""
        return pattern.confidence >= self.min_confidence and self.pattern_type in (None, pattern.pattern_type)


def relevance(values: float, tags: float, success: float) -> float:
    """Return the relevance from three shares: of equal values, of tags in common, of uses that succeeded.

    It never falls when a share rises, in floating-point numbers neither: so from upper bounds of the shares it is one
    of the relevance.
    """
    return min(values * 0.5 + tags * 0.3 + success * 0.2, 1.0)


def factors(equal: int, tags: int, success: float) -> list[str]:
    """Return why a pattern matches, for people."""
    reasons = []
    if equal:
        reasons.append(f"{equal} context matches")
    if tags:
        reasons.append(f"{tags} tag matches")
    if success > _HIGH:
        reasons.append(f"high success rate ({success:.2f})")
    return reasons


def scan(patterns: Iterable[Pattern], question: Question) -> list[PatternMatch]:
    """Return the best matches among patterns, which come in the order of contribution, by looking at each."""
    context, asked = question.context, question.tags
    found = []
    for place, pattern in enumerate(patterns):
        if not question.admits(pattern):
            continue
        shared = pattern.context.keys() & context.keys()
        equal = sum(pattern.context[key] == context[key] for key in shared)
        tags = len(asked.intersection(pattern.tags))
        success = pattern.success_rate
        score = relevance(
            equal / len(shared) if shared else 0.0, tags / len(pattern.tags) if pattern.tags else 0.0, success
        )
        if score > THRESHOLD:
            found.append((-score, place, pattern, equal, tags, success))
    return [
        PatternMatch(pattern, -negative, factors(equal, tags, success))
        for negative, _, pattern, equal, tags, success in heapq.nsmallest(question.limit, found)
    ]
