"""A snapshot of namespaces on servers: what changed since it began is known, and for a moment nobody writes.

Each namespace has a watch, in which the writes note what they change (`script.watching`). It expires if nobody renews
it, so of a process that dies in the middle nothing stays. A server that is started again, and one that takes the place
of another, may lack the last writes, some of which were read; that ends the snapshot.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from empathy_kv.errors import EmpathyKVError, LockTimeoutError, UnavailableError
from empathy_kv.kv.interface import KV
from empathy_kv.kv.operations import Batch, Name, Reply

_WATCHED: Final = 60_000
"""Milliseconds after which a watch expires that is not renewed."""
_RENEWED: Final = 10.0
"""Seconds after which it is."""
_STILL: Final = 1_000
"""Milliseconds that writers wait at most: a process that dies lets them go on then."""


class ServerSnapshot:
    """Namespaces of one engine. `ask` puts a question to the watches of all, `keys_of` reads what one has seen."""

    def __init__(
        self,
        kv: KV,
        namespaces: Sequence[Name],
        ask: Callable[[str, str, int, Sequence[int]], list[Any]],
        keys_of: Callable[[Name, Sequence[bytes]], dict[str, int]],
    ) -> None:
        self._kv = kv
        self._namespaces = namespaces
        self._ask = ask
        self._keys_of = keys_of
        self._who = secrets.token_hex(8)
        self._asked = time.monotonic()
        self._seen = [0] * len(namespaces)
        """Of each namespace, up to which revision its changes were told."""
        self._seen = [int(revision) for revision in self._answered("begin", _WATCHED)]

    def several(self, batches: Sequence[Batch]) -> list[list[Reply]]:
        """Execute batches that only read, of any of the namespaces, and return the replies of each."""
        if time.monotonic() - self._asked > _RENEWED:
            self._look()  # What it has seen stays there.
        return self._kv.several(batches)

    def keys(self, namespace: Name) -> Iterator[str]:
        """Yield each key of a namespace."""
        return self._kv.keys(namespace)

    def changed(self) -> Mapping[Name, set[str]]:
        """Return the keys that were written since the snapshot was begun, or since the last call."""
        changed: dict[Name, set[str]] = {}
        for place, (namespace, watched) in enumerate(zip(self._namespaces, self._look(), strict=True)):
            revisions = self._keys_of(namespace, watched)
            if revisions:
                changed[namespace] = set(revisions)
                self._seen[place] = max(revisions.values())
        return changed

    def _look(self) -> list[Any]:
        self._asked = time.monotonic()
        return self._answered("look", _WATCHED)

    def _answered(self, verb: str, milliseconds: int) -> list[Any]:
        answers = self._ask(verb, self._who, milliseconds, self._seen)
        if None in answers:
            raise UnavailableError(
                "the server forgot about the snapshot while it was being taken, or another one took its place; "
                "take it again"
            )
        return answers

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Let nobody write while the block runs; `LockTimeoutError` at its end if it took too long."""
        began = time.monotonic()
        self._answered("still", _STILL)
        try:
            yield
        finally:
            kept = None not in self._ask("go on", self._who, 0, self._seen)
        # By a clock of ours, from before the first server let its writers wait.
        if not kept or time.monotonic() - began >= _STILL / 1000:
            raise LockTimeoutError(
                "the writers were not to be kept waiting for so long", path="", timeout=_STILL / 1000
            )

    def close(self) -> None:
        """Watch no more."""
        with contextlib.suppress(EmpathyKVError):  # It expires.
            self._ask("end", self._who, 0, self._seen)
