"""How much memory and disk something takes."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

from attrs import evolve
from harness import Contender


def on_linux(rows: list[Contender]) -> list[Contender]:
    """Return rows that measure memory, which can be measured where it is told."""
    if not Path("/proc/self/status").exists():
        return [evolve(row, missing="memory is measured on Linux only") for row in rows]
    return rows


@functools.cache
def _context() -> Any:
    """Return what starts processes, each a copy of one that has done nothing but import what they need.

    A spawned one would import it itself, which takes longer than what most of them are to measure; a fork of this one
    would have all that was measured here, and the memory that it left.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["empathy_kv.store", "empathy_kv.collection", "empathy_kv.kv.files", "sqlite3"])
    return context


def alone(function: Callable[..., float], *arguments: Any) -> float:
    """Return what a function returns in a process of its own."""
    with ProcessPoolExecutor(1, _context()) as pool:
        return pool.submit(function, *arguments).result()


def most(function: Callable[..., object], *arguments: Any) -> float:
    """Return by how many bytes a function lets a process of its own grow at the most.

    It is watched from here: in the process itself nobody could look while a function of C has the interpreter.
    """
    here, there = _context().Pipe()
    process = _context().Process(target=_watched, args=(there, function, arguments))
    process.start()
    there.close()
    before = here.recv()
    highest = before
    while not here.poll(LOOK):
        highest = max(highest, resident(process.pid))
    highest = max(highest, here.recv())
    process.join()
    return float(highest - before)


LOOK: Final = 0.002
"""The seconds between two looks at a process."""


def _watched(parent: Any, function: Callable[..., object], arguments: Sequence[Any]) -> None:
    parent.send(resident())
    result = function(*arguments)
    parent.send(resident())
    del result


def resident(process: int | str = "self") -> float:
    """Return the bytes of memory that a process has for itself.

    What it has mapped of files is not among it: those pages are the system's cache, which it gives to others.
    """
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0.0)


def taken(place: Path) -> float:
    """Return the bytes of disk that the files of a directory take, by whole blocks where the system tells them."""
    total = 0
    for directory, _, names in os.walk(place):
        for name in names:
            about = os.stat(os.path.join(directory, name))  # noqa: PTH116, PTH118 - there are 100,000 of them
            total += getattr(about, "st_blocks", 0) * 512 or about.st_size
    return float(total)
