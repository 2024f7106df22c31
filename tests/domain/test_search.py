"""Lookups by the index: the same answers as a scan, without looking at every pattern."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from empathy_kv import catalogue, search
from empathy_kv.catalogue import Mean
from empathy_kv.codec import codec
from empathy_kv.errors import LimitError
from empathy_kv.index import Held, Index
from empathy_kv.matching import Question, relevance
from empathy_kv.postings import Postings, Scale, Tally, count, share
from empathy_kv.records import Pattern

THOROUGH = settings(
    max_examples=settings.default.max_examples * 5,  # 10,000 in the nightly run
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

VALUES = [0, False, -0.0, 1, True, 1.0, 2, 1.5, "", "x", "y", None, [], [1], [True], ["x"], {}, {"a": 1}, {"a": [1.0]}]
KEYS = ["k", "l", "m", "tags"]
TAGS = ["a", "b", "c", "d"]

contexts = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=4)
tag_lists = st.lists(st.sampled_from(TAGS), max_size=5)
outcomes = st.tuples(st.integers(0, 6), st.integers(0, 6))
questions = st.builds(
    lambda context, tags, *filters: Question(context if tags is None else {**context, "tags": tags}, *filters),
    contexts,
    st.none() | tag_lists,
    st.sampled_from([None, "x", "y"]),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.sampled_from([1, 2, 3, 10, 100]),
)


def made(
    id: str, context: dict[str, Any], tags: list[str], outcome: tuple[int, int], confidence: float, kind: str
) -> Pattern:
    success, failure = outcome
    return Pattern(
        id,
        "agent",
        kind,
        "name",
        context=context,
        tags=tags,
        confidence=confidence,
        usage_count=success + failure,
        success_count=success,
        failure_count=failure,
    )


patterns = st.builds(
    made,
    st.sampled_from([str(number) for number in range(40)]),
    contexts,
    tag_lists,
    outcomes,
    st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
    st.sampled_from(["x", "y"]),
)


def held(pattern: Pattern, order: int, **outcome: Any) -> Held:
    return Held(pattern.id, pattern.agent_id, order, codec(Pattern).encode(pattern), **outcome)


def filled(*patterns: Pattern) -> Index:
    index = Index()
    for order, pattern in enumerate(patterns, 1):
        index.put(held(pattern, order))
    return index


def answer(index: Index, question: Question) -> list[tuple[str, float, list[str]]]:
    return [(match.pattern.id, match.relevance, match.matching_factors) for match in index.find(question)]


def scanned(index: Index, question: Question) -> list[tuple[str, float, list[str]]]:
    return [(match.pattern.id, match.relevance, match.matching_factors) for match in index.scan(question)]


# The same answer


@given(
    library=st.lists(patterns, max_size=30, unique_by=lambda pattern: pattern.id),
    places=st.randoms(use_true_random=False),
    gone=st.sets(st.integers(0, 29), max_size=5),
    used=st.dictionaries(st.integers(0, 29), outcomes, max_size=5),
    asked=st.lists(questions, min_size=1, max_size=4),
    early=st.integers(0, 30),
    few=st.sampled_from([0, 1, 4, 40]),
    many=st.sampled_from([0, 3, 5000]),
)
@THOROUGH
def test_an_index_answers_as_a_scan_does_order_included(
    library: list[Pattern],
    places: random.Random,
    gone: set[int],
    used: dict[int, tuple[int, int]],
    asked: list[Question],
    early: int,
    few: int,
    many: int,
) -> None:
    """With small limits, so that a library of a few is divided as one of a million is."""
    index = Index()
    arrivals = list(enumerate(library, 1))
    places.shuffle(arrivals)  # As the feed has them: by their last change, in no order of contribution.
    with mock.patch.multiple(search, _FEW=few, _MANY=many):
        for arrival, (order, pattern) in enumerate(arrivals):
            if arrival == early:  # From here on the catalogue is kept up to date; before, it was not made.
                assert answer(index, asked[0]) == scanned(index, asked[0])
            index.put(held(pattern, order))
        assert answer(index, asked[0]) == scanned(index, asked[0])
        for number, (success, failure) in used.items():
            if number < len(library):
                index.put(held(library[number], number + 1, succeeded=success, failed=failure))
        for number in gone:
            if number < len(library):
                assert index.remove(library[number].id)
        for question in asked:
            assert answer(index, question) == scanned(index, question)


def zipf(dice: random.Random, names: list[str], skewed: bool) -> str:
    weights = [1 / rank for rank in range(1, len(names) + 1)] if skewed else None
    return dice.choices(names, weights)[0]


@pytest.mark.parametrize("skewed", [False, True], ids=["uniform", "skewed"])
@pytest.mark.parametrize("seed", range(3))
def test_an_index_of_thousands_answers_as_a_scan_does(seed: int, skewed: bool) -> None:
    dice = random.Random(seed)
    values, tags = [f"value {number}" for number in range(12)], [f"tag {number}" for number in range(30)]

    def situation() -> dict[str, Any]:
        keys = dice.sample(["a", "b", "c", "d"], dice.choice([4, 4, 4, 3, 1]))
        return {key: zipf(dice, values, skewed) for key in keys}

    def some_tags(most: int) -> list[str]:
        return list({zipf(dice, tags, skewed) for _ in range(dice.randint(0, most))})

    index = filled(
        *(
            made(
                str(number),
                situation(),
                some_tags(4),
                dice.choice([(0, 0), (1, 1), (3, 0), (dice.randint(0, 99), dice.randint(0, 99))]),
                dice.choice([0.5, dice.random()]),
                dice.choice("xy"),
            )
            for number in range(4000)
        )
    )
    for _ in range(60):
        question = Question(
            {**situation(), "tags": some_tags(4)},
            dice.choice([None, None, "x"]),
            dice.choice([0.0, 0.5, 0.9]),
            dice.choice([1, 10, 200]),
        )
        assert answer(index, question) == scanned(index, question)


def test_equal_relevance_is_found_in_the_order_of_contribution_whatever_class_it_comes_from() -> None:
    # Half of one value is as much as one of two, and both are found before the third, which came first of all.
    one = made("one", {"k": 1, "l": 1}, [], (0, 0), 1.0, "x")
    other = made("other", {"k": 1, "l": 0, "m": 1, "tags": 0}, [], (0, 0), 1.0, "x")
    best = made("best", {"k": 1}, [], (0, 0), 1.0, "x")
    question = Question({"k": 1, "l": 2, "m": 1, "tags": ["t"]})
    with mock.patch.multiple(search, _FEW=0, _MANY=0):
        for order in itertools.permutations((one, other, best)):
            found = [id for id, _, _ in answer(filled(*order), question)]
            assert found[0] == "best"
            assert found == [id for id, _, _ in scanned(filled(*order), question)]


def test_only_a_few_of_many_that_match_are_looked_at() -> None:
    dice = random.Random(1)
    index = filled(*(made(str(n), {"k": n % 3, "l": n % 2}, ["a"], (n % 50, 50), 1.0, "x") for n in range(6000)))
    looked: list[int] = []

    class Watched(search.Search):
        def look(self, number: int, tags: int, rate: float) -> search.Found:
            looked.append(number)
            return super().look(number, tags, rate)

    with mock.patch.object(catalogue, "Search", Watched):
        for _ in range(5):
            looked.clear()
            question = Question({"k": dice.randrange(3), "l": dice.randrange(2), "tags": ["a"]})
            found = answer(index, question)
            assert 10 <= len(looked) <= 100, "a thousand have both values and the tag"
            assert found == scanned(index, question)


@given(*[st.tuples(*[st.sampled_from([0, 1 / 3, 0.1, 2 / 3, 0.7, 1.0]) | st.floats(0, 1)] * 3)] * 2)
def test_a_relevance_never_falls_when_a_share_rises(one: tuple[float, ...], other: tuple[float, ...]) -> None:
    most = tuple(map(max, zip(one, other, strict=True)))
    assert relevance(*most) >= max(relevance(*one), relevance(*other))


# Numbers


def test_a_place_given_anew_belongs_to_the_one_that_came_last() -> None:
    index = filled(made("old", {"k": 1}, ["a"], (0, 0), 1.0, "x"))
    index.put(held(made("new", {"k": 2}, ["b"], (0, 0), 1.0, "x"), 1))
    assert [each.id for each in index] == ["new"]
    assert index.get("old") is None
    assert answer(index, Question({"k": 1, "tags": ["a"]})) == []
    assert len(answer(index, Question({"k": 2, "tags": ["b"]}))) == 1


def test_places_beyond_the_numbers_of_a_bitmap_are_numbered_from_the_first_there_is() -> None:
    index = filled(*(made(id, {"k": 1}, [], (0, 0), 1.0, "x") for id in "abc"))
    index.put(held(made("far", {"k": 1}, [], (0, 0), 1.0, "x"), 2**32))
    assert [id for id, _, _ in answer(index, Question({"k": 1}))] == ["a", "b", "c", "far"]
    with pytest.raises(LimitError):
        index.put(held(made("farther", {"k": 1}, [], (0, 0), 1.0, "x"), 2**32 + 5))
    assert [each.id for each in index] == ["a", "b", "c", "far"]
    index.remove("a")
    index.remove("b")
    index.remove("c")
    index.put(held(made("farther", {"k": 1}, [], (0, 0), 1.0, "x"), 2**33 - 1))
    index.put(held(made("low", {"k": 1}, [], (0, 0), 1.0, "x"), 2**33 - 9))
    assert [id for id, _, _ in answer(index, Question({"k": 1}))] == ["far", "low", "farther"]
    assert index.last == 2**33 - 1


# Sets


numbers = st.integers(0, 30)
sets = st.lists(st.sets(numbers), max_size=6)


@given(sets, st.sets(numbers), st.integers(0, 7))
def test_a_tally_counts_in_how_many_sets_a_number_is(members: list[set[int]], among: set[int], wanted: int) -> None:
    tally = Tally(BitMap(each) for each in members)
    expected = {number for number in among if sum(number in each for each in members) == wanted}
    if wanted <= tally.most:
        assert set(tally.exactly(wanted, BitMap(among))) == expected
    else:
        assert not expected


@given(st.lists(st.tuples(st.sampled_from("ab"), numbers), unique=True), st.data())
def test_postings_say_who_has_a_term(pairs: list[tuple[str, int]], data: st.DataObject) -> None:
    postings: Postings[str] = Postings()
    for term, number in pairs:
        postings.add(term, number)
    left = set(pairs)
    for term, number in data.draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []:
        postings.remove(term, number)
        left.remove((term, number))
    for term in "ab":
        expected = {number for other, number in left if other == term}
        assert set(postings[term]) == expected
        assert postings.count(term) == len(expected)
    assert set(postings) == {term for term, _ in left}
    assert len(postings) == len(set(postings))


figures = st.sampled_from([0.0, 0.5, 1 / 64, 1.0, 1 / 3]) | st.floats(0, 1)


@pytest.mark.parametrize(("band", "values"), [(share, figures), (count, st.integers(0, 100))], ids=["share", "count"])
@given(data=st.data())
def test_a_scale_has_its_figures_in_order(
    band: Callable[[float], int], values: st.SearchStrategy[float], data: st.DataObject
) -> None:
    scale = Scale(band)
    given = dict(enumerate(data.draw(st.lists(values, max_size=20))))
    for number, value in given.items():
        scale.add(value, number)
    for number in data.draw(st.sets(st.sampled_from(sorted(given)))) if given else ():
        scale.remove(given.pop(number), number)
    descending = [(value, number) for value, members in scale.descending() for number in members]
    assert descending == sorted(
        ((value, number) for number, value in given.items()), key=lambda item: (-item[0], item[1])
    )
    least = data.draw(values)
    assert set(scale.at_least(least)) == {number for number, value in given.items() if value >= least}


@given(st.lists(figures, max_size=20), st.randoms(use_true_random=False))
def test_a_mean_is_exact_whatever_came_and_went(values: list[float], dice: random.Random) -> None:
    mean = Mean()
    for value in values:
        mean.count(value, 1)
    gone = dice.sample(values, len(values) // 2)
    for value in gone:
        mean.count(value, -1)
    left = Mean()
    for value in values:
        if value in gone:
            gone.remove(value)
        else:
            left.count(value, 1)
    assert mean.value == left.value
    assert 0.0 <= mean.value <= 1.0
    again = Mean()
    again.count(0.1, 1)
    assert again.value == 0.1


def test_a_changing_library_keeps_who_reaches_a_confidence() -> None:
    pattern = made("p", {"k": 1}, [], (0, 0), 0.5, "x")
    index = filled(pattern, made("q", {"k": 1}, [], (0, 0), 0.9, "x"))

    def found(bound: float) -> list[str]:
        return [id for id, _, _ in answer(index, Question({"k": 1}, min_confidence=bound))]

    assert (found(0.5), found(0.6)) == (["p", "q"], ["q"])
    index.put(held(pattern, 1, succeeded=5))
    assert (found(0.5), found(0.6), found(1.0)) == (["p", "q"], ["p", "q"], ["p"])
    index.put(held(pattern, 1, succeeded=5, failed=5))
    assert (found(0.5), found(0.6), found(1.0)) == (["p", "q"], ["q"], [])
    for number in range(20):
        found(number / 20)
    index.remove("p")
    assert (found(0.5), found(0.6)) == (["q"], ["q"])
