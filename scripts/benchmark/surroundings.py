"""What figures depend on beside the code of this package."""

from __future__ import annotations

import dbm
import os
import platform
import shelve
import sqlite3
import subprocess
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from served import binary

PACKAGES: Final = (
    *("diskcache", "sqlitedict", "lmdb", "py-key-value-aio", "litestar", "langgraph-checkpoint", "cachetools"),
    *("redis", "hiredis", "attrs", "msgspec", "pyroaring"),
)


def surroundings(directory: Path) -> dict[str, Any]:
    """Return the machine, the versions and the day."""
    versions = {name: _version(name) for name in PACKAGES}
    with tempfile.TemporaryDirectory(dir=directory) as place:
        shelve.open(f"{place}/shelf").close()
        database = dbm.whichdb(f"{place}/shelf")
    return {
        "empathy_kv": _this(),
        "date": datetime.now(UTC).date().isoformat(),
        "system": platform.platform(terse=True),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else "unknown",
        "file system": _filesystem(directory),
        "python": platform.python_version(),
        "server": _server(),
        **{name: version for name, version in versions.items() if version is not None},
        "sqlite": sqlite3.sqlite_version,
        "shelve": database,
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _this() -> str:
    """Return the version of this package, and its commit where there is a git checkout that can be asked."""
    version = _version("empathy-kv") or "unknown"
    place = Path(__file__).parent
    # A container often has the checkout under another owner, which git refuses unless told that it may be read.
    command = ("git", "-c", "safe.directory=*", "-C", str(place), "describe", "--always", "--dirty")
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return version
    return f"{version}, commit {told}"


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    if about.exists():
        for line in about.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _server() -> str:
    """Return the kind and the version of the server that is started, as it tells them."""
    program = binary()
    if program is None:
        return "none"
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()
    version = next((word.removeprefix("v=") for word in told if word.startswith("v=")), "unknown")
    return f"{told[0]} {version}"


def _filesystem(directory: Path) -> str:
    """Return the kind of file system that a directory is on, as far as Linux tells."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "unknown"
    kinds = {}
    for line in mounts.read_text().splitlines():
        _, point, kind, *_ = line.split(" ")
        kinds[Path(point)] = kind
    place = directory.resolve()
    return next((kinds[parent] for parent in (place, *place.parents) if parent in kinds), "unknown")
