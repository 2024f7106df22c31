"""The lock of a directory: one writer at a time, among threads and processes.

Rules. The lock file is never unlinked: two processes would lock two files. The kernel frees the lock of a process that
dies. flock belongs to the open file, so a thread lock stands before it. The descriptor stays open between two holds,
because opening costs more than locking; a child that was forked closes its copy, which would keep the lock of a parent
that dies. Where there is no flock (Windows), filelock does the same portably.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from empathy_kv.errors import LockTimeoutError, StorageError
from empathy_kv.kv.files import disk

if sys.platform == "win32":
    import filelock
else:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock

    _TAKE = LOCK_EX | LOCK_NB
    _UNKNOWN = errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP

R = TypeVar("R")

_PAUSE = 0.0003, 0.001
"""Seconds between two tries: the first, and the longest.

Shorter ones hand the lock over after every few writes, and then all processes together write less than one alone.
"""
_NOTHING: Final[Callable[[], object]] = int
"""What is done where there is nothing to do. Not a function of ours: see `WriterLock.run`."""


class Lock:
    """The lock file of one directory."""

    def __init__(self, path: Path, timeout: float, *, kept: bool = True) -> None:
        """`kept`: whether the descriptor stays open between two holds."""
        self._path = path
        self._timeout = timeout
        self._kept = kept
        self._descriptor = disk.NONE
        self._unlock = _NOTHING
        self._begin()
        _LOCKS.add(self)

    def _begin(self) -> None:
        # The thread that gives the lock back needs not be the one that took it: a generator may hold it.
        self._threads: Any = threading.Lock()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # Bound here, because at the end of the interpreter the modules may be gone.
        try:
            if self._descriptor >= 0:
                close(self._descriptor)
        except OSError:
            pass

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock; raise `LockTimeoutError` if it is not to be had within the timeout."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def acquire(self, *, wait: bool = True) -> bool:
        """Take the lock and return True.

        If it is not to be had within the timeout, raise `LockTimeoutError`; without `wait` return False at once.
        """
        threads = self._threads
        remaining = self._timeout
        if not threads.acquire(False):
            if not wait:
                return False
            began = time.monotonic()
            if not threads.acquire(timeout=remaining):
                raise self._late()
            remaining -= time.monotonic() - began
        taken = False
        try:
            while self._try() or (wait and self._wait(remaining, _NOTHING)):
                taken = self.there()
                if taken:
                    return True
                self._close()  # It was removed: whoever comes next would lock another file.
            return False
        finally:
            if not taken:
                self.release()

    def release(self) -> None:
        """Give the lock back."""
        try:
            self._unlock()
            if not self._kept:
                self._close()
        except OSError:
            self._close()  # Which gives it back, too.
        finally:
            self._threads.release()

    @property
    def shut(self) -> bool:
        """Whether the next hold has to open the file."""
        return self._descriptor == disk.NONE

    def reopen(self) -> None:
        """Forget a lock file that was removed, so that the next hold is one of the file that is there."""
        with self._threads:
            if self._descriptor != disk.NONE and not self.there():
                self._close()

    def close(self) -> None:
        """Close the descriptor once nobody here holds the lock. The next hold opens it again."""
        with self._threads:
            self._close()

    def forked(self) -> None:
        """Begin anew in a child, whose parent's threads may have held the lock."""
        self._begin()
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor, self._unlock = self._descriptor, disk.NONE, _NOTHING
        disk.shut(descriptor)

    def _wait(self, seconds: float, meanwhile: Callable[[], object]) -> bool:
        # A blocking flock has no timeout but by a signal, which a library must not take.
        deadline = time.monotonic() + seconds
        pause, longest = _PAUSE
        while True:
            time.sleep(pause)
            meanwhile()
            if self._try():
                return True
            if time.monotonic() >= deadline:
                raise self._late()
            pause = min(pause * 1.5, longest)

    if sys.platform == "win32":

        def _try(self) -> bool:
            lock = filelock.FileLock(self._path, mode=0o600)
            self._unlock = lock.release
            try:
                lock.acquire(blocking=False)
            except filelock.Timeout:
                return False
            return True

        def there(self) -> bool:
            """Return True: a file that is open cannot be removed there."""
            return True

    else:

        def _try(self) -> bool:
            if self._descriptor == disk.NONE:
                descriptor, _ = disk.opened(self._path, create=True)
                # Both at once: an interrupt between them would leave one that is never unlocked.
                self._unlock, self._descriptor = functools.partial(flock, descriptor, LOCK_UN), descriptor
            try:
                flock(self._descriptor, _TAKE)
            except BlockingIOError:
                return False
            except OSError as error:
                error.filename = str(self._path)
                if error.errno not in _UNKNOWN:
                    raise
                raise StorageError(
                    f"{error.strerror}: {self._path}: this file system has no locks, keep the store on a local disk",
                    errno=error.errno,
                    path=str(self._path),
                ) from error
            return True

        def there(self) -> bool:
            """Return whether the file that is open is the one that stands there."""
            try:
                return self._descriptor != disk.NONE and os.path.samestat(
                    os.fstat(self._descriptor), self._path.lstat()
                )
            except FileNotFoundError:
                return False

    def _late(self) -> LockTimeoutError:
        return LockTimeoutError(
            f"another writer has held {self._path} for {self._timeout:g} s, which is the timeout= of the store",
            path=str(self._path),
            timeout=self._timeout,
        )


class WriterLock(Lock):
    """The lock of those who write: held for a call, and given back whatever interrupts it."""

    def _begin(self) -> None:
        # One that knows its thread: who did not get it cannot release it.
        self._threads = threading.RLock()
        self._owner = 0

    def acquire(self, *, wait: bool = True) -> bool:
        """Take the lock, as any."""
        self._require_outside()
        return super().acquire(wait=wait)

    def close(self) -> None:
        """Close the descriptor, as that of any."""
        self._require_outside()
        super().close()

    def run(self, body: Callable[..., R], *arguments: object, meanwhile: Callable[[], object] = _NOTHING) -> R:
        """Call `body` while the lock is held; raise `LockTimeoutError` if it is not to be had within the timeout.

        `meanwhile` is what can be done while another process has it, before each further try. It is not seen to it
        that the lock file is the one that is there: `there` tells, which costs as much as all else here.
        """
        # Python looks for signals after a call, and when a function of Python's begins or a loop goes round. So what
        # gives back has to be a call of C that is the first thing in its `finally`; no context manager of ours is.
        threads = self._threads
        self._require_outside()
        try:
            remaining = self._timeout
            if not threads.acquire(False):
                began = time.monotonic()
                if not threads.acquire(timeout=remaining):
                    raise self._late()
                remaining -= time.monotonic() - began
            try:
                self._owner = threading.get_ident()
                if not self._try():
                    self._wait(remaining, meanwhile)
                return body(*arguments)
            finally:
                self._owner = 0
                try:
                    self._unlock()
                except OSError:
                    self._close()
        finally:
            try:  # noqa: SIM105 - `suppress` is a call before it
                threads.release()
            except RuntimeError:
                pass  # It was not to be had.

    def _require_outside(self) -> None:
        if self._owner == threading.get_ident():
            raise LockTimeoutError(
                f"this thread itself is writing, and holds {self._path}: a signal handler cannot write meanwhile",
                path=str(self._path),
                timeout=0.0,
            )


class Mark:
    """A mark that a directory bears while a block runs, for all processes to see; it goes with the one that made it.

    It is a flock of the directory itself: no file is made. Where there is none it is never seen.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    if sys.platform == "win32":

        @contextlib.contextmanager
        def made(self) -> Iterator[None]:
            """Make the mark."""
            yield

        def seen(self) -> bool:
            """Return whether somebody made it."""
            return False

    else:

        @contextlib.contextmanager
        def made(self) -> Iterator[None]:
            """Make the mark."""
            descriptor = disk.NONE
            try:
                with contextlib.suppress(OSError):  # Then it is not seen, and costs others some time.
                    descriptor = disk.directory(self._directory)
                    flock(descriptor, _TAKE)
                yield
            finally:
                disk.shut(descriptor)

        def seen(self) -> bool:
            """Return whether somebody made it. Raises OSError."""
            descriptor = disk.directory(self._directory)
            try:
                flock(descriptor, LOCK_SH | LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                disk.shut(descriptor)
            return False


_LOCKS: Final[weakref.WeakSet[Lock]] = weakref.WeakSet()


def _forked() -> None:
    for lock in list(_LOCKS):
        lock.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
