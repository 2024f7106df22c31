"""A Redis server of the benchmark's own, which those that are measured side by side share."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import redis
from harness import Room
from storing import Turns

PLACES: Final = (os.environ.get("PATH", ""), str(Path(__file__).parents[2] / ".venv-test" / "bin"))
"""Where a server is looked for: `scripts/test` leaves one in the second."""


def binary() -> str | None:
    """Return the program of a server, None if there is none."""
    return next(
        (
            found
            for place in PLACES
            for name in ("redis-server", "valkey-server")
            if (found := shutil.which(name, path=place)) is not None
        ),
        None,
    )


def on_server(turns: Callable[[str], Turns], room: Room) -> Turns:
    """Let a store take turns on the server that all contenders share."""
    with running(room.shared) as url:
        yield from turns(url)


_used = [0]


@contextlib.contextmanager
def running(place: Path) -> Iterator[str]:
    """Give the URL of a server that all contenders share, and that ends with the last of them."""
    path = place / "redis.port"
    if not _used[0]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        program = binary()
        if program is None:
            raise RuntimeError("there is no server")
        options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(place))
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        path.write_text(str(port))
        _processes.append(process)
    _used[0] += 1
    try:
        url = f"redis://127.0.0.1:{path.read_text()}/0"
        deadline = time.monotonic() + 30
        with redis.Redis.from_url(url) as client:
            while True:
                try:
                    client.ping()
                except redis.exceptions.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                else:
                    break
        yield url
    finally:
        _used[0] -= 1
        if not _used[0]:
            process = _processes.pop()
            process.terminate()
            process.wait()
            path.unlink()


_processes: list[subprocess.Popen[bytes]] = []
