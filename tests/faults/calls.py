"""The system calls that code makes on the files below one directory: seen one by one, and died at or failed at.

A layer over `os` and `fcntl`, in this process alone and for as long as it is wanted::

    with Calls(directory) as calls:
        with calls.under(record()): ...                    # then calls.made
        with calls.under(kill_at(7)): ...                  # SIGKILL before the seventh call
        with calls.under(fail_at(7, errno.ENOSPC)): ...    # the seventh call raises OSError
        with calls.under(meanwhile_at(7, act)): ...        # act() happens before the seventh call

Files that are opened with `open` and its kin are seen too, because the pure Python twin of `io` takes its place
meanwhile; so is `syncfs`, which only `ctypes` reaches. What bypasses the layer (another C library, mmap) is found by
comparing it with strace, which `test_calls.py` does.
"""

from __future__ import annotations

import _pyio
import builtins
import ctypes
import errno
import fcntl
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import BuiltinFunctionType
from typing import Any, Final, Self

from attrs import Factory, define, frozen

SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
_CHANGE: Final = (errno.EIO, errno.EROFS)

ERRNOS: Final[dict[str, tuple[int, ...]]] = {
    "open": (errno.EIO, errno.EMFILE),
    "create": (*_CHANGE, errno.EMFILE, *SPACE),
    "scandir": (errno.EIO, errno.EMFILE),
    "dup": (errno.EMFILE,),
    "read": (errno.EIO,),
    "pread": (errno.EIO,),
    "write": (errno.EIO, *SPACE),
    "pwrite": (errno.EIO, *SPACE),
    "writev": (errno.EIO, *SPACE),
    "fallocate": (errno.EIO, *SPACE),
    "fsync": (errno.EIO, *SPACE),
    "fdatasync": (errno.EIO, *SPACE),
    "syncfs": (errno.EIO, *SPACE),
    "close": (errno.EIO,),
    "rename": (*_CHANGE, *SPACE),
    "link": (*_CHANGE, *SPACE),
    "symlink": (*_CHANGE, *SPACE),
    "mkdir": (*_CHANGE, *SPACE),
    "unlink": _CHANGE,
    "rmdir": _CHANGE,
    "truncate": _CHANGE,
    "ftruncate": (errno.EIO,),
    "chmod": _CHANGE,
    "utime": _CHANGE,
    "stat": (errno.EIO,),
    "access": (errno.EIO,),
    "readlink": (errno.EIO,),
    "statvfs": (errno.EIO,),
    "flock": (errno.ENOLCK,),
    "unlock": (),
    "lockf": (errno.ENOLCK,),
    "fcntl": (),
    "lseek": (),
}
"""What each call may fail with. EINTR is not among it: Python repeats the call, so no code of Python's ever sees it."""

LOOKS: Final = ("stat", "access", "readlink", "statvfs", "lseek", "fcntl", "ioctl", "getdents64")
"""Calls that change nothing, and of which `open` and its twin each make a few of their own."""
WRITES: Final = ("write", "pwrite", "writev")
SYNCS: Final = ("fsync", "fdatasync", "syncfs")

# The functions of `os` by the name of the call that they make.
_FUNCTIONS: Final = {
    "open": "open",
    "scandir": "scandir",
    "listdir": "scandir",
    "dup": "dup",
    "read": "read",
    "readv": "read",
    "pread": "pread",
    "preadv": "pread",
    "write": "write",
    "writev": "writev",
    "pwrite": "pwrite",
    "posix_fallocate": "fallocate",
    "fsync": "fsync",
    "fdatasync": "fdatasync",
    "close": "close",
    "rename": "rename",
    "replace": "rename",
    "link": "link",
    "symlink": "symlink",
    "mkdir": "mkdir",
    "unlink": "unlink",
    "remove": "unlink",
    "rmdir": "rmdir",
    "truncate": "truncate",
    "ftruncate": "ftruncate",
    "chmod": "chmod",
    "fchmod": "chmod",
    "utime": "utime",
    "stat": "stat",
    "lstat": "stat",
    "fstat": "stat",
    "access": "access",
    "readlink": "readlink",
    "statvfs": "statvfs",
    "lseek": "lseek",
}
_LOCKS: Final = {"flock": "flock", "lockf": "lockf", "fcntl": "fcntl"}
_SECOND_IS_FILE: Final = ("rename", "link", "symlink")
_ACCESS: Final = os.access
_CDLL: Final = ctypes.CDLL


@frozen
class Call:
    """One call: its place in the sequence (the first is 1), its name, and its file, relative to the directory."""

    number: int
    name: str
    file: str
    errnos: tuple[int, ...]

    def __str__(self) -> str:
        return f"call {self.number}, {self.name} {self.file}"


@define
class Fault:
    """What happens at which call, and the calls that it has met so far. Made by the functions below."""

    number: int | None = None
    raises: int | type[BaseException] | None = None
    persistent: bool = False
    part: float | None = None
    kills: bool = False
    meanwhile: Callable[[], None] | None = None
    met: list[Call] = Factory(list)

    def __str__(self) -> str:
        if self.kills:
            what = "SIGKILL"
        elif isinstance(self.raises, int):
            what = errno.errorcode[self.raises]
        else:
            what = "no error" if self.raises is None else self.raises.__name__
        part = "" if self.part is None else f" after {self.part:.0%} of the bytes"
        return f"{what}{part}{' from then on' * self.persistent}"

    def meet(self, call: Call, do: Callable[[], Any], cut: Callable[[float], Any]) -> Any:
        """Make the call, or what this fault makes of it."""
        if not self._due(call):
            return do()
        self.met.append(call)
        if self.meanwhile is not None:
            self.meanwhile()
            return do()
        if self.part is not None and call.number == self.number:
            result = cut(self.part)
            if not self.kills:
                return result
        if self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if call.name == "close":
            do()  # Linux takes the descriptor away, whatever close returns.
        if isinstance(self.raises, int):
            raise OSError(self.raises, os.strerror(self.raises))
        assert self.raises is not None
        raise self.raises

    def _due(self, call: Call) -> bool:
        if self.number is None or call.number < self.number:
            return False
        if call.number == self.number:
            return True
        return self.persistent and self.raises in call.errnos


def record() -> Fault:
    """Let everything happen."""
    return Fault()


def kill_at(number: int, *, part: float | None = None) -> Fault:
    """SIGKILL before the call; with `part`, after this share of the bytes that it was to write."""
    return Fault(number, kills=True, part=part)


def fail_at(
    number: int, error: int | type[BaseException], *, persistent: bool = False, part: float | None = None
) -> Fault:
    """Let the call raise OSError with this errno (or this exception).

    `persistent`: from then on every call that can fail with it does; with `part`, this call still writes that share of
    its bytes.
    """
    return Fault(number, error, persistent, part)


def meanwhile_at(number: int, act: Callable[[], None]) -> Fault:
    """Let something else happen before the call."""
    return Fault(number, meanwhile=act)


def short_at(number: int) -> Fault:
    """Let the call write half of its bytes and say so, which is no error."""
    return Fault(number, part=0.5)


def _errnos(name: str, arguments: tuple[Any, ...]) -> tuple[int, ...]:
    if name == "open" and arguments[1] & os.O_CREAT and not _ACCESS(arguments[0], os.F_OK):
        name = "create"
    elif name == "flock" and arguments[1] & fcntl.LOCK_UN:
        name = "unlock"
    return ERRNOS[name]


def _syncfs(descriptor: int) -> None:
    if _CDLL(None, use_errno=True).syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class _Library(ctypes.CDLL):
    """The C library with a `syncfs` that is watched. It is found again where somebody keeps it for the next layer."""

    syncfs: Any = None

    def __getattribute__(self, name: str) -> Any:
        if name != "syncfs":
            return super().__getattribute__(name)

        def syncfs(descriptor: int) -> int:
            try:
                _Library.syncfs(descriptor)
            except OSError as error:
                ctypes.set_errno(error.errno or 0)
                return -1
            return 0

        return syncfs


class Calls:
    """The layer, for the files below `directory`, which must not be a link."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._files: dict[int, str] = {}
        self._fault: Fault | None = None
        self._originals: list[tuple[Any, str, Any]] = []
        self.made: list[Call] = []

    def __enter__(self) -> Self:
        watched: dict[Any, Any] = {}
        for module, functions in ((os, _FUNCTIONS), (fcntl, _LOCKS)):
            for function, name in functions.items():
                if hasattr(module, function):
                    original = getattr(module, function)
                    watched[original] = self._watched(name, original)
                    self._replace(module, function, watched[original])
        for module_name, each in list(sys.modules.items()):
            if module_name.startswith("empathy_kv"):  # It may have such a function under a name of its own.
                for name, value in list(vars(each).items()):
                    if isinstance(value, BuiltinFunctionType) and value in watched:
                        self._replace(each, name, watched[value])
        self._replace(io, "FileIO", _pyio.FileIO)
        self._replace(io, "open", _pyio.open)
        self._replace(builtins, "open", _pyio.open)
        self._replace(ctypes, "CDLL", _Library)
        _Library.syncfs = self._watched("syncfs", _syncfs)
        return self

    def __exit__(self, *_: object) -> None:
        for module, name, original in reversed(self._originals):
            setattr(module, name, original)
        self._originals.clear()

    def _replace(self, module: Any, name: str, substitute: Any) -> None:
        self._originals.append((module, name, getattr(module, name)))
        setattr(module, name, substitute)

    @contextmanager
    def under(self, fault: Fault) -> Iterator[Fault]:
        """Number the calls from 1 on and let them meet the fault. Outside of this nothing is seen, and all works."""
        self.made, self._fault = [], fault
        try:
            yield fault
        finally:
            self._fault = None

    def _watched(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            file = self._file(name, arguments, options)
            if file is None:
                return original(*arguments, **options)

            def do() -> Any:
                result = original(*arguments, **options)
                if name in ("open", "dup"):
                    self._files[result] = file
                elif name == "close":
                    self._files.pop(arguments[0], None)
                return result

            def cut(part: float) -> Any:
                data = b"".join(arguments[1]) if name == "writev" else bytes(arguments[1])
                piece = data[: int(len(data) * part)]
                return original(arguments[0], [piece] if name == "writev" else piece, *arguments[2:])

            if self._fault is None:
                return do()
            made = Call(len(self.made) + 1, name, file[len(self._directory) + 1 :] or ".", _errnos(name, arguments))
            self.made.append(made)
            return self._fault.meet(made, do, cut)

        return call

    def _file(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> str | None:
        """Return the file that a call is about, if it is one of ours."""
        for place in (0, 1) if name in _SECOND_IS_FILE else (0,):
            file = self._resolved(arguments[place] if len(arguments) > place else options.get("path", "."), options)
            if file is not None and (file == self._directory or file.startswith(self._directory + os.sep)):
                return file
        return None

    def _resolved(self, value: Any, options: dict[str, Any]) -> str | None:
        if hasattr(value, "fileno"):
            value = value.fileno()
        if isinstance(value, int):
            return self._files.get(value)
        path = os.fsdecode(value)
        folder = next((options[name] for name in ("dir_fd", "src_dir_fd") if options.get(name) is not None), None)
        return os.path.join(self._files.get(folder, "") if folder is not None else os.getcwd(), path)
