"""The short way of users' classes: it gives what the thorough way gives, and only classes that just declare go it."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Generic, Literal, NewType, Optional, TypeVar
from uuid import UUID

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from empathy_kv.class_forms import form_of
from empathy_kv.codec import Codec
from empathy_kv.errors import CodecError

NAIVE = datetime(2025, 1, 1)  # noqa: DTZ001 - as people make them
MOMENT = datetime(2025, 1, 20, 15, 0, 0, 120, tzinfo=UTC)


@attrs.define
class Step:
    name: str
    took: float = 0.0
    seen: datetime | None = None


@attrs.frozen(kw_only=True)
class Frozen:
    _private: int
    steps: list[Step] = attrs.field(factory=list)


@dataclasses.dataclass
class Everything:
    """One field of each type that goes the short way."""

    text: str
    number: int
    share: float
    flag: bool
    at: datetime
    anything: Any
    mood: Literal["good", "bad"]
    maybe: Optional[str] = None  # noqa: UP045 - as people write it
    many: list[int] = dataclasses.field(default_factory=list)
    named: dict[str, float] = dataclasses.field(default_factory=dict)
    step: Step | None = None
    inside: dict[str, list[Frozen]] = dataclasses.field(default_factory=dict)
    times: list[datetime] = dataclasses.field(default_factory=list)
    of: int = 0
    record: int = 0
    id: UUID | None = None
    price: Decimal = Decimal(0)
    start: time = time(0)
    lasting: timedelta = timedelta(0)
    prices: dict[str, list[Decimal]] = dataclasses.field(default_factory=dict)
    kind: ClassVar[str] = "all"


@attrs.define
class Keeping:
    n: int
    extra: dict[str, Any] = attrs.field(factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Hard:
    n: int
    extra: int = 0
    """Not what takes unknown fields."""


def usual() -> dict[type, Any]:
    steps = [Step("a"), Step("b", 1.5, MOMENT)]
    frozen = Frozen(private=3, steps=steps)
    full = Everything(
        *("é", -5, 0.5, True, MOMENT, {"a": [1, {"b": None}]}, "good", "x", [1, 2], {"a": 1.0}, steps[1]),
        *({"f": [frozen]}, [MOMENT, MOMENT], 1, 2, UUID(int=7), Decimal("1.10"), time(1, 2, 3), timedelta(1, 2, 3)),
        {"a": [Decimal(1)]},
    )
    return {Step: steps[1], Frozen: frozen, Everything: full, Keeping: Keeping(5), Hard: Hard(1, 2)}


USUAL = usual()


def thorough(kind: type) -> Codec[Any]:
    """Return a codec that has no short way."""
    made: Codec[Any] = Codec(kind)
    made._form = None
    return made


def short(kind: type) -> Codec[Any]:
    """Return a codec that fails where it needs the thorough way."""
    made: Codec[Any] = Codec(kind)
    made.__dict__["_thorough"] = None
    return made


CODECS = {kind: (Codec(kind), thorough(kind)) for kind in USUAL}


def outcome(act: Callable[[], Any]) -> Any:
    """Return what came of it, down to types and signs of zeros."""
    try:
        result = act()
    except Exception as error:  # noqa: BLE001 - whatever it is, it must be the same both ways
        return type(error), str(error), getattr(error, "path", None)
    return type(result), repr(result)


def alike(kind: type, act: Callable[[Codec[Any]], Any]) -> Any:
    found, expected = (outcome(lambda coder=coder: act(coder)) for coder in CODECS[kind])  # type: ignore[misc]
    assert found == expected
    return found


# The way


@pytest.mark.parametrize("kind", USUAL)
def test_a_usual_object_goes_the_short_way_and_is_the_same(kind: type) -> None:
    data = short(kind).encode(USUAL[kind])
    assert data == thorough(kind).encode(USUAL[kind])
    assert short(kind).decode(data) == thorough(kind).decode(data) == USUAL[kind]


def test_a_naive_moment_and_an_int_for_a_float_go_it_too() -> None:
    for record in (Step("a", 3), Step("a", 0.0, NAIVE), Step("a", seen=MOMENT.astimezone(None))):
        data = short(Step).encode(record)
        assert data == thorough(Step).encode(record)
        assert repr(short(Step).decode(data)) == repr(thorough(Step).decode(data))


def test_unknown_fields_survive_where_the_class_takes_them_and_are_refused_elsewhere() -> None:
    data = b'{"n":1,"new":[1]}'
    assert Codec(Keeping).decode(data) == Keeping(1, {"new": [1]})
    assert Codec(Keeping).encode(Keeping(1, {"new": [1]})) == data
    with pytest.raises(CodecError, match=r"unknown field @ \$\.new"):
        Codec(Hard).decode(data)


# Classes that do more than declare, or whose types are less usual


def changed(value: Any) -> Any:
    return value


T = TypeVar("T")
Id = NewType("Id", str)


class Colour(enum.Enum):
    RED = "red"


class Day(datetime):
    """A moment that is called in another way."""

    def isoformat(self, *args: Any) -> str:
        return "today"


@attrs.define
class Longer(Step):
    more: int = 0


@attrs.define
class Alike:
    name: str = "a"
    took: float = 0.0
    seen: datetime | None = None


class Meta(type):
    """A class of classes."""


@attrs.define
class Hooked:
    n: int

    def __attrs_post_init__(self) -> None:
        self.n += 1


@dataclasses.dataclass
class PostInit:
    n: int

    def __post_init__(self) -> None:
        self.n += 1


@attrs.define
class OwnConstructor:
    n: int

    def __init__(self, n: int) -> None:
        self.n = n + 1


@dataclasses.dataclass(init=False)
class OwnDataclassConstructor:
    n: int

    def __init__(self, n: int) -> None:
        self.n = n + 1


@dataclasses.dataclass
class OwnAssignment:
    n: int

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value + 1)


@attrs.define(slots=False)
class OwnAttrsAssignment:
    n: int

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value + 1)


class Undecorated(Step):
    """A subclass that has the fields, and is no class of attrs itself."""

    def __init__(self, name: str) -> None:
        super().__init__(name.upper())


@attrs.define(on_setattr=attrs.setters.NO_OP)
class Converting:
    n: int = attrs.field(converter=changed)


@attrs.define(on_setattr=attrs.setters.NO_OP)
class Validating:
    n: int = attrs.field(validator=attrs.validators.gt(0))


@dataclasses.dataclass
class Left:
    n: int = dataclasses.field(default=0, init=False)


@attrs.define
class New:
    n: int

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return super().__new__(cls)


@attrs.define
class OfMeta(metaclass=Meta):
    n: int


@attrs.define
class Loop:
    inner: list[Loop] = attrs.field(factory=list)


@attrs.define
class Boxed(Generic[T]):
    value: T


@pytest.mark.parametrize(
    "kind",
    [
        *(Hooked, PostInit, OwnConstructor, OwnDataclassConstructor, OwnAssignment, OwnAttrsAssignment, Undecorated),
        *(Converting, Validating, Left, New, OfMeta, Loop, Boxed, int, Colour, "Step", None),
    ],
    ids=str,
)
def test_a_class_that_does_more_than_declare_has_no_short_way(kind: Any) -> None:
    assert form_of(kind) is None


@pytest.mark.parametrize(
    "kind",
    [
        *(tuple[int, ...], set[int], int | str, dict[int, str], Colour, bytes, Id, Annotated[int, "positive"]),
        *(Literal[1], list, dict, object, Hooked, list[Converting], None, Step | Hard, dict[str, list[bytes]]),
    ],
    ids=str,
)
def test_nor_has_one_with_a_field_of_another_type(kind: Any) -> None:
    assert form_of(dataclasses.make_dataclass("Holder", [("v", kind)])) is None


def test_nor_has_one_that_is_nested_deeper_than_anybody_needs() -> None:
    kind: Any = int
    for _ in range(40):
        kind = list[kind]
    assert form_of(dataclasses.make_dataclass("Holder", [("v", kind)])) is None


@pytest.mark.parametrize("kind", [Hooked, PostInit, OwnConstructor, OwnAssignment])
def test_a_constructor_that_changes_what_it_is_given_is_found_out(kind: type) -> None:
    with pytest.raises(CodecError, match=r"expected int @ \$\.n"):
        Codec(kind).encode(kind(1))


# Whatever is in them

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.lists(inner, max_size=2).map(tuple)
    ),
    max_leaves=6,
)
ODD: list[Any] = [
    *(Longer("a"), Alike(), Day(2025, 1, 1), Day(2025, 1, 1, tzinfo=UTC)),
    *(object(), Step("s"), {1: 2}, (1, 2), 2**63, -(2**63), 2**70, 10**400, float("nan"), float("inf"), -0.0, True),
    *(
        "\ud800",
        Colour.RED,
        MOMENT,
        NAIVE,
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
    ),
    *(UUID(int=1), Decimal("-0"), Decimal("nan"), Decimal(10) ** 40, time(1, tzinfo=UTC), time(1, fold=1)),
    *(timedelta(5), timedelta(-1), timedelta.max, timedelta.max - timedelta(1), [Decimal(1)], {"a": [Decimal("inf")]}),
    *([MOMENT], {"a": MOMENT}, [1, "x"], [None], {"a": 1}, {"a": [USUAL[Frozen]]}, {"a": [Step("x")]}, Step(5)),  # type: ignore[arg-type]
    *("good", "bad", "2025-01-01T00:00:00", Everything, attrs.evolve(USUAL[Frozen], private="x")),
]


def fields_of(kind: type) -> list[str]:
    return [item.name for item in (dataclasses if dataclasses.is_dataclass(kind) else attrs).fields(kind)]  # type: ignore[arg-type]


def holding(kind: type, values: dict[str, Any]) -> Any:
    """Return an object whose fields were set to what its constructor may not take."""
    record = kind.__new__(kind)
    for name in fields_of(kind):
        object.__setattr__(record, name, values.get(name, getattr(USUAL[kind], name)))
    return record


@pytest.mark.parametrize("kind", USUAL)
def test_a_field_with_whatever_is_written_as_thoroughly(kind: type) -> None:
    for name in fields_of(kind):
        for value in ODD:
            alike(kind, lambda coder, name=name, value=value: coder.encode(holding(kind, {name: value})))  # type: ignore[misc]


@given(
    st.sampled_from([Step, Everything, Frozen, Keeping, Hard]),
    st.dictionaries(st.integers(0, 20), json_values | st.sampled_from(ODD), max_size=3),
)
def test_whatever_an_object_holds_is_written_as_thoroughly(kind: type, changes: dict[int, Any]) -> None:
    names = fields_of(kind)
    record = holding(kind, {names[number % len(names)]: value for number, value in changes.items()})
    alike(kind, lambda coder: coder.encode(record))


VALUES = (
    *(
        "1",
        "1.0",
        "-1",
        "1e400",
        "123456789012345678901234567890",
        "9223372036854775808",
        "true",
        "null",
        '"x"',
        '"good"',
    ),
    *('""', "[]", "{}", "[1]", "[1.5]", '{"a":1}', '{"a":{"b":{"c":{"d":[1]}}}}', '"2025-01-01T00:00:00"', '"\\ud800"'),
    *('"2025-01-01T00:00:00+05:00"', '"2025-01-01"', '["2025-01-01T00:00:00"]', '{"name":"a"}', '{"name":"a","new":1}'),
    *('{"name":"a","took":1,"seen":null}', '[{"name":"a","took":1,"seen":null}]', '{"a":[{"_private":1,"steps":[]}]}'),
    *('"00000000-0000-0000-0000-00000000000A"', '"{00000000-0000-0000-0000-00000000000a}"', '"1.50"', '"1_0"', '" 1"'),
    *('"1E+400"', '"nan"', '"10:00"', '"10:00:00+05:00"', '"25:00"', "0.000001", "1e-9", "86400", '{"a":["1"]}'),
    *('{"a":1,"a":2}', "NaN", "[1,", "-0.0", "-0"),
)


def document(kind: type, values: dict[str, str | None]) -> bytes:
    """Return the JSON of a usual object with other values, None for a field that is not there."""
    stored = {name: json.dumps(value) for name, value in json.loads(Codec(kind).encode(USUAL[kind])).items()}
    fields = {**stored, **values}
    return f"{{{','.join(f'{json.dumps(n)}:{value}' for n, value in fields.items() if value is not None)}}}".encode()


@pytest.mark.parametrize("kind", USUAL)
def test_a_document_with_whatever_in_a_field_is_read_as_thoroughly(kind: type) -> None:
    for name in (*fields_of(kind), "new"):
        for value in (*VALUES, None):
            alike(kind, lambda coder, name=name, value=value: coder.decode(document(kind, {name: value})))  # type: ignore[misc]


@given(
    st.sampled_from([Step, Everything, Frozen, Keeping, Hard]),
    st.dictionaries(st.integers(0, 20), st.sampled_from(VALUES) | st.none(), max_size=3),
)
def test_whatever_a_document_holds_is_read_as_thoroughly(kind: type, changes: dict[int, str | None]) -> None:
    names = fields_of(kind)
    data = document(kind, {names[number % len(names)]: value for number, value in changes.items()})
    alike(kind, lambda coder: coder.decode(data))
