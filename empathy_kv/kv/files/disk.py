"""What the engine asks of the operating system: whole files, durable names, nothing followed.

A few files are synced one by one; many by one `syncfs` of their file system, which on ext4 costs 10 us a file in the
place of 260. Where there is no `syncfs`, or it does not report errors (Linux before 5.8), each is synced.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from empathy_kv.errors import DamagedError, EmpathyKVError, StorageError, StoragePermissionError

FLAGS: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""Flags of every open: a link in the place of a file is not followed."""

NONE: Final = -1
"""In the place of a descriptor."""
# Without O_NONBLOCK a FIFO in the place of a file would keep us for ever.
_READ: Final = os.O_RDONLY | FLAGS | getattr(os, "O_NONBLOCK", 0)
_WRITE: Final = os.O_RDWR | os.O_APPEND | FLAGS | getattr(os, "O_NONBLOCK", 0)
_FEW: Final = 32
"""Files up to which each is synced: a sync of the whole file system waits for what others have written, too."""


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into one of ours."""
    try:
        yield
    except EmpathyKVError:
        raise
    except OSError as error:
        raise translate(error, path) from error


def translate(error: OSError, path: str | Path) -> StorageError:
    """Return our error for one of the operating system."""
    place = str(error.filename2 or error.filename or path)
    kind = StoragePermissionError if isinstance(error, PermissionError) else StorageError
    return kind(f"{error.strerror}: {place}", errno=error.errno, path=place)


def opened(path: str | Path, *, create: bool = False) -> tuple[int, OSError | None]:
    """Open a regular file to append to it; one that may only be read is opened for that, and the refusal returned.

    Raises `DamagedError` if it is something else.
    """
    refusal = None
    try:
        descriptor = _open(path, _WRITE | (os.O_CREAT if create else 0))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        try:
            descriptor = _open(path, _READ)
        except FileNotFoundError:
            raise error from None
        refusal = error
    return regular(descriptor, path), refusal


def reading(path: str | Path) -> int:
    """Open a regular file to read it. Raises `DamagedError` if it is something else."""
    return regular(_open(path, _READ), path)


def load(path: str | Path) -> bytes:
    """Return the content of a regular file. Raises `DamagedError` if it is something else."""
    descriptor = _open(path, _READ)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise foreign(path)
        pieces = [os.read(descriptor, status.st_size + 1)]
        while len(pieces[-1]) > status.st_size or (len(pieces) > 1 and pieces[-1]):  # It grew meanwhile.
            pieces.append(os.read(descriptor, 1 << 16))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    finally:
        os.close(descriptor)


def _open(path: str | Path, flags: int) -> int:
    if not hasattr(os, "O_NOFOLLOW") and os.path.islink(path):
        raise foreign(path)
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        # What a link, a socket or a directory gives differs from system to system.
        with contextlib.suppress(OSError):
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise foreign(path) from error
        raise


def regular(descriptor: int, path: str | Path) -> int:
    """Return the descriptor if it is that of a regular file, else close it and raise `DamagedError`."""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise foreign(path)
    except BaseException:
        shut(descriptor)
        raise
    return descriptor


def foreign(path: str | Path) -> DamagedError:
    """Return the error of something that stands where a file of ours should."""
    return DamagedError(f"{path} is no regular file", path=str(path))


def shut(descriptor: int) -> int:
    """Close a descriptor, if it is one, and return none.

    What was to be durable was synced before, so an error says nothing that matters, and on Linux it is closed all the
    same: trying again would close a file of somebody else.
    """
    if descriptor != NONE:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    return NONE


def set_aside(path: str | Path) -> None:
    """Keep a file under another name beside it, the first that is free: `NAME.damaged-1`."""
    for number in itertools.count(1):
        kept = f"{path}.damaged-{number}"
        if not there(kept):
            os.rename(path, kept)
            return


def there(path: str | Path) -> bool:
    """Return whether there is something of that name. An I/O error is none of absence, as `os.path.lexists` has it."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def append(descriptor: int, data: bytes) -> None:
    """Write all of `data`; a disk that fills up takes a part of it."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, data[written:])


def create(path: str | Path, data: bytes, *, durable: bool) -> None:
    """Write a new file. Raises FileExistsError if there is one; what cannot be written whole is removed again."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS, 0o600)
    try:
        try:
            append(descriptor, data)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def replace(path: Path, data: bytes, mark: str = "new", *, durable: bool = True, draft: Path | None = None) -> None:
    """Write a whole file in the place of another, which stays as it is until then.

    Until then it is a file beside it, or `draft`. Where no lock keeps others from doing the same, `mark` tells theirs
    from ours.
    """
    if draft is None:
        draft = path.with_name(f".{path.name}.{mark}")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    create(draft, data, durable=durable)
    try:
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def make(path: Path) -> None:
    """Make a directory with its parents, durably, for its owner alone. One that is there is no error."""
    # From the deepest that is there: to ask for a root is an error of its own on macOS (EISDIR) and Windows.
    missing = list(itertools.takewhile(lambda place: not place.is_dir(), (path, *path.parents)))
    for place in reversed(missing):
        with contextlib.suppress(FileExistsError):
            place.mkdir(mode=0o700)
            try:
                sync_directory(place.parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    place.rmdir()  # Else the next call would take it for durable.
                raise


def directory(path: Path) -> int:
    """Open a directory. A link to one is followed: what stands above ours is the user's, and `View.guard` has ours."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0))


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Windows has no such call, and needs none."""
    if os.name == "nt":
        return
    descriptor = directory(path)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_data(descriptor: int) -> None:
    """Make the content of an open file durable."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def at_once() -> bool:
    """Return whether many files can be synced together, by `sync_files`."""
    return _syncfs() is not None


def few(files: Sequence[object]) -> bool:
    """Return whether each of so many files is better synced when it is written than all of them by `sync_files`."""
    return len(files) <= _FEW or not at_once()


def sync_files(path: Path) -> None:
    """Make all files that were written in the file system of a directory durable, and their names."""
    syncfs = _syncfs()
    assert syncfs is not None  # noqa: S101 - `few` said so
    descriptor = directory(path)
    try:
        syncfs(descriptor)
    finally:
        os.close(descriptor)


@functools.cache
def _syncfs() -> Callable[[int], None] | None:
    if sys.platform != "linux":
        return None
    major, minor = (int(part) for part in os.uname().release.split(".")[:2])
    if (major, minor) < (5, 8):
        return None
    import ctypes

    function: Any = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if function is None:
        return None

    def syncfs(descriptor: int) -> None:
        if function(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return syncfs


@functools.cache
def boot() -> str:
    """Return what names the time since this machine was started, or "" where nothing does."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
