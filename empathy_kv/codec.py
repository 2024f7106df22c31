"""Records to JSON bytes and back: the only place that knows the stored form.

==========================  ==================================================================
in a class                  in JSON
==========================  ==================================================================
str                         string; a lone surrogate is refused
int                         number without a fraction, 64 bits; a bool is none
float                       number, finite; an int is taken
bool, None                  true, false, null
datetime                    string, ISO 8601 in UTC, without an offset; read with or without one
dict, list, Any             object, array, any JSON value; at most `DEPTH` deep
class, enum, set, bytes ... as cattrs' JSON converter has it
==========================  ==================================================================

Strict in both directions: a value of another type is refused with the place where it stands (`expected float @
$.patterns[3].confidence`), and never converted. The work is done by functions that cattrs generates, without paths; a
document that they refuse goes through a second set, which finds the place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import itertools
import math
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Generic, NoReturn, TypeVar, cast

import attrs
import cattrs
import msgspec
from cattrs.cols import is_mapping
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, mapping_structure_factory, override
from cattrs.preconf.json import configure_converter

from empathy_kv.errors import ArgumentTypeError, CodecError
from empathy_kv.records import LEVELS, CollaborationState, Pattern, level_of, utc

T = TypeVar("T")

DEPTH: Final = 100
"""How deep arrays and objects may stand in each other."""
_INTEGERS: Final = range(-(2**63), 2**63)


class _MismatchError(ValueError):
    """A value is not what is expected; `place` is where in it, and where it stands itself is found later."""

    def __init__(self, what: str, place: str = "") -> None:
        super().__init__(what)
        self.place = place


# What is allowed: each returns the value as it is kept


def _str(value: Any, kind: Any = str) -> str:
    if type(value) is not str or kind is not str:
        return _member(value, kind, str)  # type: ignore[no-any-return]
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
    raise _MismatchError(f"expected {kind.__name__}")


def _int(value: Any, kind: Any = int) -> int:
    if type(value) is not int or kind is not int:
        return _member(value, kind, int)  # type: ignore[no-any-return]
    if value not in _INTEGERS:
        raise _MismatchError("expected int of 64 bits")
    return value


def _float(value: Any, _: Any = None) -> float:
    if type(value) is not float:
        if type(value) is not int:
            raise _MismatchError("expected float")
        try:
            value = float(value)
        except OverflowError:
            raise _MismatchError("expected finite float") from None
    if not math.isfinite(value):
        raise _MismatchError("expected finite float")
    return value  # type: ignore[no-any-return]


def _bool(value: Any, _: Any = None) -> bool:
    if type(value) is not bool:
        raise _MismatchError("expected bool")
    return value


def _share(value: Any, _: Any = None) -> float:
    if (type(value) is float or type(value) is int) and 0 <= value <= 1:
        return float(value)
    if type(value) not in (float, int):
        raise _MismatchError("expected float")
    raise _MismatchError("expected float from 0 to 1")


def _count(value: Any, _: Any = None) -> int:
    if _int(value) < 0:
        raise _MismatchError("expected int of at least 0")
    return value  # type: ignore[no-any-return]


def _level(value: Any, _: Any = None) -> int:
    if _int(value) not in LEVELS:
        raise _MismatchError("expected int from 1 to 5")
    return value  # type: ignore[no-any-return]


def _read_datetime(value: Any, _: Any = None) -> datetime:
    if type(value) is not str:
        raise _MismatchError("expected datetime as a str")
    try:
        return utc(datetime.fromisoformat(value))
    except (ValueError, OverflowError):
        raise _MismatchError("expected datetime in ISO 8601") from None


def _write_datetime(value: Any) -> str:
    if not isinstance(value, datetime):
        raise _MismatchError("expected datetime")
    return utc(value).replace(tzinfo=None).isoformat()


_Key = typing.NewType("_Key", int)
"""An integer that is the key of an object, where JSON has only texts."""


def _read_key(value: Any, _: Any = None) -> int:
    if type(value) is not str or not re.fullmatch("0|-?[1-9][0-9]*", value):
        raise _MismatchError("expected int as key")
    return _int(int(value))


def _optional(function: Callable[..., Any]) -> Callable[..., Any]:
    def optional(value: Any, _: Any = None) -> Any:
        return None if value is None else function(value)

    return optional


def _json(value: Any, place: str = "", depth: int = 0) -> Any:
    """Return a copy of a JSON value, tuples as lists."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    try:
        if kind is int:
            return _int(value)
        if kind is float:
            return _float(value)
    except _MismatchError as error:
        error.place = place
        raise
    if depth >= DEPTH:
        raise _MismatchError(f"expected at most {DEPTH} levels of nesting", place)
    if isinstance(value, dict):
        copy = {}
        for key, item in value.items():
            if type(key) is not str:
                raise _MismatchError(f"expected str as key, not {key!r}", place)
            copy[key] = _json(item, f"{place}.{key}", depth + 1)
        return copy
    if isinstance(value, (list, tuple)):
        return [_json(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise _MismatchError(f"expected a JSON value, not {kind.__name__}", place)


def json_value(value: Any, path: str = "$") -> Any:
    """Return a copy of a JSON value that stands at `path`, tuples as lists; raise `CodecError` if it is none."""
    try:
        return _json(value)
    except _MismatchError as error:
        raise CodecError(f"{error} @ {path}{error.place}", path=f"{path}{error.place}") from None


_SIMPLE: Final = frozenset({str, bool, type(None)})


def _json_object(value: Any, _: Any = None) -> dict[str, Any]:
    if type(value) is not dict:
        raise _MismatchError("expected object")
    for key, item in value.items():
        if type(key) is not str or type(item) not in _SIMPLE:
            return _json(value)  # type: ignore[no-any-return]
    return dict(value)


def _json_any(value: Any, _: Any = None) -> Any:
    return _json(value)


def _texts(value: Any, _: Any = None) -> list[str]:
    if type(value) is not list:
        raise _MismatchError("expected array")
    for i, item in enumerate(value):
        if type(item) is not str:
            raise _MismatchError("expected str", f"[{i}]")
    return list(value)


# The fields of our records that are more than their type says: how they are read and written

_Field = tuple[Callable[..., Any], Callable[..., Any]]
_TIME: Final[_Field] = (_read_datetime, _write_datetime)
_TIME_OR_NONE: Final[_Field] = (_optional(_read_datetime), _optional(_write_datetime))
_CONSTRAINED: Final[dict[type, dict[str, _Field]]] = {
    Pattern: {
        "context": (_json_object, _json_object),
        "code": (_optional(_str), _optional(_str)),
        "confidence": (_share, _share),
        "usage_count": (_count, _count),
        "success_count": (_count, _count),
        "failure_count": (_count, _count),
        "tags": (_texts, _texts),
        "discovered_at": _TIME,
        "last_used": _TIME_OR_NONE,
    },
    CollaborationState: {
        "trust_level": (_share, _share),
        "current_level": (_level, _level),
        "target_level": (_level, _level),
        "interaction_count": (_count, _count),
        "success_count": (_count, _count),
        "failure_count": (_count, _count),
        "last_interaction": _TIME_OR_NONE,
        "created_at": _TIME,
    },
}

# Fields that a document must have, although the class has a default.
_REQUIRED: Final[dict[type, frozenset[str]]] = {CollaborationState: frozenset({"trust_level"})}

# The form of empathy-framework 3.9.3, by one of its fields.
_OLDER_STATE: Final = {
    "total_interactions": "interaction_count",
    "successful_interventions": "success_count",
    "failed_interventions": "failure_count",
    "session_start": "created_at",
}


def _modernise(document: dict[str, Any]) -> dict[str, Any]:
    """Return a state in the documented form; one of empathy-framework 3.9.3 has other names and no level."""
    if "total_interactions" not in document or "interaction_count" in document:
        return document
    renamed = {_OLDER_STATE.get(name, name): value for name, value in document.items()}
    if "current_level" not in renamed:
        target = renamed.get("target_level", CollaborationState().target_level)
        trust = renamed.get("trust_level")
        if type(target) is int and type(trust) in (int, float) and 0 <= trust <= 1:  # type: ignore[operator]
            renamed["current_level"] = level_of(trust, target)  # type: ignore[arg-type]
    return renamed


def _converter(detailed: bool) -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=detailed, forbid_extra_keys=True)
    configure_converter(converter)
    for kind, check in ((str, _str), (int, _int), (float, _float), (bool, _bool)):
        converter.register_structure_hook(kind, check)
        converter.register_unstructure_hook(kind, check)
    converter.register_structure_hook(_Key, _read_key)
    converter.register_structure_hook_factory(
        lambda kind: is_mapping(kind) and typing.get_args(kind)[:1] == (int,),
        lambda kind, _: mapping_structure_factory(kind, converter, detailed_validation=detailed, key_type=_Key),
    )
    converter.register_structure_hook(datetime, _read_datetime)
    converter.register_unstructure_hook(datetime, _write_datetime)
    converter.register_structure_hook_func(lambda kind: kind is Any, _json_any)
    converter.register_unstructure_hook_func(lambda kind: kind is Any, _json_any)
    return converter


def _lenient() -> cattrs.Converter:
    converter = cattrs.Converter()
    configure_converter(converter)
    return converter


_FAST: Final = _converter(detailed=False)
_THOROUGH: Final = _converter(detailed=True)
_LENIENT: Final = _lenient()
_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder()


class Codec(Generic[T]):
    """The stored form of one class. `codec(cls)` gives it."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        names = {item.name for item in attrs.fields(kind)} if attrs.has(kind) else set(_dataclass_fields(kind))
        try:
            self._types = typing.get_type_hints(kind, include_extras=True)
        except NameError as error:
            raise ArgumentTypeError(
                f"kind must have annotations that can be resolved; in {kind.__name__}, {error}", argument="kind"
            ) from error
        self._keeps = self._types.get("extra") == dict[str, Any]
        self._known = frozenset(names - {"extra"} if self._keeps else names)
        self._ours = kind in _CONSTRAINED
        constrained = _CONSTRAINED.get(kind, {})
        overrides: dict[str, Any] = {
            name: override(struct_hook=read, unstruct_hook=write) for name, (read, write) in constrained.items()
        }
        if self._keeps:
            overrides["extra"] = override(omit=True)
        try:
            for leaf in {leaf for name in self._known for leaf in _leaves(self._types[name])}:
                _FAST.get_structure_hook(leaf)
            self._write: Callable[[T], dict[str, Any]] = make_dict_unstructure_fn(
                kind, _FAST, _cattrs_include_init_false=True, **overrides
            )
            self._read: dict[bool, Callable[..., T]] = {
                converter.detailed_validation: make_dict_structure_fn(
                    kind,
                    converter,
                    _cattrs_forbid_extra_keys=not self._keeps,
                    _cattrs_include_init_false=True,
                    **overrides,
                )
                for converter in (_FAST, _THOROUGH)
            }
        except cattrs.StructureHandlerNotFoundError as error:
            raise ArgumentTypeError(
                f"kind must have fields that JSON can hold; {kind.__name__} has one of type {error.type_}",
                argument="kind",
            ) from error

    def unstructure(self, record: T) -> dict[str, Any]:
        """Return the JSON object of a record; raise `CodecError` if it holds what cannot be stored."""
        if type(record) is not self._kind:
            raise ArgumentTypeError(
                f"record must be a {self._kind.__name__}, not {type(record).__name__}", argument="record"
            )
        try:
            document = self._write(record)
        except Exception as error:  # noqa: BLE001 - a hook may raise anything; it becomes a CodecError
            self._explain(record, error)
        if self._keeps and record.extra != {}:  # type: ignore[attr-defined]
            if type(record.extra) is not dict:  # type: ignore[attr-defined]
                raise CodecError("expected object @ $.extra", path="$.extra")
            extra = json_value(record.extra, "$.extra")  # type: ignore[attr-defined]
            clash = self._known & extra.keys()
            if clash:
                raise CodecError(f"expected no known field in extra @ $.extra.{min(clash)}", path="$.extra")
            document.update(extra)
        return document

    def structure(self, document: Any, path: str = "$") -> T:
        """Return the record of a JSON object that stands at `path`; raise `CodecError` if it is none."""
        if type(document) is not dict:
            raise CodecError(f"expected object @ {path}", path=path)
        if self._kind is CollaborationState:
            document = _modernise(document)
        unknown: Mapping[str, Any] = {}
        if self._keeps and not document.keys() <= self._known:
            unknown = {name: document[name] for name in document if name not in self._known}
        for name in _REQUIRED.get(self._kind, ()):
            if name not in document:
                raise CodecError(f"missing @ {path}.{name}", path=f"{path}.{name}")
        try:
            record = self._read[False](document, self._kind)
        except Exception as error:  # noqa: BLE001 - a hook may raise anything; it becomes a CodecError
            self._locate(document, path, error)
        if unknown:
            record.extra = json_value(unknown, path)  # type: ignore[attr-defined]
        return record

    def encode(self, record: T) -> bytes:
        """Return the JSON bytes of a record; raise `CodecError` if it holds what cannot be stored."""
        document = self.unstructure(record)
        try:
            data = _ENCODER.encode(document)
        except UnicodeEncodeError as error:
            place = _surrogate(document, "$") or "$"
            raise CodecError(f"expected valid Unicode, not a lone surrogate @ {place}", path=place) from error
        except (TypeError, ValueError, RecursionError) as error:
            raise CodecError(f"expected JSON: {error}") from error
        if not self._ours:
            self._verify(record, data)
        return data

    def decode(self, data: bytes) -> T:
        """Return the record of JSON bytes; raise `CodecError` if they are none."""
        return self.structure(parse(data))

    def _verify(self, record: T, data: bytes) -> None:
        """Raise if reading would not give the record back: cattrs writes what it is given, whatever was declared."""
        again = self.structure(json_value(parse(data)))
        for name in self._known:
            place = _differ(getattr(record, name), getattr(again, name), f"$.{name}")
            if place is not None:
                raise CodecError(f"expected {_called(self._types[name])} @ {place}", path=place)

    def _explain(self, record: T, error: Exception) -> NoReturn:
        """Say where a record holds what cannot be stored: its fields are written one by one."""
        constrained = _CONSTRAINED.get(self._kind, {})
        for name in sorted(self._known):
            value = getattr(record, name)
            try:
                if name in constrained:
                    constrained[name][1](value)
                else:
                    _FAST.unstructure(value, unstructure_as=self._types[name])
            except Exception as cause:  # noqa: BLE001 - as above
                what, place = _find(cause, f"$.{name}")
                if place == f"$.{name}":
                    what, place = self._inside(record, what, place)
                raise CodecError(f"{what} @ {place}", path=place) from error
        what, place = self._inside(record, f"expected a {self._kind.__name__}: {error}", "$")
        raise CodecError(f"{what} @ {place}", path=place) from error

    def _inside(self, record: T, what: str, place: str) -> tuple[str, str]:
        """Return what is wrong inside of a field, and where, as far as the reader finds it."""
        try:
            self._read[True]({name: _raw(getattr(record, name)) for name in self._known}, self._kind)
        except Exception as error:  # noqa: BLE001 - as above
            deeper, at = _find(error, "$")
            if at.startswith((f"{place}.", f"{place}[")):
                return deeper, at
        return what, place

    def _locate(self, document: dict[str, Any], path: str, error: Exception) -> NoReturn:
        """Say where a document is not what is expected."""
        if self._keeps:
            document = {name: value for name, value in document.items() if name in self._known}
        try:
            self._read[True](document, self._kind)
        except Exception as thorough:  # noqa: BLE001 - as above
            what, place = _find(thorough, path)
            raise CodecError(f"{what} @ {place}", path=place) from error
        what, place = _find(error, path)
        raise CodecError(f"{what} @ {place}", path=place) from error


def _raw(value: Any) -> Any:
    """Return a value as JSON as far as that goes, so that the thorough reader can say what is wrong with it."""
    try:
        return _LENIENT.unstructure(value)
    except Exception:  # noqa: BLE001 - as it stands, the reader will refuse it
        return value


def _find(error: BaseException, path: str) -> tuple[str, str]:
    """Return what is wrong, and where: the first of what cattrs found."""
    if isinstance(error, cattrs.BaseValidationError):
        groups: Any = error.group_exceptions()  # type: ignore[attr-defined]
        located, others = groups
        if located:
            cause, note = located[0]
            step = f".{note.name}" if isinstance(note, cattrs.AttributeValidationNote) else f"[{note.index!r}]"
            if isinstance(cause, (_MismatchError, KeyError, cattrs.BaseValidationError)):
                return _find(cause, path + step)
            return f"expected {_called(note.type)}", path + step
        return _find(others[0], path)
    if isinstance(error, _MismatchError):
        return str(error), path + error.place
    if isinstance(error, KeyError):
        return "missing", path
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        field = min(map(str, error.extra_fields))
        return "unknown field", f"{path}.{field}"
    return str(error) or type(error).__name__, path


def _leaves(kind: Any) -> Iterator[Any]:
    """Yield the types that an annotation is made of."""
    arguments = () if typing.get_origin(kind) in (typing.Literal, Callable) else typing.get_args(kind)
    if not arguments:
        yield kind
    for argument in arguments:
        if argument is not Ellipsis and argument is not type(None):
            yield from _leaves(argument)


def _called(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


def _differ(written: Any, read: Any, path: str) -> str | None:
    """Return where what was read is not what was written, None if it is."""
    if type(written) is not type(read):
        return None if type(written) is int and type(read) is float and written == read else path
    if isinstance(written, datetime):
        return None if utc(written) == utc(read) else path
    inside: Iterable[tuple[Any, Any, str]]
    if isinstance(written, (list, tuple)):
        inside = zip(written, read, map("[{}]".format, itertools.count()), strict=False)
    elif isinstance(written, dict):
        inside = ((value, read.get(key), f"[{key!r}]") for key, value in written.items())
    elif attrs.has(type(written)) or dataclasses.is_dataclass(written):
        names = [
            item.name for item in (attrs.fields if attrs.has(type(written)) else dataclasses.fields)(type(written))
        ]
        inside = ((getattr(written, name), getattr(read, name), f".{name}") for name in names)
        return next((place for a, b, step in inside if (place := _differ(a, b, path + step))), None)
    else:
        return None if written == read else path
    if len(written) != len(read):
        return path
    return next((place for a, b, step in inside if (place := _differ(a, b, path + step))), None)


def _surrogate(value: Any, path: str) -> str | None:
    """Return where in a JSON value a text stands that UTF-8 cannot express."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return path
    elif isinstance(value, dict):
        for key, item in value.items():
            found = _surrogate(key, path) or _surrogate(item, f"{path}.{key}")
            if found:
                return found
    elif isinstance(value, list):
        for i, item in enumerate(value):
            found = _surrogate(item, f"{path}[{i}]")
            if found:
                return found
    return None


def _dataclass_fields(kind: type) -> tuple[str, ...]:
    if not dataclasses.is_dataclass(kind):
        raise ArgumentTypeError(f"kind must be an attrs class or a dataclass, not {kind!r}", argument="kind")
    return tuple(item.name for item in dataclasses.fields(kind))


@functools.cache
def _codec(kind: Any) -> Any:
    return Codec(kind)


def codec(kind: type[T]) -> Codec[T]:
    """Return the codec of an attrs class or a dataclass.

    A field `extra` of type `dict[str, Any]` takes what a document has and the class does not know; a class without one
    refuses such a document, because saving it again would lose that.
    """
    if not isinstance(kind, type):
        raise ArgumentTypeError(f"kind must be an attrs class or a dataclass, not {kind!r}", argument="kind")
    made: Codec[T] = _codec(cast(Any, kind))
    return made


def parse(data: bytes) -> Any:
    """Return the JSON value of bytes; raise `CodecError` if they are no strict JSON."""
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"expected JSON: {error}") from error
