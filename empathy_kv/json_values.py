"""JSON values, strictly: what may stand in a document, and how a value of Python is kept in it.

Every check returns the value as it is kept, or raises `MismatchError`: it never converts.
"""

from __future__ import annotations

import contextlib
import enum
import math
from datetime import datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from uuid import UUID

import msgspec

from empathy_kv.errors import CodecError
from empathy_kv.records import utc

DEPTH: Final = 100
"""How deep arrays and objects may stand in each other."""
INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**63 - 1

_DECODER: Final = msgspec.json.Decoder()


class MismatchError(ValueError):
    """A value is not what is expected; `place` is where in it, and where it stands itself is found later."""

    def __init__(self, what: str, place: str = "") -> None:
        super().__init__(what)
        self.place = place


def string(value: Any, kind: Any = str) -> str:
    if type(value) is not str or kind is not str:
        return _member(value, kind, str)  # type: ignore[no-any-return]
    return value


def integer(value: Any, kind: Any = int) -> int:
    if type(value) is not int or kind is not int:
        return _member(value, kind, int)  # type: ignore[no-any-return]
    if not INTEGER_MIN <= value <= INTEGER_MAX:
        raise MismatchError("expected int of 64 bits")
    return value


def _member(value: Any, kind: Any, plain: type) -> Any:
    """Return a member of an enumeration of texts or integers for its value, or the other way round.

    The hook of a class serves its subclasses too, which such enumerations are.
    """
    if issubclass(kind, enum.Enum) and type(value) is plain:
        with contextlib.suppress(ValueError):
            return kind(value)
    elif kind is plain and isinstance(value, enum.Enum) and type(value.value) is plain:
        return value.value
    raise MismatchError(f"expected {kind.__name__}")


def real(value: Any, _: Any = None) -> float:
    if type(value) is not float:
        if type(value) is not int:
            raise MismatchError("expected float")
        try:
            value = float(value)
        except OverflowError:
            raise MismatchError("expected finite float") from None
    if not math.isfinite(value):
        raise MismatchError("expected finite float")
    return value  # type: ignore[no-any-return]


def boolean(value: Any, _: Any = None) -> bool:
    if type(value) is not bool:
        raise MismatchError("expected bool")
    return value


def read_datetime(value: Any, _: Any = None) -> datetime:
    if type(value) is not str:
        raise MismatchError("expected datetime as a str")
    try:
        return utc(datetime.fromisoformat(value))
    except (ValueError, OverflowError):
        raise MismatchError("expected datetime in ISO 8601") from None


def write_datetime(value: Any) -> str:
    if not isinstance(value, datetime):
        raise MismatchError("expected datetime")
    return utc(value).replace(tzinfo=None).isoformat()


def write_uuid(value: Any) -> str:
    if type(value) is not UUID:
        raise MismatchError("expected UUID")
    return str(value)


def read_uuid(value: Any, _: Any = None) -> UUID:
    if type(value) is not str:
        raise MismatchError("expected UUID as a str")
    with contextlib.suppress(ValueError):
        read = UUID(value)
        if str(read) == value.lower():  # What is in braces, or has its dashes elsewhere, is taken by the class.
            return read
    raise MismatchError("expected UUID as 12345678-1234-1234-1234-123456789abc")


def write_decimal(value: Any) -> str:
    if type(value) is not Decimal:
        raise MismatchError("expected Decimal")
    if not value.is_finite():
        raise MismatchError("expected finite Decimal")
    return str(value)


def read_decimal(value: Any, _: Any = None) -> Decimal:
    if type(value) is not str:
        raise MismatchError("expected Decimal as a str")
    with contextlib.suppress(InvalidOperation):
        read = Decimal(value)
        # The class takes blanks around it, underscores, and the digits of every script.
        if read.is_finite() and value.isascii() and not any(each in value for each in "_ \t\n\r\f\v"):
            return read
    raise MismatchError("expected finite Decimal in digits")


def write_time(value: Any) -> str:
    if type(value) is not time:
        raise MismatchError("expected time")
    if value.tzinfo is not None and type(value.tzinfo) is not timezone:
        raise MismatchError("expected time without a time zone, or with a fixed offset")
    return value.isoformat()


def read_time(value: Any, _: Any = None) -> time:
    if type(value) is not str:
        raise MismatchError("expected time as a str")
    try:
        return time.fromisoformat(value)
    except ValueError:
        raise MismatchError("expected time in ISO 8601") from None


def write_timedelta(value: Any) -> float:
    if type(value) is not timedelta:
        raise MismatchError("expected timedelta")
    whole = value.days * 86_400 + value.seconds
    if not value.microseconds:
        return whole
    seconds = value.total_seconds()
    if timedelta(seconds=seconds) != value:
        raise MismatchError("expected timedelta whose microseconds a number can tell beside its days")
    return seconds


def read_timedelta(value: Any, _: Any = None) -> timedelta:
    if type(value) is not int and type(value) is not float:
        raise MismatchError("expected timedelta as a number of seconds")
    with contextlib.suppress(OverflowError, ValueError):
        read = timedelta(seconds=value)
        if read.total_seconds() == value:
            return read
    raise MismatchError("expected timedelta as seconds, down to microseconds")


def array_of_strings(value: Any, _: Any = None) -> list[str]:
    if type(value) is not list:
        raise MismatchError("expected array")
    copy = value.copy()
    for i, item in enumerate(copy):
        if type(item) is not str:
            raise MismatchError("expected str", f"[{i}]")
    return copy


def json_object(value: Any, _: Any = None) -> dict[str, Any]:
    if type(value) is not dict:
        raise MismatchError("expected object")
    copy = value.copy()
    for key, item in copy.items():
        kind = type(item)
        if type(key) is not str or not (
            kind is str
            or kind is bool
            or item is None
            or (kind is int and INTEGER_MIN <= item <= INTEGER_MAX)
            or (kind is float and math.isfinite(item))
        ):
            return _json(copy, 0)  # type: ignore[no-any-return]
    return copy


def json_any(value: Any, _: Any = None) -> Any:
    return _json(value, 0)


def json_value(value: Any, path: str = "$") -> Any:
    """Return a copy of a JSON value that stands at `path`, tuples as lists; raise `CodecError` if it is none."""
    try:
        return _json(value, 0)
    except MismatchError as error:
        raise CodecError(f"{error} @ {path}{error.place}", path=f"{path}{error.place}") from None


def _json(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        return integer(value)
    if kind is float:
        return real(value)
    if depth >= DEPTH:
        raise MismatchError(f"expected at most {DEPTH} levels of nesting")
    # The place is put together on the way out: to carry it inwards costs more than the rest, for a rare error.
    if isinstance(value, dict):
        copy = {}
        for key, item in value.items():
            if type(key) is not str:
                raise MismatchError(f"expected str as key, not {key!r}")
            try:
                copy[key] = item if type(item) is str else _json(item, depth + 1)
            except MismatchError as error:
                error.place = f".{key}{error.place}"
                raise
        return copy
    if isinstance(value, (list, tuple)):
        items = []
        for i, item in enumerate(value):
            try:
                items.append(item if type(item) is str else _json(item, depth + 1))
            except MismatchError as error:
                error.place = f"[{i}]{error.place}"
                raise
        return items
    raise MismatchError(f"expected a JSON value, not {kind.__name__}")


def parse(data: bytes) -> Any:
    """Return the JSON value of bytes; raise `CodecError` if they are no strict JSON."""
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"expected JSON: {error}") from error


def surrogate(value: Any, path: str) -> str | None:
    """Return where in a JSON value a text stands that UTF-8 cannot express."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return path
    elif isinstance(value, dict):
        for key, item in value.items():
            found = surrogate(key, path) or surrogate(item, f"{path}.{key}")
            if found:
                return found
    elif isinstance(value, list):
        for i, item in enumerate(value):
            found = surrogate(item, f"{path}[{i}]")
            if found:
                return found
    return None
