"""Collections of documents, on every engine."""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from empathy_kv.collection import Collection
from empathy_kv.errors import (
    ArgumentError,
    ArgumentTypeError,
    CheckError,
    ClosedError,
    CodecError,
    LimitError,
    WrongTypeError,
)
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.store import Store

pytestmark = pytest.mark.needs_kv

if TYPE_CHECKING:
    from domain.conftest import Fresh, Home


@attrs.define
class Note:
    text: str
    stars: int = 0
    at: datetime | None = None
    tags: list[str] = attrs.field(factory=list)
    extra: dict[str, Any] = attrs.field(factory=dict)


@dataclasses.dataclass
class Plain:
    text: str
    stars: int = 0


@dataclasses.dataclass
class Newer:
    text: str
    stars: int = 0
    colour: str = "none"


@pytest.fixture
def notes(store: Store) -> Collection[Note]:
    return store.collection("notes", Note)


def test_a_document_is_got_back_equal_and_is_the_caller_s_own(notes: Collection[Note]) -> None:
    note = Note("é😀\n\0", 5, datetime(2025, 1, 20, 15, tzinfo=UTC), ["a", "b"])
    notes.put("n", note)
    got = notes.get("n")
    assert got == note
    assert got is not note
    got.tags.append("c")
    note.tags.append("d")
    assert notes.get("n") == Note("é😀\n\0", 5, datetime(2025, 1, 20, 15, tzinfo=UTC), ["a", "b"])


def test_what_is_absent_is_none_and_deleting_twice_is_no_error(notes: Collection[Note]) -> None:
    assert notes.get("n") is None
    assert notes.delete("n") is False
    assert notes.get_many(["n", "m"]) == {}
    assert notes.get_many([]) == {}
    assert list(notes.keys()) == []
    assert list(notes.items()) == []
    notes.put_many({})
    notes.put("n", Note("x"))
    assert notes.delete("n") is True
    assert notes.delete("n") is False
    assert notes.get("n") is None
    assert list(notes.keys()) == []


def test_a_later_document_takes_the_place_of_the_one_before_with_a_greater_version(notes: Collection[Note]) -> None:
    versions = [notes.put("n", Note("x", number)) for number in range(3)]
    assert versions == sorted(set(versions))
    assert all(version > 0 for version in versions)
    assert notes.get("n") == Note("x", 2)
    assert list(notes.keys()) == ["n"]


def test_a_document_that_somebody_else_changed_meanwhile_is_not_overwritten(notes: Collection[Note]) -> None:
    assert notes.get_versioned("n") == (None, 0)
    first = notes.put("n", Note("mine", 1), expected_version=0)
    assert notes.get_versioned("n") == (Note("mine", 1), first)
    with pytest.raises(CheckError):
        notes.put("n", Note("mine", 2), expected_version=0)
    other = notes.put("n", Note("another's", 1))
    with pytest.raises(CheckError) as caught:
        notes.put("n", Note("mine", 2), ttl=60, expected_version=first)
    assert (caught.value.key, caught.value.expected, caught.value.actual) == ("n", first, other)
    assert notes.get("n") == Note("another's", 1)
    assert notes.put("n", Note("mine", 2), expected_version=other) > other
    with pytest.raises(ArgumentError):
        notes.put("n", Note("mine", 3), expected_version=-1)


def test_what_stands_in_the_place_of_the_expected_version_is_told(notes: Collection[Note]) -> None:
    def told(expected: Any) -> str:
        with pytest.raises(CheckError) as caught:
            notes.put("n", Note("mine", 1), expected_version=expected)
        assert (caught.value.key, caught.value.expected) == ("n", expected)
        return str(caught.value)

    assert told(99).startswith("document 'n' is absent, and was to have version 99")
    version = notes.put("n", Note("another's", 1))
    assert told(version + 1) == f"document 'n' has version {version}, not {version + 1}: somebody else wrote it"
    assert told(0) == f"document 'n' has version {version}, and was to be absent: somebody else wrote it"


@pytest.mark.parametrize("expected", ["1", True, 1.0, -1])
def test_an_expected_version_that_is_none_is_told_by_that_name(notes: Collection[Note], expected: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^expected_version must be ") as caught:
        notes.put("n", Note("mine", 1), expected_version=expected)
    assert caught.value.argument == "expected_version"
    with pytest.raises(ArgumentError, match=r"^expected_version must be ") as caught:
        notes._kv.namespace("n").set("k", b"", expected_version=expected)
    assert caught.value.argument == "expected_version"


def test_many_are_put_got_and_listed(notes: Collection[Note]) -> None:
    documents = {f"n{number}": Note("x", number) for number in range(1100)}
    notes.put_many(documents)
    assert notes.get_many(documents) == documents
    assert dict(notes.items()) == documents
    assert sorted(notes.keys()) == sorted(documents)
    some = notes.get_many(iter(["n7", "absent", "n3", "n7"]))
    assert list(some.items()) == [("n7", Note("x", 7)), ("n3", Note("x", 3))]


def test_collections_do_not_see_each_other_whatever_their_names(store: Store) -> None:
    names = ["notes", "note", "notes2", "notes/a", "notes:a", "patterns", "states", "Notes", "é", "e\u0301"]
    for number, name in enumerate(names):
        store.collection(name, Plain).put("n", Plain(name, number))
    for number, name in enumerate(names):
        assert dict(store.collection(name, Plain).items()) == {"n": Plain(name, number)}
    store.collection("notes", Plain).delete("n")
    assert store.collection("note", Plain).get("n") == Plain("note", 1)
    assert store.states.list_users() == []
    assert list(store.patterns.patterns) == []


def test_a_document_lives_as_long_as_it_was_given(notes: Collection[Note]) -> None:
    notes.put("short", Note("x"), ttl=0.15)
    notes.put("delta", Note("x"), ttl=timedelta(milliseconds=150))
    notes.put_many({"many": Note("x")}, ttl=0.15)
    notes.put("day", Note("x"), timedelta(days=1))
    notes.put("ever", Note("x"), ttl=0.15)
    notes.put("ever", Note("x"))
    assert len(notes.get_many(["short", "delta", "many", "day", "ever"])) == 5
    time.sleep(0.3)
    assert notes.get("short") is None
    assert set(notes.get_many(["short", "delta", "many", "day", "ever"])) == {"day", "ever"}
    assert sorted(notes.keys()) == ["day", "ever"]
    assert sorted(id for id, _ in notes.items()) == ["day", "ever"]
    assert notes.delete("short") is False


def test_a_dataclass_without_extra_refuses_what_it_would_lose(store: Store) -> None:
    store.collection("notes", Newer).put("n", Newer("x", 1, "red"))
    with pytest.raises(CodecError) as caught:
        store.collection("notes", Plain).get("n")
    assert caught.value.path == "$.colour"
    assert "'n'" in str(caught.value)
    store.collection("notes", Plain).put("m", Plain("y"))
    assert store.collection("notes", Newer).get("m") == Newer("y", 0, "none")


def test_a_class_with_extra_keeps_what_it_does_not_know(store: Store) -> None:
    store.collection("notes", Newer).put("n", Newer("x", 1, "red"))
    notes = store.collection("notes", Note)
    note = notes.get("n")
    assert note == Note("x", 1, extra={"colour": "red"})
    store.collection("plain", Note).put("n", note)
    note.stars = 2
    notes.put("n", note)
    assert notes.get("n") == Note("x", 2, extra={"colour": "red"})


def test_one_document_that_is_wrong_stops_all_of_many(notes: Collection[Note]) -> None:
    documents = {f"n{number}": Note("x") for number in range(600)} | {"bad": Note(5)}  # type: ignore[arg-type]
    with pytest.raises(CodecError) as caught:
        notes.put_many(documents)
    assert (caught.value.path, caught.value.argument) == ("$.text", "document")
    assert "'bad'" in str(caught.value)
    with pytest.raises(ArgumentTypeError, match="'bad' must be a Note"):
        notes.put_many({"good": Note("x"), "bad": 5})  # type: ignore[dict-item]
    assert list(notes.keys()) == []


def test_documents_that_fit_one_by_one_fit_together() -> None:
    notes = Store(MemoryKV()).collection("notes", Note)
    notes.put_many({str(number): Note("x" * (15 * 1024 * 1024)) for number in range(5)})
    assert len(list(notes.keys())) == 5


def test_a_document_that_is_too_large_stops_all_of_many() -> None:
    notes = Store(MemoryKV()).collection("notes", Note)
    documents = {str(number): Note("x") for number in range(600)} | {"large": Note("x" * (17 * 1024 * 1024))}
    with pytest.raises(LimitError):
        notes.put_many(documents)
    assert list(notes.keys()) == []


def test_only_documents_of_the_class_itself_are_taken(notes: Collection[Note]) -> None:
    @attrs.define
    class Longer(Note):
        more: int = 0

    for other in (Plain("x"), {"text": "x"}, None, "x", Longer("x", more=1), Note):
        with pytest.raises(ArgumentTypeError):
            notes.put("n", other)  # type: ignore[arg-type]
    assert list(notes.keys()) == []


def test_what_somebody_else_put_there_is_told_apart(store: Store) -> None:
    notes, kv = store.collection("notes", Note), store.kv.namespace("collection", "notes")
    kv.set("text", b"not JSON")
    kv.set("array", b"[]")
    kv.hset("hash", {"a": b"1"})
    for key in ("text", "array"):
        with pytest.raises(CodecError) as caught:
            notes.get(key)
        assert repr(key) in str(caught.value)
    with pytest.raises(WrongTypeError):
        notes.get("hash")


def test_documents_survive_and_are_shared(shared: Home) -> None:
    one, other = shared.open().collection("notes", Note), shared.open().collection("notes", Note)
    one.put("n", Note("x"))
    assert other.get("n") == Note("x")
    other.delete("n")
    assert one.get("n") is None
    one.put_many({"m": Note("y"), "k": Note("z")})
    shared.close()
    assert dict(shared.open().collection("notes", Note).items()) == {"m": Note("y"), "k": Note("z")}


def test_a_closed_store_says_so(home: Home) -> None:
    store = home.open()
    notes = store.collection("notes", Note)
    notes.put("n", Note("x"))
    store.close()
    store.close()
    for use in (lambda: notes.get("n"), lambda: notes.put("n", Note("x")), lambda: list(notes.keys())):
        with pytest.raises(ClosedError):
            use()
    for use in (lambda: store.states.list_users(), lambda: store.patterns.get_pattern("p")):
        with pytest.raises(ClosedError):
            use()


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(
    documents=st.dictionaries(
        texts.filter(bool),
        st.builds(
            Note,
            texts,
            st.integers(-(2**63), 2**63 - 1),
            st.none() | st.datetimes(timezones=st.just(UTC)),
            st.lists(texts, max_size=3),
            st.dictionaries(
                texts.filter(lambda key: key not in ("text", "stars", "at", "tags")), json_values, max_size=2
            ),
        ),
        max_size=6,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_every_document_goes_round(fresh: Fresh, documents: dict[str, Note]) -> None:
    notes = fresh().open().collection("notes", Note)
    notes.put_many(documents)
    assert dict(notes.items()) == documents
    assert {id: notes.get(id) for id in documents} == documents
