"""Answering a question without looking at every pattern: classes of patterns, the best first, until enough are found.

Three shares decide how relevant a pattern is (`matching.relevance`): those of equal values, of tags in common and of
successful uses. Each of them parts the library: the patterns that share 3 keys with the question and have 2 equal
values are one part, those with 2 tags of which 1 was asked for are another. A class is what a part by values and a part
by tags have in common, which bitmaps find out in microseconds. Classes are looked at by their upper bounds of
relevance, the highest first, and never those that are below the matches found so far.

A class that is large is divided by success, into bands first and then into patterns that are equally relevant. Among
those the first contributed come first, and so do bitmaps.
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final, TypeAlias

from attrs import define, field
from pyroaring import BitMap

from empathy_kv.matching import THRESHOLD, relevance
from empathy_kv.postings import Band, Postings, Scale, Tally, ceiling

_FEW: Final = 40
"""Patterns up to which looking at each is cheaper than dividing them."""
_MANY: Final = 5000
"""Patterns with one equal value from which on they are not put together unless they have to be."""


@define(eq=False)
class ByValues:
    """The patterns with one share of equal values, of which there are `hits`."""

    share: float
    hits: int
    exactly: Callable[[BitMap], BitMap]
    """Says which of a set are among them."""


@define(eq=False)
class ByTags:
    """The patterns with one share of tags in common, of which there are `hits`."""

    share: float
    hits: int
    having: BitMap | None
    """Who has the number of tags that makes the share; None if it does not matter."""


@define(eq=False)
class Class:
    """Patterns of which none is more relevant than `bound`, and how they are divided: None if all are that relevant."""

    bound: float
    find: Callable[[], BitMap]
    divide: Callable[[BitMap], Division] | None = None


Division: TypeAlias = Iterator[Class]
"""Classes by their bounds, the highest first."""


@define
class Found:
    """A match: the pattern's number, how relevant it is, and in how many values and tags it agrees."""

    relevance: float
    number: int
    equal: int
    tags: int


@define
class Search:
    """One question, put to the bitmaps of a library."""

    library: BitMap
    """All patterns."""
    among: BitMap
    """The patterns that come into question."""
    keys: Sequence[BitMap]
    """For each key of the question that any pattern has: which have it."""
    values: Sequence[BitMap]
    """For each key of the question: which have an equal value."""
    tags: Sequence[BitMap]
    """For each tag that is asked for: which have it."""
    tag_counts: Postings[int]
    """Which have how many tags."""
    rates: Scale
    """Which have which success rate; it is 0 for what was never used."""
    _everywhere: int = field(init=False)
    """How many keys of the question every pattern has."""
    _elsewhere: Sequence[BitMap] = field(init=False)
    """The other keys."""
    _asked: Tally = field(init=False)
    """How many of the tags that are asked for."""
    _by_tags: Sequence[ByTags] = field(init=False)
    """The parts by tags, the largest share first."""
    _top: float = field(init=False)
    """What no success rate exceeds."""

    def __attrs_post_init__(self) -> None:
        self._elsewhere = [members for members in self.keys if len(members) < len(self.library)]
        self._everywhere = len(self.keys) - len(self._elsewhere)
        self._asked = Tally(self.tags)
        self._by_tags = self._tag_parts()
        self._top = ceiling(self.rates.bands()[0][0]) if self.library else 0.0

    def best(self, limit: int, figures: Callable[[int], tuple[int, float]]) -> list[Found]:
        """Return the best matches, in their order. `figures` gives a pattern's number of tags and its success rate."""
        heap: list[tuple[float, int, Found]] = []

        def least() -> float:
            return heap[0][0] if len(heap) == limit else THRESHOLD

        for bound, members in best_first(self._by_values(), least):
            for number in members:
                if len(heap) == limit and (bound, -number) < heap[0][:2]:
                    break
                found = self.look(number, *figures(number))
                if found.relevance > THRESHOLD:
                    item = (found.relevance, -number, found)
                    if len(heap) < limit:
                        heapq.heappush(heap, item)
                    else:
                        heapq.heappushpop(heap, item)
        return [found for _, _, found in sorted(heap, reverse=True)]

    def look(self, number: int, tags: int, rate: float) -> Found:
        """Return how relevant a pattern is."""
        equal = sum([number in members for members in self.values])
        shared = sum([number in members for members in self._elsewhere]) + self._everywhere
        asked = sum([number in members for members in self.tags])
        score = relevance(equal / shared if shared else 0.0, asked / tags if tags else 0.0, rate)
        return Found(score, number, equal, asked)

    def _by_values(self) -> Iterator[Division]:
        """Yield divisions of all that may match."""
        among = functools.cache(partial(self._asked.exactly, among=self.among))
        many = sum(map(len, self.values)) > _MANY
        for values in self._value_parts():
            if many and values.hits < 2:
                yield self._divided(values, among, values.exactly)
            else:
                bound = relevance(values.share, self._by_tags[0].share, self._top)
                yield iter([Class(bound, partial(values.exactly, self.among), partial(self._found, values))])

    def _value_parts(self) -> list[ByValues]:
        equal, shared = Tally(self.values), Tally(self._elsewhere)

        def exactly(hits: int, more: int, members: BitMap) -> BitMap:
            return shared.exactly(more, equal.exactly(hits, members))

        parts = [
            ByValues(hits / (self._everywhere + more), hits, partial(exactly, hits, more))
            for hits in range(1, equal.most + 1)
            for more in range(max(0, hits - self._everywhere), shared.most + 1)
        ]
        return [*parts, ByValues(0.0, 0, partial(equal.exactly, 0))]

    def _tag_parts(self) -> list[ByTags]:
        parts = [
            ByTags(hits / count, hits, self.tag_counts[count])
            for hits in range(1, self._asked.most + 1)
            for count in self.tag_counts
            if count >= hits
        ]
        parts.sort(key=lambda part: part.share, reverse=True)
        return [*parts, ByTags(0.0, 0, None)]

    def _found(self, values: ByValues, members: BitMap) -> Division:
        """Divide a part by values that was found."""
        return self._divided(values, functools.cache(partial(self._asked.exactly, among=members)), None)

    def _divided(
        self, values: ByValues, asked: Callable[[int], BitMap], within: Callable[[BitMap], BitMap] | None
    ) -> Division:
        """Divide a part by values by tags. `asked` says who has how many of them, `within` who of those is in the part.

        That is None if `asked` is about the part alone.
        """
        for tags in self._by_tags:
            bound = relevance(values.share, tags.share, self._top)
            if bound <= THRESHOLD:
                return
            yield Class(
                bound, partial(self._both, tags, asked, within), partial(self._by_success, values.share, tags.share)
            )

    @staticmethod
    def _both(tags: ByTags, asked: Callable[[int], BitMap], within: Callable[[BitMap], BitMap] | None) -> BitMap:
        members = asked(tags.hits)
        if tags.having is not None and members:
            members = members & tags.having
        return within(members) if within is not None and members else members

    def _by_success(self, values: float, tags: float, members: BitMap) -> Division:
        for place, band in self.rates.bands():
            bound = relevance(values, tags, ceiling(place))
            yield Class(bound, partial(members.__and__, band.ids), partial(self._by_rate, values, tags, band))

    def _by_rate(self, values: float, tags: float, band: Band, members: BitMap) -> Division:
        for rate, ids in band.descending():
            yield Class(relevance(values, tags, rate), partial(members.__and__, ids))


def best_first(divisions: Iterable[Division], least: Callable[[], float]) -> Iterator[tuple[float, BitMap]]:
    """Yield the members of classes and their bounds, the highest first; large ones are divided in their turn.

    It ends when no class is left whose bound is at least what `least` says, which may have risen meanwhile.
    """
    serial = itertools.count()
    heap: list[tuple[float, int, Class, Division]] = []

    def advance(division: Division) -> None:
        for following in division:
            heapq.heappush(heap, (-following.bound, next(serial), following, division))
            return

    for division in divisions:
        advance(division)
    while heap:
        _, _, reached, division = heapq.heappop(heap)
        if reached.bound < least():
            return
        advance(division)
        members = reached.find()
        if reached.divide is not None and len(members) > _FEW:
            advance(reached.divide(members))
        elif members:
            yield reached.bound, members
