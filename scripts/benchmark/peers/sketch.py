"""The least that the jobs on a disk take, and a sketch of a store that does little more."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from documents import decode, encode

from empathy_kv import Pattern
from peers.shape import Documents, Pairs


class _Log:
    """A sketch of a store: documents are appended to one file, a dict knows where the last of a key stands.

    Many processes may use it. What it lacks makes the difference: checksums, a bound to its size, recovery.
    """

    _HEAD: Final = struct.Struct("<II")

    def __init__(self, place: Path) -> None:
        self._file = os.open(f"{place}/log", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0

    def put(self, key: str, document: Pattern) -> None:
        self._append(key.encode(), encode(document))

    def delete(self, key: str) -> None:
        self._append(key.encode(), b"")

    def get(self, key: str) -> Pattern | None:
        self._follow()
        place = self._places.get(key)
        return None if place is None else decode(os.pread(self._file, place[1], place[0]))

    def items(self, _: Sequence[str]) -> Pairs:
        self._follow()
        return [(key, decode(os.pread(self._file, length, offset))) for key, (offset, length) in self._places.items()]

    def close(self) -> None:
        os.close(self._file)

    def _append(self, key: bytes, data: bytes) -> None:
        line = self._HEAD.pack(len(key), len(data)) + key + data
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            self._follow()
            os.write(self._file, line)
            self._take(line)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _follow(self) -> None:
        """Take in what was appended, by whomever."""
        size = os.fstat(self._file).st_size
        if size != self._end:
            self._take(os.pread(self._file, size - self._end, self._end))

    def _take(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            of_key, of_data = self._HEAD.unpack_from(data, at)
            start = at + self._HEAD.size
            key = data[start : start + of_key].decode()
            if of_data:
                self._places[key] = self._end + start + of_key, of_data
            else:
                self._places.pop(key, None)
            at = start + of_key + of_data
        self._end += len(data)


def sketch(place: str) -> Documents:
    """Open a sketch of a store."""
    log = _Log(Path(place))
    return Documents(log.put, log.get, log.delete, log.items, log.close)


def appender(place: str) -> tuple[Callable[[bytes], int], Callable[[], None]]:
    """Return what appends bytes to a file of this process alone and tells how many, and what closes it."""
    file = os.open(f"{place}/log", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    return partial(os.write, file), partial(os.close, file)


_TOMBSTONE: Final = b"x" * 40


def bare(place: str) -> Documents:
    """Open what is no store: a document is made bytes in C and appended, and read where it is known to stand.

    What else is asked for is done as if it had been there: a `get` always reads the first document.
    """
    file = os.open(f"{place}/log", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    lengths: list[int] = []

    def put(_: str, document: Pattern) -> None:
        lengths.append(os.write(file, encode(document)))

    def get(_: str) -> Pattern:
        return decode(os.pread(file, lengths[0], 0))

    def items(_: Sequence[str]) -> Pairs:
        data = os.pread(file, sum(lengths), 0)
        found, at = [], 0
        for length in lengths:
            document = decode(data[at : at + length])
            found.append((document.id, document))
            at += length
        return found

    return Documents(put, get, lambda _: os.write(file, _TOMBSTONE), items, lambda: os.close(file))


def synced(place: str) -> Documents:
    """Open what is no store: `put` appends 700 bytes and waits for the disk, the least that a durable one does."""
    file = os.open(f"{place}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    data = b"x" * 699 + b"\n"
    sync = getattr(os, "fdatasync", os.fsync)

    def put(_: str, __: Pattern) -> None:
        os.write(file, data)
        sync(file)

    return Documents(put, lambda _: None, lambda _: None, lambda _: [], lambda: os.close(file))
