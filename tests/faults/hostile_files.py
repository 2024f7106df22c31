"""What somebody may have put in the place of a file or directory, and what lies outside and must not change."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest
from faults.apart import require_root


def _socket(path: Path, outside: Path) -> None:
    # A path that is bound must be short.
    here = os.open(path.parent, os.O_RDONLY)
    before = os.open(".", os.O_RDONLY)
    os.fchdir(here)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)
    os.fchdir(before)


def _device(minor: int) -> Callable[[Path, Path], None]:
    def make(path: Path, outside: Path) -> None:
        require_root()
        try:
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
            os.close(os.open(path, os.O_RDONLY))
        except PermissionError:
            pytest.skip("devices cannot be made or opened here")

    return make


def _directory(path: Path, outside: Path) -> None:
    path.mkdir()
    (path / "quiet.json").write_bytes(b"in a directory")


HOSTILE: Final[Mapping[str, Callable[[Path, Path], object]]] = {
    "a link to a file": lambda path, outside: path.symlink_to(outside / "file"),
    "a link to what it was": lambda path, outside: path.symlink_to(outside / "moved"),
    "a link to a directory": lambda path, outside: path.symlink_to(outside / "directory"),
    "a link to nothing": lambda path, outside: path.symlink_to(outside / "nothing"),
    "a link to itself": lambda path, outside: path.symlink_to(path),
    "a hard link to a file": lambda path, outside: path.hardlink_to(outside / "file"),
    "a hard link to an empty file": lambda path, outside: path.hardlink_to(outside / "empty"),
    "a hard link to what it was": lambda path, outside: path.hardlink_to(outside / "moved"),
    "a FIFO": lambda path, outside: os.mkfifo(path),
    "a socket": _socket,
    "a device without an end": _device(5),
    "a device that swallows all": _device(3),
    "a directory": _directory,
    "a foreign file": lambda path, outside: path.write_bytes(b"foreign"),
}


def prepare_outside(outside: Path) -> None:
    """Make what must not change: it lies beside the store, and links lead to it."""
    outside.mkdir()
    (outside / "file").write_bytes(b"do not touch")
    (outside / "empty").touch()
    (outside / "directory").mkdir()
    (outside / "directory" / "quiet.json").write_bytes(b"{}")
    for number, path in enumerate(sorted(outside.rglob("*"))):
        os.utime(path, ns=(10**18 + number, 10**18 + number))
        path.chmod(0o755 if path.is_dir() else 0o644)


def put(kind: str, place: Path, outside: Path) -> int:
    """Put it there, with what was there moved to `outside`, and return its inode."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(place):
        place.rename(outside / "moved")
    HOSTILE[kind](place, outside)
    return place.lstat().st_ino


def take_away(inode: int, place: Path, outside: Path) -> None:
    """Put back what was there, unless something else has been put there since."""
    if not os.path.lexists(place) or place.lstat().st_ino != inode:
        return
    if stat.S_ISDIR(place.lstat().st_mode):
        shutil.rmtree(place)
    else:
        place.unlink()
    if (outside / "moved").exists():
        (outside / "moved").rename(place)
