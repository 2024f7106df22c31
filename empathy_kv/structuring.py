"""Objects of a class as JSON objects and back, by cattrs: strictly, and with the place of what is wrong.

The work is done by functions that cattrs generates, without places; what they refuse goes through a second set, which
finds the place.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Generic, Literal, NoReturn, TypeAlias, TypeVar, Union
from uuid import UUID

import attrs
import cattrs
from cattrs.cols import is_mapping
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, mapping_structure_factory, override
from cattrs.preconf.json import configure_converter

from empathy_kv.class_forms import FROZEN
from empathy_kv.errors import ArgumentTypeError, CodecError
from empathy_kv.json_values import (
    MismatchError,
    boolean,
    integer,
    json_any,
    json_value,
    parse,
    read_datetime,
    read_decimal,
    read_time,
    read_timedelta,
    read_uuid,
    real,
    string,
    write_datetime,
    write_decimal,
    write_time,
    write_timedelta,
    write_uuid,
)
from empathy_kv.record_fields import ARGUMENTS, CONSTRAINED, REQUIRED, modernise
from empathy_kv.records import CollaborationState, utc

T = TypeVar("T")


_Key = typing.NewType("_Key", int)
"""An integer that is the key of an object, where JSON has only texts."""


def _read_key(value: Any, _: Any = None) -> int:
    if type(value) is not str or not re.fullmatch("0|-?[1-9][0-9]*", value):
        raise MismatchError("expected int as key")
    return integer(int(value))


def _converter(detailed: bool) -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=detailed, forbid_extra_keys=True)
    configure_converter(converter)
    for kind, check in ((str, string), (int, integer), (float, real), (bool, boolean)):
        converter.register_structure_hook(kind, check)
        converter.register_unstructure_hook(kind, check)
    converter.register_structure_hook(_Key, _read_key)
    converter.register_structure_hook_factory(
        lambda kind: is_mapping(kind) and typing.get_args(kind)[:1] == (int,),
        lambda kind, _: mapping_structure_factory(kind, converter, detailed_validation=detailed, key_type=_Key),
    )
    converter.register_structure_hook(datetime, read_datetime)
    converter.register_unstructure_hook(datetime, write_datetime)
    for exact, read, write in (
        (UUID, read_uuid, write_uuid),
        (Decimal, read_decimal, write_decimal),
        (time, read_time, write_time),
        (timedelta, read_timedelta, write_timedelta),
    ):
        # Not as those above, whose hooks serve subclasses too: they would come back as another class.
        converter.register_structure_hook_func(functools.partial(operator.is_, exact), read)
        converter.register_unstructure_hook_func(functools.partial(operator.is_, exact), write)
    converter.register_structure_hook_func(lambda kind: kind is Any, json_any)
    converter.register_unstructure_hook_func(lambda kind: kind is Any, json_any)
    return converter


def _lenient() -> cattrs.Converter:
    converter = cattrs.Converter()
    configure_converter(converter)
    return converter


_FAST: Final = _converter(detailed=False)
_THOROUGH: Final = _converter(detailed=True)
_LENIENT: Final = _lenient()


class Structuring(Generic[T]):
    """The JSON objects of one class."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        names = {item.name for item in attrs.fields(kind)} if attrs.has(kind) else set(_dataclass_fields(kind))
        self._types = _hints(kind)
        _resolve(kind)
        self._keeps = self._types.get("extra") == dict[str, Any]
        self._known = frozenset(names - {"extra"} if self._keeps else names)
        self._overrides: dict[str, Any] = {
            name: override(struct_hook=read, unstruct_hook=write)
            for name, (read, write) in CONSTRAINED.get(kind, {}).items()
        }
        if self._keeps:
            self._overrides["extra"] = override(omit=True)
        derived = _derived(kind)
        self._overrides.update(dict.fromkeys(derived, override(omit=True)))
        self._stored = self._known - derived
        try:
            for name in sorted(self._stored):
                what = f"{kind.__name__}.{name}"
                for part in (*_leaves(self._types[name]), self._types[name]):
                    _FAST.get_structure_hook(part)
            what = kind.__name__
            self._write: Callable[[T], dict[str, Any]] = make_dict_unstructure_fn(
                kind, _FAST, _cattrs_include_init_false=True, **self._overrides
            )
            self._read = self._reader(_FAST)
        except cattrs.StructureHandlerNotFoundError as error:
            raise ArgumentTypeError(
                f"kind must have fields that JSON can hold; {what} has the type {_called(error.type_)}: "
                f"allowed are {_ALLOWED}",
                argument="kind",
            ) from error

    def _reader(self, converter: cattrs.Converter) -> Callable[[Any, type[T]], T]:
        return make_dict_structure_fn(
            self._kind,
            converter,
            _cattrs_forbid_extra_keys=not self._keeps,
            _cattrs_include_init_false=True,
            **self._overrides,
        )

    @functools.cached_property
    def _locating_reader(self) -> Callable[[Any, type[T]], T]:
        return self._reader(_THOROUGH)

    def unstructure(self, record: T) -> dict[str, Any]:
        """Return the JSON object of a record; raise `CodecError` if it holds what cannot be stored."""
        if type(record) is not self._kind:
            argument = ARGUMENTS.get(self._kind, "record")
            raise ArgumentTypeError(
                f"{argument} must be a {self._kind.__name__}, not {type(record).__name__}", argument=argument
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
            document = modernise(document)
        unknown: Mapping[str, Any] = {}
        if self._keeps and not document.keys() <= self._known:
            unknown = {name: document[name] for name in document if name not in self._known}
        for name in REQUIRED.get(self._kind, ()):
            if name not in document:
                raise CodecError(f"missing @ {path}.{name}", path=f"{path}.{name}")
        try:
            record = self._read(document, self._kind)
        except Exception as error:  # noqa: BLE001 - a hook may raise anything; it becomes a CodecError
            self._locate(document, path, error)
        if unknown:
            record.extra = json_value(unknown, path)  # type: ignore[attr-defined]
        return record

    def verify(self, record: T, data: bytes) -> None:
        """Raise if reading would not give the record back: cattrs writes what it is given, whatever was declared.

        Where every field has a rule of its own, there is nothing to verify.
        """
        if self._kind in CONSTRAINED:
            return
        again = self.structure(json_value(parse(data)))
        for name in self._known:
            difference = _differ(getattr(record, name), getattr(again, name), f"$.{name}", _kinds(self._types[name]))
            if difference is not None:
                what, place = difference
                what = f"expected {_called(self._types[name])}{what}"
                if name not in self._stored:
                    what = "expected what making the object again gives, of a field that cannot be set"
                raise CodecError(f"{what} @ {place}", path=place)

    def _explain(self, record: T, error: Exception) -> NoReturn:
        """Say where a record holds what cannot be stored: its fields are written one by one."""
        constrained = CONSTRAINED.get(self._kind, {})
        for name in sorted(self._stored):
            value = getattr(record, name)
            try:
                if name in constrained:
                    constrained[name][1](value)
                else:
                    _FAST.unstructure(value, unstructure_as=self._types[name])
            except Exception as cause:  # noqa: BLE001 - as above
                what, place = _find(cause, f"$.{name}")
                if isinstance(cause, (AttributeError, TypeError)):  # What cattrs called is no method of the value.
                    what = f"expected {_called(self._types[name])}"
                if place == f"$.{name}":
                    what, place = self._inside(record, what, place)
                raise CodecError(f"{what} @ {place}", path=place) from error
        what, place = self._inside(record, f"expected a {self._kind.__name__}: {error}", "$")
        raise CodecError(f"{what} @ {place}", path=place) from error

    def _inside(self, record: T, what: str, place: str) -> tuple[str, str]:
        """Return what is wrong inside of a field, and where, as far as the reader finds it."""
        try:
            self._locating_reader({name: _raw(getattr(record, name)) for name in self._stored}, self._kind)
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
            self._locating_reader(document, self._kind)
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
            if isinstance(cause, (MismatchError, KeyError, cattrs.BaseValidationError)):
                return _find(cause, path + step)
            return f"expected {_called(note.type)}", path + step
        return _find(others[0], path)
    if isinstance(error, MismatchError):
        return str(error), path + error.place
    if isinstance(error, KeyError):
        return "missing", path
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        field = min(map(str, error.extra_fields))
        return "unknown field", f"{path}.{field}"
    return str(error) or type(error).__name__, path


_ALLOWED: Final = (
    "str, int, float, bool, None, Any, bytes, datetime, date, time, timedelta, UUID, Decimal, Literal, enums, "
    "list, tuple, set, frozenset, dict, Sequence, Set and Mapping, attrs classes and dataclasses, of these; and unions "
    "of those that JSON tells apart"
)


def _annotations(kind: Any) -> dict[str, Any]:
    """Return the types of a class's fields; `ArgumentTypeError` if one of them is named that is none."""
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except NameError as error:
        raise ArgumentTypeError(
            f"kind must have annotations that can be resolved; in {kind.__name__}, {error}", argument="kind"
        ) from error


_hints: Final[Callable[[Any], dict[str, Any]]] = functools.cache(_annotations)


def _resolve(kind: type) -> None:
    """Put the types of fields in the place of their names, in a class and in those that it is made of.

    cattrs does that for an annotation that is a name as a whole, and takes the "Part" in `list["Part"]` for a type.
    """
    left, seen = [kind], set()
    while left:
        each = left.pop()
        if each in seen:
            continue
        seen.add(each)
        hints = _hints(each)
        if attrs.has(each):
            attrs.resolve_types(each)
        else:
            for item in dataclasses.fields(each):
                if not isinstance(item.type, str):
                    item.type = hints[item.name]
        left += {
            leaf
            for hint in hints.values()
            for leaf in _leaves(hint)
            if isinstance(leaf, type) and (attrs.has(leaf) or dataclasses.is_dataclass(leaf))
        }


def _derived(kind: Any) -> frozenset[str]:
    """Return the fields that only the constructor of a frozen class can set, and does so by itself."""
    if attrs.has(kind):
        every: Any = attrs.fields(kind)
        frozen = kind.__setattr__ is FROZEN
    else:
        every = dataclasses.fields(kind)
        frozen = vars(kind)["__dataclass_params__"].frozen
    return frozenset(item.name for item in every if frozen and not item.init)


def _leaves(kind: Any) -> Iterator[Any]:
    """Yield the types that an annotation is made of."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        yield from _leaves(typing.get_args(kind)[0])
        return
    arguments = () if origin in (Literal, Callable) else typing.get_args(kind)
    if not arguments:
        yield kind
    elif attrs.has(origin) or dataclasses.is_dataclass(origin):
        yield origin
    for argument in arguments:
        if argument is not Ellipsis and argument is not type(None):
            yield from _leaves(argument)


def _called(kind: Any) -> str:
    if kind is Any:
        return "a JSON value"
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


_Kinds: TypeAlias = tuple[Any, ...]
"""The types that a value may have where it stands."""


def _kinds(*annotations: Any) -> _Kinds:
    kinds: list[Any] = []
    for kind in annotations:
        origin = typing.get_origin(kind)
        if origin is Annotated:
            kinds += _kinds(typing.get_args(kind)[0])
        elif origin in (Union, types.UnionType):
            kinds += _kinds(*typing.get_args(kind))
        else:
            kinds.append(kind)
    return tuple(kinds)


def _inner(kinds: _Kinds) -> _Kinds:
    return _kinds(*(argument for kind in kinds for argument in typing.get_args(kind)))


_ABSTRACT: Final[Mapping[tuple[type, type], type]] = {(list, tuple): Sequence, (set, frozenset): AbstractSet}
"""What was written and is read as something else, and the type that promises no more than both of them do."""


def _differ(written: Any, read: Any, path: str, kinds: _Kinds) -> tuple[str, str] | None:
    """Return how what was read is not what was written, and where; None if it is."""
    if type(written) is not type(read):
        if type(written) is int and type(read) is float and written == read:
            return None
        abstract = _ABSTRACT.get((type(written), type(read)))
        if abstract is None or not any(abstract in (kind, typing.get_origin(kind)) for kind in kinds):
            return f", {_a(written)} would come back as {_a(read)}", path
    if isinstance(written, datetime):
        return None if utc(written) == utc(read) else ("", path)
    inside: Iterable[tuple[Any, Any, str, _Kinds]]
    if attrs.has(type(written)) or dataclasses.is_dataclass(written):
        hints = _hints(type(written))
        names = [
            item.name for item in (attrs.fields if attrs.has(type(written)) else dataclasses.fields)(type(written))
        ]
        inside = ((getattr(written, name), getattr(read, name), f".{name}", _kinds(hints[name])) for name in names)
    else:
        within = _inner(kinds)
        if isinstance(written, (list, tuple)):
            steps = map("[{}]".format, itertools.count())
            inside = ((a, b, step, within) for a, b, step in zip(written, read, steps, strict=False))
        elif isinstance(written, dict):
            inside = ((value, read.get(key), f"[{key!r}]", within) for key, value in written.items())
        else:
            return None if written == read else ("", path)
        if len(written) != len(read):
            return "", path
    return next((found for a, b, step, its in inside if (found := _differ(a, b, path + step, its))), None)


def _a(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


def _dataclass_fields(kind: type) -> tuple[str, ...]:
    if not dataclasses.is_dataclass(kind):
        raise ArgumentTypeError(f"kind must be an attrs class or a dataclass, not {kind!r}", argument="kind")
    return tuple(item.name for item in dataclasses.fields(kind))
