"""Records what a program does to a directory, call by call, by standing in front of the functions of `os`.

Nothing is killed and nothing fails: the calls are made as they are, and become the events of a `History`. A call that
passes by (a library in C, mmap) cannot stay unnoticed if it changed anything, for at the end the recorded events must
lead to what stands on the disk. A sync that passes by only makes the demands harder.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import fcntl
import functools
import io
import os
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from disk import ROOT, History, Mark, Names, Place, Resize, Sync, Tree, Write
from machine import forget, package

UNSEEN: Final = ("sendfile", "copy_file_range", "splice", "symlink", "mkfifo", "mknod", "pwritev", "removexattr")
"""Calls that would change a directory and that are not modelled."""


def read_tree(root: Path) -> Tree:
    """Return what stands below a directory."""
    found: Tree = {}
    for path in sorted(root.rglob("*")):
        found[path.relative_to(root).as_posix()] = None if path.is_dir() else path.read_bytes()
    return found


def build(root: Path, tree: Tree) -> None:
    """Make a directory that holds this, which must not exist."""
    root.mkdir()
    for path, content in tree.items():
        if content is None:
            os.mkdir(f"{root}/{path}", 0o700)
        else:
            descriptor = os.open(f"{root}/{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, content)
            os.close(descriptor)


class Recorder:
    """Writes what is done below `root` into `history`, which must say what stands there now."""

    def __init__(self, root: Path, history: History) -> None:
        self.history = history
        self._root = root
        self._inodes: dict[tuple[int, int], int] = {_identity(os.stat(root)): ROOT}
        for path, inode in history.cached().items():
            self._inodes[_identity(os.stat(root / path))] = inode
        numbers = {*history.contents, *history.directories, *history.cached().values(), *_created(history)}
        self._next = max(numbers) + 1
        self._lock = threading.RLock()
        self._real: dict[str, Any] = {}

    def mark(self, begun: int, acknowledged: int) -> None:
        with self._lock:
            self.history.events.append(Mark(begun, acknowledged))

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record what this process does in the block."""
        calls: dict[str, Callable[..., Any]] = {
            "open": self._open,
            "write": self._write,
            "writev": self._writev,
            "pwrite": self._pwrite,
            "ftruncate": self._truncate,
            "truncate": self._truncate,
            "posix_fallocate": self._fallocate,
            "fsync": self._sync,
            "fdatasync": self._sync,
            "sync": self._sync_all,
            "rename": self._rename,
            "replace": self._rename,
            "link": self._link,
            "unlink": self._remove,
            "remove": self._remove,
            "rmdir": self._remove,
            "mkdir": self._mkdir,
            **dict.fromkeys(UNSEEN, self._refuse),
        }
        substitutes = {
            real: functools.partial(self._call, call, real)
            for name, call in calls.items()
            if (real := getattr(os, name, None)) is not None
        }
        with pytest.MonkeyPatch.context() as patch:
            for module in [os, *package()]:  # A module may hold a function of `os` under a name of its own.
                for name, value in list(vars(module).items()):
                    if isinstance(value, types.BuiltinFunctionType) and value in substitutes:
                        patch.setattr(module, name, substitutes[value])
            opened = functools.partial(_open_file, io.open)
            patch.setattr(io, "open", opened)
            patch.setattr(builtins, "open", opened)
            # What was looked up before would pass by.
            forget()
            found = ctypes.CDLL.__getattr__
            patch.setattr(ctypes.CDLL, "__getattr__", lambda library, name: self._function(name, found(library, name)))
            yield
        forget()
        assert self.history.tree() == read_tree(self._root), "something was changed past the recorder"

    def _call(self, call: Callable[..., Any], real: Callable[..., Any], *args: Any, **named: Any) -> Any:
        with self._lock:  # The order of the events is that of the calls.
            return call(real, *args, **named)

    # Where a call goes to: an inode or a place of ours, None if it goes elsewhere

    def _inode(self, file: Any) -> int | None:
        return self._inodes.get(_identity(os.stat(file)))

    def _place(self, path: Any, directory: int | None = None) -> Place | None:
        parent, name = os.path.split(os.fsdecode(path))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            inode = self._inodes.get(_identity(os.stat(parent or ".", dir_fd=directory)))
            return None if inode is None else (inode, name)
        return None

    def _standing(self, place: Place) -> int | None:
        names = dict(self.history.names)
        for event in self.history.events:
            if isinstance(event, Names):
                names.update(event.changes)  # type: ignore[arg-type]  # None is "not there" here, too
        return names.get(place)

    def _add(self, changes: dict[Place, int | None]) -> None:
        self.history.events.append(Names(changes))
        # The system gives the number of a file that is gone to the next one.
        there = {ROOT, *self.history.cached().values()}
        self._inodes = {identity: inode for identity, inode in self._inodes.items() if inode in there}

    def _new(self, place: Place, status: os.stat_result) -> None:
        inode = self._next
        self._next += 1
        if os.path.stat.S_ISDIR(status.st_mode):
            self.history.directories.add(inode)
        self._add({place: inode})
        self._inodes[_identity(status)] = inode

    # The calls

    def _open(
        self, real: Callable[..., int], path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
    ) -> int:
        place = self._place(path, dir_fd) if flags & (os.O_CREAT | os.O_TRUNC) else None
        before = None if place is None else self._standing(place)
        descriptor = real(path, flags, mode, dir_fd=dir_fd)
        if place is not None:
            if before is None:
                self._new(place, os.fstat(descriptor))
            elif flags & os.O_TRUNC:
                self.history.events.append(Resize(before, 0))
        return descriptor

    def _write(self, real: Callable[..., int], descriptor: int, data: Any) -> int:
        inode = self._inode(descriptor)
        if inode is None:
            return real(descriptor, data)
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        at = os.fstat(descriptor).st_size if flags & os.O_APPEND else os.lseek(descriptor, 0, os.SEEK_CUR)
        return self._written(inode, at, data, real(descriptor, data), flags)

    def _writev(self, real: Callable[..., int], descriptor: int, buffers: Any) -> int:
        return self._write(lambda *_: real(descriptor, buffers), descriptor, b"".join(map(bytes, buffers)))

    def _pwrite(self, real: Callable[..., int], descriptor: int, data: Any, offset: int) -> int:
        inode = self._inode(descriptor)
        if inode is None:
            return real(descriptor, data, offset)
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        return self._written(inode, offset, data, real(descriptor, data, offset), flags)

    def _written(self, inode: int, offset: int, data: Any, count: int, flags: int) -> int:
        if count:
            self.history.events.append(Write(inode, offset, bytes(data)[:count]))
        if flags & os.O_DSYNC:
            self.history.events.append(Sync(inode))
        return count

    def _truncate(self, real: Callable[..., None], file: Any, length: int) -> None:
        inode = self._inode(file)
        real(file, length)
        if inode is not None:
            self.history.events.append(Resize(inode, length))

    def _fallocate(self, real: Callable[..., None], descriptor: int, offset: int, length: int) -> None:
        real(descriptor, offset, length)
        inode = self._inode(descriptor)
        if inode is not None:
            self.history.events.append(Resize(inode, os.fstat(descriptor).st_size))

    def _sync(self, real: Callable[..., None], descriptor: int) -> None:
        real(descriptor)
        inode = self._inode(descriptor)
        if inode is not None:
            self.history.events.append(Sync(inode))

    def _sync_all(self, real: Callable[..., None]) -> None:
        real()
        self.history.events.append(Sync(None))

    def _rename(
        self,
        real: Callable[..., None],
        source: Any,
        target: Any,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
    ) -> None:
        old, new = self._place(source, src_dir_fd), self._place(target, dst_dir_fd)
        real(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        if old is not None or new is not None:
            assert old is not None, "a file was moved in from elsewhere"
            assert new is not None, "a file was moved out"
            self._add({old: None, new: self._standing(old)})

    def _link(self, real: Callable[..., None], source: Any, target: Any, **named: Any) -> None:
        old, new = self._place(source, named.get("src_dir_fd")), self._place(target, named.get("dst_dir_fd"))
        real(source, target, **named)
        if new is not None:
            assert old is not None, "a link to a file elsewhere"
            self._add({new: self._standing(old)})

    def _remove(self, real: Callable[..., None], path: Any, *, dir_fd: int | None = None) -> None:
        place = self._place(path, dir_fd)
        real(path, dir_fd=dir_fd)
        if place is not None:
            self._add({place: None})

    def _mkdir(self, real: Callable[..., None], path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        place = self._place(path, dir_fd)
        real(path, mode, dir_fd=dir_fd)
        if place is not None:
            self._new(place, os.stat(path, dir_fd=dir_fd))

    def _function(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Stand in front of the one call of the C library that `os` does not have."""
        return functools.partial(self._call, self._sync_system, function) if name == "syncfs" else function

    def _sync_system(self, real: Callable[..., int], descriptor: int) -> int:
        result = real(descriptor)
        if result == 0 and os.fstat(descriptor).st_dev == os.stat(self._root).st_dev:
            self.history.events.append(Sync(None))
        return result

    def _refuse(self, real: Callable[..., Any], *args: Any, **named: Any) -> Any:
        raise NotImplementedError(f"the model of a disk knows no {real.__name__}")


class _File(io.FileIO):
    """A file that writes through `os`, where the recorder stands."""

    def write(self, data: Any) -> int:
        return os.write(self.fileno(), data)

    def truncate(self, size: int | None = None) -> int:
        length = self.tell() if size is None else size
        os.ftruncate(self.fileno(), length)
        return length


def _open_file(
    real: Callable[..., Any],
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> Any:
    if set(mode).isdisjoint("wax+"):
        return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
    raw = _File(
        file if isinstance(file, int) else os.fspath(file),
        mode.translate({ord("b"): None, ord("t"): None}),
        closefd,
        opener or (lambda path, flags: os.open(path, flags, 0o666)),
    )
    if buffering == 0:
        return raw
    binary: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
    return binary if "b" in mode else io.TextIOWrapper(binary, encoding, errors, newline, buffering == 1)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _created(history: History) -> Iterator[int]:
    for event in history.events:
        if isinstance(event, Names):
            yield from (inode for inode in event.changes.values() if inode is not None)
