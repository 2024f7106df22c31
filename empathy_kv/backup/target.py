"""Where backups are kept: what any such place can do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Protocol

from attrs import frozen


@frozen
class Found:
    """An object of a target. `path` is below the target; `regular` is False for a link or another thing on a disk."""

    path: str
    size: int
    modified: datetime
    regular: bool = True


class Target(Protocol):
    """A place for objects with paths of one or two names, `a` or `a/b`. Its repr holds no credential.

    `UnavailableError` if it cannot be reached, `StoragePermissionError` if it does not let us, `StorageError` if it
    refuses for another reason.
    """

    def put(self, path: str, data: bytes) -> None:
        """Write an object, whole or not at all. It is durable when this returns; one that was there is replaced."""

    def get(self, path: str, most: int) -> Iterator[bytes]:
        """Yield the content of an object in pieces, which together have at most one piece more than `most` bytes.

        `MissingFileError` if there is none, `DamagedError` if it is no regular file, before the first piece.
        """

    def objects(self) -> tuple[list[Found], list[str]]:
        """Return the objects directly below the target, and the names that have objects below them."""

    def below(self, name: str) -> list[Found]:
        """Return all objects below a name; none if there is no such name. A path is `name/...`."""

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects, durably. One that is not there is no error.

        `name/` is what a directory may leave of a name: one with nothing in it.
        """

    def close(self) -> None:
        """Give back what it holds."""
