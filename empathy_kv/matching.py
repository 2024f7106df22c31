"""What a library knows of its patterns, in memory: the patterns by id, and an inverted index that answers questions.

Relevance of a pattern to a question, as empathy-framework has it: half of it is the share of equal values among the
context keys that both have; 0.3 is the share of the pattern's tags that stand in the question's `tags`; 0.2 is the
pattern's success rate, if it was ever used. Above 0.3 is a match. The best come first, ties in the order of
contribution. As no more than 0.2 can come from the success rate, a match has a value or a tag in common with the
question, so the index finds every match without looking at the others.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from attrs import define, field

from empathy_kv.records import Pattern, PatternMatch

THRESHOLD: Final = 0.3


@define
class Held:
    """A pattern in a library: who contributed it, its place in the order of contribution, its links."""

    pattern: Pattern
    agent: str
    order: float
    links: set[str] = field(factory=set)


def _term(value: Any) -> Any:
    """Return something hashable that is equal for equal JSON values, and for them only."""
    if isinstance(value, list):
        return ("[", *map(_term, value))
    if isinstance(value, dict):
        return ("{", frozenset((key, _term(item)) for key, item in value.items()))
    return value


def _terms(pattern: Pattern) -> set[Any]:
    terms = {(key, _term(value)) for key, value in pattern.context.items()}
    return terms | {(tag,) for tag in pattern.tags}


def relevance(pattern: Pattern, context: Mapping[str, Any]) -> tuple[float, list[str]]:
    """Return the relevance of a pattern to a question, and why."""
    result = 0.0
    factors = []
    common = pattern.context.keys() & context.keys()
    if common:
        equal = sum(pattern.context[key] == context[key] for key in common)
        result += equal / len(common) * 0.5
        if equal:
            factors.append(f"{equal} context matches")
    asked = _asked(context)
    if asked and pattern.tags:
        tags = len(asked.intersection(pattern.tags))
        if tags:
            result += min(tags / len(pattern.tags), 1.0) * 0.3
            factors.append(f"{tags} tag matches")
    if pattern.usage_count > 0:
        rate = pattern.success_rate
        result += rate * 0.2
        if rate > 0.7:
            factors.append(f"high success rate ({rate:.2f})")
    return min(result, 1.0), factors


def _asked(context: Mapping[str, Any]) -> set[str]:
    tags = context.get("tags")
    return {tag for tag in tags if isinstance(tag, str)} if isinstance(tags, list) else set()


_SORTS: Final[dict[str, Callable[[Pattern], float]]] = {
    "success_rate": lambda pattern: pattern.success_rate,
    "usage_count": lambda pattern: pattern.usage_count,
    "confidence": lambda pattern: pattern.confidence,
}
SORTS: Final = tuple(_SORTS)
"""What `top` sorts by."""


class Index:
    """The patterns of a library in memory. Callers hold `lock`, and do not change what it returns."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._held: dict[str, Held] = {}
        self._ids: dict[Any, set[str]] = {}
        self._agents: dict[str, dict[str, None]] = {}
        self._last = 0.0
        self._sorted = True

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, pattern_id: object) -> bool:
        return pattern_id in self._held

    def __iter__(self) -> Iterator[Held]:
        """Yield what is held in the order of contribution."""
        self._sort()
        return iter(list(self._held.values()))

    @property
    def last(self) -> float:
        """The place of the last contribution, 0.0 before the first."""
        return self._last

    def get(self, pattern_id: str) -> Held | None:
        """Return what is held under an id."""
        return self._held.get(pattern_id)

    def put(self, held: Held) -> None:
        """Hold a pattern, in the place of one with the same id."""
        pattern = held.pattern
        old = self._held.get(pattern.id)
        if old is not None and (old.order, old.agent) == (held.order, held.agent):
            before, after = _terms(old.pattern), _terms(pattern)
            self._unlist(pattern.id, before - after)
            self._list(pattern.id, after - before)
        else:
            if old is not None:
                self.remove(pattern.id)
            self._list(pattern.id, _terms(pattern))
            self._agents.setdefault(held.agent, {})[pattern.id] = None
            self._sorted = self._sorted and held.order > self._last
            self._last = max(self._last, held.order)
        self._held[pattern.id] = held

    def remove(self, pattern_id: str) -> bool:
        """Let a pattern go and return whether it was held."""
        held = self._held.pop(pattern_id, None)
        if held is None:
            return False
        self._unlist(pattern_id, _terms(held.pattern))
        contributed = self._agents[held.agent]
        del contributed[pattern_id]
        if not contributed:
            del self._agents[held.agent]
        return True

    def _list(self, pattern_id: str, terms: set[Any]) -> None:
        for term in terms:
            self._ids.setdefault(term, set()).add(pattern_id)

    def _unlist(self, pattern_id: str, terms: set[Any]) -> None:
        for term in terms:
            ids = self._ids[term]
            ids.discard(pattern_id)
            if not ids:
                del self._ids[term]

    def _sort(self) -> None:
        # The feed has each pattern by its last change, so one that was used meanwhile comes after later ones.
        if not self._sorted:
            self._held = dict(sorted(self._held.items(), key=lambda item: item[1].order))
            self._agents = {}
            for pattern_id, held in self._held.items():
                self._agents.setdefault(held.agent, {})[pattern_id] = None
            self._sorted = True

    def contributions(self) -> dict[str, list[str]]:
        """Return the ids that each agent contributed, in order."""
        self._sort()
        return {agent: list(ids) for agent, ids in self._agents.items()}

    def of_agent(self, agent_id: str) -> list[Pattern]:
        """Return the patterns of an agent, in order."""
        self._sort()
        return [self._held[pattern_id].pattern for pattern_id in self._agents.get(agent_id, ())]

    def find(
        self, context: Mapping[str, Any], pattern_type: str | None, min_confidence: float, limit: int
    ) -> list[PatternMatch]:
        """Return the best matches of a question; `context` is a JSON object."""
        candidates: set[str] = set()
        for key, value in context.items():
            candidates |= self._ids.get((key, _term(value)), frozenset())
        for tag in _asked(context):
            candidates |= self._ids.get((tag,), frozenset())
        return self.best(
            (self._held[pattern_id] for pattern_id in candidates), context, pattern_type, min_confidence, limit
        )

    def scan(
        self, context: Mapping[str, Any], pattern_type: str | None, min_confidence: float, limit: int
    ) -> list[PatternMatch]:
        """Return what `find` returns, by looking at every pattern: what the index is tested against."""
        return self.best(iter(self._held.values()), context, pattern_type, min_confidence, limit)

    @staticmethod
    def best(
        candidates: Iterator[Held],
        context: Mapping[str, Any],
        pattern_type: str | None,
        min_confidence: float,
        limit: int,
    ) -> list[PatternMatch]:
        """Return the best matches among candidates."""
        found = []
        for held in candidates:
            pattern = held.pattern
            if pattern.confidence < min_confidence or (
                pattern_type is not None and pattern.pattern_type != pattern_type
            ):
                continue
            score, factors = relevance(pattern, context)
            if score > THRESHOLD:
                found.append((-score, held.order, PatternMatch(pattern, score, factors)))
        return [match for _, _, match in heapq.nsmallest(limit, found, key=lambda item: item[:2])]

    def related(self, pattern_id: str, depth: int) -> list[Pattern]:
        """Return the patterns within `depth` links, nearest first, then in order.

        A link counts if both ends have it: one that was removed, and contributed again, has no links.
        """
        seen = {pattern_id}
        level = [pattern_id]
        result: list[Held] = []
        for _ in range(depth):
            found = []
            for near in level:
                held = self._held.get(near)
                for far in held.links - seen if held is not None else ():
                    other = self._held.get(far)
                    if other is not None and near in other.links:
                        seen.add(far)
                        found.append(other)
            if not found:
                break
            found.sort(key=lambda held: held.order)
            result += found
            level = [held.pattern.id for held in found]
        return [held.pattern for held in result]

    def links(self) -> list[tuple[str, str]]:
        """Return each link once, as the ids of its ends in order of contribution."""
        return [
            (held.pattern.id, far)
            for held in self
            for far in sorted(held.links)
            if (other := self._held.get(far)) is not None
            and held.pattern.id in other.links
            and held.order < other.order
        ]

    def top(self, n: int, sort_by: str) -> list[Pattern]:
        """Return the `n` best by one of `SORTS`, ties in order of contribution."""
        rank = _SORTS[sort_by]
        best = heapq.nsmallest(n, self._held.values(), key=lambda held: (-rank(held.pattern), held.order))
        return [held.pattern for held in best]

    def stats(self) -> dict[str, Any]:
        """Return figures of the whole library."""
        patterns = [held.pattern for held in self]
        used = [pattern for pattern in patterns if pattern.usage_count]
        types: dict[str, int] = {}
        for pattern in patterns:
            types[pattern.pattern_type] = types.get(pattern.pattern_type, 0) + 1
        return {
            "total_patterns": len(patterns),
            "total_agents": len(self._agents),
            "total_usage": sum(pattern.usage_count for pattern in patterns),
            "average_confidence": sum(p.confidence for p in patterns) / len(patterns) if patterns else 0.0,
            "average_success_rate": sum(p.success_rate for p in used) / len(used) if used else 0.0,
            "patterns_by_type": types,
        }
