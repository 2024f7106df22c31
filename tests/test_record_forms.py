"""The short way of our own records: it gives what the thorough way gives, and is the one that usual records go."""

from __future__ import annotations

import copy
import enum
import json
import pickle
import weakref
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from empathy_kv.codec import DEPTH, Codec, codec
from empathy_kv.errors import CodecError
from empathy_kv.record_forms import FORMS
from empathy_kv.records import CollaborationState, Interaction, Pattern

KINDS = (Pattern, CollaborationState, Interaction)


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


THOROUGH = {kind: thorough(kind) for kind in KINDS}
SHORT = {kind: short(kind) for kind in KINDS}


def usual(kind: type) -> Any:
    moment = datetime(2025, 1, 20, 15, 0, 0, 120, tzinfo=UTC)
    if kind is Pattern:
        context = {"text": "é", "flag": True, "none": None, "many": [1, 2.5, {"a": [-0.0]}]}
        return Pattern("p", "a", "t", "n", "d", context, "c", 0.5, 3, 2, 1, moment, moment, ["x", "y"])
    if kind is CollaborationState:
        return CollaborationState("u", 0.75, 3, 4, 10, 9, 1, moment, moment)
    return Interaction("u", 3, True, 12.5, moment, "i")


def outcome(act: Callable[[], Any]) -> Any:
    """Return what came of it, down to types, signs of zeros and time zones."""
    try:
        result = act()
    except Exception as error:  # noqa: BLE001 - whatever it is, it must be the same both ways
        return type(error), str(error), getattr(error, "path", None)
    if isinstance(result, bytes):
        return bytes, result
    return type(result), {item.name: shown(getattr(result, item.name)) for item in attrs.fields(type(result))}


def shown(value: Any) -> str:
    # The default of a time that a document lacks is the time at which it is read.
    recent = isinstance(value, datetime) and abs(datetime.now(UTC) - value) < timedelta(minutes=5)
    return "now" if recent else repr(value)


def read_alike(kind: type, data: bytes) -> Any:
    found = outcome(lambda: codec(kind).decode(data))
    assert found == outcome(lambda: THOROUGH[kind].decode(data))
    return found


def written_alike(record: Any) -> Any:
    found = outcome(lambda: codec(type(record)).encode(record))
    assert found == outcome(lambda: THOROUGH[type(record)].encode(record))
    return found


def document(fields: dict[str, str]) -> bytes:
    """Return a JSON object of fields that are JSON already."""
    return f"{{{','.join(f'{json.dumps(name)}:{value}' for name, value in fields.items())}}}".encode()


def stored(kind: type) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in json.loads(codec(kind).encode(usual(kind))).items()}


# The way


@pytest.mark.parametrize("kind", KINDS)
def test_the_stored_form_has_the_fields_of_the_record_in_their_order(kind: type) -> None:
    names = [item.name for item in attrs.fields(kind) if item.name != "extra"]
    assert list(FORMS[kind].stored.__struct_fields__) == names
    assert list(stored(kind)) == names


@pytest.mark.parametrize("kind", KINDS)
def test_a_usual_record_goes_the_short_way_and_is_the_same(kind: type) -> None:
    data = SHORT[kind].encode(usual(kind))
    assert data == THOROUGH[kind].encode(usual(kind))
    assert outcome(lambda: SHORT[kind].decode(data)) == outcome(lambda: THOROUGH[kind].decode(data))
    assert SHORT[kind].decode(data) == usual(kind)


@pytest.mark.parametrize(
    "record",
    [
        Pattern("p", "a", "t", "n"),
        Pattern("p", "a", "t", "n", confidence=1),
        Pattern("p", "a", "t", "n", context={"a": {"b": {"c": [1]}}}),
        Pattern("p", "a", "t", "n", discovered_at=datetime(2025, 1, 1, tzinfo=timezone(timedelta(hours=-3)))),
        CollaborationState(),
        CollaborationState(trust_level=0),
        Interaction("u", 1, False, 0.0),
    ],
    ids=lambda record: type(record).__name__,
)
def test_so_does_a_record_that_is_new_or_has_an_int_for_a_float(record: Any) -> None:
    kind = type(record)
    assert SHORT[kind].encode(record) == THOROUGH[kind].encode(record)
    assert SHORT[kind].decode(SHORT[kind].encode(record)) == record


# What is read is a record like any other


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_a_record_in_every_respect(kind: type) -> None:
    record, data = usual(kind), codec(kind).encode(usual(kind))
    read = codec(kind).decode(data)
    assert type(read) is kind
    assert read == record
    assert repr(read) == repr(record)
    for twin in (copy.copy(read), copy.deepcopy(read), pickle.loads(pickle.dumps(read)), attrs.evolve(read)):
        assert type(twin) is kind
        assert twin == record
    assert weakref.ref(read)() is read
    assert not hasattr(read, "__dict__")


def test_what_is_read_still_converts_what_it_is_given_and_freezes_what_is_frozen() -> None:
    pattern = codec(Pattern).decode(codec(Pattern).encode(usual(Pattern)))
    state = codec(CollaborationState).decode(codec(CollaborationState).encode(usual(CollaborationState)))
    pattern.last_used = state.created_at = datetime(2025, 1, 1)  # noqa: DTZ001
    assert pattern.last_used.tzinfo is state.created_at.tzinfo is UTC
    interaction = codec(Interaction).decode(codec(Interaction).encode(usual(Interaction)))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        interaction.level = 5
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        del interaction.level


def test_records_that_are_read_share_nothing() -> None:
    data = codec(Pattern).encode(usual(Pattern))
    one, other = codec(Pattern).decode(data), codec(Pattern).decode(data)
    one.extra["a"] = one.context["a"] = 1
    one.context["many"].append(1)
    one.tags.append("z")
    assert other == usual(Pattern)


# Documents

FRAGMENTS = [
    *("null", "true", "false", "0", "-0", "1", "-1", "5", "6", "1.0", "-0.0", "0.5", "1e0", "1e2", "1e-400", "1e400"),
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "01",
        "1.",
        "+1",
        "1.0000000000000000000001",
        "-1e-320",
        "123456789012345678901.5",
    ),
    *(str(sign * 2**power + more) for power in (53, 63, 64) for more in (-1, 0, 1) for sign in (1, -1)),
    *("1" + "0" * 400, "-1" + "0" * 400),
    *('""', '"x"', '"1"', '"\\u00e9\\n"', '"\\ud83d\\ude00"', '"\\ud800"', '"\\udc00x"', '"\x00"', '"é"', "'x'", '"'),
    *("[]", "{}", '["a"]', '["a",1]', '["a",null]', '[["a"]]', '{"a":1}', '{"a":1,"a":2}', '{"":{}}', '[1,2.5,"x"]'),
    *('{"a":[9223372036854775808]}', '{"a":NaN}', '{"a":{"b":{"c":{"d":{"e":[1e999]}}}}}', '{"a":"\\ud800"}', "[1,]"),
    *('{"a":{"b":{"c":{"d":{"e":[true]}}}}}', '{"a":[[[[[[18446744073709551616]]]]]]}', '{"a":[[[[[-0,-0.0]]]]]}'),
    *(f'{{"a":{"[" * depth}{"]" * depth}}}' for depth in (2, 3, 4, 5, DEPTH - 1, DEPTH, 5000)),
    *(
        f'"{text}"'
        for text in (
            *("2025-01-20", "2025-01-20T15:00:00", "2025-01-20 15:00:00", "2025-01-20t15:00:00z", "2025-01-20T15:00"),
            *("2025-01-20T15:00:00Z", "2025-01-20T15:00:00+02:30", "2025-01-20T15:00:00.5", "2025-01-20T15:00:00.1Z"),
            *("2025-01-20T15:00:00.1234567", "2025-01-20T15:00:00.9999999Z", "2025-01-20T15:00:00.123456abc"),
            *("20250120T150000", "2025-W04-1", "2025-W04-1T15:00:00", "2025-01-20T24:00:00", "2025-01-20T23:59:60"),
            *(
                "2025-01-20T15:00:00-00:00",
                "2025-01-20T15:00:00+00:00:01",
                "2025-02-30T00:00:00",
                "0000-01-01T00:00:00",
            ),
            *(
                "0001-01-01T00:00:00+01:00",
                "9999-12-31T23:59:59.999999-00:01",
                "0001-01-01T00:00:00",
                "now",
                "1737385200",
            ),
            *("2025-01-20T15:00:00+24:00", " 2025-01-20T15:00:00", "2025-01-20T15:00:00,5", "2025-01-20x15:00:00"),
        )
    ),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_odd_value_of_every_field_is_read_or_refused_alike(kind: type) -> None:
    found = [read_alike(kind, document({**stored(kind), name: value})) for name in stored(kind) for value in FRAGMENTS]
    assert {result[0] for result in found} == {kind, CodecError}


@pytest.mark.parametrize("kind", KINDS)
def test_fields_that_are_missing_unknown_or_twice_there_are_read_or_refused_alike(kind: type) -> None:
    fields = stored(kind)
    for name in fields:
        read_alike(kind, document({other: value for other, value in fields.items() if other != name}))
        for value in FRAGMENTS:
            read_alike(kind, document({**fields, "odd": value}))
            read_alike(kind, document({**fields, "extra": value}))
            for twice in (f'{{"{name}":{value},', f'{{"\\u00{ord(name[0]):02x}{name[1:]}":{value},'):
                read_alike(kind, twice.encode() + document(fields)[1:])
    for data in (b"", b"{}", b"[]", b"null", b'{"a":1}', document(fields) + b"x", b" " + document(fields) + b"\n"):
        read_alike(kind, data)
    read_alike(kind, b'\xef\xbb\xbf{"a":1}')
    read_alike(kind, document(fields).replace(b'"', b'"\xff', 1))


def test_the_older_form_of_a_state_is_read_alike() -> None:
    fields = {
        "user_id": '"u"',
        "trust_level": "0.85",
        "total_interactions": "100",
        "successful_interventions": "90",
        "failed_interventions": "10",
        "session_start": '"2025-01-20T15:00:00"',
        "trust_trajectory": "[0.5]",
    }
    assert read_alike(CollaborationState, document(fields))[0] is CollaborationState


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
shares = st.floats(0, 1) | st.integers(0, 1)
counts = st.integers(0, 2**63 - 1)
levels = st.integers(1, 5)
moments = st.datetimes(
    datetime(1, 1, 2),  # noqa: DTZ001
    datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.none() | st.just(UTC) | st.just(timezone(timedelta(hours=5))),
)
unknown = st.just({}) | st.dictionaries(texts.map("x".__add__), values, max_size=2)
records = st.one_of(
    st.builds(
        Pattern,
        *(texts, texts, texts, texts, texts, st.dictionaries(texts, values, max_size=3), st.none() | texts),
        *(shares, counts, counts, counts, moments, st.none() | moments, st.lists(texts, max_size=3)),
        extra=unknown,
    ),
    st.builds(
        CollaborationState,
        *(texts, shares, levels, levels, counts, counts, counts, st.none() | moments, moments),
        extra=unknown,
    ),
    st.builds(
        Interaction,
        *(texts, st.integers(-(2**63), 2**63 - 1), st.booleans()),
        st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60),
        *(moments, st.none() | texts),
    ),
)


@given(record=records)
def test_every_record_is_written_alike_and_what_was_written_is_read_alike(record: Any) -> None:
    if written_alike(record)[0] is bytes:
        read_alike(type(record), codec(type(record)).encode(record))


@given(record=records, data=st.data())
@settings(max_examples=settings.default.max_examples * 3)
def test_every_document_that_was_changed_is_read_or_refused_alike(record: Any, data: st.DataObject) -> None:
    kind = type(record)
    try:
        written = codec(kind).encode(record)
    except CodecError:
        return
    fields = {name: json.dumps(value) for name, value in json.loads(written).items()}
    names = st.sampled_from([*fields, "odd", "extra"])
    new = st.sampled_from(FRAGMENTS) | (values | moments.map(datetime.isoformat)).map(json.dumps)
    for name in data.draw(st.lists(names, max_size=2)):
        if data.draw(st.booleans()):
            fields[name] = data.draw(new)
        else:
            fields.pop(name, None)
    read_alike(kind, document(fields))
    at = data.draw(st.integers(0, len(written) - 1))
    read_alike(kind, written[:at] + data.draw(st.binary(max_size=2)) + written[at + data.draw(st.integers(0, 3)) :])


@given(
    text=st.from_regex(
        r"\d{4}-?\d\d-?\d\d[T t]?(\d\d:?){0,3}([.,]\d{0,8})?(Z|z|[+-]\d\d(:?\d\d){0,2})?", fullmatch=True
    )
)
@example(text="2025-01-20T15:00:00.1234565")
def test_every_text_of_a_datetime_is_read_or_refused_alike(text: str) -> None:
    read_alike(Pattern, document({**stored(Pattern), "discovered_at": json.dumps(text)}))


# Records


class Mood(enum.StrEnum):
    GOOD = "good"


class Rank(enum.IntEnum):
    LOW = 1


class Text(str):
    pass


class Number(int):
    pass


class Ratio(float):
    pass


class Object(dict[str, Any]):
    pass


class Array(list[Any]):
    pass


class Moment(datetime):
    pass


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 6, 2**63 - 1, 2**63, -(2**63) - 1, 2**53 + 1, 10**400, -(10**400)),
    *(0.0, -0.0, 0.5, 1.0, 1.5, -1e-320, float("nan"), float("inf"), 1j),
    *("", "x", "é😀", "\ud800", "2025-01-20T15:00:00", b"x", bytearray(b"x"), object, int, Ellipsis),
    *(Mood.GOOD, Rank.LOW, Text("x"), Number(1), Ratio(0.5), Object(a=1), Array(["a"]), Object(), Array()),
    *([], ["a"], ["a", 5], ["a", None], [Mood.GOOD], [Text("x")], ["\ud800"], ("a",), {"a"}, frozenset()),
    *({}, {"a": 1}, {1: 1}, {None: 1}, {Text("a"): 1}, {Mood.GOOD: 1}, {"\ud800": 1}, {"a": "\ud800"}, {"name": 1}),
    *({"a": value} for value in (2**63, float("nan"), (1, (2,)), {1}, b"x", Object(b=Array([1])), Mood.GOOD, Rank.LOW)),
    *({"a": value} for value in (Text("x"), Number(1), Ratio(0.5), object, datetime(2025, 1, 1, tzinfo=UTC))),
    *({"a": nested(depth)} for depth in (3, 4, DEPTH - 1, DEPTH)),
    *(
        datetime(2025, 1, 1),  # noqa: DTZ001
        datetime(2025, 1, 1, tzinfo=UTC),
        datetime(2025, 1, 1, tzinfo=timezone(timedelta(hours=2))),
    ),
    *(Moment(2025, 1, 1, tzinfo=UTC), Moment(2025, 1, 1), datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
    *(datetime(11, 1, 1, tzinfo=UTC), datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))),
    *(datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))), date(2025, 1, 1), timedelta(1)),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_odd_value_of_every_field_is_written_or_refused_alike(kind: type) -> None:
    found = []
    for item in attrs.fields(kind):
        for value in ODD:
            record = usual(kind)
            object.__setattr__(record, item.name, value)
            found.append(written_alike(record))
    assert {result[0] for result in found} == {bytes, CodecError}


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_that_lacks_a_field_is_refused_alike(kind: type) -> None:
    for item in attrs.fields(kind):
        record = usual(kind)
        object.__delattr__(record, item.name)
        assert written_alike(record)[0] is not bytes


@given(record=records, data=st.data())
@settings(max_examples=settings.default.max_examples * 3)
def test_every_record_that_was_changed_is_written_or_refused_alike(record: Any, data: st.DataObject) -> None:
    names = st.sampled_from([item.name for item in attrs.fields(type(record))])
    for name in data.draw(st.lists(names, min_size=1, max_size=3)):
        object.__setattr__(record, name, data.draw(st.sampled_from(ODD) | values))
    written_alike(record)
