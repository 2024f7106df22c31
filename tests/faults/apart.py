"""A piece of a test in a process of its own: whatever hangs, eats the memory or mounts something ends with it."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import pytest

if sys.platform != "win32":
    import resource

T = TypeVar("T")

MEMORY: Final = 3 * 1024**3 // 2
"""Bytes of address space that a process apart may have: a file without an end must not eat the machine."""

NOBODY: Final = 65534

_NEW_MOUNTS: Final = 0x00020000
_READ_ONLY, _REMOUNT, _RECURSIVE, _PRIVATE, _NO_DEVICES = 0x1, 0x20, 0x4000, 0x40000, 0x4
_PARENT_DEATH_SIGNAL: Final = 1


_apart = False


def apart(work: Callable[[], T], *, seconds: float = 10.0) -> T:
    """Run `work` in a forked process and return what it returned; fail if it raises or does not end in time."""
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork here")
    assert not _apart, "a process apart has no process apart"
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as stacks:
        answer, question = os.pipe()
        with warnings.catch_warnings():
            # Since Python 3.12 a fork beside another thread warns, and pytest-xdist has one, which holds no lock.
            warnings.simplefilter("ignore", DeprecationWarning)
            process = os.fork()
        if process == 0:
            os.close(answer)
            _child(work, question, stacks.fileno(), seconds)
        os.close(question)
        data = _received(answer, seconds + 1.0)
        # The whole group: what the process has started must not outlive it.
        for end in (os.killpg, os.kill):
            try:
                end(process, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        _, status = os.waitpid(process, 0)
        if not data:
            stacks.seek(0)
            # Below this file the stack is that of pytest.
            where = stacks.read().decode(errors="replace").partition(f'  File "{__file__}", line ')[0]
            pytest.fail(f"no answer within {seconds:g} s (wait status {status})\n{where}", pytrace=False)
    kind, value = pickle.loads(data)
    if kind == "skipped":
        pytest.skip(value)
    if kind == "failed":
        pytest.fail(f"in a process of its own:\n{value}", pytrace=False)
    result: T = value
    return result


def _received(descriptor: int, seconds: float) -> bytes:
    deadline, parts = time.monotonic() + seconds, []
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0]:
            parts.append(file.read(1 << 20) or b"")
            if not parts[-1]:
                return b"".join(parts)
    return b""


def _child(work: Callable[[], Any], descriptor: int, stacks: int, seconds: float) -> NoReturn:
    # Whatever happens it must not return: it would go on with the tests that come next, beside its parent.
    try:
        global _apart
        _apart = True
        os.setsid()
        end_with_parent()
        faulthandler.dump_traceback_later(seconds, file=stacks)
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            message = pickle.dumps(("done", work()))
        except pytest.skip.Exception as skipped:
            message = pickle.dumps(("skipped", str(skipped)))
        except BaseException:  # noqa: BLE001 - it is told to the parent, whatever it is
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            message = pickle.dumps(("failed", traceback.format_exc()))
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        with os.fdopen(descriptor, "wb") as file:
            file.write(message)
    except BaseException as error:  # noqa: BLE001
        os.write(stacks, f"{error!r}".encode())
    finally:
        os._exit(0)


# What only a process apart should do to itself


def require_root() -> None:
    """Skip the test where there is no root, or no mounts."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting and making devices needs root on Linux")


def private_mounts() -> None:
    """Let this process mount things that nobody else sees, and that are gone when it ends."""
    require_root()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_MOUNTS) or libc.mount(None, b"/", None, _RECURSIVE | _PRIVATE, None):
        pytest.skip(f"mounts cannot be private here: {os.strerror(ctypes.get_errno())}")


def mount(kind: str, place: Path, options: str = "", flags: int = 0) -> None:
    """Mount a file system. `private_mounts` came before."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(kind.encode(), os.fsencode(place), kind.encode(), flags | _NO_DEVICES, options.encode()):
        error = ctypes.get_errno()
        raise OSError(error, f"mount -t {kind} -o {options}: {os.strerror(error)}", str(place))


def tmpfs(place: Path, options: str) -> Path:
    """Mount a file system in memory and return where."""
    place.mkdir(exist_ok=True)
    mount("tmpfs", place, options)
    return place


def remount(place: Path, options: str = "", *, read_only: bool = False) -> None:
    """Change the options of what is mounted."""
    mount("tmpfs", place, options, _REMOUNT | (_READ_ONLY if read_only else 0))


def end_with_parent() -> None:
    """Let the kernel end this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def become_nobody() -> None:
    """Give up being root, for whom no mode of a file counts."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
