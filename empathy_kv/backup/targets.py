"""Where backups are kept: what a target can do, and which one a URL names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

from attrs import frozen

from empathy_kv.errors import ArgumentError
from empathy_kv.export import destination

_SERVICES: Final = ("s3", "az", "gs")


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


def opened(target: str | os.PathLike[str], timeout: float) -> Target:
    """Return the target that a path or a URL names: `DIR`, `file:DIR`, `s3://`, `az://` or `gs://BUCKET/PREFIX`.

    `ArgumentError` if it is none of them, and if what it needs is not installed. It says nothing of a service yet.
    """
    if not isinstance(target, str) or not (scheme := _scheme(target)):
        from empathy_kv.backup.directory import Directory

        return Directory(destination(target, "target"))
    if scheme == "file":
        from empathy_kv.backup.directory import Directory

        return Directory(_directory(target))
    if scheme not in _SERVICES:
        raise _wrong()
    bucket, prefix = _bucket(target)
    try:
        from empathy_kv.backup.service import Service
    except ImportError as error:
        raise ArgumentError(
            f"target must be a directory: obstore, which {scheme}:// needs, is not installed here; "
            "pip install 'empathy-kv[backup]' brings it",
            argument="target",
        ) from error
    return Service(scheme, bucket, prefix, timeout)


def _scheme(target: str) -> str | None:
    """Return the scheme of a URL, and None of a path; that of a drive (`C:`) has one letter."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://|(file):", target, re.IGNORECASE)
    return (match[1] or match[2]).lower() if match else None


def _wrong() -> ArgumentError:
    # Not the target itself: it may hold a password.
    return ArgumentError(
        "target must be a directory, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX; endpoint and "
        "credentials stand in the environment",
        argument="target",
    )


def _directory(target: str) -> Path:
    path = target[len("file:") :]
    if path.startswith("//"):
        parts = urlsplit(target)
        if parts.netloc not in ("", "localhost"):
            raise ArgumentError("target must name a directory of this machine, as file:///path", argument="target")
        path = unquote(parts.path)
    return destination(path, "target")


def _bucket(target: str) -> tuple[str, str]:
    bucket, _, prefix = target.partition("://")[2].partition("/")
    names = [name for name in prefix.split("/") if name]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", bucket) or any(
        name in (".", "..") or not name.isprintable() or set(name) & set("?#\\@*") for name in names
    ):
        raise _wrong()
    return bucket, "/".join(names)
