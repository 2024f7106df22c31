"""What the fields of our own records may hold beyond their types, and how they are read and written; the older forms.

This is what `empathy_kv.structuring` goes by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from empathy_kv.json_values import (
    MismatchError,
    array_of_strings,
    integer,
    json_object,
    read_datetime,
    string,
    write_datetime,
)
from empathy_kv.records import LEVELS, CollaborationState, Pattern, level_of

# Each returns the value as it is kept


def _share(value: Any, _: Any = None) -> float:
    if (type(value) is float or type(value) is int) and 0 <= value <= 1:
        return float(value)
    if type(value) not in (float, int):
        raise MismatchError("expected float")
    raise MismatchError("expected float from 0 to 1")


def _count(value: Any, _: Any = None) -> int:
    if integer(value) < 0:
        raise MismatchError("expected int of at least 0")
    return value  # type: ignore[no-any-return]


def _level(value: Any, _: Any = None) -> int:
    if integer(value) not in LEVELS:
        raise MismatchError("expected int from 1 to 5")
    return value  # type: ignore[no-any-return]


def _optional(function: Callable[..., Any]) -> Callable[..., Any]:
    def optional(value: Any, _: Any = None) -> Any:
        return None if value is None else function(value)

    return optional


_Field = tuple[Callable[..., Any], Callable[..., Any]]
_TIME: Final[_Field] = (read_datetime, write_datetime)
_TIME_OR_NONE: Final[_Field] = (_optional(read_datetime), _optional(write_datetime))
CONSTRAINED: Final[dict[type, dict[str, _Field]]] = {
    Pattern: {
        "context": (json_object, json_object),
        "code": (_optional(string), _optional(string)),
        "confidence": (_share, _share),
        "usage_count": (_count, _count),
        "success_count": (_count, _count),
        "failure_count": (_count, _count),
        "tags": (array_of_strings, array_of_strings),
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
"""The fields of our records that are more than their type says: how they are read and written."""

ARGUMENTS: Final[dict[type, str]] = {Pattern: "pattern", CollaborationState: "state"}
"""What the arguments are called that take our records."""

REQUIRED: Final[dict[type, frozenset[str]]] = {CollaborationState: frozenset({"trust_level"})}
"""Fields that a document must have, although the class has a default."""

# The form of empathy-framework 3.9.3, by one of its fields.
_OLDER_STATE: Final = {
    "total_interactions": "interaction_count",
    "successful_interventions": "success_count",
    "failed_interventions": "failure_count",
    "session_start": "created_at",
}


def modernise(document: dict[str, Any]) -> dict[str, Any]:
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
