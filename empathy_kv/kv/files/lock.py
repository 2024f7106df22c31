"""The lock of a directory: one writer at a time, among threads and processes.

Rules. The lock file is never unlinked: two processes would lock two files. The kernel frees the lock of a process that
dies. flock belongs to the open file, so a thread lock stands before it. The descriptor stays open between two holds,
because opening costs more than locking. Where there is no flock (Windows), filelock does the same portably.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from empathy_kv.errors import LockTimeoutError, StorageError
from empathy_kv.kv.files import disk

if sys.platform == "win32":
    import filelock
else:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock

    _TAKE = LOCK_EX | LOCK_NB
    _UNKNOWN = errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP

_PAUSE = 0.0003, 0.001
"""Seconds between two tries: the first, and the longest.

Shorter ones hand the lock over after every few writes, and then all processes together write less than one alone.
"""


class Lock:
    """The lock file of one directory."""

    def __init__(self, path: Path, timeout: float, *, kept: bool = True) -> None:
        """`kept`: whether the descriptor stays open between two holds."""
        self._path = path
        self._timeout = timeout
        self._kept = kept
        self._threads = threading.Lock()
        self._descriptor = disk.NONE
        self._process = os.getpid()

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

    def acquire(self, *, wait: bool = True, meanwhile: Callable[[], object] | None = None) -> bool:
        """Take the lock and return True.

        If it is not to be had within the timeout, raise `LockTimeoutError`; without `wait` return False at once.
        `meanwhile` is what can be done while another process has it, before each further try.
        """
        if os.getpid() != self._process:
            # The descriptor that a fork leaves shares the parent's lock, and one of its threads may have held ours.
            self._threads = threading.Lock()
            self._process = os.getpid()
            self.close()
        remaining = self._timeout
        threads = self._threads
        if not threads.acquire(False):
            if not wait:
                return False
            began = time.monotonic()
            if not threads.acquire(timeout=remaining):
                raise self._late()
            remaining -= time.monotonic() - began
        try:
            if self._try() or (wait and self._wait(remaining, meanwhile)):
                return True
        except BaseException:
            threads.release()
            raise
        threads.release()
        return False

    def release(self) -> None:
        """Give the lock back."""
        try:
            self._unlock()
            if not self._kept:
                self._close()
        finally:
            self._threads.release()

    def _wait(self, seconds: float, meanwhile: Callable[[], object] | None) -> bool:
        # A blocking flock has no timeout but by a signal, which a library must not take.
        deadline = time.monotonic() + seconds
        pause, longest = _PAUSE
        while True:
            time.sleep(pause)
            if meanwhile is not None:
                meanwhile()
            if self._try():
                return True
            if time.monotonic() >= deadline:
                raise self._late()
            pause = min(pause * 1.5, longest)

    if sys.platform == "win32":

        def _try(self) -> bool:
            self._lock = filelock.FileLock(self._path, mode=0o600)
            try:
                self._lock.acquire(blocking=False)
            except filelock.Timeout:
                return False
            return True

        def _unlock(self) -> None:
            self._lock.release()

    else:

        def _try(self) -> bool:
            if self._descriptor < 0:
                self._descriptor, _ = disk.opened(self._path, create=True)
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

        def _unlock(self) -> None:
            flock(self._descriptor, LOCK_UN)

    def _late(self) -> LockTimeoutError:
        return LockTimeoutError(
            f"another writer has held {self._path} for {self._timeout:g} s, which is the timeout= of the store",
            path=str(self._path),
            timeout=self._timeout,
        )

    def reopen(self) -> None:
        """Forget a lock file that was removed, so that the next hold is one of the file that is there."""
        with self._threads, contextlib.suppress(FileNotFoundError):
            if self._descriptor >= 0 and not os.path.samestat(os.fstat(self._descriptor), self._path.lstat()):
                self._close()

    def close(self) -> None:
        """Close the descriptor once nobody here holds the lock. The next hold opens it again."""
        with self._threads:
            self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, disk.NONE
        disk.shut(descriptor)


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
