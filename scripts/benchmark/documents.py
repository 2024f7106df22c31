"""The document that every store is given, and the serialization of those that have none of their own: the fastest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import attrs
import msgspec
from msgspec.json import Decoder, Encoder

from empathy_kv import Pattern


@attrs.define
class Solution:
    """A class of a user's own with the fields of `Pattern`."""

    id: str
    agent_id: str
    pattern_type: str
    name: str
    description: str
    context: dict[str, Any]
    code: str | None
    confidence: float
    usage_count: int
    success_count: int
    failure_count: int
    discovered_at: datetime
    last_used: datetime | None
    tags: list[str]


def pattern(number: int) -> Pattern:
    """Return a pattern that is about 650 bytes of JSON."""
    return Pattern(
        id=f"pattern_{number:07}",
        agent_id=f"agent_{number % 7}",
        pattern_type="suggestion",
        name="Retry with exponential backoff",
        description="A call to a service that may fail for a moment and works again soon after",
        context={"task": "api_call", "language": "python", "framework": "httpx", "attempts": 3, "idempotent": True},
        code="Retry up to 3 times, wait 0.1 s, 0.4 s, 1.6 s, and only if the call is idempotent; else report which "
        "service did not answer",
        confidence=0.75,
        usage_count=number,
        success_count=number * 3 // 4,
        failure_count=number - number * 3 // 4,
        discovered_at=datetime(2025, 1, 15, 10, 30, 0, 123456, tzinfo=UTC),
        last_used=datetime(2025, 1, 20, 14, 45, 0, 654321, tzinfo=UTC),
        tags=["error-handling", "api", "best-practice"],
    )


def solution(document: Pattern) -> Solution:
    """Return the same as an object of the other class."""
    return Solution(**{item.name: getattr(document, item.name) for item in attrs.fields(Solution)})


encode: Final[Callable[[Pattern], bytes]] = Encoder().encode
"""For stores of bytes. It is done in C, by the class: one cannot do it faster."""
decode: Final[Callable[[bytes], Pattern]] = Decoder(Pattern).decode


def to_plain(document: Pattern) -> dict[str, Any]:
    """Return an object of JSON, for stores that make JSON of it themselves. It is done in C, too."""
    plain: dict[str, Any] = msgspec.to_builtins(document)
    return plain


def from_plain(plain: Mapping[str, Any]) -> Pattern:
    """Return the document that an object of JSON holds."""
    return msgspec.convert(plain, Pattern)
