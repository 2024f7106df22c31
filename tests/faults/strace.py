"""strace, where it is to be had: which system calls a process made, and SIGKILL at one of them."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import frozen

# Names that differ from one machine to the next, or from what Python calls them.
_NAMES: Final = {
    "openat": "open",
    "openat2": "open",
    "creat": "open",
    "readv": "read",
    "pread64": "pread",
    "preadv": "pread",
    "preadv2": "pread",
    "pwrite64": "pwrite",
    "renameat": "rename",
    "renameat2": "rename",
    "mkdirat": "mkdir",
    "linkat": "link",
    "symlinkat": "symlink",
    "fchmod": "chmod",
    "fchmodat": "chmod",
    "utimensat": "utime",
    "newfstatat": "stat",
    "fstat": "stat",
    "lstat": "stat",
    "statx": "stat",
    "faccessat": "access",
    "faccessat2": "access",
    "readlinkat": "readlink",
    "statfs": "statvfs",
    "fstatfs": "statvfs",
    "dup2": "dup",
    "dup3": "dup",
}
_LINE: Final = re.compile(r'(\d+) +(\w+)\((?:AT_FDCWD<([^>]*)>|(\d+)<([^>]*)>)?(?:, )?(?:"([^"]*)")?')


@functools.cache
def find_strace() -> str | None:
    """The strace that works here: from PATH, or from beside this Python."""
    for folders in (None, str(Path(sys.executable).parent)):
        found = shutil.which("strace", path=folders)
        if found and subprocess.run([found, "-qq", "-o", os.devnull, "true"], capture_output=True).returncode == 0:
            return found
    return None


@frozen
class Traced:
    """A call on a file of the directory: its name as Python has it, the file, and how strace finds the call again."""

    name: str
    file: str
    system_call: str
    number: int


def tracer(log: Path, *options: str) -> list[str]:
    """The command line of a strace that writes to `log`, but for the process that it is attached to."""
    path = find_strace()
    assert path is not None
    return [path, "-f", "-y", "-s0", "-o", str(log), *(options or ["--trace=%file,%desc"])]


def injector(log: Path, call: Traced, fault: str) -> list[str]:
    """The command line of a strace that puts a fault in the place of a call: `signal=SIGKILL`, `error=ENOSPC`."""
    return tracer(log, f"--trace={call.system_call}", f"--inject={call.system_call}:{fault}:when={call.number}")


def calls(log: Path, directory: Path) -> list[Traced]:
    """The calls in a log that are about files below the directory. A directory that is listed is opened, no more."""
    found: list[Traced] = []
    listed: set[str] = set()
    for descriptor, call in _parsed(log, str(directory)):
        if call.name == "getdents64":
            listed.add(descriptor)
        elif call.name == "close" and descriptor in listed:
            listed.remove(descriptor)
        else:
            found.append(call)
    return found


def _parsed(log: Path, directory: str) -> Iterator[tuple[str, Traced]]:
    counts: Counter[tuple[str, str]] = Counter()  # strace counts those of each thread apart.
    for line in log.read_text(errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        thread, system_call, working, descriptor, described, path = match.groups()
        counts[thread, system_call] += 1
        file = os.path.join(working or described or "", path or "")
        if file.rstrip("/") == directory or file.startswith(directory + "/"):
            name = _NAMES.get(system_call, system_call)
            if system_call == "unlinkat":
                name = "rmdir" if "AT_REMOVEDIR" in line else "unlink"
            elif system_call == "fcntl" and "F_DUPFD" in line:
                name = "dup"
            elif system_call == "fcntl" and ("SETLK" in line or "SETLKW" in line):
                name = "lockf"
            relative = os.path.relpath(file, directory)
            yield descriptor or "", Traced(name, relative, system_call, counts[thread, system_call])
