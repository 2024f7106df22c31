"""The short way between objects of a user's class and JSON bytes, for a class that does nothing but declare its fields.

Such a class has a constructor that attrs or dataclasses made, no converter, no validator, no hook, and fields of the
types that `_plain` knows. An object of it whose values have exactly these types is read back as it was written, and
need not be read back to see that. What is less usual, be it a class, an object or a document, goes the thorough way
(`empathy_kv.structuring`), and so does what is wrong, because that way says where. What the short way takes it gives as
the thorough one does.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, Union
from uuid import UUID

import attrs
import msgspec
from attrs import frozen

from empathy_kv.json_values import (
    INTEGER_MAX,
    INTEGER_MIN,
    MismatchError,
    read_decimal,
    read_time,
    read_timedelta,
    read_uuid,
    write_decimal,
    write_time,
    write_timedelta,
    write_uuid,
)
from empathy_kv.record_forms import Form, Int, Json, moment_of, stored_moment

_LEVELS: Final = 16
"""How deep types, and JSON values, may stand in each other here: together they stay below `DEPTH`."""
FROZEN: Final[Any] = attrs.make_class("_Frozen", (), frozen=True).__setattr__
"""What attrs gives to frozen classes; their constructor does without."""


@frozen
class _Plain:
    """How the values of a type are kept."""

    stored: Any
    """The type that msgspec reads."""
    write: Callable[[Any], Any]
    """What makes what is written of a value; it raises if the value has to go the thorough way."""
    read: Callable[[Any], Any] | None = None
    """What makes the value of what was read; None if that is the value."""


def form_of(kind: type) -> Form | None:
    """Return the form of a class, None if its objects have to go the thorough way."""
    try:
        constructor = _constructor(kind)
        if constructor is None:
            return None
        hints = typing.get_type_hints(kind, include_extras=True)
        keeps = hints.get("extra") == dict[str, Any]  # What a document has beside the fields; usually nothing.
        fields = {name: _plain(hints[name], 1) for name in constructor if not (keeps and name == "extra")}
        return _form(kind, constructor, fields, keeps=keeps)
    except Exception:  # noqa: BLE001 - whatever is wrong with it, the thorough way says it
        return None


def _constructor(kind: type) -> dict[str, str] | None:
    """Return what the constructor calls the fields, by their names; None if the class does more than declare them."""
    own = vars(kind)
    if type(kind) is not type or any("__new__" in vars(base) for base in kind.__mro__[:-1]):
        return None
    if "__attrs_attrs__" in own:
        # If a class has a constructor of its own, attrs calls the one that it makes `__attrs_init__`.
        if any(hasattr(kind, f"__attrs_{hook}__") for hook in ("init", "pre_init", "post_init")):
            return None
        if _assigns(kind):
            return None
        every = attrs.fields(kind)
        declares = all(item.init and item.converter is None and item.validator is None for item in every)
        return {item.name: str(item.alias) for item in every} if declares else None
    if "__dataclass_params__" in own:
        made = own["__dataclass_params__"]
        if not made.init or hasattr(kind, "__post_init__"):
            return None
        if not made.frozen and _assigns(kind):
            return None
        every = dataclasses.fields(kind)
        return {item.name: item.name for item in every} if all(item.init for item in every) else None
    return None


def _assigns(kind: type) -> bool:
    """Return whether a class may do something else with a value that is assigned than keep it."""
    ours = (object.__setattr__, FROZEN)
    return any(vars(base).get("__setattr__", FROZEN) not in ours for base in kind.__mro__[:-1])


def _form(kind: type, constructor: dict[str, str], fields: dict[str, _Plain], *, keeps: bool) -> Form:
    """Return the form of a class with these fields. `keeps`: whether an `extra` beside them has unknown ones."""
    writers = [(name, plain.write) for name, plain in fields.items()]
    readers = [(constructor[name], plain.read) for name, plain in fields.items() if plain.read is not None]
    arguments = [constructor[name] for name in fields]
    values = msgspec.structs.astuple

    def of(record: Any) -> Any:
        if keeps and record.extra != {}:
            return None
        return {name: write(getattr(record, name)) for name, write in writers}

    def record(read: Any) -> Any:
        found = dict(zip(arguments, values(read), strict=True))
        for argument, value in readers:
            found[argument] = value(found[argument])
        return kind(**found)

    stored = [(name, plain.stored) for name, plain in fields.items()]
    return Form(msgspec.defstruct(kind.__name__, stored, forbid_unknown_fields=True, gc=False), of, record)


# The types. What writes a value takes exactly what reading it gives.


def _plain(kind: Any, level: int) -> _Plain:
    """Return how the values of a type are kept; raise if they have to go the thorough way."""
    if level > _LEVELS:
        raise MismatchError("expected fewer types in each other")
    known = _SIMPLE.get(kind)
    if known is not None:
        return known
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType) and len(arguments) == 2 and type(None) in arguments:
        (other,) = (each for each in arguments if each is not type(None))
        return _optional(_plain(other, level + 1))
    if origin is list and len(arguments) == 1:
        return _list(_plain(arguments[0], level + 1))
    if origin is dict and arguments[:1] == (str,):
        return _dict(_plain(arguments[1], level + 1))
    if origin is Literal and all(type(each) is str for each in arguments):
        return _Plain(kind, _one_of(frozenset(arguments)))
    return _nested(kind, level)


def _string(value: Any) -> str:
    if type(value) is not str:
        raise MismatchError("expected str")
    return value


def _integer(value: Any) -> int:
    if type(value) is not int or not INTEGER_MIN <= value <= INTEGER_MAX:
        raise MismatchError("expected int of 64 bits")
    return value


def _real(value: Any) -> float:
    if type(value) is not float:
        if type(value) is not int:
            raise MismatchError("expected float")
        value = float(value)
    if not math.isfinite(value):
        raise MismatchError("expected finite float")
    return value  # type: ignore[no-any-return]


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise MismatchError("expected bool")
    return value


def _moment(value: Any) -> Any:
    # One without a time zone is taken as UTC, which is how all are written.
    return value if type(value) is datetime and value.tzinfo is None else stored_moment(value)


def _json(value: Any, level: int = 1) -> Any:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        return _integer(value)
    if kind is float:
        return _real(value)
    if level > _LEVELS:
        raise MismatchError("expected fewer levels of nesting")
    if kind is list:
        return [item if type(item) is str else _json(item, level + 1) for item in value]
    if kind is dict:
        return {_string(key): item if type(item) is str else _json(item, level + 1) for key, item in value.items()}
    raise MismatchError("expected a JSON value")


_SIMPLE: Final[dict[Any, _Plain]] = {
    str: _Plain(str, _string),
    int: _Plain(Int, _integer),
    float: _Plain(float, _real),
    bool: _Plain(bool, _boolean),
    datetime: _Plain(str, _moment, moment_of),
    time: _Plain(str, write_time, read_time),
    timedelta: _Plain(Json, write_timedelta, read_timedelta),
    UUID: _Plain(str, write_uuid, read_uuid),
    Decimal: _Plain(str, write_decimal, read_decimal),
    Any: _Plain(Json, _json),
}


def _optional(inner: _Plain) -> _Plain:
    write, read = inner.write, inner.read
    return _Plain(
        inner.stored | None,
        lambda value: None if value is None else write(value),
        None if read is None else lambda value: None if value is None else read(value),
    )


def _list(inner: _Plain) -> _Plain:
    write, read = inner.write, inner.read

    def written(value: Any) -> Any:
        if type(value) is not list:
            raise MismatchError("expected array")
        return [write(item) for item in value]

    return _Plain(list[inner.stored], written, None if read is None else lambda value: [read(item) for item in value])  # type: ignore[name-defined]


def _dict(inner: _Plain) -> _Plain:
    write, read = inner.write, inner.read

    def written(value: Any) -> Any:
        if type(value) is not dict:
            raise MismatchError("expected object")
        return {_string(key): write(item) for key, item in value.items()}

    return _Plain(
        dict[str, inner.stored],  # type: ignore[name-defined]
        written,
        None if read is None else lambda value: {key: read(item) for key, item in value.items()},
    )


def _one_of(values: frozenset[str]) -> Callable[[Any], str]:
    def written(value: Any) -> str:
        if _string(value) not in values:
            raise MismatchError("expected one of some texts")
        return value  # type: ignore[no-any-return]

    return written


def _nested(kind: Any, level: int) -> _Plain:
    constructor = _constructor(kind)
    if constructor is None:
        raise MismatchError("expected a class that only declares its fields")
    hints = typing.get_type_hints(kind, include_extras=True)
    form = _form(kind, constructor, {name: _plain(hints[name], level + 1) for name in constructor}, keeps=False)

    def written(value: Any) -> Any:
        if type(value) is not kind:
            raise MismatchError(f"expected {kind.__name__}")
        return form.of(value)

    return _Plain(form.stored, written, form.record)
