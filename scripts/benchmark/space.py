"""How much memory and disk something takes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from attrs import evolve
from harness import Contender


def on_linux(rows: list[Contender]) -> list[Contender]:
    """Return rows that measure memory, which can be measured where it is told."""
    if not Path("/proc/self/statm").exists():
        return [evolve(row, missing="memory is measured on Linux only") for row in rows]
    return rows


def alone(function: Callable[..., float], *arguments: Any) -> float:
    """Return what a function returns in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def resident(peak: bool = False) -> float:
    """Return the bytes of memory that this process has, or the most that it ever had."""
    if peak:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return float(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))


def taken(place: Path) -> float:
    """Return the bytes of disk that the files of a directory take, by whole blocks where the system tells them."""
    total = 0
    for directory, _, names in os.walk(place):
        for name in names:
            about = os.stat(os.path.join(directory, name))  # noqa: PTH116, PTH118 - there are 100,000 of them
            total += getattr(about, "st_blocks", 0) * 512 or about.st_size
    return float(total)
