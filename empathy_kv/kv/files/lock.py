"""The lock of a directory: one writer at a time, among threads and processes.

Rules. The lock file is never unlinked: two processes would lock two files. The kernel frees the lock of a process that
dies. flock belongs to the open file, so a thread lock stands before it. The descriptor stays open between two holds,
because opening costs more than locking. Where there is no flock (Windows), filelock does the same portably.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from empathy_kv.errors import LockTimeoutError

if sys.platform != "win32":
    import fcntl

_PAUSE = 0.00005, 0.002
"""Seconds between two tries: the first, and the longest. A hold lasts about as long as one fsync."""


class Lock:
    """The lock file of one directory."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._threads = threading.Lock()
        self._descriptor: int | None = None
        self._process = os.getpid()

    def __del__(self) -> None:
        self.close()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock; raise `LockTimeoutError` if it is not to be had within the timeout."""
        deadline = time.monotonic() + self._timeout
        if os.getpid() != self._process:
            # The descriptor that a fork leaves shares the parent's lock, and one of its threads may have held ours.
            self.close()
            self._threads = threading.Lock()
            self._process = os.getpid()
        if not self._threads.acquire(timeout=self._timeout):
            raise self._late()
        try:
            with self._among_processes(deadline):
                yield
        finally:
            self._threads.release()

    if sys.platform == "win32":

        @contextlib.contextmanager
        def _among_processes(self, deadline: float) -> Iterator[None]:
            import filelock

            lock = filelock.FileLock(self._path, mode=0o600)
            try:
                lock.acquire(timeout=max(0.0, deadline - time.monotonic()), poll_interval=_PAUSE[1])
            except filelock.Timeout:
                raise self._late() from None
            try:
                yield
            finally:
                lock.release()

    else:

        @contextlib.contextmanager
        def _among_processes(self, deadline: float) -> Iterator[None]:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            pause, longest = _PAUSE
            while True:
                try:
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    # A blocking flock has no timeout but by a signal, which a library must not take.
                    if time.monotonic() >= deadline:
                        raise self._late() from None
                time.sleep(pause)
                pause = min(pause * 1.5, longest)
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _late(self) -> LockTimeoutError:
        return LockTimeoutError(
            f"another writer has held {self._path} for {self._timeout:g} s", path=str(self._path), timeout=self._timeout
        )

    def close(self) -> None:
        """Close the descriptor, which must not be held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
