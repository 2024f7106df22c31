"""Sets of patterns as compressed bitmaps: who has a term, who is in how many of several sets, who has which figure.

A pattern is a number here, and numbers rise in the order of contribution, so that whoever iterates over a set meets the
patterns in that order. The bitmaps are Roaring bitmaps (https://roaringbitmap.org), which intersect posting lists of
tens of thousands in microseconds. None that is returned here may be changed by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Final, Generic, Self, TypeVar

from pyroaring import BitMap

T = TypeVar("T", bound=Hashable)

LIMIT: Final = 2**32
"""What every number of a pattern is below."""
_BANDS: Final = 64


class Postings(Generic[T]):
    """Who has which term."""

    def __init__(self) -> None:
        # A bitmap of one number takes 150 bytes, and a value that nobody else has is common.
        self._found: dict[T, int | BitMap] = {}

    @classmethod
    def of(cls, terms: Mapping[T, list[int] | BitMap]) -> Self:
        """Return postings in which each term is had by one at least. Sets that are given become their own."""
        postings = cls()
        postings._found = {
            term: numbers[0] if len(numbers) == 1 else numbers if type(numbers) is BitMap else BitMap(numbers)
            for term, numbers in terms.items()
        }
        return postings

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[T]:
        """Yield the terms that anybody has."""
        return iter(self._found)

    def __getitem__(self, term: T) -> BitMap:
        """Return who has a term; nobody is an empty set."""
        found = self._found.get(term)
        if found is None:
            return BitMap()
        return BitMap((found,)) if type(found) is int else found  # type: ignore[return-value]

    def count(self, term: T) -> int:
        """Return how many have a term."""
        found = self._found.get(term, 0)
        return 1 if type(found) is int and term in self._found else len(found) if found else 0  # type: ignore[arg-type]

    def add(self, term: T, number: int) -> None:
        """Let a pattern have a term that it has not."""
        found = self._found.get(term)
        if found is None:
            self._found[term] = number
        elif type(found) is int:
            self._found[term] = BitMap((found, number))
        else:
            found.add(number)  # type: ignore[union-attr]

    def remove(self, term: T, number: int) -> None:
        """Take a term from a pattern that has it."""
        found = self._found[term]
        if type(found) is int:
            del self._found[term]
            return
        found.remove(number)  # type: ignore[union-attr]
        if len(found) == 1:  # type: ignore[arg-type]
            self._found[term] = found.min()  # type: ignore[union-attr]


class Tally:
    """In how many of several sets each pattern is, by a few operations on whole sets.

    Who is in at least k of n sets is in one of the n - k + 1 smallest, so a high count is found among few (the problem
    of T-occurrence: Li, Lu and Lu, Efficient merging and filtering algorithms for approximate string searches, 2008).
    Each count is looked for when it is asked for.
    """

    def __init__(self, sets: Iterable[BitMap]) -> None:
        self._sets = sorted(filter(None, sets), key=len)
        self.most = len(self._sets)
        """What no count exceeds."""
        self._known: dict[tuple[int, int], BitMap] = {}

    def exactly(self, count: int, among: BitMap) -> BitMap:
        """Return those of a set that have exactly a count."""
        if count == 0:
            return among.difference(*self._sets) if self._sets else among
        found = union([among & members for members in self._sets]) if count == 1 else among & self._at_least(count)
        return found - self._at_least(count + 1) if found and count < self.most else found

    def _at_least(self, count: int, first: int | None = None) -> BitMap:
        """Return who is in at least 2 or more of the first sets, which are the smallest, or of all."""
        first = self.most if first is None else first
        if count > first:
            return BitMap()
        known = self._known.get((count, first))
        if known is None:
            last = self._sets[first - 1]
            if count == 2:
                # Pair by pair: to put the others together, which are the largest sets here, takes longer.
                found = [last & other for other in self._sets[: first - 1]]
            else:
                found = [last & self._at_least(count - 1, first - 1)]
            known = self._known[count, first] = union([self._at_least(count, first - 1), *found])
        return known


def union(sets: Iterable[BitMap]) -> BitMap:
    """Return who is in any of several sets."""
    some = [members for members in sets if members]
    return BitMap.union(*some) if len(some) > 1 else some[0] if some else BitMap()


class Band:
    """The patterns whose figures lie next to each other."""

    def __init__(self, values: Postings[float]) -> None:
        self.values = values
        self.ids = BitMap(union([values[value] for value in values]))

    def descending(self) -> Iterator[tuple[float, BitMap]]:
        """Yield each value and who has it, the largest first."""
        for value in sorted(self.values, reverse=True):
            yield value, self.values[value]


class Scale:
    """A figure of each pattern, for what begins with the largest or wants all from some value on.

    The values are kept in bands: a change touches one band, and who wants a part of the range looks at the values of
    one band at most. `band` says in which a value is; a larger value is in the same band or in a higher one.
    """

    def __init__(self, band: Callable[[float], int], figures: Postings[float] | None = None) -> None:
        self._band = band
        places: dict[int, dict[float, BitMap]] = {}
        for value in figures or ():
            places.setdefault(band(value), {})[value] = figures[value]  # type: ignore[index]
        self._bands = {place: Band(Postings.of(values)) for place, values in places.items()}
        self._sorted: list[tuple[int, Band]] | None = None
        """The bands, the highest first; None if there are others since."""

    def add(self, value: float, number: int) -> None:
        """Give a figure to a pattern that has none."""
        place = self._band(value)
        band = self._bands.get(place)
        if band is None:
            band = self._bands[place] = Band(Postings())
            self._sorted = None
        band.ids.add(number)
        band.values.add(value, number)

    def remove(self, value: float, number: int) -> None:
        """Take the figure from a pattern."""
        place = self._band(value)
        band = self._bands[place]
        band.values.remove(value, number)
        band.ids.remove(number)
        if not band.ids:
            del self._bands[place]
            self._sorted = None

    def bands(self) -> list[tuple[int, Band]]:
        """Return the bands with their places, the highest first."""
        if self._sorted is None:
            self._sorted = sorted(self._bands.items(), reverse=True)
        return self._sorted

    def descending(self) -> Iterator[tuple[float, BitMap]]:
        """Yield each value and who has it, the largest first."""
        for _, band in self.bands():
            yield from band.descending()

    def at_least(self, value: float) -> BitMap:
        """Return a new set: who has a value or more."""
        place = self._band(value)
        whole = [band.ids for above, band in self._bands.items() if above > place]
        if place in self._bands:
            band = self._bands[place]
            whole += [band.values[each] for each in band.values if each >= value]
        return BitMap(union(whole))


def share(value: float) -> int:
    """Return the band of a figure from 0 to 1; 1 has one of its own."""
    return int(value * _BANDS)


def ceiling(place: int) -> float:
    """Return what no figure in a band of `share` exceeds."""
    return min((place + 1) / _BANDS, 1.0)


def count(value: float) -> int:
    """Return the band of a whole number from 0 on; a band is as wide as all those below it."""
    return int(value).bit_length()
