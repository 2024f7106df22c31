"""The short way between our own records and JSON bytes, for records and documents as they usually are.

msgspec checks types and limits while it parses, which is several times faster than to do it afterwards. The rules are
those of `empathy_kv.record_fields`, once more: what the short way takes it gives as the thorough one does, which takes
what is less usual (unknown fields, missing ones, subclasses) and says what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self

import msgspec
from attrs import frozen

from empathy_kv.json_values import INTEGER_MAX, INTEGER_MIN, MismatchError, array_of_strings, json_object
from empathy_kv.records import LEVELS, CollaborationState, Interaction, Pattern


@frozen
class Form:
    """A short way between the records of a class and their JSON bytes."""

    stored: type
    """A class of msgspec's with the fields as they are stored: all of them required, and no others."""
    of: Callable[[Any], Any]
    """Returns what is to be written of a record. It must go the thorough way if that is None, or raises."""
    record: Callable[[Any], Any]
    """Returns the record of what was read. It must go the thorough way if that raises."""


_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=INTEGER_MAX)]
_Level = Annotated[int, msgspec.Meta(ge=LEVELS[0], le=LEVELS[-1])]
Int = Annotated[int, msgspec.Meta(ge=INTEGER_MIN, le=INTEGER_MAX)]
# With `Any`, msgspec would take integers of any size. It has no recursive unions; what is deeper goes the thorough way.
_Json0 = None | bool | str | Int | float
_Json1 = _Json0 | list[_Json0] | dict[str, _Json0]
_Json2 = _Json0 | list[_Json1] | dict[str, _Json1]
Json = _Json0 | list[_Json2] | dict[str, _Json2]
_Object = dict[str, Json]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH: Final = _EPOCH.replace(tzinfo=None)


def stored_moment(moment: datetime) -> Any:
    """Return what msgspec writes as the stored form of a moment, which has a time zone; it raises if it has none."""
    # A naive datetime, which msgspec writes as `isoformat` does. `replace` takes several times as long.
    if type(moment) is not datetime:
        raise MismatchError("expected datetime")
    return _NAIVE_EPOCH + (moment - _EPOCH)


def moment_of(text: str) -> datetime:
    """Return the moment of a stored form; it raises if that is of another form."""
    # Not read by msgspec: it takes other texts than `fromisoformat`, and rounds where that one truncates. An offset,
    # which we never write, is a TypeError here.
    return _EPOCH + (datetime.fromisoformat(text) - _NAIVE_EPOCH)


def _bare(kind: type) -> Any:
    """Return a class whose instances are filled first and made instances of `kind` then.

    The constructor of `kind` sets every field by a call, because some have a converter: that takes five times as long,
    and here nothing is left to convert.
    """
    plain = {name: getattr(object, name) for name in ("__init__", "__setattr__", "__delattr__")}
    return type(kind.__name__, (kind,), {"__slots__": (), **plain})


_BarePattern: Final = _bare(Pattern)
_BareState: Final = _bare(CollaborationState)
_BareInteraction: Final = _bare(Interaction)


class StoredPattern(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: str
    agent_id: str
    pattern_type: str
    name: str
    description: str
    context: _Object
    code: str | None
    confidence: _Share
    usage_count: _Count
    success_count: _Count
    failure_count: _Count
    discovered_at: str
    last_used: str | None
    tags: list[str]

    @classmethod
    def of(cls, record: Pattern) -> Self | None:
        if not (
            type(record.id) is type(record.agent_id) is type(record.pattern_type) is str
            and type(record.name) is type(record.description) is str
            and (record.code is None or type(record.code) is str)
            and (type(record.confidence) is float or type(record.confidence) is int)
            and type(record.usage_count) is type(record.success_count) is type(record.failure_count) is int
            and 0 <= record.confidence <= 1
            and 0 <= record.usage_count <= INTEGER_MAX
            and 0 <= record.success_count <= INTEGER_MAX
            and 0 <= record.failure_count <= INTEGER_MAX
            and record.extra == {}
        ):
            return None
        return cls(
            record.id,
            record.agent_id,
            record.pattern_type,
            record.name,
            record.description,
            json_object(record.context),
            record.code,
            float(record.confidence),
            record.usage_count,
            record.success_count,
            record.failure_count,
            stored_moment(record.discovered_at),
            None if record.last_used is None else stored_moment(record.last_used),
            array_of_strings(record.tags),
        )

    def record(self) -> Pattern:
        record = _BarePattern()
        record.id = self.id
        record.agent_id = self.agent_id
        record.pattern_type = self.pattern_type
        record.name = self.name
        record.description = self.description
        record.context = self.context
        record.code = self.code
        record.confidence = self.confidence
        record.usage_count = self.usage_count
        record.success_count = self.success_count
        record.failure_count = self.failure_count
        record.discovered_at = moment_of(self.discovered_at)
        record.last_used = None if self.last_used is None else moment_of(self.last_used)
        record.tags = self.tags
        record.extra = {}
        record.__class__ = Pattern
        return record  # type: ignore[no-any-return]


class StoredState(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    user_id: str
    trust_level: _Share
    current_level: _Level
    target_level: _Level
    interaction_count: _Count
    success_count: _Count
    failure_count: _Count
    last_interaction: str | None
    created_at: str

    @classmethod
    def of(cls, record: CollaborationState) -> Self | None:
        if not (
            type(record.user_id) is str
            and (type(record.trust_level) is float or type(record.trust_level) is int)
            and type(record.current_level) is type(record.target_level) is int
            and type(record.interaction_count) is type(record.success_count) is type(record.failure_count) is int
            and 0 <= record.trust_level <= 1
            and record.current_level in LEVELS
            and record.target_level in LEVELS
            and 0 <= record.interaction_count <= INTEGER_MAX
            and 0 <= record.success_count <= INTEGER_MAX
            and 0 <= record.failure_count <= INTEGER_MAX
            and record.extra == {}
        ):
            return None
        return cls(
            record.user_id,
            float(record.trust_level),
            record.current_level,
            record.target_level,
            record.interaction_count,
            record.success_count,
            record.failure_count,
            None if record.last_interaction is None else stored_moment(record.last_interaction),
            stored_moment(record.created_at),
        )

    def record(self) -> CollaborationState:
        record = _BareState()
        record.user_id = self.user_id
        record.trust_level = self.trust_level
        record.current_level = self.current_level
        record.target_level = self.target_level
        record.interaction_count = self.interaction_count
        record.success_count = self.success_count
        record.failure_count = self.failure_count
        record.last_interaction = None if self.last_interaction is None else moment_of(self.last_interaction)
        record.created_at = moment_of(self.created_at)
        record.extra = {}
        record.__class__ = CollaborationState
        return record  # type: ignore[no-any-return]


class StoredInteraction(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    user_id: str
    level: Int
    success: bool
    response_time_ms: float
    at: str
    id: str | None

    @classmethod
    def of(cls, record: Interaction) -> Self | None:
        if not (
            type(record.user_id) is str
            and type(record.level) is int
            and type(record.success) is bool
            and type(record.response_time_ms) is float
            and (record.id is None or type(record.id) is str)
            and INTEGER_MIN <= record.level <= INTEGER_MAX
            and math.isfinite(record.response_time_ms)
        ):
            return None
        return cls(
            record.user_id,
            record.level,
            record.success,
            record.response_time_ms,
            stored_moment(record.at),
            record.id,
        )

    def record(self) -> Interaction:
        record = _BareInteraction()
        record.user_id = self.user_id
        record.level = self.level
        record.success = self.success
        record.response_time_ms = self.response_time_ms
        record.at = moment_of(self.at)
        record.id = self.id
        record.__class__ = Interaction
        return record  # type: ignore[no-any-return]


FORMS: Final[dict[type, Form]] = {
    kind: Form(stored, stored.of, stored.record)
    for kind, stored in ((Pattern, StoredPattern), (CollaborationState, StoredState), (Interaction, StoredInteraction))
}
