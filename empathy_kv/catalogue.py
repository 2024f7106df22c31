"""The patterns of a library by what they say: who has which value, tag or figure.

It is made when a question is asked for the first time, of all patterns at once, and is kept up to date from then on: a
change costs no more in a large library than in a small one.
"""

from __future__ import annotations

import itertools
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec
from pyroaring import BitMap

from empathy_kv.matching import Question
from empathy_kv.postings import Postings, Scale, count, share
from empathy_kv.records import Pattern
from empathy_kv.search import Found, Search

T = TypeVar("T", bound=Hashable)

_FILTERS: Final = 8
"""How many bounds of confidence are remembered with those who reach them."""


class Figures(msgspec.Struct, gc=False):
    """What lookups want to know of a pattern without decoding it."""

    tags: int
    """How many it has."""
    rate: float
    """Its success rate, 0.0 if it was never used."""
    uses: int
    confidence: float
    pattern_type: str

    @classmethod
    def of(cls, pattern: Pattern) -> Figures:
        """Return those of a pattern."""
        return cls(
            len(pattern.tags),
            pattern.success_rate,
            pattern.usage_count,
            float(pattern.confidence),
            sys.intern(pattern.pattern_type),
        )


def term(value: Any) -> Any:
    """Return something hashable that is equal for equal JSON values, and for them only."""
    if isinstance(value, list):
        return ("[", *map(term, value))
    if isinstance(value, dict):
        return ("{", frozenset((key, term(item)) for key, item in value.items()))
    return value


SORTS: Final[Mapping[str, Callable[[Figures], float]]] = {
    "success_rate": lambda figures: figures.rate,
    "usage_count": lambda figures: figures.uses,
    "confidence": lambda figures: figures.confidence,
}
"""What `top` sorts by."""
_BANDS: Final = {"success_rate": share, "usage_count": count, "confidence": share}


class Catalogue:
    """The patterns of a library by what they say. Each has a number, and numbers rise in the order of contribution."""

    def __init__(self, patterns: Iterable[tuple[int, Pattern]] = ()) -> None:
        # Lists first, and sets of them at the end: that takes half as long as to add the patterns one by one.
        keys: dict[str, list[int]] = {}
        values: dict[str, dict[Any, list[int]]] = {}
        tags: dict[str, list[int]] = {}
        self._figures: dict[int, Figures] = {}
        for number, pattern in patterns:
            for key, value in pattern.context.items():
                keys.setdefault(key, []).append(number)
                values.setdefault(key, {}).setdefault(term(value), []).append(number)
            for tag in set(pattern.tags):
                tags.setdefault(tag, []).append(number)
            self._figures[number] = Figures.of(pattern)
        self._keys = Postings.of(keys)
        self._values = {key: Postings.of(terms) for key, terms in values.items()}
        self._tags = Postings.of(tags)
        self._tag_counts: Postings[int] = self._grouped(lambda figures: figures.tags)
        self._types: Postings[str] = self._grouped(lambda figures: figures.pattern_type)
        self._scales = {name: Scale(band, self._grouped(SORTS[name])) for name, band in _BANDS.items()}
        self._confident: OrderedDict[float, BitMap] = OrderedDict()
        """Who has at least a confidence, for those that were asked for of late."""
        self._uses = 0
        self._confidence = Mean()
        self._success = Mean()
        """Of the patterns that were used."""
        for figures in self._figures.values():
            self._total(figures, 1)

    def _grouped(self, figure: Callable[[Figures], T]) -> Postings[T]:
        groups: dict[T, list[int]] = {}
        for number, figures in self._figures.items():
            groups.setdefault(figure(figures), []).append(number)
        return Postings.of(groups)

    def add(self, number: int, pattern: Pattern) -> None:
        """Take a pattern in, under a number that no other has."""
        for key, value in pattern.context.items():
            self._keys.add(key, number)
            values = self._values.get(key)
            if values is None:
                values = self._values[key] = Postings()
            values.add(term(value), number)
        for tag in set(pattern.tags):
            self._tags.add(tag, number)
        figures = Figures.of(pattern)
        self._tag_counts.add(figures.tags, number)
        self._types.add(figures.pattern_type, number)
        self._count(number, figures)

    def remove(self, number: int, pattern: Pattern) -> None:
        """Let a pattern go that is as it was taken in."""
        for key, value in pattern.context.items():
            self._keys.remove(key, number)
            values = self._values[key]
            values.remove(term(value), number)
            if not len(values):
                del self._values[key]
        for tag in set(pattern.tags):
            self._tags.remove(tag, number)
        figures = self._figures[number]
        self._tag_counts.remove(figures.tags, number)
        self._types.remove(figures.pattern_type, number)
        self._discount(number)

    def update(self, number: int, pattern: Pattern) -> None:
        """Take down what the outcomes of a pattern came to, which says the same as before."""
        self._discount(number)
        self._count(number, Figures.of(pattern))

    def _count(self, number: int, figures: Figures) -> None:
        self._figures[number] = figures
        for name, figure in SORTS.items():
            self._scales[name].add(figure(figures), number)
        for bound, ids in self._confident.items():
            if figures.confidence >= bound:
                ids.add(number)
        self._total(figures, 1)

    def _discount(self, number: int) -> None:
        figures = self._figures.pop(number)
        for name, figure in SORTS.items():
            self._scales[name].remove(figure(figures), number)
        for ids in self._confident.values():
            ids.discard(number)
        self._total(figures, -1)

    def _total(self, figures: Figures, sign: Literal[1, -1]) -> None:
        self._uses += sign * figures.uses
        self._confidence.count(figures.confidence, sign)
        if figures.uses:
            self._success.count(figures.rate, sign)

    def find(self, question: Question, everything: BitMap) -> list[tuple[Found, float]]:
        """Return the best matches of a question among all patterns, each with its success rate."""
        context = question.context
        known = [key for key in context if key in self._values]
        found = Search(
            everything,
            self._admitted(question, everything),
            [self._keys[key] for key in known],
            [self._values[key][term(context[key])] for key in known],
            [self._tags[tag] for tag in question.tags],
            self._tag_counts,
            self._scales["success_rate"],
        ).best(question.limit, self._shares)
        return [(each, self._figures[each.number].rate) for each in found]

    def _shares(self, number: int) -> tuple[int, float]:
        figures = self._figures[number]
        return figures.tags, figures.rate

    def _admitted(self, question: Question, everything: BitMap) -> BitMap:
        """Return the patterns that come into question, whatever they say."""
        bound = question.min_confidence
        if bound <= 0.0:
            admitted = everything
        else:
            if bound not in self._confident:
                self._confident[bound] = self._scales["confidence"].at_least(bound)
                if len(self._confident) > _FILTERS:
                    self._confident.popitem(last=False)
            self._confident.move_to_end(bound)
            admitted = self._confident[bound]
        return admitted if question.pattern_type is None else admitted & self._types[question.pattern_type]

    def top(self, n: int, sort_by: str) -> Iterator[int]:
        """Yield the `n` best by one of `SORTS`, ties in order of contribution."""
        descending = self._scales[sort_by].descending()
        return itertools.islice(itertools.chain.from_iterable(members for _, members in descending), n)

    def stats(self) -> dict[str, Any]:
        """Return figures of all patterns, from running totals. The averages are exact, whatever the history."""
        return {
            "total_patterns": len(self._figures),
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
