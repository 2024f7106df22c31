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
class Part:
    """The patterns with one share of equal values, or of tags in common.

    There are `hits` of them. `exactly` says which of a set are in the part.
    """

    share: float
    hits: int
    exactly: Callable[[BitMap], BitMap]


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

    def __attrs_post_init__(self) -> None:
        self._elsewhere = [members for members in self.keys if len(members) < len(self.library)]
        self._everywhere = len(self.keys) - len(self._elsewhere)

    def best(self, limit: int, figures: Callable[[int], tuple[int, float]]) -> list[Found]:
        """Return the best matches, in their order. `figures` gives a pattern's number of tags and its success rate."""
        heap: list[tuple[float, int, Found]] = []
        for bound, members in best_first(self._by_values()):
            if len(heap) == limit and bound < heap[0][0]:
                break
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
        top = max((ceiling(place) for place, _ in self.rates.bands()), default=0.0)
        by_tags = self._tag_parts()
        many = sum(map(len, self.values)) > _MANY
        for values in self._value_parts():
            if many and values.hits < 2:
                yield self._by_tags(values, top, by_tags, None)
            else:
                bound = relevance(values.share, by_tags[0].share, top)
                found = partial(values.exactly, self.among)
                yield iter([Class(bound, found, partial(self._by_tags, values, top, by_tags))])

    def _value_parts(self) -> list[Part]:
        """Return the parts by equal values."""
        equal, shared = Tally(self.values), Tally(self._elsewhere)

        def part(hits: int, more: int) -> Part:
            return Part(
                hits / (self._everywhere + more),
                hits,
                lambda members: shared.exactly(more, equal.exactly(hits, members)),
            )

        parts = [
            part(hits, more)
            for hits in range(1, equal.most + 1)
            for more in range(max(0, hits - self._everywhere), shared.most + 1)
        ]
        return [*parts, Part(0.0, 0, partial(equal.exactly, 0))]

    def _tag_parts(self) -> list[Part]:
        """Return the parts by tags in common, the largest share first."""
        asked = Tally(self.tags)

        def part(hits: int, count: int) -> Part:
            return Part(
                hits / count,
                hits,
                lambda members: asked.exactly(hits, members) & self.tag_counts[count],
            )

        parts = [part(hits, count) for hits in range(1, asked.most + 1) for count in self.tag_counts if count >= hits]
        parts.sort(key=lambda part: part.share, reverse=True)
        return [*parts, Part(0.0, 0, partial(asked.exactly, 0))]

    def _by_tags(self, values: Part, top: float, by_tags: Sequence[Part], members: BitMap | None) -> Division:
        """Divide a part by values, or what was found of it. One that was not found is looked for among the others."""
        for tags in by_tags:
            bound = relevance(values.share, tags.share, top)
            if bound <= THRESHOLD:
                return
            yield Class(
                bound,
                partial(tags.exactly, members) if members is not None else partial(self._both, values, tags),
                partial(self._by_success, values.share, tags.share),
            )

    def _both(self, values: Part, tags: Part) -> BitMap:
        return values.exactly(tags.exactly(self.among))

    def _by_success(self, values: float, tags: float, members: BitMap) -> Division:
        for place, band in self.rates.bands():
            bound = relevance(values, tags, ceiling(place))
            yield Class(bound, partial(members.__and__, band.ids), partial(self._by_rate, values, tags, band))

    def _by_rate(self, values: float, tags: float, band: Band, members: BitMap) -> Division:
        for rate, ids in band.descending():
            yield Class(relevance(values, tags, rate), partial(members.__and__, ids))


def best_first(divisions: Iterable[Division]) -> Iterator[tuple[float, BitMap]]:
    """Yield the members of classes and their bounds, the highest first; large ones are divided in their turn."""
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
        advance(division)
        members = reached.find()
        if reached.divide is not None and len(members) > _FEW:
            advance(reached.divide(members))
        elif members:
            yield reached.bound, members
