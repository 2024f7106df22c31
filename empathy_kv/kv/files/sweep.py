"""The documents of keys that expired, and that nobody asks for again: a checkpoint removes them, too.

Nothing in memory knows them all: the process that wrote one may have ended. So the documents are looked through, but
only when one may have expired, which the head of the journal tells, and in about a hundredth of the time: the more
there are, the longer until the next look. Others can write meanwhile.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from attrs import frozen

from empathy_kv.errors import DamagedError
from empathy_kv.kv.files import disk, documents
from empathy_kv.kv.files.names import name
from empathy_kv.kv.files.overlay import SUFFIX, Overlay, Tombstone, listed
from empathy_kv.kv.table import Entry

MOST: Final = 10_000
"""Documents that one checkpoint removes: until they are gone, nobody can write."""

_PAUSE: Final = 1
"""Milliseconds without another look for each document that was looked at, which takes some 10 us."""
_START: Final = 4096
"""Bytes in which the expiry of a document stands, however long its key is."""
_EXPIRES: Final = re.compile(rb'\{"key":"(?:[^"\\]|\\.)*","version":[0-9]+,"expires":([0-9]+),')


@frozen
class Swept:
    """What a look at documents found."""

    found: dict[str, int]
    """Keys that had expired, and when."""
    others: int | None
    """A time before which no other expires; None: none ever does."""
    again: int
    """When it is worth another look."""

    def expired(self, at: int) -> list[str]:
        """Return the keys that have expired at a time. A clock may have gone back since."""
        return [key for key, expires in self.found.items() if expires <= at]

    def due(self, at: int) -> int | None:
        """Return when to look again, once those that have expired at a time are gone; None: never."""
        times = [expires for expires in self.found.values() if expires > at]
        if self.others is not None:
            times.append(self.others)
        return max(self.again, min(times)) if times else None


def due(table: Overlay, at: int) -> bool:
    """Return whether a document may have expired that the journal does not touch."""
    return table.due is not None and table.due <= at


def look(path: Path, at: int) -> Swept:
    """Look for documents in a directory that have expired at a time. Nobody may write documents meanwhile."""
    found: dict[str, int] = {}
    others: int | None = None
    again = at
    try:
        for file in listed(path):
            again += _PAUSE
            try:
                expires = _expires(file)
                if expires is None:
                    continue
                if expires > at:
                    others = expires if others is None else min(others, expires)
                    continue
                key, entry = documents.decode(disk.load(file), file)
            except (FileNotFoundError, DamagedError):
                continue  # Who asks for it says what is wrong with it.
            if entry.expires is not None and os.path.basename(file) == f"{name(key)}{SUFFIX}":
                found[key] = entry.expires
            if len(found) == MOST:
                others = 0
                break
    except OSError:
        others = 0  # No checkpoint fails because of what need not be removed now.
    return Swept(found, others, again)


def earliest(due: int | None, entries: Iterable[Entry | Tombstone], at: int) -> int | None:
    """Return the earliest of a time and of when entries expire that have not at a time; None: never."""
    for entry in entries:
        if isinstance(entry, Entry) and entry.expires is not None and entry.expires > at:
            due = entry.expires if due is None else min(due, entry.expires)
    return due


def _expires(path: str) -> int | None:
    """Return when a document expires. That costs a part of reading it."""
    descriptor = disk.reading(path)
    try:
        match = _EXPIRES.match(os.read(descriptor, _START))
    finally:
        disk.shut(descriptor)
    return None if match is None else int(match[1])
