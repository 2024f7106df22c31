"""What a worker holds of a library: the patterns by id, as documents, and their links.

The patterns stay encoded: that takes a third of the memory, and no garbage collection has to walk over them. Reading
one decodes it, which costs no more than copying it would.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final

import msgspec
from pyroaring import BitMap

from empathy_kv.catalogue import SORTS, Catalogue
from empathy_kv.codec import codec
from empathy_kv.errors import LimitError
from empathy_kv.matching import Question, factors, scan
from empathy_kv.postings import LIMIT, Postings
from empathy_kv.records import PROVEN, Pattern, PatternMatch

__all__ = ["SORTS", "Held", "Index"]

_CODEC: Final = codec(Pattern)


class Held(msgspec.Struct, gc=False):
    """A pattern in a library: the document that was contributed, by whom, in which place, and what happened since."""

    id: str
    agent: str
    order: int
    """Its place in the order of contribution."""
    document: bytes
    succeeded: int = 0
    failed: int = 0
    """The outcomes that were recorded since."""
    last_used: datetime | None = None
    """When the last of them was."""
    links: frozenset[str] = frozenset()

    def pattern(self) -> Pattern:
        """Return the pattern as it is now: a new one each time."""
        pattern = _CODEC.decode(self.document)
        if self.succeeded or self.failed:
            pattern.success_count += self.succeeded
            pattern.failure_count += self.failed
            pattern.usage_count += self.succeeded + self.failed
            pattern.last_used = self.last_used
            if pattern.usage_count >= PROVEN:
                pattern.confidence = pattern.success_rate
        return pattern


class Index:
    """The patterns of a library. Callers hold `lock`.

    Putting and removing a pattern costs no more in a large library than in a small one.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._base = 0
        """What is taken from the place of a pattern to make its number."""
        self._last = 0
        self._clear()

    @classmethod
    def of(cls, library: dict[str, Held]) -> Index:
        """Return an index of patterns by id, each in another place of the order. It keeps the dict as its own."""
        index = cls()
        index._by_id = library
        index._by_number = {held.order: held for held in library.values()}
        index._all = BitMap(index._by_number.keys())
        index._last = max(index._by_number, default=0)
        agents: dict[str, list[int]] = {}
        for number, held in index._by_number.items():
            agents.setdefault(held.agent, []).append(number)
        index._agents = Postings.of(agents)
        return index

    def _clear(self) -> None:
        self._by_id: dict[str, Held] = {}
        self._by_number: dict[int, Held] = {}
        self._all = BitMap()
        self._agents: Postings[str] = Postings()
        self._made: Catalogue | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, pattern_id: object) -> bool:
        return pattern_id in self._by_id

    def __iter__(self) -> Iterator[Held]:
        """Yield what is held in the order of contribution."""
        return (self._by_number[number] for number in self._all)

    @property
    def last(self) -> int:
        """The place of the last contribution there ever was, 0 before the first."""
        return self._last

    def get(self, pattern_id: str) -> Held | None:
        """Return what is held under an id."""
        return self._by_id.get(pattern_id)

    # Changes

    def put(self, held: Held) -> None:
        """Hold a pattern, in the place of one with the same id.

        Another one in the same place of the order has to go: that place was given anew, so it was removed.
        """
        pattern = None if self._made is None else held.pattern()  # First: what cannot be decoded changes nothing.
        old = self._by_id.get(held.id)
        if old is not None and (old.order, old.agent, old.document) != (held.order, held.agent, held.document):
            self.remove(held.id)
            old = None
        number = self._number(held.order)
        if old is None:
            other = self._by_number.get(number)
            if other is not None:
                self.remove(other.id)
            self._all.add(number)
            self._agents.add(held.agent, number)
            self._last = max(self._last, held.order)
            if self._made is not None and pattern is not None:
                self._made.add(number, pattern)
        elif self._made is not None and pattern is not None:
            self._made.update(number, pattern)
        self._by_id[held.id] = self._by_number[number] = held

    def remove(self, pattern_id: str) -> bool:
        """Let a pattern go and return whether it was held."""
        held = self._by_id.get(pattern_id)
        if held is None:
            return False
        number = self._number(held.order)
        if self._made is not None:
            self._made.remove(number, held.pattern())
        self._agents.remove(held.agent, number)
        self._all.remove(number)
        del self._by_id[pattern_id], self._by_number[number]
        return True

    def _number(self, order: int) -> int:
        if not 0 <= order - self._base < LIMIT:
            self._renumber(order)
        return order - self._base

    def _renumber(self, order: int) -> None:
        """Number the patterns from the first that there is, because the numbers of bitmaps end before those of places.

        `LimitError` if there was the same number of contributions since, of which all but a few were removed.
        """
        held = list(self)
        places = [order, *(each.order for each in held)]
        base = min(places)
        if max(places) - base >= LIMIT:
            raise LimitError(
                f"a library must not take more than {LIMIT} contributions after one that is still in it",
                argument="pattern",
                limit=LIMIT,
            )
        self._clear()
        self._base = base
        for each in held:
            self.put(each)

    # Lookups

    @property
    def _catalogue(self) -> Catalogue:
        if self._made is None:
            self._made = Catalogue((number, held.pattern()) for number, held in self._by_number.items())
        return self._made

    def find(self, question: Question) -> list[PatternMatch]:
        """Return the best matches of a question: what `matching.scan` finds, without looking at every pattern."""
        return [
            PatternMatch(
                self._by_number[found.number].pattern(), found.relevance, factors(found.equal, found.tags, rate)
            )
            for found, rate in self._catalogue.find(question, self._all)
        ]

    def scan(self, question: Question) -> list[PatternMatch]:
        """Return what `find` returns, by looking at every pattern: what it is tested against."""
        return scan((held.pattern() for held in self), question)

    def top(self, n: int, sort_by: str) -> list[Pattern]:
        """Return the `n` best by one of `SORTS`, ties in order of contribution."""
        return [self._by_number[number].pattern() for number in self._catalogue.top(n, sort_by)]

    def stats(self) -> dict[str, Any]:
        """Return figures of the whole library."""
        return {**self._catalogue.stats(), "total_agents": len(self._agents)}

    def contributions(self) -> dict[str, list[str]]:
        """Return the ids that each agent contributed, in order; the agents in the order of their first."""
        agents = [(self._agents[agent], agent) for agent in self._agents]
        agents.sort(key=lambda item: item[0].min())
        return {agent: [self._by_number[number].id for number in numbers] for numbers, agent in agents}

    def of_agent(self, agent_id: str) -> list[Pattern]:
        """Return the patterns of an agent, in order."""
        return [self._by_number[number].pattern() for number in self._agents[agent_id]]

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
                held = self.get(near)
                for far in held.links - seen if held is not None else ():
                    other = self.get(far)
                    if other is not None and near in other.links:
                        seen.add(far)
                        found.append(other)
            if not found:
                break
            found.sort(key=lambda held: held.order)
            result += found
            level = [held.id for held in found]
        return [held.pattern() for held in result]


def links(library: Iterable[Held]) -> list[tuple[str, str]]:
    """Return each link of a library once, as the ids of its ends in order of contribution."""
    linked = {held.id: held for held in library if held.links}
    return [
        (held.id, far)
        for held in sorted(linked.values(), key=lambda held: held.order)
        for far in sorted(held.links)
        if (other := linked.get(far)) is not None and held.id in other.links and held.order < other.order
    ]
