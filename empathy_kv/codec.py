"""Records to JSON bytes and back: the only place that knows the stored form.

==========================  =====================================================================================
in a class                  in JSON
==========================  =====================================================================================
str                         string; a lone surrogate is refused
int                         number without a fraction, 64 bits; a bool is none
float                       number, finite; an int is taken
bool, None                  true, false, null
datetime                    string, ISO 8601 in UTC, without an offset; read with or without one
date, time                  string, ISO 8601; a time zone of a time is a fixed offset
timedelta                   number of seconds; refused if that is not all of it
UUID, Decimal               string, as `str` has it; NaN and infinities are refused
dict, list, Any             object, array, any JSON value; at most `DEPTH` deep
Sequence, Set               array; of a list or a tuple, read as a tuple, and of a set or a frozenset, read as a
                            frozenset: these types promise no more
class, enum, set, bytes ... as cattrs' JSON converter has it
==========================  =====================================================================================

Strict in both directions: a value of another type is refused with the place where it stands (`expected float @
$.patterns[3].confidence`), and never converted. A field of a frozen class that its constructor does not take is not
stored: the constructor makes it again. `empathy_kv.structuring` does that for every class, with cattrs. Our
own records, as they usually are, go a shorter way (`empathy_kv.record_forms`), which leaves the others to that one; so
do objects of classes that do nothing but declare their fields (`empathy_kv.class_forms`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import msgspec

from empathy_kv.class_forms import form_of
from empathy_kv.errors import ArgumentTypeError, CodecError
from empathy_kv.json_values import DEPTH, json_value, parse, surrogate
from empathy_kv.record_forms import FORMS

if TYPE_CHECKING:
    from empathy_kv.structuring import Structuring

__all__ = ["DEPTH", "Codec", "codec", "json_value", "parse"]

T = TypeVar("T")

_ENCODER: Final = msgspec.json.Encoder()


class Codec(Generic[T]):
    """The stored form of one class. `codec(cls)` gives it."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._form = FORMS.get(kind) or form_of(kind)
        if self._form is None:
            self._thorough  # noqa: B018 - a class that has no stored form is refused now

    @functools.cached_property
    def _thorough(self) -> Structuring[T]:
        # When it is needed: importing cattrs and generating its functions is a fifth of what `connect` costs at first.
        from empathy_kv.structuring import Structuring

        return Structuring(self._kind)

    @functools.cached_property
    def _read_form(self) -> Callable[[bytes], Any]:
        assert self._form is not None  # noqa: S101 - for the type checker: whoever has none does not read so
        return msgspec.json.Decoder(self._form.stored).decode

    def unstructure(self, record: T) -> dict[str, Any]:
        """Return the JSON object of a record; raise `CodecError` if it holds what cannot be stored."""
        return self._thorough.unstructure(record)

    def structure(self, document: Any, path: str = "$") -> T:
        """Return the record of a JSON object that stands at `path`; raise `CodecError` if it is none."""
        return self._thorough.structure(document, path)

    def encode(self, record: T) -> bytes:
        """Return the JSON bytes of a record; raise `CodecError` if it holds what cannot be stored."""
        if self._form is not None and type(record) is self._kind:
            try:
                form = self._form.of(record)
                if form is not None:
                    return _ENCODER.encode(form)
            except Exception:  # noqa: BLE001, S110 - whatever is wrong, the thorough way says it
                pass
        document = self.unstructure(record)
        try:
            data = _ENCODER.encode(document)
        except UnicodeEncodeError as error:
            place = surrogate(document, "$") or "$"
            raise CodecError(f"expected valid Unicode, not a lone surrogate @ {place}", path=place) from error
        except (TypeError, ValueError, RecursionError) as error:
            raise CodecError(f"expected JSON: {error}") from error
        self._thorough.verify(record, data)
        return data

    def decode(self, data: bytes) -> T:
        """Return the record of JSON bytes; raise `CodecError` if they are none."""
        if self._form is not None:
            try:
                record: T = self._form.record(self._read_form(data))
            except Exception:  # noqa: BLE001, S110 - as above
                pass
            else:
                return record
        return self.structure(parse(data))


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
