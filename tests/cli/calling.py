"""What the tests of the command line are given: a command to call, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen


@frozen
class Done:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


Command = Callable[..., Done]
