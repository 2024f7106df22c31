"""The thin agent."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from empathy_kv.agent import EmpathyConfig, EmpathyOS, Response
from empathy_kv.errors import ArgumentError, ArgumentTypeError
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.records import CollaborationState, Pattern
from empathy_kv.states import StateManager
from empathy_kv.store import Store
from empathy_kv.urls import connect

API = {"task": "api"}


def pattern(id: str, **fields: Any) -> Pattern:
    return Pattern(
        **{"id": id, "agent_id": "a", "pattern_type": "t", "name": f"Name {id}", "context": API, "code": f"code {id}"}
        | fields
    )


@pytest.fixture
def agent(library: PatternLibrary) -> EmpathyOS:
    return EmpathyOS("user_123", 4, library)


def ask(agent: EmpathyOS, context: Mapping[str, Any] = API) -> Response:
    return agent.interact(user_id="user_123", user_input="How?", context=context)


def test_an_agent_with_nothing_answers_still() -> None:
    agent = EmpathyOS(user_id="user_123")
    response = agent.interact(user_id="user_123", user_input="...", context={})
    assert isinstance(response.response, str)
    assert response.response
    assert (response.level, response.confidence, response.predictions, response.pattern_id) == (2, 0.0, [], None)


def test_the_answer_is_the_best_pattern_s_code(agent: EmpathyOS) -> None:
    agent.pattern_library.contribute_pattern("a", pattern("1", confidence=0.6))
    agent.pattern_library.contribute_pattern("a", pattern("2", confidence=0.7, tags=["x"]))
    response = ask(agent, {**API, "tags": ["x"]})
    assert (response.response, response.pattern_id, response.confidence) == ("code 2", "2", 0.7)
    assert response.predictions == ["Name 1"]


def test_without_code_the_answer_is_the_description_and_then_the_name(agent: EmpathyOS) -> None:
    agent.pattern_library.contribute_pattern("a", pattern("1", code=None, description="Describe"))
    assert ask(agent).response == "Describe"
    agent.pattern_library.remove_pattern("1")
    agent.pattern_library.contribute_pattern("a", pattern("1", code=""))
    assert ask(agent).response == "Name 1"


def test_what_is_linked_to_the_answer_is_predicted_first_and_nothing_twice(agent: EmpathyOS) -> None:
    library = agent.pattern_library
    for each in (pattern("1"), pattern("2"), pattern("3"), pattern("far", context={}), pattern("4", name="Name 2")):
        library.contribute_pattern("a", each)
    library.link_patterns("1", "3")
    library.link_patterns("1", "far")
    assert ask(agent).predictions == ["Name 3", "Name far", "Name 2"]


def test_the_responder_is_given_the_input_the_context_and_the_best_pattern(library: PatternLibrary) -> None:
    seen: list[Any] = []

    def responder(user_input: str, context: Mapping[str, Any], best: Pattern | None) -> str:
        seen.append((user_input, context, best))
        return "answered"

    agent = EmpathyOS("user_123", pattern_library=library, responder=responder)
    assert ask(agent).response == "answered"
    library.contribute_pattern("a", pattern("1"))
    response = ask(agent)
    assert (response.response, response.pattern_id) == ("answered", "1")
    assert seen == [("How?", API, None), ("How?", API, library.get_pattern("1"))]


def test_what_the_responder_raises_is_passed_on(library: PatternLibrary) -> None:
    def responder(*_: Any) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(EmpathyOS("user_123", pattern_library=library, responder=responder))


async def answered(*_: Any) -> str:
    return "answered"


class Answering:
    async def __call__(self, *_: Any) -> str:
        return "answered"


@pytest.mark.parametrize("responder", [answered, functools.partial(answered, 1), Answering(), Answering().__call__])
def test_a_responder_that_nobody_would_await_is_refused_at_once(responder: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="not an async one, which nobody would await") as caught:
        EmpathyOS("user_123", responder=responder)
    assert caught.value.argument == "responder"


@pytest.mark.filterwarnings("error")
def test_one_that_hides_it_is_refused_when_it_answers(library: PatternLibrary) -> None:
    hidden: Any = lambda *given: answered(*given)  # noqa: E731
    with pytest.raises(ArgumentTypeError, match="not an async one"):
        ask(EmpathyOS("user_123", pattern_library=library, responder=hidden))


@pytest.mark.parametrize("answer", [None, 5, b"answered", ["answered"]])
def test_what_is_no_text_is_no_answer(answer: Any, library: PatternLibrary) -> None:
    agent = EmpathyOS("user_123", pattern_library=library, responder=lambda *_: answer)  # type: ignore[misc]
    with pytest.raises(
        ArgumentTypeError, match=f"must return the answer as a str, not {type(answer).__name__}"
    ) as caught:
        ask(agent)
    assert caught.value.argument == "responder"


def test_success_moves_trust_and_counts_the_pattern_that_was_used_once(agent: EmpathyOS) -> None:
    agent.pattern_library.contribute_pattern("a", pattern("1"))
    ask(agent)
    agent.record_success(True)
    agent.record_success(True)
    agent.record_success(False)
    state = agent.collaboration_state
    assert (state.interaction_count, state.success_count, state.failure_count) == (3, 2, 1)
    assert state.trust_level == 0.5
    used = agent.pattern_library.get_pattern("1")
    assert used is not None
    assert (used.usage_count, used.success_count) == (1, 1)
    ask(agent)
    ask(agent, {"other": 1})
    agent.record_success(False)
    used = agent.pattern_library.get_pattern("1")
    assert used is not None
    assert used.usage_count == 1, "the last answer did not use it"


def test_a_pattern_that_was_removed_meanwhile_is_no_error(agent: EmpathyOS) -> None:
    agent.pattern_library.contribute_pattern("a", pattern("1"))
    ask(agent)
    agent.pattern_library.remove_pattern("1")
    agent.record_success(True)
    assert agent.collaboration_state.success_count == 1


def test_the_level_grows_with_trust_up_to_the_target() -> None:
    agent = EmpathyOS("user_123", target_level=4)
    levels = []
    for _ in range(12):
        levels.append(ask(agent).level)
        agent.record_success(True)
    assert levels == [2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4]
    assert agent.collaboration_state.target_level == 4
    assert EmpathyOS("u", target_level=1).collaboration_state.current_level == 1


def test_a_saved_state_takes_the_place_of_a_new_one(tmp_path: Path) -> None:
    states = StateManager(state_dir=tmp_path / "state")
    agent = EmpathyOS(user_id="user_123", target_level=4)
    for _ in range(3):
        agent.record_success(True)
    states.save_state("user_123", agent.collaboration_state)
    again = EmpathyOS(user_id="user_123", target_level=4)
    again.collaboration_state = states.load_state("user_123")
    assert f"{again.collaboration_state.trust_level:.0%}" == "65%"
    assert again.collaboration_state.current_level == ask(again).level == 3
    assert again.collaboration_state == agent.collaboration_state


def test_an_agent_has_one_user(agent: EmpathyOS) -> None:
    with pytest.raises(ArgumentError) as caught:
        agent.interact("somebody else", "How?", API)
    assert caught.value.argument == "user_id"
    assert agent.user_id == agent.collaboration_state.user_id == "user_123"


def test_two_agents_do_not_share_what_they_were_not_given() -> None:
    one, other = EmpathyOS("a"), EmpathyOS("b")
    one.pattern_library.contribute_pattern("a", pattern("1"))
    one.record_success(True)
    assert list(other.pattern_library.patterns) == []
    assert other.collaboration_state.interaction_count == 0


def test_a_library_that_is_empty_is_used_all_the_same(library: PatternLibrary) -> None:
    assert EmpathyOS("u", pattern_library=library).pattern_library is library


def test_the_configuration_has_the_documented_fields_and_names_its_store(tmp_path: Path) -> None:
    assert EmpathyConfig() == EmpathyConfig(
        user_id="default_user", target_level=3, persistence_enabled=True, persistence_path=".empathy"
    )
    config = EmpathyConfig(
        user_id="user_123", target_level=4, persistence_enabled=True, persistence_path=tmp_path / "e#1"
    )
    with connect(config.url) as store:
        store.states.save_state(config.user_id, CollaborationState())
    assert (tmp_path / "e#1").is_dir()
    with connect(EmpathyConfig(persistence_enabled=False, persistence_path=tmp_path / "none").url) as store:
        assert isinstance(store, Store)
        store.states.save_state("u", CollaborationState())
    assert not (tmp_path / "none").exists()


NAMES = ["plain", "a b", "50%", "a%20b", "é", "q?x=1", "h#1", "c:d", "~tilde", "a//b", " "]


@pytest.mark.parametrize("form", ["{name}", "./{name}", "{here}/{name}", "/{here}/{name}"])
@pytest.mark.parametrize("name", NAMES)
def test_the_store_of_a_configuration_is_its_directory_whatever_it_is_called(
    tmp_path: Path, name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = EmpathyConfig(persistence_path=form.format(name=name, here=tmp_path))
    with connect(config.url, durability="os") as store:
        store.states.save_state("u", CollaborationState())
    assert (tmp_path / name / "empathy" / "states").is_dir()
