"""Lines on disk for a while: what is read faster than it is wanted, or has to be read twice."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from empathy_kv.kv.files.disk import translated

_BUFFER: Final = 1 << 18


class Spool:
    """A temporary file of lines, in the directory that TMPDIR names. It has no name, and goes when it is closed.

    First it is written, then it is read. `StorageError` if the disk is full.
    """

    def __init__(self) -> None:
        self._place = Path(tempfile.gettempdir())
        with translated(self._place):
            self._file = tempfile.TemporaryFile(buffering=_BUFFER)  # noqa: SIM115 - it is closed by `close`
        self._size = 0

    def append(self, line: bytes) -> int:
        """Write a line, without its end, and return where it begins."""
        start = self._size
        with translated(self._place):
            self._file.write(line)
            self._file.write(b"\n")
        self._size += len(line) + 1
        return start

    def __iter__(self) -> Iterator[bytes]:
        """Yield all lines, in order."""
        with translated(self._place):
            self._file.seek(0)
            for line in self._file:
                yield line[:-1]

    def at(self, start: int) -> bytes:
        """Return the line that begins there."""
        with translated(self._place):
            self._file.seek(start)
            line: bytes = self._file.readline()
        return line[:-1]

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
