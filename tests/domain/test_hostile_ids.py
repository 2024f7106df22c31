"""Ids that stores get wrong, as every kind of id: taken exactly, or refused at once, alike everywhere."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest
from hypothesis import settings

from empathy_kv.errors import ArgumentError, LimitError
from empathy_kv.kv.files.names import name
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.records import MAX_ID, CollaborationState, Pattern
from empathy_kv.states import StateManager
from empathy_kv.testing.hostile import HOSTILE, storable

if TYPE_CHECKING:
    from domain.conftest import Home

# The names of files that others get are hostile too: somebody may be called like one.
FILES: Final = [name(text) for text in HOSTILE if storable(text)]
TEXTS: Final = tuple(dict.fromkeys([*HOSTILE, *FILES[::8], *(f"{text}.json" for text in HOSTILE[::20])]))
TAKEN: Final = tuple(text for text in TEXTS if storable(text, MAX_ID))
BAD: Final = tuple(text for text in TEXTS if not storable(text, MAX_ID))


@attrs.define
class Note:
    number: int


def refusal(text: str) -> type[ArgumentError]:
    try:
        return LimitError if len(text.encode()) > MAX_ID else ArgumentError
    except UnicodeEncodeError:
        return ArgumentError


def refused(*calls: Callable[[str], Any]) -> None:
    for text in BAD:
        for call in calls:
            with pytest.raises(ArgumentError) as caught:
                call(text)
            assert type(caught.value) is refusal(text), text[:40]


def listing(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.fixture(autouse=True)
def nothing_happens_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """All places of a test are in directories of their own below its own, which is the working directory too."""
    (tmp_path / "witness").mkdir()
    (tmp_path / "witness" / "a.json").write_text("untouched")
    monkeypatch.chdir(tmp_path / "witness")
    outside = os.listdir(tmp_path.parent)
    yield
    assert os.listdir(tmp_path.parent) == outside
    assert {path.split("/")[0] for path in listing(tmp_path)} <= {"witness", "above", "home-0"}
    assert listing(tmp_path / "witness") == ["a.json"]
    assert (tmp_path / "witness" / "a.json").read_text() == "untouched"
    for path in (tmp_path / "home-0").rglob("*"):
        assert (
            path.is_dir()
            or path.name.startswith(("lock", "store.db"))
            or path.parent.name == "journal"
            or path.suffix == ".json"
        ), path


@pytest.fixture(autouse=True)
def fewer_on_postgresql(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every third text there, but for the nightly run: all go through a save (`tests/sql/test_round_trip.py`)."""
    chosen = request.node.callspec.params.values() if hasattr(request.node, "callspec") else ()
    if "postgresql" in chosen and settings.default.max_examples < 1000:
        for name in ("TAKEN", "TEXTS"):
            monkeypatch.setattr(sys.modules[__name__], name, globals()[name][::3])


def test_there_is_enough_of_both_kinds() -> None:
    assert len(TAKEN) > 330
    assert len(BAD) >= 15
    assert {refusal(text) for text in BAD} == {ArgumentError, LimitError}


def users_of(states: StateManager) -> None:
    """Save, load, change and delete the states of all users."""
    refused(
        states.load_state,
        states.load_versioned,
        states.delete_state,
        lambda user: states.save_state(user, CollaborationState()),
    )
    assert states.list_users() == []
    for number, user in enumerate(TAKEN):
        assert states.delete_state(user) is False, user
        states.save_state(user, CollaborationState(interaction_count=number), expected_version=0)
    assert states.list_users() == sorted(TAKEN)
    for number, user in enumerate(TAKEN):
        state, version = states.load_versioned(user)
        assert (state.user_id, state.interaction_count) == (user, number)
        if number % 3 == 0:
            assert states.delete_state(user) is True
        elif number % 3 == 1:
            states.save_state(user, CollaborationState(interaction_count=-number + 10**6), expected_version=version)


def users_are_left(states: StateManager) -> None:
    left = [user for number, user in enumerate(TAKEN) if number % 3]
    assert states.list_users() == sorted(left)
    for number, user in enumerate(TAKEN):
        if number % 3:
            assert states.load_state(user).interaction_count == (number if number % 3 == 2 else 10**6 - number)
        else:
            with pytest.raises(FileNotFoundError):
                states.load_state(user)


def test_as_users_with_a_state(home: Home) -> None:
    store = home.open()
    users_of(store.states)
    users_are_left(store.states)
    if home.engine.reopens:
        home.close()
        users_are_left(home.open().states)


def test_as_users_with_a_state_in_a_directory(tmp_path: Path) -> None:
    directory = tmp_path / "above" / "state"
    users_of(StateManager(state_dir=directory))
    users_are_left(StateManager(state_dir=directory))
    files = listing(directory)
    assert len([file for file in files if file.endswith(".json")]) == len(TAKEN) - len(TAKEN[::3])
    assert all("/" not in file and file.isascii() and len(file) <= 105 for file in files)
    assert len({file.casefold() for file in files}) == len(files), "no file system may fold two of them into one"
    for file in files:
        stem = file.removesuffix(".json").split(".")[0].lower()
        assert stem not in ("con", "prn", "aux", "nul", "com1", "lpt9"), file
        assert not file.endswith((" ", ".")), file


def test_as_ids_of_patterns_and_agents(libraries: Callable[[], PatternLibrary]) -> None:
    library = libraries()

    def pattern(id: str) -> Pattern:
        return Pattern(id, id, "t", "n", context={"id": id}, tags=[id])

    fine = pattern("fine")
    refused(
        library.get_pattern,
        library.remove_pattern,
        library.get_related_patterns,
        library.get_agent_patterns,
        lambda id: library.contribute_pattern("a", Pattern(id, "a", "t", "n")),
        lambda id: library.contribute_pattern("a", Pattern("p", id, "t", "n")),
        lambda id: library.contribute_pattern(id, fine),
        lambda id: library.contribute_patterns(id, [fine]),
        lambda id: library.remove_patterns([id]),
        lambda id: library.record_pattern_outcome(id, True),
        lambda id: library.link_patterns(id, "fine"),
        lambda id: library.link_patterns("fine", id),
        lambda id: library.query_patterns(id, {}),
    )
    assert list(library.patterns) == []
    agents = [id for id in TAKEN if id.strip()]
    for id in TAKEN:
        if id.strip():
            library.contribute_pattern(id, pattern(id))
        else:
            with pytest.raises(ArgumentError):
                library.contribute_pattern(id, pattern(id))
            library.contribute_pattern("blank", pattern(id))
    assert list(library.patterns) == list(TAKEN)
    assert library.agent_contributions == {
        **{id: [id] for id in agents},
        "blank": [id for id in TAKEN if not id.strip()],
    }
    assert all(library.get_pattern(id) is not None for id in TAKEN)
    for id, following in itertools.pairwise(TAKEN):
        library.link_patterns(id, following)
        library.record_pattern_outcome(id, True)
    for number, id in enumerate(TAKEN):
        each = library.get_pattern(id)
        assert each is not None
        assert (each.id, each.agent_id, each.context, each.tags) == (id, id, {"id": id}, [id])
        assert each.usage_count == (number < len(TAKEN) - 1)
        near = [other.id for other in library.get_related_patterns(id)]
        assert near == [*TAKEN[max(0, number - 1) : number], *TAKEN[number + 1 : number + 2]]
        (match,) = library.find_patterns({"id": id})
        assert match.pattern.id == id
    assert [each.id for each in library.get_agent_patterns("\n")] == []
    assert library.remove_patterns(TAKEN[::2]) == len(TAKEN[::2])
    assert list(library.patterns) == list(TAKEN[1::2])
    assert library.get_links() == []


def test_as_users_with_metrics(home: Home) -> None:
    metrics = home.open().metrics
    refused(metrics.get_user_stats, metrics.get_history, lambda user: metrics.record_interaction(user, 1, True, 1.0))
    for number, user in enumerate(TAKEN):
        metrics.record_interaction(user, 1 + number % 5, True, float(number))
    for again in range(2):
        assert metrics.get_all_users() == sorted(TAKEN)
        for number, user in enumerate(TAKEN):
            stats = metrics.get_user_stats(user)
            assert (stats["total_operations"], stats["avg_response_time_ms"]) == (1, number)
            assert [(one.user_id, one.level) for one in metrics.get_history(user)] == [(user, 1 + number % 5)]
        everyone = metrics.get_global_stats()
        assert (everyone["total_users"], everyone["total_interactions"]) == (len(TAKEN), len(TAKEN))
        if again or not home.engine.reopens:
            break
        home.close()
        metrics = home.open().metrics


def test_as_ids_of_interactions(home: Home) -> None:
    metrics = home.open().metrics
    refused(lambda id: metrics.record_interaction("u", 1, True, 1.0, interaction_id=id))
    for expected in (True, False):
        for id in TAKEN:
            assert metrics.record_interaction("u", 1, True, 1.0, interaction_id=id) is expected, id
    assert metrics.get_user_stats("u")["total_operations"] == len(TAKEN)
    assert sorted(str(one.id) for one in metrics.get_history("u")) == sorted(TAKEN)


@pytest.mark.needs_kv
def test_as_ids_of_documents(home: Home) -> None:
    notes = home.open().collection("notes", Note)
    refused(
        notes.get,
        notes.delete,
        lambda id: notes.put(id, Note(1)),
        lambda id: notes.put_many({"fine": Note(1), id: Note(1)}),
        lambda id: notes.get_many(["fine", id]),
    )
    assert list(notes.keys()) == []
    documents = {id: Note(number) for number, id in enumerate(TAKEN)}
    for id, note in documents.items():
        notes.put(id, note)
    assert notes.get_many(TAKEN) == documents
    assert dict(notes.items()) == documents
    for id in TAKEN[::2]:
        assert notes.delete(id) is True
    left = dict(zip(TAKEN[1::2], map(documents.__getitem__, TAKEN[1::2]), strict=True))
    assert {id: notes.get(id) for id in TAKEN} == {**dict.fromkeys(TAKEN[::2]), **left}
    if home.engine.reopens:
        home.close()
        notes = home.open().collection("notes", Note)
    assert sorted(notes.keys()) == sorted(left)
    assert dict(notes.items()) == left


@pytest.mark.needs_kv
def test_as_names_of_collections(home: Home) -> None:
    names = [text for text in HOSTILE if storable(text, 256)]
    for again in range(2):
        store = home.open()
        for number, each in enumerate(names):
            if not again:
                store.collection(each, Note).put("n", Note(number))
        for number, each in enumerate(names):
            assert dict(store.collection(each, Note).items()) == {"n": Note(number)}, each
        if not home.engine.reopens:
            break
        home.close()


def test_as_values_everywhere(home: Home) -> None:
    """What a text says is no concern of the store: only a lone surrogate is refused, and length is not."""
    store = home.open()
    texts = [text for text in TEXTS if storable(text, 10**6)]
    for number, text in enumerate(texts):
        store.patterns.contribute_pattern(
            "a",
            Pattern(
                str(number),
                "a",
                text or "t",
                text,
                text,
                {"k": text, "other": [text]},
                text,
                tags=[text],
                extra={f"x{text}": text},
            ),
        )
    if home.engine.reopens:
        home.close()
        store = home.open()
    for number, text in enumerate(texts):
        each = store.patterns.get_pattern(str(number))
        assert each is not None
        assert (each.name, each.description, each.code, each.tags) == (text, text, text, [text])
        assert (each.context, each.extra) == ({"k": text, "other": [text]}, {f"x{text}": text})
        (match,) = store.patterns.find_patterns({"k": text, "tags": [text]}, limit=10**6)
        assert match.pattern.id == str(number)
