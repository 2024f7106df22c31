"""The thin agent: it answers from what its library knows, and learns from how that went."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field

from empathy_kv.errors import ArgumentError, ArgumentTypeError, PatternNotFoundError
from empathy_kv.kv.operations import boolean, integer, text
from empathy_kv.paths import destination
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.records import LEVELS, MAX_ID, CollaborationState, Pattern, level_of

Responder = Callable[[str, Mapping[str, Any], Pattern | None], str]
"""What answers a user: it is given the input, the context, and the best pattern, None if there is none."""


def _user(_: Any, __: Any, value: str) -> None:
    text(value, "user_id", MAX_ID)


def _target(_: Any, __: Any, value: int) -> None:
    integer(value, "target_level", LEVELS[0], LEVELS[-1])


def _enabled(_: Any, __: Any, value: bool) -> None:
    boolean(value, "persistence_enabled")


def _path(_: Any, __: Any, value: object) -> None:
    destination(value, "persistence_path")


@define
class EmpathyConfig:
    """Who the user is, how far to go, and where to keep what is learned."""

    user_id: str = field(default="default_user", validator=_user)
    target_level: int = field(default=3, validator=_target)
    persistence_enabled: bool = field(default=True, validator=_enabled)
    persistence_path: str | os.PathLike[str] = field(default=".empathy", validator=_path)

    @property
    def url(self) -> str:
        """What to give to `connect`: the directory, or `memory:` if nothing is to be kept."""
        if not self.persistence_enabled:
            return "memory:"
        path = os.fspath(self.persistence_path)
        # Two slashes would begin the name of a host.
        return f"file:/{path.lstrip('/')}" if path.startswith("//") else f"file:{path}"


@define
class Response:
    """An answer. `level` is that of the collaboration, `confidence` the pattern's, 0.0 without one.

    `predictions` names what is likely to be asked next: the patterns linked to the one that was used, then others that
    fit. `pattern_id` is the one that was used, None if none fitted.
    """

    response: str
    level: int
    confidence: float
    predictions: list[str] = field(factory=list)
    pattern_id: str | None = None


class EmpathyOS:
    """An agent that works with one user.

    `pattern_library` is where it looks things up, by default an empty one in memory. `responder` is what answers, for
    example a call of a model; without one the pattern's own code is the answer. It is no `async` function, which nobody
    would await. `collaboration_state` may be replaced by one that was saved.
    """

    collaboration_state: CollaborationState

    def __init__(
        self,
        user_id: str,
        target_level: int = 3,
        pattern_library: PatternLibrary | None = None,
        *,
        responder: Responder | None = None,
    ) -> None:
        self.user_id = text(user_id, "user_id", MAX_ID)
        self.target_level = integer(target_level, "target_level", LEVELS[0], LEVELS[-1])
        if pattern_library is not None and not isinstance(pattern_library, PatternLibrary):
            raise ArgumentTypeError(
                f"pattern_library must be a PatternLibrary, not {type(pattern_library).__name__}",
                argument="pattern_library",
            )
        if responder is not None and not callable(responder):
            raise ArgumentTypeError(f"responder must be callable, not {type(responder).__name__}", argument="responder")
        if any(map(inspect.iscoroutinefunction, (responder, getattr(responder, "__call__", None)))):  # noqa: B004 - not whether it can be called, but what that gives
            raise _asynchronous()
        self.pattern_library = PatternLibrary() if pattern_library is None else pattern_library
        self._responder = responder
        state = CollaborationState(user_id, target_level=target_level)
        state.current_level = level_of(state.trust_level, target_level)
        self.collaboration_state = state
        self._used: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.user_id!r}, target_level={self.target_level})"

    def interact(self, user_id: str, user_input: str, context: Mapping[str, Any]) -> Response:
        """Answer the user from the best pattern that fits the context.

        What the responder raises is passed on; `ArgumentTypeError` if what it returns is no str.
        """
        if text(user_id, "user_id", MAX_ID) != self.user_id:
            raise ArgumentError(
                f"user_id must be {self.user_id!r}, the user of this agent, not {user_id!r}", argument="user_id"
            )
        if not isinstance(user_input, str):
            raise ArgumentTypeError(f"user_input must be a str, not {type(user_input).__name__}", argument="user_input")
        matches = self.pattern_library.find_patterns(context)
        best = matches[0].pattern if matches else None
        self._used = None if best is None else best.id
        if self._responder is not None:
            answer = _require_text(self._responder(user_input, context, best))
        elif best is not None:
            answer = best.code or best.description or best.name
        else:
            answer = "I know no pattern for this yet."
        linked = [] if best is None else self.pattern_library.get_related_patterns(best.id)
        likely = [pattern.name for pattern in (*linked, *(match.pattern for match in matches[1:]))]
        return Response(
            answer,
            self.collaboration_state.current_level,
            0.0 if best is None else best.confidence,
            list(dict.fromkeys(likely)),
            self._used,
        )

    def record_success(self, success: bool) -> None:
        """Say how the last interaction went: trust moves, and the pattern that was used is counted, once."""
        boolean(success, "success")
        used, self._used = self._used, None
        if used is not None:
            with contextlib.suppress(PatternNotFoundError):  # It was removed meanwhile: nothing is left to count.
                self.pattern_library.record_pattern_outcome(used, success)
        self.collaboration_state.record(success)


def _require_text(answer: object) -> str:
    if isinstance(answer, str):
        return answer
    if inspect.iscoroutine(answer):
        answer.close()  # It will not be awaited, and would say so.
        raise _asynchronous()
    raise ArgumentTypeError(
        f"responder must return the answer as a str, not {type(answer).__name__}", argument="responder"
    )


def _asynchronous() -> ArgumentTypeError:
    return ArgumentTypeError(
        "responder must be a function that returns a str, not an async one, which nobody would await: let it wait for "
        "what is asynchronous, as by asyncio.run, and where a loop is running call `interact` in a thread",
        argument="responder",
    )
