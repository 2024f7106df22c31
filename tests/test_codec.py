"""The stored form: strict both ways, with the place of what is wrong; nothing stored is unreadable or changed."""

from __future__ import annotations

import collections
import dataclasses
import enum
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Optional
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from empathy_kv.codec import DEPTH, Codec, codec, json_value, parse
from empathy_kv.errors import ArgumentTypeError, CodecError, EmpathyKVError
from empathy_kv.records import CollaborationState, Pattern

PATTERNS, STATES = codec(Pattern), codec(CollaborationState)


def pattern(**fields: Any) -> Pattern:
    return Pattern(**{"id": "p", "agent_id": "a", "pattern_type": "t", "name": "n", **fields})


def nested(depth: int, innermost: Any = 1) -> Any:
    """Return arrays in arrays, as many as `depth`."""
    for _ in range(depth):
        innermost = [innermost]
    return innermost


def refused(act: Callable[[], Any]) -> CodecError:
    with pytest.raises(CodecError) as caught:
        act()
    assert caught.value.path.startswith("$")
    assert isinstance(caught.value, ValueError)
    return caught.value


# The documented form


def test_a_pattern_has_the_documented_form() -> None:
    documented = {
        "id": "pat_123",
        "agent_id": "agent_1",
        "pattern_type": "suggestion",
        "name": "Add error handling",
        "description": "Suggest error handling for API calls",
        "context": {"task": "api_call"},
        "code": "Always wrap API calls in try-except blocks",
        "confidence": 0.85,
        "usage_count": 10,
        "success_count": 9,
        "failure_count": 1,
        "tags": ["error-handling", "api", "best-practice"],
        "discovered_at": "2025-01-15T10:30:00",
        "last_used": "2025-01-20T14:45:00",
    }
    record = PATTERNS.decode(json.dumps(documented).encode())
    assert record.discovered_at == datetime(2025, 1, 15, 10, 30, tzinfo=UTC)
    assert record.last_used == datetime(2025, 1, 20, 14, 45, tzinfo=UTC)
    assert record.tags == ["error-handling", "api", "best-practice"]
    assert json.loads(PATTERNS.encode(record)) == documented


def test_a_field_that_a_document_lacks_has_its_default_but_what_has_none_is_missed() -> None:
    small = {"id": "p", "agent_id": "a", "pattern_type": "t", "name": "n"}
    record = PATTERNS.structure(small)
    assert (record.description, record.code, record.confidence, record.tags, record.last_used) == (
        "",
        None,
        0.5,
        [],
        None,
    )
    for name in small:
        error = refused(lambda name=name: PATTERNS.structure({k: v for k, v in small.items() if k != name}))  # type: ignore[misc]
        assert (error.path, str(error)) == (f"$.{name}", f"missing @ $.{name}")


# What is refused in our records, both ways

WRONG: list[tuple[str, Any]] = [
    *(
        (name, value)
        for name in ("id", "name", "description", "pattern_type", "agent_id")
        for value in (5, None, b"x", ["x"])
    ),
    *(("code", value) for value in (5, b"x", [], {})),
    *(("context", value) for value in (None, [], "x", 5, [("a", 1)])),
    *(("tags", value) for value in (None, "abc", {"a": 1}, 5)),
    *(
        ("confidence", value)
        for value in ("0.5", None, True, -0.001, 1.001, float("nan"), float("inf"), 2, -1, 10**400)
    ),
    *(
        (f"{name}_count", value)
        for name in ("usage", "success", "failure")
        for value in (-1, 1.0, True, "1", None, 2**63)
    ),
    *(("discovered_at", value) for value in (5, "soon", None, "2025-13-01", "", [])),
    *(("last_used", value) for value in (5, "soon", "2025-01-01T25:00:00")),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda value: repr(value)[:20])
def test_a_pattern_with_a_wrong_value_is_neither_written_nor_read(field: str, value: Any) -> None:
    assert refused(lambda: PATTERNS.encode(pattern(**{field: value}))).path == f"$.{field}"
    document = {**PATTERNS.unstructure(pattern()), field: value}
    assert refused(lambda: PATTERNS.structure(document, "$.patterns[3]")).path == f"$.patterns[3].{field}"


@pytest.mark.parametrize(
    ("field", "value", "path", "what"),
    [
        ("confidence", "high", "$.confidence", "expected float"),
        ("confidence", 1.5, "$.confidence", "expected float from 0 to 1"),
        ("tags", ["a", 5], "$.tags[1]", "expected str"),
        ("context", {"a": [1, {"b": float("nan")}]}, "$.context.a[1].b", "expected finite float"),
        ("context", {"a": 2**63}, "$.context.a", "expected int of 64 bits"),
        ("context", {"a": {1: 2}}, "$.context.a", "expected str as key, not 1"),
        ("context", {"a": object}, "$.context.a", "expected a JSON value, not type"),
        ("context", {"a": {1}}, "$.context.a", "expected a JSON value, not set"),
        ("context", {"a": b"x"}, "$.context.a", "expected a JSON value, not bytes"),
        ("context", {"a": datetime(2025, 1, 1, tzinfo=UTC)}, "$.context.a", "expected a JSON value, not datetime"),
        ("name", "\ud800", "$.name", "expected valid Unicode, not a lone surrogate"),
        ("tags", ["a", "b\udc00"], "$.tags[1]", "expected valid Unicode, not a lone surrogate"),
        ("context", {"a": [{"b": "\ud800"}]}, "$.context.a[0].b", "expected valid Unicode, not a lone surrogate"),
        ("context", {"a": {"\ud800": 1}}, "$.context.a", "expected valid Unicode, not a lone surrogate"),
    ],
    ids=str,
)
def test_the_place_and_the_reason_are_told(field: str, value: Any, path: str, what: str) -> None:
    error = refused(lambda: PATTERNS.encode(pattern(**{field: value})))
    assert error.path == path
    assert str(error) == f"{what} @ {path}"


@pytest.mark.parametrize("extra", [[1], "text", 5, {1: 2}, {"a": object()}, {"a": float("nan")}, {"a": 2**64}])
def test_unknown_fields_that_are_no_json_object_are_refused(extra: Any) -> None:
    assert refused(lambda: PATTERNS.encode(pattern(extra=extra))).path.startswith("$.extra")


def test_an_unknown_field_may_not_have_the_name_of_a_known_one() -> None:
    assert refused(lambda: PATTERNS.encode(pattern(extra={"name": "x"}))).path.startswith("$.extra")


@pytest.mark.parametrize(
    ("value", "place"), [(2**63, ""), ({"a": [0, 2**64]}, ".a[1]"), (nested(DEPTH), "[0]" * (DEPTH - 1))]
)
def test_a_wrong_unknown_field_is_told_with_its_place(value: Any, place: str) -> None:
    document = {**PATTERNS.unstructure(pattern()), "odd": value}
    error = refused(lambda: PATTERNS.structure(document, "$.patterns[3]"))
    assert error.path == f"$.patterns[3].odd{place}"
    assert str(error).count("@") == 1


def test_unknown_fields_survive() -> None:
    document = {**PATTERNS.unstructure(pattern()), "odd": {"a": [1, None]}, "extra": 5, "self": "x", "": []}
    record = PATTERNS.structure(document)
    assert record.extra == {"odd": {"a": [1, None]}, "extra": 5, "self": "x", "": []}
    assert PATTERNS.unstructure(record) == document
    assert PATTERNS.decode(PATTERNS.encode(record)) == record


@pytest.mark.parametrize("document", [None, [], "x", 5, True, 1.5])
def test_what_is_no_object_is_no_record(document: Any) -> None:
    assert refused(lambda: PATTERNS.structure(document, "$.x")).path == "$.x"
    assert refused(lambda: PATTERNS.decode(json.dumps(document).encode())).path == "$"


@pytest.mark.parametrize("record", [None, {}, "x", pattern, CollaborationState("u")])
def test_only_a_record_of_the_class_is_written(record: Any) -> None:
    with pytest.raises(ArgumentTypeError):
        PATTERNS.encode(record)


# JSON


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b" ",
            b"{",
            b"nul",
            b"1 2",
            b"{}x",
            b"\xef\xbb\xbf{}",
            b"'a'",
            b"[1,]",
            b'{"a":1,}',
            b"{a:1}",
            b"\0",
            b"01",
        ),
        *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"[1e309]", b'{"a":NaN}', b"+1", b".5", b"0x10"),
        *(b"\xff", b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\x41"', b'"\n"', b'{"a"'),
        *(b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000),
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_strict_json_is_refused(data: bytes) -> None:
    assert refused(lambda: parse(data)).path == "$"
    refused(lambda: PATTERNS.decode(data))


@pytest.mark.parametrize(
    "value", [2**63 - 1, -(2**63), 0, -0.0, 1e308, 5e-324, 0.1, 1 / 3, 2.0**53 + 2, "\u2028\0\x7f😀\ufeff"]
)
def test_every_number_and_text_goes_round_exactly(value: Any) -> None:
    record = pattern(context={"v": value, "l": [value]})
    again = PATTERNS.decode(PATTERNS.encode(record)).context["v"]
    assert (type(again), repr(again)) == (type(value), repr(value))


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 2**64, 10**400, -(10**30)])
def test_integers_have_64_bits_both_ways(value: int) -> None:
    document = {**PATTERNS.unstructure(pattern()), "context": {"v": [value]}}
    assert refused(lambda: PATTERNS.decode(json.dumps(document).encode())).path == "$.context.v[0]"
    assert refused(lambda: PATTERNS.encode(pattern(context={"v": [value]}))).path == "$.context.v[0]"
    assert refused(lambda: json_value({"v": value}, "$.x")).path == "$.x.v"


def test_nesting_ends_at_the_limit_both_ways() -> None:
    most = pattern(context={"v": nested(DEPTH - 1)})
    assert PATTERNS.decode(PATTERNS.encode(most)) == most
    more = {"v": nested(DEPTH)}
    place = "$.context.v" + "[0]" * (DEPTH - 1)
    assert refused(lambda: PATTERNS.encode(pattern(context=more))).path == place
    document = {**PATTERNS.unstructure(pattern()), "context": more}
    assert refused(lambda: PATTERNS.decode(json.dumps(document).encode())).path == place
    endless: dict[str, Any] = {}
    endless["a"] = endless
    refused(lambda: PATTERNS.encode(pattern(context=endless)))
    refused(lambda: json_value(endless))


@given(
    value=st.recursive(
        st.one_of(
            *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters()), st.binary(max_size=2)),
            st.sampled_from([2**63, (1, 2), {1}, "\ud800", datetime(2025, 1, 1, tzinfo=UTC), object()]),
        ),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(st.characters()) | st.integers() | st.none(), inner, max_size=3)
        ),
        max_leaves=6,
    )
)
@settings(max_examples=settings.default.max_examples * 3)
def test_a_value_is_either_refused_or_read_back_as_it_was(value: Any) -> None:
    record = pattern(context={"v": value})
    try:
        data = PATTERNS.encode(record)
    except CodecError as error:
        assert error.path.startswith("$.context")
        return
    again = PATTERNS.decode(data).context["v"]
    assert json.dumps(again) == json.dumps(value)


# Datetimes


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-01-20T15:00:00", datetime(2025, 1, 20, 15, tzinfo=UTC)),
        ("2025-01-20T15:00:00.123456", datetime(2025, 1, 20, 15, 0, 0, 123456, tzinfo=UTC)),
        ("2025-01-20 15:00:00", datetime(2025, 1, 20, 15, tzinfo=UTC)),
        ("2025-01-20T15:00:00Z", datetime(2025, 1, 20, 15, tzinfo=UTC)),
        ("2025-01-20T15:00:00+02:30", datetime(2025, 1, 20, 12, 30, tzinfo=UTC)),
        ("2025-01-20T23:00:00-02:00", datetime(2025, 1, 21, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999", datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
    ],
)
def test_a_datetime_is_read_with_or_without_an_offset_and_written_in_utc(text: str, moment: datetime) -> None:
    record = PATTERNS.structure({**PATTERNS.unstructure(pattern()), "discovered_at": text, "last_used": text})
    assert record.discovered_at == record.last_used == moment
    assert record.discovered_at.tzinfo is UTC
    assert PATTERNS.unstructure(record)["discovered_at"] == moment.replace(tzinfo=None).isoformat()


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-00:01", "10000-01-01T00:00:00", "now"]
)
def test_a_datetime_that_utc_cannot_express_is_refused(text: str) -> None:
    document = {**PATTERNS.unstructure(pattern()), "discovered_at": text}
    assert refused(lambda: PATTERNS.structure(document)).path == "$.discovered_at"


@pytest.mark.parametrize(
    "moment",
    [
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))),
    ],
    ids=["before the first", "after the last"],
)
def test_a_moment_that_utc_cannot_express_is_a_value_error_of_ours(moment: datetime) -> None:
    with pytest.raises(EmpathyKVError) as caught:
        PATTERNS.encode(pattern(discovered_at=moment))
    assert isinstance(caught.value, ValueError)


@given(moment=st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.timezones() | st.none()))  # noqa: DTZ001
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_every_datetime_goes_round(moment: datetime) -> None:
    record = pattern(last_used=moment)
    exact = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    again = PATTERNS.decode(PATTERNS.encode(record)).last_used
    assert again == exact.astimezone(UTC)


# Classes of users


class Colour(enum.Enum):
    RED = "red"


class Rank(enum.IntEnum):
    LOW = 1


class Mood(enum.StrEnum):
    GOOD = "good"


@attrs.define
class Inner:
    n: int = 0


@attrs.define
class Longer(Inner):
    more: int = 0


@attrs.define
class Alike:
    n: int = 0


@dataclasses.dataclass
class Outer:
    inner: Inner
    many: list[Inner] = dataclasses.field(default_factory=list)
    named: dict[str, Inner] = dataclasses.field(default_factory=dict)


@attrs.define
class Tree:
    children: list[Tree] = attrs.field(factory=list)


def holder(kind: Any, *, plain: bool = False) -> type:
    """Return a class with one field `v` of a type."""
    if plain:
        made = dataclasses.make_dataclass("Holder", [("v", kind)])
        made.__module__ = __name__  # Where the names in its annotations are.
        return made
    return attrs.make_class("Holder", {"v": attrs.field(type=kind)})


RIGHT: list[tuple[Any, Any]] = [
    *((int, value) for value in (0, -1, 2**63 - 1)),
    *((int | None, value) for value in (None, 3)),
    *((Optional[str], value) for value in (None, "x")),  # noqa: UP045 - as people write it
    *((float, value) for value in (0.5, 3, -0.0)),
    (bool, True),
    (list[int], [1, 2]),
    (list[int | None], [1, None]),
    (dict[str, int], {"a": 1}),
    (dict[str, list[Inner]], {"a": [Inner(1)]}),
    (tuple[int, ...], (1, 2)),
    (tuple[int, str], (1, "a")),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"ab"})),
    *((str | int, value) for value in ("x", 5)),
    *((Literal["a", "b"], value) for value in ("a", "b")),
    (Colour, Colour.RED),
    (Rank, Rank.LOW),
    (Mood, Mood.GOOD),
    (list[Mood], [Mood.GOOD]),
    (dict[int, str], {1: "a", -5: "b"}),
    (dict[Colour, int], {Colour.RED: 1}),
    (datetime, datetime(2025, 1, 1, tzinfo=UTC)),
    (datetime | None, None),
    (date, date(2025, 1, 1)),
    (bytes, b"\xff\0"),
    (Inner, Inner(3)),
    (Inner | None, None),
    (list[Inner], [Inner(1)]),
    (Outer, Outer(Inner(1), [Inner(2)], {"a": Inner(3)})),
    (Any, {"a": [1, 1.5, None, True, "x", {}]}),
    (dict[str, Any], {"a": [1]}),
    (Annotated[str, "doc"], "x"),
    (list[Annotated[int, "doc", 5] | None], [1, None]),
    # As people write them in a file whose annotations are no texts.
    (list["Inner"], [Inner(1)]),
    *((Optional["Inner"], value) for value in (Inner(1), None)),
    (dict[str, list["Inner"]], {"a": [Inner(1)]}),
    (UUID, UUID(int=5)),
    (UUID | None, UUID("12345678-1234-5678-1234-567812345678")),
    *((Decimal, Decimal(value)) for value in ("1.10", "-0", "1E+400", "123456789012345678901234567890.5")),
    *((time, time(23, 59, 59, 5, zone)) for zone in (None, UTC, timezone(timedelta(hours=-5)))),
    *((timedelta, timedelta(*value)) for value in ((-999_999_999,), (-1, 0, 1), (73_000, 1, 1), (0,))),
    (list[Decimal], [Decimal(1), Decimal("0.1")]),
    (dict[UUID, Decimal], {UUID(int=1): Decimal(1)}),
    (dict[time, list[timedelta]], {time(1): [timedelta(hours=1)]}),
    (collections.abc.Sequence[str], ("a",)),
    (collections.abc.Set[str], frozenset({"a"})),
    (collections.abc.Mapping[str, int], {"a": 1}),
]


@pytest.mark.parametrize("plain", [False, True], ids=["attrs", "dataclass"])
@pytest.mark.parametrize(("kind", "value"), RIGHT, ids=str)
def test_a_value_of_its_type_goes_round(kind: Any, value: Any, plain: bool) -> None:
    made = holder(kind, plain=plain)
    coder: Codec[Any] = codec(made)
    again = coder.decode(coder.encode(made(value)))
    assert again == made(value)
    assert type(again.v) is type(value) or kind is float


class Odd:
    """What JSON cannot hold; its text is the same in every process, as the names of tests must be."""

    def __repr__(self) -> str:
        return "Odd()"


MISFITS: list[tuple[Any, Any]] = [
    *((int, value) for value in (True, 1.0, "1", None, b"1", [1], 2**63, 2**70)),
    *((int | None, value) for value in (True, "x", 1.5, [])),
    *((Optional[str], value) for value in (5, b"x", [], Colour.RED, date(2025, 1, 1), PurePosixPath("a"))),  # noqa: UP045
    *((float, value) for value in ("1", True, None, float("nan"), float("inf"), 10**400)),
    *((bool, value) for value in (1, 0, "true", None)),
    *((str, value) for value in (5, None, b"x", ["x"], Colour.RED)),
    *((list[str], value) for value in ("abc", {"a": 1}, None, 5, ["a", 5], [None])),
    *((list[int], value) for value in (b"abc", {1: 2}, None, 5, [True], ["1"], [1.0])),
    *((list, value) for value in ("abc", {"a": 1}, b"x")),
    *((set[int], value) for value in (b"abc", {1: 2}, {"a"})),
    *((frozenset[str], value) for value in ("abc", {"a": 1}, {1})),
    *((tuple[int, ...], value) for value in (b"abc", {1: 2}, ("a",))),
    *((tuple[int, str], value) for value in ((1,), ("a", 1), (1, "a", 2), None)),
    *((dict[str, int], value) for value in ([("a", 1)], {"a": "b"}, {1: 1}, {"a": None}, None, Inner(1))),
    *((str | int, value) for value in (None, 1.5, [], b"x", date(2025, 1, 1), Inner(1), float("nan"))),
    *((Literal["a", "b"], value) for value in ("c", 1, None, b"a", ["a"], float("nan"), 2**70)),
    *((Literal[1], value) for value in (2, "1", None)),
    *((Colour, value) for value in ("red", None, "blue", Rank.LOW)),
    *((datetime, value) for value in ("2025-01-01", date(2025, 1, 1), None, 5)),
    *((date, value) for value in ("2025-01-01", datetime(2025, 1, 1, tzinfo=UTC), None)),
    *((bytes, value) for value in ("x", None, 0, [], {}, [1])),
    *((Inner, value) for value in ({"n": 1}, None, "x", Longer(1, 2), Alike(1), Inner)),
    *((Inner | None, value) for value in (Longer(1, 2), Alike(1), "x")),
    *((list[Inner], value) for value in ([Longer(1, 2)], [None], [{"n": 1}], Inner(1))),
    *((UUID, value) for value in (str(UUID(int=5)), 5, None)),
    *((Decimal, value) for value in ("1", 1, 1.5, None, Decimal("nan"), Decimal("snan"), Decimal("-inf"))),
    *((time, value) for value in ("10:00:00", datetime(2025, 1, 1, tzinfo=UTC), None, time(1, tzinfo=ZoneInfo("UTC")))),
    *((timedelta, value) for value in (1, 1.5, "1", None, timedelta.max - timedelta(microseconds=1) - timedelta(1))),
    *((dict[timedelta, int], value) for value in ({timedelta(1): 1}, {1: 1})),
    *((collections.abc.Sequence[int], value) for value in ("abc", {1}, {1: 1}, ["a"], range(3), None)),
    *((collections.abc.Set[int], value) for value in ([1], (1,), {"a"}, {1: 1})),
    *((list[collections.abc.Sequence[int]], value) for value in (((1,),), [{1}])),
    *((collections.abc.Sequence[list[int]], value) for value in ([(1,)], [1])),
    *((collections.abc.Mapping[str, int], value) for value in ([1], "a", None)),
    *((Any, value) for value in ({1}, b"x", Odd(), {1: 2}, float("nan"), 2**64, Inner(1), Colour.RED)),
    *((dict[str, Any], value) for value in ({"a": {1}}, {1: 2}, [])),
]


@pytest.mark.parametrize(("kind", "value"), MISFITS, ids=str)
def test_a_value_of_another_type_is_refused_with_its_place_before_it_is_stored(kind: Any, value: Any) -> None:
    made = holder(kind)
    error = refused(lambda: codec(made).encode(made(value)))
    assert error.path.startswith("$.v")


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (collections.abc.Sequence[str], ["a"], ("a",)),
        (collections.abc.Sequence[str] | None, ["a"], ("a",)),
        (collections.abc.Sequence[Any], ["a"], ("a",)),
        (dict[str, collections.abc.Sequence[collections.abc.Set[int]]], {"a": [{1}]}, {"a": (frozenset({1}),)}),
        (collections.abc.Set[str], {"a"}, frozenset({"a"})),
    ],
    ids=str,
)
def test_what_a_type_promises_comes_back_where_it_allows_several(kind: Any, value: Any, read: Any) -> None:
    made = holder(kind)
    coder: Codec[Any] = codec(made)
    assert repr(coder.decode(coder.encode(made(value))).v) == repr(read)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Any, (1, 2), "expected a JSON value, a tuple would come back as a list @ $.v"),
        (Any, {"a": [(1,)]}, "expected a JSON value, a tuple would come back as a list @ $.v['a'][0]"),
        (list[int], (1,), "expected list[int], a tuple would come back as a list @ $.v"),
        (collections.abc.Mapping[str, int], [1], "expected collections.abc.Mapping[str, int] @ $.v"),
    ],
    ids=str,
)
def test_what_would_come_back_as_something_else_is_refused_and_said(kind: Any, value: Any, message: str) -> None:
    made = holder(kind)
    assert str(refused(lambda: codec(made).encode(made(value)))) == message


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (UUID, ['"{12345678-1234-5678-1234-567812345678}"', '"12345678123456781234567812345678"', '""', "5", "null"]),
        (Decimal, ['"1_000"', '" 1"', '"nan"', '"inf"', '"\u0661"', '""', "1", "1.5", "null"]),
        (time, ['"25:00:00"', '""', "5", "null"]),
        (timedelta, ['"1"', "true", "0.00000001", "1e300", "null", "[]"]),
    ],
    ids=str,
)
def test_a_text_that_is_not_as_it_would_have_been_written_is_refused(kind: Any, texts: list[str]) -> None:
    coder: Codec[Any] = codec(holder(kind))
    for each in texts:
        assert refused(lambda each=each: coder.decode(f'{{"v":{each}}}'.encode())).path == "$.v"  # type: ignore[misc]


def test_the_places_in_nested_documents_are_told_both_ways() -> None:
    coder = codec(Outer)
    wrong: Any = Inner("x")  # type: ignore[arg-type]
    assert refused(lambda: coder.encode(Outer(wrong))).path == "$.inner.n"
    assert refused(lambda: coder.encode(Outer(Inner(), [Inner(), wrong]))).path == "$.many[1].n"
    assert refused(lambda: coder.encode(Outer(Inner(), [], {"a": wrong}))).path in ("$.named.a.n", "$.named['a'].n")
    assert refused(lambda: coder.decode(b'{"inner": {"n": 1}, "many": [{}, {"n": null}]}')).path == "$.many[1].n"
    assert refused(lambda: coder.decode(b'{"inner": {"n": 1, "z": 1}}')).path == "$.inner.z"
    assert refused(lambda: coder.decode(b'{"many": []}')).path == "$.inner"
    assert refused(lambda: coder.decode(b'{"inner": {}, "other": 1}')).path == "$.other"


def test_nesting_of_classes_ends_at_the_same_limit() -> None:
    tree = Tree()
    for _ in range(DEPTH // 2 - 1):
        tree = Tree([tree])
    assert codec(Tree).decode(codec(Tree).encode(tree)) == tree
    for _ in range(5):
        tree = Tree([tree])
    refused(lambda: codec(Tree).encode(tree))
    tree.children.append(tree)
    refused(lambda: codec(Tree).encode(tree))


@dataclasses.dataclass
class OwnText:
    text: str
    extra: str = ""


@dataclasses.dataclass
class OwnNumber:
    text: str
    extra: int = 0


@attrs.define
class OwnCounts:
    extra: dict[str, int] = attrs.field(factory=dict)


@pytest.mark.parametrize(
    "record", [OwnText("a"), OwnText("a", "b"), OwnNumber("a", 5), OwnNumber("a"), OwnCounts({"a": 1})]
)
def test_a_field_that_happens_to_be_called_extra_is_a_field(record: Any) -> None:
    coder: Codec[Any] = codec(type(record))
    assert coder.decode(coder.encode(record)) == record


def test_only_an_extra_of_any_values_takes_unknown_fields() -> None:
    assert refused(lambda: codec(OwnText).decode(b'{"text": "a", "other": 1}')).path == "$.other"
    assert refused(lambda: codec(OwnCounts).decode(b'{"other": 1}')).path == "$.other"


@dataclasses.dataclass
class Counted:
    text: str
    count: int = dataclasses.field(default=0, init=False)


@attrs.define
class Private:
    _secret: str
    n: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    cached: int = attrs.field(default=0, init=False)


def test_a_field_that_the_constructor_does_not_take_is_not_lost() -> None:
    counted = Counted("a")
    counted.count = 5
    assert codec(Counted).decode(codec(Counted).encode(counted)) == counted


@attrs.frozen
class Squared:
    n: int
    square: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "square", self.n * self.n)


@dataclasses.dataclass(frozen=True)
class SquaredToo:
    n: int
    square: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "square", self.n * self.n)


@pytest.mark.parametrize("kind", [Squared, SquaredToo])
def test_a_field_that_a_frozen_class_makes_by_itself_is_made_again(kind: Any) -> None:
    coder: Codec[Any] = codec(kind)
    assert coder.encode(kind(3)) == b'{"n":3}'
    assert coder.decode(b'{"n":3}') == kind(3)
    assert refused(lambda: coder.decode(b'{"n":3,"square":9}')).path == "$.square"
    assert refused(lambda: coder.encode(kind(2.5))).path == "$.n"


@pytest.mark.parametrize("kind", [Squared, SquaredToo])
def test_one_that_would_be_made_otherwise_is_not_lost(kind: Any) -> None:
    record = kind(3)
    object.__setattr__(record, "square", 8)
    error = refused(lambda: codec(kind).encode(record))
    assert str(error) == "expected what making the object again gives, of a field that cannot be set @ $.square"


def test_private_fields_go_round_and_validators_have_their_say() -> None:
    record = Private("s", 3)
    assert codec(Private).decode(codec(Private).encode(record)) == record
    error = refused(lambda: codec(Private).decode(b'{"_secret": "s", "n": -1}'))
    assert "must be >= 0" in str(error)


def test_a_class_whose_annotations_lead_nowhere_is_refused_as_a_whole() -> None:
    @dataclasses.dataclass
    class Local:
        n: int

    @dataclasses.dataclass
    class Refers:
        local: Local  # a text, as all annotations of this file, and no name of this module

    try:
        coder = codec(Refers)
    except ArgumentTypeError as error:
        assert error.argument == "kind"
    else:
        assert coder.decode(coder.encode(Refers(Local(1)))) == Refers(Local(1))


@pytest.mark.parametrize("kind", [int, dict, str, "Inner", None, Inner(1), list[int], object, Colour], ids=str)
def test_only_classes_with_fields_have_a_stored_form(kind: Any) -> None:
    with pytest.raises(ArgumentTypeError) as caught:
        codec(kind)
    assert caught.value.argument == "kind"


@pytest.mark.parametrize(
    "kind",
    [
        *(object, complex, Callable, collections.abc.Hashable, Optional[complex]),  # noqa: UP045
        *(
            collections.abc.Iterable[int],
            UUID | Decimal,
            list[UUID | Decimal],
            dict[str, collections.abc.Iterable[int]],
        ),
    ],
    ids=str,
)
def test_a_class_with_a_field_that_json_cannot_hold_is_refused_as_a_whole(kind: Any) -> None:
    with pytest.raises(EmpathyKVError) as caught:
        codec(holder(kind))
    assert isinstance(caught.value, TypeError | ValueError)
    assert "Holder.v has the type" in str(caught.value)
    assert "allowed are str, int, float" in str(caught.value)


def test_a_class_in_another_whose_annotations_lead_nowhere_is_named() -> None:
    lost = holder(list["Nowhere"])  # type: ignore[name-defined]  # noqa: F821
    with pytest.raises(ArgumentTypeError, match="in Holder, name 'Nowhere' is not defined"):
        codec(holder(dict[str, lost]))  # type: ignore[valid-type]


# Our records, whatever they hold

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
counts = st.integers(0, 2**63 - 1)
moments = st.datetimes(timezones=st.just(UTC))


@given(
    record=st.builds(
        Pattern,
        *(texts, texts, texts, texts, texts, st.dictionaries(texts, values, max_size=3), st.none() | texts),
        *(st.floats(0, 1), counts, counts, counts, moments, st.none() | moments, st.lists(texts, max_size=3)),
        extra=st.dictionaries(texts.map("x".__add__), values, max_size=2),
    )
)
def test_every_pattern_goes_round(record: Pattern) -> None:
    data = PATTERNS.encode(record)
    assert PATTERNS.decode(data) == record
    assert PATTERNS.encode(PATTERNS.decode(data)) == data
    assert json.loads(data) == PATTERNS.unstructure(record)


@given(
    document=st.dictionaries(
        st.sampled_from([item.name for item in attrs.fields(Pattern)]) | texts,
        values | moments.map(datetime.isoformat),
        max_size=16,
    )
)
def test_any_document_is_read_or_refused_with_a_place_and_what_was_read_is_written_alike(
    document: dict[str, Any],
) -> None:
    try:
        record = PATTERNS.structure(document, "$.patterns[0]")
    except CodecError as error:
        assert error.path.startswith("$.patterns[0]")
        return
    again = PATTERNS.unstructure(record)
    assert {name: again[name] for name in document if not name.endswith(("_at", "_used"))} == {
        name: value for name, value in document.items() if not name.endswith(("_at", "_used"))
    }


def test_a_use_of_a_pattern_that_neither_succeeded_nor_failed_is_not_counted() -> None:
    record = Pattern("p", "a", "t", "n")
    with pytest.raises(ArgumentTypeError, match="success must be a bool, not str") as caught:
        record.record_usage("no")  # type: ignore[arg-type]
    assert record.usage_count == 0
    assert caught.value.argument == "success"
