"""A directory as a target: files that are synced before their names are, and nothing that is followed.

A file of a backup appears under its name with all of its content: it is written beside it, synced and renamed, and
then the directory is synced. So what a power cut leaves is a manifest with all its parts, or none.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from empathy_kv.backup.target import Found
from empathy_kv.errors import DamagedError, MissingFileError
from empathy_kv.kv.files import disk

_PIECE: Final = 1 << 20


class Directory:
    """A directory of this machine. The first `put` makes it, for its owner alone."""

    def __init__(self, path: Path) -> None:
        # As it is now: `os.chdir` in between should not divide a backup.
        self._path = path.absolute()

    def __repr__(self) -> str:
        return str(self._path)

    def put(self, path: str, data: bytes) -> None:
        file = self._path / path
        with disk.translated(file):
            disk.make(file.parent)
            self._own(file)
            disk.replace(file, data, secrets.token_hex(4))
            disk.sync_directory(file.parent)

    def get(self, path: str, most: int) -> Iterator[bytes]:
        file = self._path / path
        with disk.translated(file):
            self._own(file)
            try:
                descriptor = disk.reading(file)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise MissingFileError(f"there is no file {file}", path=str(file)) from error
            with os.fdopen(descriptor, "rb", buffering=0) as stream:
                while most >= 0 and (piece := stream.read(_PIECE)):
                    most -= len(piece)
                    yield piece

    def objects(self) -> tuple[list[Found], list[str]]:
        files, directories = self._entries("")
        return files, directories

    def below(self, name: str) -> list[Found]:
        with disk.translated(self._path / name):
            self._own(self._path / name / "-")
        found, further = self._entries(f"{name}/")
        # A directory in it is not entered: nothing of ours is in one.
        now = datetime.now(UTC)
        return found + [Found(f"{name}/{each}", 0, now, regular=False) for each in further]

    def _entries(self, prefix: str) -> tuple[list[Found], list[str]]:
        found: list[Found] = []
        directories: list[str] = []
        place = self._path / prefix
        with disk.translated(place):
            try:
                scan = os.scandir(place)
            except (FileNotFoundError, NotADirectoryError):
                if place != self._path or not disk.there(place):
                    return [], []
                raise
            with scan:
                for entry in scan:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:  # Somebody else removed it meanwhile.
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        directories.append(entry.name)
                        continue
                    at = datetime.fromtimestamp(status.st_mtime, UTC)
                    found.append(Found(prefix + entry.name, status.st_size, at, stat.S_ISREG(status.st_mode)))
        return found, directories

    def delete(self, paths: Sequence[str]) -> None:
        changed: set[Path] = set()
        emptied: set[Path] = set()
        for path in paths:
            file = self._path / path
            if path.endswith("/"):
                emptied.add(file)
                continue
            emptied.add(file.parent)
            with disk.translated(file):
                self._own(file)
                with contextlib.suppress(FileNotFoundError):
                    file.unlink()
                    changed.add(file.parent)
        for directory in emptied - {self._path}:
            with contextlib.suppress(OSError):  # There is something else in it, or it is gone already.
                directory.rmdir()
                changed.discard(directory)
                changed.add(self._path)
        for directory in changed:
            with disk.translated(directory):
                disk.sync_directory(directory)

    def close(self) -> None:
        """Nothing is held."""

    def _own(self, file: Path) -> None:
        """Raise `DamagedError` if the directory of a backup is a link: it leads to what is not ours."""
        parent = file.parent
        if parent != self._path and parent.is_symlink():
            raise DamagedError(f"{parent} is no directory", path=str(parent))
