"""The journal of a namespace: an open file, and how far it was taken over into a table. Appending is the commit.

::

    <namespace>/journal/
      00000007          the journal; a checkpoint begins the next number
      lock              of the one who makes a checkpoint; never unlinked
      *.new             a file being written; left by a crash, swept at the next checkpoint

Its form is that of `frames`. Readers ask for its size alone to know whether anything was committed.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from empathy_kv.errors import DamagedError, StorageError
from empathy_kv.kv.files import disk, frames

_NUMBER: Final = re.compile(r"[0-9]{8,}")
_NONE: Final = disk.NONE


class Journal:
    """The newest journal in a directory. The caller serialises the calls."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.descriptor = _NONE
        self.reset()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # Bound here, because at the end of the interpreter the modules may be gone.
        try:
            if self.descriptor >= 0:
                close(self.descriptor)
        except OSError:
            pass

    def reset(self) -> None:
        """Close the file, and know nothing."""
        descriptor, self.descriptor = self.descriptor, _NONE
        disk.shut(descriptor)
        self.number = 0
        self._place = ""
        self._file = 0
        self.revision = 0
        """That of the last line that was taken."""
        self.offset = self.began = self.synced = 0
        """How many bytes were taken; where the lines begin; how many bytes are durable at least."""
        self.refusal: OSError | None = None
        """Why it may only be read."""
        self.ended = self.cut = self.suspect = False
        """Whether the next number goes on; whether a frame cut short follows; whether a sync failed."""
        self.booted = self._lenient = False
        """Whether the machine was started since it was begun."""

    @property
    def path(self) -> Path:
        """Where it stands."""
        return place(self.directory, self.number)

    # Whether there is news

    def moved(self) -> bool:
        """Return whether it may hold more, or less, than was taken."""
        if self.descriptor == _NONE:
            return bool(numbers(self.directory))
        if self.ended:
            return numbers(self.directory)[-1:] != [self.number]
        return os.lseek(self.descriptor, 0, os.SEEK_END) != self.offset

    @property
    def usable(self) -> bool:
        """Whether it may be appended to, by whoever has taken all of it."""
        return not (self.descriptor == _NONE or self.ended or self.booted or self.suspect)

    def current(self) -> bool:
        """Return whether it is as it was taken, was not removed, and may be appended to."""
        if self.cut or self.refusal is not None or not self.usable:
            return False
        status = os.fstat(self.descriptor)
        return status.st_size == self.offset and status.st_nlink > 0

    def gone(self) -> bool:
        """Return whether the file is no more where it was: a checkpoint goes on in another, or somebody removed it.

        It is asked for by name: of a directory that was moved away, the files that are open are as they were.
        """
        if self.descriptor == _NONE:
            return False
        try:
            return os.lstat(self._place).st_ino != self._file
        except FileNotFoundError:
            return True

    # Opening

    def attach(self) -> frames.Head | None:
        """Open the newest journal and return its head, None if there is none."""
        for _ in range(100):
            newest = numbers(self.directory)[-1:]
            if not newest:
                return None
            with contextlib.suppress(FileNotFoundError):  # A checkpoint has just begun the next.
                return self.open(newest[0])
        raise StorageError(f"{self.directory} changes faster than it can be read", path=str(self.directory))

    def open(self, number: int) -> frames.Head:
        """Open a journal in the place of the one that was open, and return its head."""
        path = place(self.directory, number)
        descriptor, refusal = disk.opened(path)
        try:
            status = os.fstat(descriptor)
            if status.st_nlink > 1:
                raise DamagedError(f"{path} has another name: it is a hard link", path=str(path))
            head, end = begin(descriptor, str(path))
        except BaseException:
            disk.shut(descriptor)
            raise
        self.reset()
        self.descriptor, self.refusal, self.number = descriptor, refusal, number
        self._place, self._file = str(path), status.st_ino
        self.offset = self.began = self.synced = end
        self.revision = head.revision
        self.booted = head.boot != disk.boot()
        self._lenient = self.booted or not head.boot
        return head

    # Reading

    def take(self) -> list[bytes]:
        """Return the lines that were committed since the last call, in order, for `frames.read`.

        `ended` and `cut` say what follows them.
        """
        size = os.lseek(self.descriptor, 0, os.SEEK_END)
        if size == self.offset:
            return []
        path = str(self.path)
        for pause in (0.0005, 0.005, 0.0):
            try:
                data = load(self.descriptor, self.offset, size - self.offset)
                part = frames.parse(data, path, self.offset, booted=self._lenient)
                break
            except DamagedError:
                # A frame may have been taken back, and another written, while it was read: look again.
                if not pause:
                    raise
                time.sleep(pause)
                size = os.lseek(self.descriptor, 0, os.SEEK_END)
        revision = self.revision
        for payload in part.payloads:
            revision = frames.revision(payload, revision, path)
        self.revision = revision
        self.offset = part.end
        self.cut, self.ended = part.cut, part.ended
        return part.payloads

    # Writing; under the lock of who writes

    def append(self, data: bytes) -> None:
        """Write frames at the end. If that fails, none of them is there; after an interrupt, all of them may be."""
        try:
            disk.append(self.descriptor, data)
        except OSError:
            self.take_back()
            if len(data) > frames.HEADER + frames.following(data[: frames.HEADER]):
                self.end_here()
            raise

    def taken(self, data: bytes, revision: int) -> None:
        """Note that the table has the frames that were appended."""
        self.offset += len(data)
        self.revision = revision

    def take_back(self) -> None:
        """Remove frames that were not committed. If that fails, too, the next writer does it."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.descriptor, self.offset)

    def end_here(self) -> None:
        """End it after a whole frame was taken back, since a reader may have that: another as long would be no news.

        The end is shorter than any frame, so whoever has read on begins anew.
        """
        with contextlib.suppress(OSError):
            self.end()

    def mend(self) -> None:
        """Remove a frame that is cut short."""
        if self.cut and not self.ended:
            os.ftruncate(self.descriptor, self.offset)
            self.cut = False

    def sync(self) -> None:
        """Make what was appended durable. After a failure nothing may be appended any more.

        The kernel drops what it could not write, and the next sync would say that all is well.
        """
        try:
            disk.sync_data(self.descriptor)
        except BaseException:
            self.suspect = True
            raise

    def end(self) -> None:
        """Say that the next number goes on: whoever has this one open must not append to it any more."""
        if self.descriptor != _NONE and not self.ended:
            self.append(frames.END)
            self.offset += len(frames.END)
            self.ended = True


def place(directory: Path, number: int) -> Path:
    """Return where a journal stands."""
    return directory / f"{number:08}"


def numbers(directory: Path) -> list[int]:
    """Return the numbers of the journals in a directory, in order."""
    try:
        return sorted(int(name) for name in os.listdir(directory) if _NUMBER.fullmatch(name))
    except FileNotFoundError:
        return []


def begin(descriptor: int, path: str) -> tuple[frames.Head, int]:
    """Read the head of an open journal; return it and where the first line begins."""
    start = load(descriptor, 0, frames.HEADER)
    data = start + load(descriptor, frames.HEADER, frames.following(start))
    return frames.read_head(data, path), len(data)


def load(descriptor: int, offset: int, size: int) -> bytes:
    """Return a piece of an open journal; less than `size` if it was cut meanwhile."""
    pieces: list[bytes] = []
    while size > 0:
        piece = _pread(descriptor, size, offset)
        if not piece:
            break
        pieces.append(piece)
        offset += len(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


if sys.platform == "win32":

    def _pread(descriptor: int, size: int, offset: int) -> bytes:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)

else:

    def _pread(descriptor: int, size: int, offset: int) -> bytes:
        return os.pread(descriptor, size, offset)
