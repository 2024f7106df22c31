"""What a worker knows of a library: the patterns by id, as documents, and what finds them.

The patterns stay encoded: 100,000 of them are 100 MB less so, and no garbage collection has to walk over them. Reading
one decodes it, which costs no more than copying it would.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from pyroaring import BitMap

from empathy_kv.codec import codec
from empathy_kv.errors import LimitError
from empathy_kv.matching import Question, factors, scan
from empathy_kv.postings import LIMIT, Postings, Scale, count, share
from empathy_kv.records import PROVEN, Pattern, PatternMatch
from empathy_kv.search import Search

_CODEC: Final = codec(Pattern)
_FILTERS: Final = 8
"""How many bounds of confidence are remembered with those who reach them."""


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


class Figures(msgspec.Struct, gc=False):
    """What lookups want to know of a pattern without decoding it."""

    held: Held
    tags: int
    """How many it has."""
    rate: float
    """Its success rate, 0.0 if it was never used."""
    confidence: float
    uses: int
    pattern_type: str


def term(value: Any) -> Any:
    """Return something hashable that is equal for equal JSON values, and for them only."""
    if isinstance(value, list):
        return ("[", *map(term, value))
    if isinstance(value, dict):
        return ("{", frozenset((key, term(item)) for key, item in value.items()))
    return value


SORTS: Final = ("success_rate", "usage_count", "confidence")
"""What `top` sorts by."""


class Index:
    """The patterns of a library, by id and by all that is asked for. Callers hold `lock`.

    Putting and removing a pattern costs no more in a large library than in a small one.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._base = 0
        """What is taken from the place of a pattern to make its number."""
        self._clear()

    def _clear(self) -> None:
        self._last = 0
        self._by_id: dict[str, Figures] = {}
        self._by_number: dict[int, Figures] = {}
        self._all = BitMap()
        self._agents: Postings[str] = Postings()
        self._types: Postings[str] = Postings()
        self._keys: Postings[str] = Postings()
        self._values: dict[str, Postings[Any]] = {}
        self._tags: Postings[str] = Postings()
        self._tag_counts: Postings[int] = Postings()
        self._scales = {"success_rate": Scale(share), "usage_count": Scale(count), "confidence": Scale(share)}
        self._confident: OrderedDict[float, BitMap] = OrderedDict()
        """Who has at least a confidence, for those that were asked for of late."""
        self._uses = 0
        self._confidence = Mean()
        self._success = Mean()
        """Of the patterns that were used."""

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, pattern_id: object) -> bool:
        return pattern_id in self._by_id

    def __iter__(self) -> Iterator[Held]:
        """Yield what is held in the order of contribution."""
        return (self._by_number[number].held for number in self._all)

    @property
    def last(self) -> int:
        """The place of the last contribution, 0 before the first."""
        return self._last

    def get(self, pattern_id: str) -> Held | None:
        """Return what is held under an id."""
        figures = self._by_id.get(pattern_id)
        return None if figures is None else figures.held

    # Changes

    def put(self, held: Held) -> None:
        """Hold a pattern, in the place of one with the same id.

        Another one in the same place of the order has to go: that place was given anew, so it was removed.
        """
        pattern = held.pattern()
        old = self._by_id.get(held.id)
        if old is not None and (old.held.order, old.held.agent) == (held.order, held.agent):
            if old.held.document != held.document:
                self._unlist(old)
                self._list(held, pattern)
            else:
                self._count(old, -1)
                self._figure(held, pattern, old.tags)
            return
        if old is not None:
            self.remove(held.id)
        number = self._number(held.order)
        if number in self._by_number:
            self.remove(self._by_number[number].held.id)
        self._all.add(number)
        self._agents.add(held.agent, number)
        self._list(held, pattern)
        self._last = max(self._last, held.order)

    def remove(self, pattern_id: str) -> bool:
        """Let a pattern go and return whether it was held."""
        figures = self._by_id.get(pattern_id)
        if figures is None:
            return False
        number = self._number(figures.held.order)
        self._unlist(figures)
        self._agents.remove(figures.held.agent, number)
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

    def _list(self, held: Held, pattern: Pattern) -> None:
        """Make a pattern found by what it says."""
        number = held.order - self._base
        for key, value in pattern.context.items():
            self._keys.add(key, number)
            self._values.setdefault(key, Postings()).add(term(value), number)
        for tag in set(pattern.tags):
            self._tags.add(tag, number)
        self._tag_counts.add(len(pattern.tags), number)
        self._types.add(pattern.pattern_type, number)
        self._figure(held, pattern, len(pattern.tags))

    def _unlist(self, figures: Figures) -> None:
        held = figures.held
        pattern, number = held.pattern(), held.order - self._base
        for key, value in pattern.context.items():
            self._keys.remove(key, number)
            values = self._values[key]
            values.remove(term(value), number)
            if not len(values):
                del self._values[key]
        for tag in set(pattern.tags):
            self._tags.remove(tag, number)
        self._tag_counts.remove(figures.tags, number)
        self._types.remove(figures.pattern_type, number)
        self._count(figures, -1)

    def _figure(self, held: Held, pattern: Pattern, tags: int) -> None:
        """Take down what a pattern's outcomes came to."""
        figures = Figures(
            held,
            tags,
            pattern.success_rate,
            float(pattern.confidence),
            pattern.usage_count,
            sys.intern(pattern.pattern_type),
        )
        self._by_id[held.id] = self._by_number[held.order - self._base] = figures
        self._count(figures, 1)

    def _count(self, figures: Figures, sign: Literal[1, -1]) -> None:
        """Count in what a pattern's outcomes came to, or out."""
        number = figures.held.order - self._base
        for name, value in (
            ("success_rate", figures.rate),
            ("usage_count", figures.uses),
            ("confidence", figures.confidence),
        ):
            scale = self._scales[name]
            (scale.add if sign == 1 else scale.remove)(value, number)
        for bound, ids in self._confident.items():
            if figures.confidence >= bound:
                (ids.add if sign == 1 else ids.remove)(number)
        self._uses += sign * figures.uses
        self._confidence.count(figures.confidence, sign)
        if figures.uses:
            self._success.count(figures.rate, sign)

    # Lookups

    def find(self, question: Question) -> list[PatternMatch]:
        """Return the best matches of a question: what `matching.scan` finds, without looking at every pattern."""
        context = question.context
        found = Search(
            self._all,
            self._admitted(question),
            [self._keys[key] for key in context if key in self._values],
            [self._values[key][term(value)] for key, value in context.items() if key in self._values],
            [self._tags[tag] for tag in question.tags],
            self._tag_counts,
            self._scales["success_rate"],
        ).best(question.limit, self._shares)
        matches = []
        for each in found:
            figures = self._by_number[each.number]
            matches.append(
                PatternMatch(figures.held.pattern(), each.relevance, factors(each.equal, each.tags, figures.rate))
            )
        return matches

    def _shares(self, number: int) -> tuple[int, float]:
        figures = self._by_number[number]
        return figures.tags, figures.rate

    def _admitted(self, question: Question) -> BitMap:
        """Return the patterns that come into question, whatever they say."""
        admitted = self._all
        bound = question.min_confidence
        if bound > 0.0:
            if bound not in self._confident:
                self._confident[bound] = self._scales["confidence"].at_least(bound)
                if len(self._confident) > _FILTERS:
                    self._confident.popitem(last=False)
            self._confident.move_to_end(bound)
            admitted = self._confident[bound]
        return admitted if question.pattern_type is None else admitted & self._types[question.pattern_type]

    def scan(self, question: Question) -> list[PatternMatch]:
        """Return what `find` returns, by looking at every pattern: what it is tested against."""
        return scan((held.pattern() for held in self), question)

    def contributions(self) -> dict[str, list[str]]:
        """Return the ids that each agent contributed, in order; the agents in the order of their first."""
        agents = {agent: self._agents[agent] for agent in self._agents}
        return {
            agent: [self._by_number[number].held.id for number in numbers]
            for agent, numbers in sorted(agents.items(), key=lambda item: item[1].min())
        }

    def of_agent(self, agent_id: str) -> list[Pattern]:
        """Return the patterns of an agent, in order."""
        return [self._by_number[number].held.pattern() for number in self._agents[agent_id]]

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

    def links(self) -> list[tuple[str, str]]:
        """Return each link once, as the ids of its ends in order of contribution."""
        return [
            (held.id, far)
            for held in self
            for far in sorted(held.links)
            if (other := self.get(far)) is not None and held.id in other.links and held.order < other.order
        ]

    def top(self, n: int, sort_by: str) -> list[Pattern]:
        """Return the `n` best by one of `SORTS`, ties in order of contribution."""
        numbers = (number for _, numbers in self._scales[sort_by].descending() for number in numbers)
        return [self._by_number[number].held.pattern() for number in itertools.islice(numbers, n)]

    def stats(self) -> dict[str, Any]:
        """Return figures of the whole library, from running totals. The averages are exact, whatever the history."""
        return {
            "total_patterns": len(self),
            "total_agents": len(self._agents),
            "total_usage": self._uses,
            "average_confidence": self._confidence.value,
            "average_success_rate": self._success.value,
            "patterns_by_type": {name: self._types.count(name) for name in self._types},
        }


_UNIT: Final = 1074
"""Every float from 0 to 1 is a multiple of 2 to the power of minus this."""


class Mean:
    """The mean of figures from 0 to 1 that come and go. It is kept in integers, so that no rounding adds up."""

    def __init__(self) -> None:
        self._sum = self._count = 0

    def count(self, value: float, sign: Literal[1, -1]) -> None:
        """Count a figure in, or out."""
        numerator, denominator = value.as_integer_ratio()
        self._sum += sign * (numerator << _UNIT) // denominator
        self._count += sign

    @property
    def value(self) -> float:
        """The mean, rounded once; 0.0 of nothing."""
        return self._sum / (self._count << _UNIT) if self._count else 0.0
