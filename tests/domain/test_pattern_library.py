"""The library of patterns, in memory and on every engine; the model is written from DESIGN 5, not from the code."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from unittest import mock

import fakeredis
import pytest
from attrs import Factory, define, evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from empathy_kv import shared_patterns
from empathy_kv.codec import codec
from empathy_kv.errors import ArgumentTypeError, CodecError, LimitError, PatternExistsError, PatternNotFoundError
from empathy_kv.kv import operations
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.kv.operations import HGetAll, ZRangeByScore
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.records import Pattern, PatternMatch
from empathy_kv.store import Store
from empathy_kv.urls import connect

if TYPE_CHECKING:
    from domain.conftest import Fresh, Home

PROFILE = os.environ.get("EMPATHY_KV_PROFILE")
MANY = settings(
    max_examples=settings.default.max_examples // 3 + 1,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
# 10,000 in the nightly run, over all engines.
WORKERS = settings(MANY, max_examples=2500 if PROFILE == "nightly" else MANY.max_examples)


Library = Callable[[], PatternLibrary]


def pattern(id: str = "p", **fields: Any) -> Pattern:
    return Pattern(**{"id": id, "agent_id": "author", "pattern_type": "suggestion", "name": f"Pattern {id}", **fields})


def ids(patterns: list[Pattern]) -> list[str]:
    return [each.id for each in patterns]


# Contributing, getting, updating, removing


def test_a_contributed_pattern_is_got_back_field_by_field(library: PatternLibrary) -> None:
    whole = Pattern(
        id="pat_123",
        agent_id="agent_1",
        pattern_type="suggestion",
        name="Add error handling",
        description="Suggest error handling for API calls",
        context={"task": "api_call", "deep": [{"a": [1, 1.0, True, None, "é"]}]},
        code="try: ...",
        confidence=0.85,
        usage_count=10,
        success_count=9,
        failure_count=1,
        tags=["error-handling", "api"],
        discovered_at=datetime(2025, 1, 15, 10, 30, tzinfo=UTC),
        last_used=datetime(2025, 1, 20, 14, 45, 0, 123456, tzinfo=UTC),
        extra={"colour": ["blue", {"n": 1}]},
    )
    library.contribute_pattern("agent_1", whole)
    assert library.get_pattern("pat_123") == whole


def test_an_updated_pattern_says_something_else_and_what_happened_to_it_stays(library: PatternLibrary) -> None:
    discovered = datetime(2025, 1, 15, tzinfo=UTC)
    for name in ("before", "p", "after"):
        library.contribute_pattern(
            "contributor", pattern(name, context={"k": 1}, usage_count=1, success_count=1, discovered_at=discovered)
        )
    library.link_patterns("p", "after")
    library.record_pattern_outcome("p", False)
    (old, *_) = (match.pattern for match in library.find_patterns({"k": 1}) if match.pattern.id == "p")
    new = pattern("p", agent_id="other", name="new", context={"k": 2}, tags=["t"], confidence=0.75, extra={"x": 1})
    library.update_pattern(new)
    assert library.get_pattern("p") == evolve(
        new, usage_count=2, success_count=1, failure_count=1, discovered_at=discovered, last_used=old.last_used
    )
    assert [match.pattern.id for match in library.find_patterns({"k": 2})] == ["p"]
    assert [match.pattern.id for match in library.find_patterns({"k": 1})] == ["before", "after"]
    assert list(library.patterns) == ["before", "p", "after"]
    assert library.agent_contributions == {"contributor": ["before", "p", "after"]}
    assert ids(library.get_related_patterns("p")) == ["after"]
    library.record_pattern_outcome("p", True)
    assert library.get_library_stats()["total_usage"] == 5


def test_what_a_pattern_was_when_it_was_got_does_not_undo_what_happened_since(library: PatternLibrary) -> None:
    library.contribute_pattern("a", pattern())
    got = library.get_pattern("p")
    assert got is not None
    for success in (True, True, True, True, False):
        library.record_pattern_outcome("p", success)
    library.update_pattern(evolve(got, description="better"))
    now = library.get_pattern("p")
    assert now is not None
    assert (now.description, now.usage_count, now.success_count, now.confidence) == ("better", 5, 4, 0.8)


def test_only_a_pattern_that_is_there_can_be_updated_and_only_by_one_that_can_be_stored(
    library: PatternLibrary,
) -> None:
    with pytest.raises(PatternNotFoundError) as caught:
        library.update_pattern(pattern("p"))
    assert caught.value.pattern_id == "p"
    library.contribute_pattern("a", pattern("p"))
    before = library.get_pattern("p")
    with pytest.raises(CodecError, match=r"'p'.*\$\.tags"):
        library.update_pattern(pattern("p", tags=[1]))
    with pytest.raises(ArgumentTypeError, match="pattern must be a Pattern, not dict"):
        library.update_pattern({"id": "p"})  # type: ignore[arg-type]
    assert library.get_pattern("p") == before


def test_what_is_not_there_is_none_and_nothing(library: PatternLibrary) -> None:
    assert library.get_pattern("p") is None
    assert library.remove_pattern("p") is False
    assert library.remove_patterns(["p", "q"]) == 0
    assert library.remove_patterns([]) == 0
    assert library.find_patterns({"a": 1, "tags": ["x"]}) == []
    assert library.query_patterns("asker", {}) == []
    assert library.get_related_patterns("p", depth=3) == []
    assert library.get_agent_patterns("a") == []
    assert library.get_top_patterns() == []
    assert library.agent_contributions == {}
    assert library.get_links() == []
    assert dict(library.patterns) == {}
    assert library.get_library_stats() == {
        "total_patterns": 0,
        "total_agents": 0,
        "total_usage": 0,
        "average_confidence": 0.0,
        "average_success_rate": 0.0,
        "patterns_by_type": {},
    }


def test_a_taken_id_is_refused_and_the_first_stays(library: PatternLibrary) -> None:
    library.contribute_pattern("first", pattern(name="first"))
    with pytest.raises(PatternExistsError) as caught:
        library.contribute_pattern("second", pattern(name="second"))
    assert isinstance(caught.value, ValueError)
    assert caught.value.pattern_id == "p"
    kept = library.get_pattern("p")
    assert kept is not None
    assert kept.name == "first"
    assert library.agent_contributions == {"first": ["p"]}


def test_a_pattern_belongs_to_who_contributed_it_whoever_is_named_in_it(library: PatternLibrary) -> None:
    library.contribute_pattern("contributor", pattern(agent_id="author"))
    assert library.agent_contributions == {"contributor": ["p"]}
    assert ids(library.get_agent_patterns("contributor")) == ["p"]
    assert library.get_agent_patterns("author") == []
    kept = library.get_pattern("p")
    assert kept is not None
    assert kept.agent_id == "author"


def test_contributions_are_listed_by_agent_in_order_and_go_with_their_patterns(library: PatternLibrary) -> None:
    for agent, id in (("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")):
        library.contribute_pattern(agent, pattern(id))
    assert library.agent_contributions == {"a": ["1", "3"], "b": ["2"], "c": ["4"]}
    assert library.get_agent_contributions() == library.agent_contributions
    assert library.remove_pattern("2") is True
    assert library.remove_pattern("1") is True
    assert library.remove_pattern("1") is False
    assert library.agent_contributions == {"a": ["3"], "c": ["4"]}
    library.contribute_pattern("a", pattern("1"))
    assert library.agent_contributions == {"a": ["3", "1"], "c": ["4"]}
    assert ids(library.get_agent_patterns("a")) == ["3", "1"]


def test_a_removed_pattern_is_found_nowhere_and_its_id_is_free(library: PatternLibrary) -> None:
    library.contribute_pattern("a", pattern(context={"k": 1}, tags=["t"]))
    for _ in range(6):
        library.record_pattern_outcome("p", True)
    library.remove_pattern("p")
    assert library.get_pattern("p") is None
    assert library.find_patterns({"k": 1, "tags": ["t"]}, min_confidence=0.0) == []
    assert library.get_top_patterns() == []
    assert "p" not in library.patterns
    library.contribute_pattern("a", pattern(context={"k": 2}))
    again = library.get_pattern("p")
    assert again is not None
    assert (again.usage_count, again.last_used) == (0, None)
    assert library.find_patterns({"k": 1, "tags": ["t"]}, min_confidence=0.0) == []
    assert [match.pattern.id for match in library.find_patterns({"k": 2}, min_confidence=0.0)] == ["p"]


def test_the_patterns_are_a_mapping_in_order_of_contribution(library: PatternLibrary) -> None:
    for id in "zay":
        library.contribute_pattern("a", pattern(id))
    library.record_pattern_outcome("z", True)
    view = library.patterns
    assert isinstance(view, Mapping)
    assert list(view) == ["z", "a", "y"]
    assert len(view) == 3
    assert "a" in view
    assert "b" not in view
    assert 3 not in view
    assert view["a"] == library.get_pattern("a")
    assert view.get("b") is None
    assert [each.id for each in view.values()] == ["z", "a", "y"]
    with pytest.raises(KeyError) as caught:
        view["b"]
    assert isinstance(caught.value, PatternNotFoundError)
    assert caught.value.pattern_id == "b"


# In bulk


def test_many_are_contributed_and_removed_at_once(library: PatternLibrary) -> None:
    library.contribute_patterns("a", [])
    library.contribute_patterns("a", (pattern(f"p{number}", context={"n": number}) for number in range(1203)))
    assert list(library.patterns) == [f"p{number}" for number in range(1203)]
    assert [match.pattern.id for match in library.find_patterns({"n": 777})] == ["p777"]
    assert library.remove_patterns([*(f"p{number}" for number in range(1201)), "p5", "other"]) == 1201
    assert list(library.patterns) == ["p1201", "p1202"]


@pytest.mark.parametrize("last", ["p3", "taken"])
def test_an_id_that_is_taken_or_given_twice_stops_the_whole_bulk(library: PatternLibrary, last: str) -> None:
    library.contribute_pattern("a", pattern("taken"))
    with pytest.raises(PatternExistsError) as caught:
        library.contribute_patterns("b", [*(pattern(f"p{number}") for number in range(1100)), pattern(last)])
    assert caught.value.pattern_id == last
    assert list(library.patterns) == ["taken"]


def test_a_pattern_that_cannot_be_stored_stops_the_whole_bulk(library: PatternLibrary) -> None:
    with pytest.raises(CodecError) as caught:
        library.contribute_patterns("b", [*(pattern(f"p{number}") for number in range(600)), pattern(confidence=1.5)])
    assert (caught.value.path, caught.value.argument) == ("$.confidence", "pattern")
    assert str(caught.value).startswith("pattern 'p': "), "which of 601 it is"
    assert list(library.patterns) == []


def test_a_library_says_where_it_is_and_one_in_memory_how_many_it_has() -> None:
    library = PatternLibrary()
    library.contribute_pattern("a", pattern())
    assert repr(library) == "PatternLibrary(1 patterns)"
    with connect("memory:") as store:
        assert repr(store.patterns) == "PatternLibrary(MemoryKV())"
        assert repr(store.metrics) == "MetricsCollector(MemoryKV())"
    assert repr(store.patterns) == "PatternLibrary(MemoryKV())", "after it was closed, too"


def test_a_pattern_that_is_too_large_stops_the_whole_bulk() -> None:
    library = Store(MemoryKV()).patterns
    large = pattern("large", code="x" * (17 * 1024 * 1024))
    with pytest.raises(LimitError):
        library.contribute_patterns("b", [*(pattern(f"p{number}") for number in range(600)), large])
    assert list(library.patterns) == []


def test_large_patterns_that_fit_one_by_one_fit_together() -> None:
    library = Store(MemoryKV()).patterns
    library.contribute_patterns("b", [pattern(f"p{number}", code="x" * (15 * 1024 * 1024)) for number in range(5)])
    assert len(library.patterns) == 5


def test_what_was_contributed_is_restored_with_its_contributors_and_links(libraries: Library) -> None:
    one, other = libraries(), libraries()
    for agent, id in (("a", "1"), ("b", "2"), ("a", "3")):
        one.contribute_pattern(agent, pattern(id))
    one.link_patterns("3", "1")
    one.link_patterns("2", "3")
    owners = {id: agent for agent, owned in one.agent_contributions.items() for id in owned}
    other.restore([(owners[id], each) for id, each in one.patterns.items()], one.get_links())
    assert dict(other.patterns) == dict(one.patterns)
    assert list(other.patterns) == list(one.patterns)
    assert other.agent_contributions == one.agent_contributions
    assert other.get_links() == one.get_links() == [("1", "3"), ("2", "3")]


def test_a_link_to_what_is_not_restored_stops_the_whole(library: PatternLibrary) -> None:
    library.contribute_pattern("a", pattern("there"))
    with pytest.raises(PatternNotFoundError) as caught:
        library.restore([("a", pattern("1")), ("a", pattern("2"))], [("1", "there"), ("2", "ghost")])
    assert caught.value.pattern_id == "ghost"
    assert list(library.patterns) == ["there"]
    assert library.get_links() == []
    library.restore([("a", pattern("1"))], [("1", "there")])
    assert library.get_links() == [("there", "1")]


# Copies


def test_no_copy_aliases_what_the_library_holds(library: PatternLibrary) -> None:
    mine = pattern(context={"k": [1, {"deep": [1]}]}, tags=["t"], extra={"e": [1]})
    before = codec(Pattern).encode(mine)
    library.contribute_pattern("a", mine)
    library.contribute_pattern("a", pattern("q"))
    library.link_patterns("p", "q")

    def spoil(each: Pattern) -> None:
        each.name = "spoilt"
        each.context["k"][1]["deep"].append(2)
        each.context["new"] = 1
        each.tags.append("u")
        each.extra["e"].append(2)
        each.record_usage(True)

    spoil(mine)
    question = {"k": [1, {"deep": [1]}], "tags": ["t"]}
    got: list[Callable[[], Pattern | None]] = [
        lambda: library.get_pattern("p"),
        lambda: library.patterns["p"],
        lambda: next(iter(library.patterns.values())),
        lambda: library.find_patterns(question)[0].pattern,
        lambda: library.query_patterns("asker", question)[0].pattern,
        lambda: library.get_related_patterns("q")[0],
        lambda: library.get_agent_patterns("a")[0],
        lambda: library.get_top_patterns()[0],
    ]
    for get in got:
        each = get()
        assert each is not None
        assert codec(Pattern).encode(each) == before
        spoil(each)
    library.agent_contributions["a"].clear()
    library.get_library_stats()["patterns_by_type"].clear()
    assert library.agent_contributions == {"a": ["p", "q"]}
    assert question == {"k": [1, {"deep": [1]}], "tags": ["t"]}


# Outcomes


def test_outcomes_are_counted_and_confidence_is_the_success_rate_from_the_fifth_use_on(library: PatternLibrary) -> None:
    library.contribute_pattern("a", pattern(confidence=0.9))
    for number, (success, confidence) in enumerate(
        [(True, 0.9), (False, 0.9), (False, 0.9), (True, 0.9), (False, 2 / 5), (True, 3 / 6)], 1
    ):
        before = datetime.now(UTC)
        library.record_pattern_outcome("p", success)
        each = library.get_pattern("p")
        assert each is not None
        assert (each.usage_count, each.success_count + each.failure_count) == (number, number)
        assert each.confidence == confidence
        assert each.last_used is not None
        assert before <= each.last_used <= datetime.now(UTC)
    assert (each.success_count, each.failure_count, each.success_rate) == (3, 3, 0.5)


def test_a_pattern_contributed_with_ten_uses_keeps_its_confidence_until_an_outcome(library: PatternLibrary) -> None:
    used = datetime(2025, 1, 1, tzinfo=UTC)
    library.contribute_pattern(
        "a", pattern(confidence=0.85, usage_count=10, success_count=4, failure_count=6, last_used=used)
    )
    each = library.get_pattern("p")
    assert each is not None
    assert (each.confidence, each.last_used) == (0.85, used)
    library.record_pattern_outcome("p", True)
    each = library.get_pattern("p")
    assert each is not None
    assert (each.usage_count, each.success_count, each.failure_count) == (11, 5, 6)
    assert each.confidence == 5 / 11
    assert each.last_used is not None
    assert each.last_used > used


def test_an_outcome_of_what_is_not_there_is_a_key_error_and_a_value_error(library: PatternLibrary) -> None:
    library.contribute_pattern("a", pattern())
    library.remove_pattern("p")
    with pytest.raises(PatternNotFoundError) as caught:
        library.record_pattern_outcome("p", True)
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, ValueError)
    assert caught.value.pattern_id == "p"
    assert library.get_pattern("p") is None
    library.contribute_pattern("a", pattern())
    assert library.get_pattern("p").usage_count == 0  # type: ignore[union-attr]


def test_counts_that_do_not_add_up_never_make_a_confidence_or_a_relevance_beyond_one(library: PatternLibrary) -> None:
    # Other tools write such patterns. Whatever becomes of one, what the library holds can be stored again.
    odd = pattern(context={"k": 1}, usage_count=4, success_count=9, confidence=0.9)
    try:
        library.contribute_pattern("a", odd)
    except CodecError:
        return
    library.record_pattern_outcome("p", True)
    each = library.get_pattern("p")
    assert each is not None
    codec(Pattern).encode(each)
    assert 0.0 <= each.success_rate <= 1.0
    assert library.find_patterns({"other": 1}) == [], "it has nothing in common with the question"


def test_confidence_filters_by_what_it_is_after_the_outcomes(library: PatternLibrary) -> None:
    library.contribute_pattern("a", pattern(context={"k": 1}, confidence=0.5))
    assert len(library.find_patterns({"k": 1})) == 1, "the bound itself passes"
    for _ in range(5):
        library.record_pattern_outcome("p", False)
    assert library.find_patterns({"k": 1}, min_confidence=0.01) == []
    assert len(library.find_patterns({"k": 1}, min_confidence=0.0)) == 1


# Links


def test_links_go_both_ways_and_linking_twice_is_no_error(library: PatternLibrary) -> None:
    library.contribute_patterns("a", [pattern("1"), pattern("2")])
    for _ in range(2):
        library.link_patterns("1", "2")
        library.link_patterns("2", "1")
    assert ids(library.get_related_patterns("1")) == ["2"]
    assert ids(library.get_related_patterns("2")) == ["1"]
    assert library.get_links() == [("1", "2")]


def test_related_patterns_are_those_within_the_depth_nearest_first_each_once(library: PatternLibrary) -> None:
    # A ring of six, and a chord; contributed in another order than they stand in it.
    library.contribute_patterns("a", [pattern(id) for id in "305142"])
    for one, other in ("01", "12", "23", "34", "45", "50", "03"):
        library.link_patterns(one, other)
    assert library.get_related_patterns("0", depth=0) == []
    assert ids(library.get_related_patterns("0")) == ["3", "5", "1"]
    assert ids(library.get_related_patterns("0", depth=2)) == ["3", "5", "1", "4", "2"]
    assert ids(library.get_related_patterns("0", depth=1000)) == ["3", "5", "1", "4", "2"]
    assert ids(library.get_related_patterns("2", depth=2)) == ["3", "1", "0", "4"]
    assert library.get_related_patterns("unknown") == []


def test_a_link_to_what_is_not_there_is_refused(library: PatternLibrary) -> None:
    library.contribute_pattern("a", pattern("1"))
    for one, other in (("1", "2"), ("2", "1")):
        with pytest.raises(PatternNotFoundError) as caught:
            library.link_patterns(one, other)
        assert caught.value.pattern_id == "2"
    library.contribute_pattern("a", pattern("2"))
    assert library.get_related_patterns("1") == []
    assert library.get_related_patterns("2") == []


def test_links_go_with_a_removed_pattern_and_do_not_come_back_with_its_id(library: PatternLibrary) -> None:
    library.contribute_patterns("a", [pattern("1"), pattern("2"), pattern("3")])
    library.link_patterns("1", "2")
    library.link_patterns("2", "3")
    library.remove_pattern("2")
    assert library.get_related_patterns("1", depth=5) == []
    assert library.get_related_patterns("2", depth=5) == []
    library.contribute_pattern("a", pattern("2"))
    assert library.get_related_patterns("1", depth=5) == []
    assert library.get_related_patterns("2", depth=5) == []
    assert library.get_links() == []
    library.link_patterns("2", "3")
    assert ids(library.get_related_patterns("2", depth=5)) == ["3"]
    library.remove_patterns(["3", "2"])
    library.contribute_patterns("a", [pattern("3"), pattern("2")])
    assert library.get_links() == []


# Lists and figures


def test_the_top_is_by_what_is_asked_ties_in_order_of_contribution(library: PatternLibrary) -> None:
    for id, success, failure, confidence in (("1", 1, 1, 0.2), ("2", 4, 4, 0.9), ("3", 0, 0, 0.9), ("4", 2, 0, 0.1)):
        library.contribute_pattern(
            "a",
            pattern(
                id,
                usage_count=success + failure,
                success_count=success,
                failure_count=failure,
                confidence=confidence,
            ),
        )
    assert ids(library.get_top_patterns()) == ["4", "1", "2", "3"]
    assert ids(library.get_top_patterns(2, "usage_count")) == ["2", "1"]
    assert ids(library.get_top_patterns(sort_by="confidence")) == ["2", "3", "1", "4"]
    assert library.get_top_patterns(0) == []
    assert len(library.get_top_patterns(10**9)) == 4
    library.contribute_patterns("a", [pattern(f"n{number}") for number in range(10)])
    assert len(library.get_top_patterns()) == 10


def test_the_figures_are_of_the_whole_library(library: PatternLibrary) -> None:
    library.contribute_pattern("a", pattern("1", confidence=0.5, pattern_type="x"))
    library.contribute_pattern("a", pattern("2", confidence=1.0, usage_count=4, success_count=3, failure_count=1))
    library.contribute_pattern("b", pattern("3", confidence=0.3, usage_count=2, success_count=1, failure_count=1))
    library.record_pattern_outcome("3", False)
    figures = library.get_library_stats()
    assert figures == {
        "total_patterns": 3,
        "total_agents": 2,
        "total_usage": 7,
        "average_confidence": pytest.approx(0.6),
        "average_success_rate": pytest.approx((3 / 4 + 1 / 3) / 2),
        "patterns_by_type": {"x": 1, "suggestion": 2},
    }


# Relevance


def test_the_relevance_is_the_field_s_figure(library: PatternLibrary) -> None:
    library.contribute_pattern(
        "a",
        pattern(
            context={"task": "api", "lang": "py", "os": "linux", "only_here": 1},
            tags=["a", "b", "c", "d"],
            usage_count=4,
            success_count=3,
            failure_count=1,
            confidence=0.7,
        ),
    )
    (match,) = library.find_patterns({"task": "api", "lang": "py", "os": "mac", "x": 1, "tags": ["a", "c", "z"]})
    assert match.relevance == 2 / 3 * 0.5 + 2 / 4 * 0.3 + 3 / 4 * 0.2
    assert match.relevance_score == match.relevance
    assert match.confidence == match.pattern.confidence == 0.7
    assert match.matching_factors == ["2 context matches", "2 tag matches", "high success rate (0.75)"]
    assert isinstance(match, PatternMatch)


@pytest.mark.parametrize(
    ("fields", "context", "relevance"),
    [
        ({"context": {"k": 1}}, {"k": 1}, 0.5),
        ({"context": {"k": 1, "l": 1}}, {"k": 1, "l": 2}, None),  # 0.25
        ({"context": {"k": 1, "l": 1}}, {"k": 1}, 0.5),  # l is no key that both have
        ({"tags": ["a"]}, {"tags": ["a"]}, None),  # 0.3 is not above 0.3
        ({"tags": ["a"], "usage_count": 1, "success_count": 1}, {"tags": ["a"]}, 0.5),
        ({"tags": ["a"], "usage_count": 1, "failure_count": 1}, {"tags": ["a"]}, None),
        ({"tags": ["a"], "context": {"k": 1, "l": 1, "m": 1}}, {"tags": ["a"], "k": 1, "l": 0, "m": 0}, 0.5 / 3 + 0.3),
        ({"tags": ["a"], "context": {"tags": ["a"]}}, {"tags": ["a"]}, 0.8),  # the tags are a value, too
        ({"tags": ["a"]}, {"tags": "a"}, None),
        ({"tags": ["a"]}, {"tags": None}, None),
        ({"tags": ["a"], "usage_count": 1, "success_count": 1}, {"tags": ("a", "a", 1, None, ["a"])}, 0.5),
        ({"tags": ["a", "a", "b"], "context": {"k": 1}}, {"tags": ["a"], "k": 1}, 0.5 + 1 / 3 * 0.3),
        ({"usage_count": 9, "success_count": 9}, {"k": 1}, None),  # success alone is no match
        ({"context": {}, "tags": []}, {}, None),
        ({"context": {"k": 1}, "tags": ["a"], "usage_count": 1, "success_count": 1}, {"k": 1, "tags": ["a"]}, 1.0),
        ({"context": {"k": None}}, {"k": None}, 0.5),
        ({"context": {"k": 1}}, {"k": 1.0}, 0.5),
        ({"context": {"k": 1}}, {"k": True}, 0.5),
        ({"context": {"k": [1, {"a": 0}]}}, {"k": (1.0, {"a": False})}, 0.5),
        ({"context": {"k": [1, 2]}}, {"k": [2, 1]}, None),
        ({"context": {"k": {"a": 1, "b": 2}}}, {"k": {"b": 2, "a": 1}}, 0.5),
        ({"context": {"k": {}}}, {"k": []}, None),
        ({"context": {"k": "1"}}, {"k": 1}, None),
        ({"context": {"k": 2**53 + 1}}, {"k": float(2**53)}, None),
        ({"context": {"k": -0.0}}, {"k": 0}, 0.5),
        ({"context": {"k": ["{"]}}, {"k": {}}, None),
    ],
)
def test_the_relevance_at_its_edges(
    library: PatternLibrary, fields: dict[str, Any], context: dict[str, Any], relevance: float | None
) -> None:
    library.contribute_pattern("a", pattern(**fields))
    matches = library.find_patterns(context, min_confidence=0.0)
    assert [match.relevance for match in matches] == ([] if relevance is None else [relevance])


def test_questions_are_limited_filtered_and_the_same_whoever_asks(library: PatternLibrary) -> None:
    for number in range(15):
        library.contribute_pattern(
            "a",
            pattern(
                str(number), context={"k": 1}, confidence=number / 20, pattern_type="odd" if number % 2 else "even"
            ),
        )
    assert [match.pattern.id for match in library.find_patterns({"k": 1})] == ["10", "11", "12", "13", "14"]
    assert len(library.find_patterns({"k": 1}, min_confidence=0)) == 10
    assert len(library.find_patterns({"k": 1}, min_confidence=0, limit=2**62)) == 15
    odd = library.find_patterns({"k": 1}, pattern_type="odd", min_confidence=0.1, limit=3)
    assert [match.pattern.id for match in odd] == ["3", "5", "7"]
    assert library.query_patterns("somebody", {"k": 1}, "odd", 0.1, 3) == odd
    assert library.query_patterns("somebody", {"k": 1}) == library.find_patterns({"k": 1})


# The model: a plain list, and the rules as DESIGN 5 says them


@define
class Naive:
    """Patterns in order of contribution with their contributors, and links as pairs."""

    patterns: list[tuple[str, Pattern]] = Factory(list)
    links: set[frozenset[str]] = Factory(set)

    def get(self, id: str) -> Pattern | None:
        return next((each for _, each in self.patterns if each.id == id), None)

    def contribute(self, agent: str, new: Pattern) -> bool:
        if self.get(new.id) is not None:
            return False
        self.patterns.append((agent, new.copy()))
        return True

    def remove(self, id: str) -> bool:
        there = self.get(id) is not None
        self.patterns = [(agent, each) for agent, each in self.patterns if each.id != id]
        self.links = {link for link in self.links if id not in link}
        return there

    def outcome(self, id: str, success: bool) -> bool:
        each = self.get(id)
        if each is None:
            return False
        each.usage_count += 1
        each.success_count += success
        each.failure_count += not success
        if each.usage_count >= 5:
            each.confidence = each.success_count / each.usage_count
        return True

    def update(self, new: Pattern) -> bool:
        for place, (agent, each) in enumerate(self.patterns):
            if each.id == new.id:
                kept = {name: getattr(each, name) for name in ("usage_count", "success_count", "failure_count")}
                if each.usage_count >= 5:
                    kept["confidence"] = each.confidence
                self.patterns[place] = agent, evolve(new, discovered_at=each.discovered_at, **kept)
                return True
        return False

    def link(self, one: str, other: str) -> bool:
        if self.get(one) is None or self.get(other) is None:
            return False
        self.links.add(frozenset({one, other}))
        return True

    def related(self, id: str, depth: int) -> list[str]:
        found, edge = [id], [id]
        for _ in range(depth):
            edge = [
                each.id
                for _, each in self.patterns
                if each.id not in found and any(frozenset({each.id, near}) in self.links for near in edge)
            ]
            found += edge
        return found[1:]

    def find(self, context: dict[str, Any], kind: str | None, least: float, limit: int) -> list[tuple[str, float]]:
        found = []
        for _, each in self.patterns:
            if each.confidence < least or kind not in (None, each.pattern_type):
                continue
            both = [key for key in each.context if key in context]
            relevance = 0.0
            if both:
                relevance += 0.5 * (len([key for key in both if each.context[key] == context[key]]) / len(both))
            asked = context.get("tags")
            if each.tags and isinstance(asked, list):
                common = {tag for tag in each.tags if tag in asked}
                relevance += 0.3 * (len(common) / len(each.tags))
            if each.usage_count:
                relevance += 0.2 * (each.success_count / each.usage_count)
            if relevance > 0.3:
                found.append((each.id, min(relevance, 1.0)))
        found.sort(key=lambda item: -item[1])  # stable: ties stay in order of contribution
        return found[:limit]


VALUES = [
    *(0, 0.0, -0.0, False, 1, 1.0, True, 2, 1.5, "", "1", "x", None, [], {}, [1], [1.0], [True], [[1]], ["x", None]),
    *({"a": 1}, {"a": True}, {"a": [1, {"b": 0}]}, {"a": [1.0, {"b": False}]}, {"b": 1, "a": 1}, {"a": 1, "b": 1}),
    *(2**53, 2**53 + 1, float(2**53), ["{"], ["["], "[", "{", ["a", 1], {"": []}, [{}], [[]]),
]
KEYS = ["k", "l", "tags"]
TAGS = ["a", "b", "c", "k"]
IDS = ["1", "2", "3", "4", "5", "6"]

contexts = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=3)
tag_lists = st.lists(st.sampled_from(TAGS), max_size=4)
questions = st.builds(
    lambda context, tags: context if tags is None else {**context, "tags": tags},
    contexts,
    st.none() | tag_lists | st.lists(st.sampled_from([*TAGS, 1, None, ["a"]]), max_size=4),
)


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    success, failure = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    return pattern(
        draw(st.sampled_from(IDS)),
        context=draw(contexts),
        tags=draw(tag_lists),
        confidence=draw(st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0])),
        pattern_type=draw(st.sampled_from(["x", "y"])),
        usage_count=success + failure,
        success_count=success,
        failure_count=failure,
    )


finds = st.tuples(
    questions, st.sampled_from([None, "x", "y"]), st.sampled_from([0.0, 0.5, 0.7, 1.0]), st.sampled_from([1, 2, 3, 10])
)
steps = st.one_of(
    st.tuples(st.just("contribute"), st.sampled_from(["a", "b"]), patterns()),
    st.tuples(st.just("contribute"), st.sampled_from(["a", "b"]), patterns()),
    st.tuples(st.just("remove"), st.sampled_from(IDS)),
    st.tuples(st.just("outcome"), st.sampled_from(IDS), st.booleans()),
    st.tuples(st.just("update"), patterns()),
    st.tuples(st.just("link"), st.sampled_from(IDS), st.sampled_from(IDS)),
    st.tuples(st.just("ask"), finds),
)


def _do(library: PatternLibrary, step: tuple[Any, ...]) -> bool:
    try:
        match step:
            case ("contribute", agent, new):
                library.contribute_pattern(agent, new)
            case ("remove", id):
                return library.remove_pattern(id)
            case ("update", new):
                library.update_pattern(new)
            case ("outcome", id, success):
                library.record_pattern_outcome(id, success)
            case ("link", one, other):
                library.link_patterns(one, other)
    except (PatternExistsError, PatternNotFoundError):
        return False
    return True


def _agree(library: PatternLibrary, model: Naive, question: tuple[dict[str, Any], str | None, float, int]) -> None:
    context, kind, least, limit = question
    found = library.find_patterns(context, pattern_type=kind, min_confidence=least, limit=limit)
    assert [(match.pattern.id, match.relevance) for match in found] == model.find(context, kind, least, limit)
    assert list(library.patterns) == [each.id for _, each in model.patterns]
    for _, expected in model.patterns:
        held = library.get_pattern(expected.id)
        assert held is not None
        assert evolve(held, last_used=None) == expected
        assert ids(library.get_related_patterns(expected.id, 2)) == model.related(expected.id, 2)
    contributions: dict[str, list[str]] = {}
    for agent, each in model.patterns:
        contributions.setdefault(agent, []).append(each.id)
    assert library.agent_contributions == contributions
    assert {frozenset(link) for link in library.get_links()} == model.links


@given(script=st.lists(steps, max_size=25), question=finds)
@MANY
def test_a_library_agrees_with_the_naive_model(
    libraries: Library, script: list[tuple[Any, ...]], question: tuple[Any, ...]
) -> None:
    library, model = libraries(), Naive()
    for step in script:
        if step[0] == "ask":
            _agree(library, model, step[1])
        elif not (step[0] == "link" and step[1] == step[2]):
            assert _do(library, step) == getattr(model, step[0])(*step[1:]), step
    _agree(library, model, question)  # type: ignore[arg-type]


@given(
    script=st.lists(st.tuples(st.integers(0, 1), steps), max_size=30),
    question=finds,
    sizes=st.sampled_from([(100_000, 500), (4, 2), (3, 1), (8, 3)]),
)
@WORKERS
def test_two_workers_agree_with_the_naive_model_however_their_changes_interleave(
    fresh_workers: Fresh, script: list[tuple[int, tuple[Any, ...]]], question: tuple[Any, ...], sizes: tuple[int, int]
) -> None:
    home, model = fresh_workers(), Naive()
    # With a short feed, a worker that slept has to load everything anew; with small pages, nothing comes at once.
    with (
        mock.patch.multiple(shared_patterns, _FEED=sizes[0], PAGE=sizes[1]),
        mock.patch.object(operations, "PAGE", sizes[1]),
    ):
        workers = [home.open().patterns, home.open().patterns]
        for who, step in script:
            if step[0] == "ask":
                _agree(workers[who], model, step[1])
            elif not (step[0] == "link" and step[1] == step[2]):
                assert _do(workers[who], step) == getattr(model, step[0])(*step[1:]), step
        for worker in (*workers, home.open().patterns):
            _agree(worker, model, question)  # type: ignore[arg-type]
    home.close()


# Workers


def test_what_one_worker_does_the_other_sees_at_its_next_lookup(shared: Home) -> None:
    one, other = shared.open().patterns, shared.open().patterns
    assert list(other.patterns) == []
    one.contribute_pattern("a", pattern(context={"k": 1}))
    assert [match.pattern.id for match in other.find_patterns({"k": 1})] == ["p"]
    one.record_pattern_outcome("p", True)
    assert other.get_top_patterns()[0].usage_count == 1
    other.record_pattern_outcome("p", False)
    assert one.get_library_stats()["total_usage"] == 2
    other.contribute_pattern("b", pattern("q"))
    assert one.agent_contributions == {"a": ["p"], "b": ["q"]}
    one.link_patterns("p", "q")
    assert ids(other.get_related_patterns("q")) == ["p"]
    other.remove_pattern("p")
    assert one.get_pattern("p") is None
    assert one.get_related_patterns("q") == []
    assert one.find_patterns({"k": 1}) == []
    assert list(one.patterns) == ["q"]
    with pytest.raises(PatternNotFoundError):
        one.record_pattern_outcome("p", True)
    with pytest.raises(PatternExistsError):
        one.contribute_pattern("a", pattern("q"))
    with pytest.raises(PatternExistsError):
        one.contribute_patterns("a", [pattern("r"), pattern("q")])
    one.contribute_pattern("a", pattern("p"))
    assert list(other.patterns) == ["q", "p"]


def test_a_worker_that_slept_through_more_changes_than_the_feed_keeps_misses_none(shared: Home) -> None:
    one, other = shared.open().patterns, shared.open().patterns
    one.contribute_patterns("a", [pattern(str(number), context={"k": number}) for number in range(8)])
    assert list(other.patterns) == [str(number) for number in range(8)]
    with mock.patch.object(shared_patterns, "_FEED", 4):
        one.remove_pattern("0")
        one.record_pattern_outcome("1", True)
        one.link_patterns("2", "3")
        one.contribute_pattern("b", pattern("new", context={"k": 100}))
        for number in (4, 5, 6, 7):
            one.record_pattern_outcome(str(number), True)
        assert list(other.patterns) == [*map(str, range(1, 8)), "new"]
        assert other.patterns["1"].usage_count == 1
        assert ids(other.get_related_patterns("2")) == ["3"]
        assert other.agent_contributions == {"a": [str(number) for number in range(1, 8)], "b": ["new"]}
        assert other.find_patterns({"k": 0}) == []


def test_a_pattern_that_came_back_unlike_it_was_while_a_worker_slept_is_found_by_what_it_is(shared: Home) -> None:
    one, other = shared.open().patterns, shared.open().patterns
    one.contribute_patterns("a", [pattern("q", context={"k": 0}), pattern("p", context={"k": 1}, tags=["old"])])
    one.link_patterns("p", "q")
    assert [match.pattern.id for match in other.find_patterns({"k": 1})] == ["p"]
    one.remove_pattern("p")
    one.contribute_pattern("a", pattern("p", context={"k": 2}, tags=["new"]))
    assert other.find_patterns({"k": 1}) == []
    assert [match.pattern.id for match in other.find_patterns({"k": 2})] == ["p"]
    assert other.get_related_patterns("p") == other.get_related_patterns("q") == []
    one.remove_pattern("p")
    for question in ({"k": 1}, {"k": 2}, {"tags": ["old"]}, {"tags": ["new"]}):
        assert other.find_patterns(question) == []


def test_a_library_survives_being_closed(shared: Home) -> None:
    library = shared.open().patterns
    library.contribute_patterns("a", [pattern("1", context={"k": 1}), pattern("2"), pattern("3")])
    library.link_patterns("1", "3")
    library.record_pattern_outcome("1", True)
    library.remove_pattern("2")
    before = (dict(library.patterns), library.agent_contributions, library.get_links(), library.get_library_stats())
    shared.close()
    library = shared.open().patterns
    after = (dict(library.patterns), library.agent_contributions, library.get_links(), library.get_library_stats())
    assert after == before
    assert [match.pattern.id for match in library.find_patterns({"k": 1})] == ["1"]


def test_a_worker_sees_only_the_new_library_after_the_server_lost_the_old_one() -> None:
    # A server without persistence is empty after a restart; a shared cache is often run so.
    with fakeredis.FakeRedis(server=fakeredis.FakeServer()) as client:
        one, other = connect(client).patterns, connect(client).patterns
        one.contribute_patterns("a", [pattern("old1"), pattern("old2")])
        assert list(one.patterns) == ["old1", "old2"]
        client.flushall()
        other.contribute_patterns("a", [pattern("new1"), pattern("new2"), pattern("new3")])
        assert list(one.patterns) == ["new1", "new2", "new3"]


def test_two_threads_of_one_worker_read_what_they_have_written(store: Store) -> None:
    library = store.patterns
    missed: list[str] = []
    errors: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for number in range(60):
                library.contribute_pattern(name, pattern(f"{name}{number}"))
                if library.get_pattern(f"{name}{number}") is None:
                    missed.append(f"{name}{number}")
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert not missed
    assert len(library.patterns) == 240


@pytest.mark.needs_kv
def test_a_lookup_sees_what_was_written_before_it_began_though_another_thread_was_slower(store: Store) -> None:
    """Two lookups of one worker, step by step: the second reads more, the first is applied before it."""
    library, kv, rules = store.patterns, store.kv, store.patterns._rules
    library.contribute_pattern("a", pattern("old"))
    assert list(library.patterns) == ["old"]  # It is loaded.
    library.contribute_pattern("a", pattern("early"))
    first = rules.get_pattern("early")
    answer = _until(kv, first, ZRangeByScore)  # has seen "early", and is interrupted here
    library.contribute_pattern("a", pattern("late"))
    second = rules.get_pattern("late")
    fetched = _until(kv, second, HGetAll)
    assert _finish(kv, first, answer) is not None
    assert _finish(kv, second, fetched) is not None, "it was contributed before this lookup began"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_lookup_in_a_library_that_was_lost_does_not_spoil_the_new_one(count: int) -> None:
    """Step by step: a lookup is under way when the server loses all; another thread reads the new library."""
    with fakeredis.FakeRedis(server=fakeredis.FakeServer()) as client:
        store = connect(client)
        library, kv, rules = store.patterns, store.kv, store.patterns._rules
        connect(client).patterns.contribute_patterns("a", [pattern(f"old{number}") for number in range(count)])
        assert len(list(library.patterns)) == count  # It is loaded.
        connect(client).patterns.contribute_pattern("a", pattern("late"))
        lookup = rules.get_pattern("late")
        fetched = _until(kv, lookup, HGetAll)  # has read "late", and is interrupted here
        client.flushall()
        new = [f"new{number}" for number in range(count)]
        connect(client).patterns.contribute_patterns("a", [pattern(name) for name in new])
        assert list(library.patterns) == new
        connect(client).patterns.contribute_pattern("a", pattern("last"))
        assert _finish(kv, lookup, fetched) is None
        assert list(library.patterns) == [*new, "last"]


def _until(kv: Any, lookup: Any, asked: type) -> Any:
    """Go on with a lookup until it has asked for that; return the answer, which it has yet to be given."""
    batch = next(lookup)
    while not any(isinstance(operation, asked) for operation in batch.operations):
        batch = lookup.send(kv.commit(batch))
    return kv.commit(batch)


def _finish(kv: Any, lookup: Any, answer: Any) -> Any:
    try:
        while True:
            answer = kv.commit(lookup.send(answer))
    except StopIteration as stop:
        return stop.value


def test_threads_lose_no_outcome(libraries: Library) -> None:
    library = libraries()
    library.contribute_pattern("a", pattern())

    def work() -> None:
        for number in range(100):
            library.record_pattern_outcome("p", number % 4 != 0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    each = library.get_pattern("p")
    assert each is not None
    assert (each.usage_count, each.success_count, each.failure_count, each.confidence) == (400, 300, 100, 0.75)


def test_threads_that_update_and_record_lose_nothing(libraries: Library) -> None:
    library = libraries()
    library.contribute_pattern("a", pattern())

    def record() -> None:
        for _ in range(50):
            library.record_pattern_outcome("p", True)

    def update() -> None:
        for number in range(50):
            library.update_pattern(pattern(description=str(number)))

    threads = [threading.Thread(target=work) for work in (record, record, update, update)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    each = library.get_pattern("p")
    assert each is not None
    assert (each.description, each.usage_count, each.success_count, each.confidence) == ("49", 100, 100, 1.0)


# What cannot be kept is refused everywhere


@pytest.mark.parametrize("field", ["name", "description", "code", "pattern_type"])
def test_a_lone_surrogate_is_refused_by_every_library_alike(library: PatternLibrary, field: str) -> None:
    with pytest.raises(CodecError) as caught:
        library.contribute_pattern("a", pattern(**{field: "\ud800"}))
    assert caught.value.path == f"$.{field}"
    assert list(library.patterns) == []


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"context": {"k": ["\ud800"]}}, "$.context.k[0]"),
        ({"context": {"\ud800": 1}}, "$.context"),
        ({"tags": ["a", "\ud800"]}, "$.tags[1]"),
        ({"extra": {"e": "\ud800"}}, "$.e"),
    ],
)
def test_a_lone_surrogate_deep_inside_is_refused_with_its_place(
    library: PatternLibrary, fields: dict[str, Any], path: str
) -> None:
    with pytest.raises(CodecError) as caught:
        library.contribute_pattern("a", pattern(**fields))
    assert caught.value.path in (path, path.replace("$.e", "$.extra.e"))
    assert list(library.patterns) == []


def test_times_are_kept_in_utc_and_a_naive_one_is_taken_as_utc(library: PatternLibrary) -> None:
    naive = datetime(2025, 1, 15, 10, 30)  # noqa: DTZ001 - the documented form
    library.contribute_pattern("a", pattern("1", discovered_at=naive))
    east = timezone(timedelta(hours=9, minutes=30))
    library.contribute_pattern("a", pattern("2", discovered_at=naive.replace(tzinfo=east)))
    one, other = library.get_pattern("1"), library.get_pattern("2")
    assert one is not None
    assert other is not None
    assert one.discovered_at == datetime(2025, 1, 15, 10, 30, tzinfo=UTC)
    assert other.discovered_at == datetime(2025, 1, 15, 1, 0, tzinfo=UTC)
    assert one.discovered_at.tzinfo is other.discovered_at.tzinfo is UTC


def test_the_whole_library_is_in_order_after_any_history(libraries: Library) -> None:
    for history in itertools.permutations("123"):
        library = libraries()
        library.contribute_patterns("a", [pattern(id, context={"k": 1}) for id in "123"])
        for id in history[:2]:
            library.remove_pattern(id)
            library.contribute_pattern("a", pattern(id, context={"k": 1}))
        expected = [*(id for id in "123" if id not in history[:2]), *history[:2]]
        assert list(library.patterns) == expected
        assert [match.pattern.id for match in library.find_patterns({"k": 1})] == expected
        assert ids(library.get_top_patterns()) == expected
