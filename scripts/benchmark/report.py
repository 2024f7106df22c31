"""The figures of a run as plain objects for JSON, and those as one Markdown table."""

from __future__ import annotations

import dbm
import os
import platform
import shelve
import sqlite3
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from harness import Figure, Goal

HEAD: Final = ("job", "store", "median", "best", "p99", "unit", "spread", "ratio", "goal")
NUMBERS: Final = ("median", "best", "p99", "spread")


def machine(directory: Path) -> dict[str, Any]:
    """Return what figures depend on beside the code of this package."""
    versions = {
        name: _version(name) for name in ("diskcache", "lmdb", "sqlitedict", "cattrs", "msgspec", "redis", "hiredis")
    }
    with tempfile.TemporaryDirectory(dir=directory) as place:
        shelve.open(f"{place}/shelf").close()
        database = dbm.whichdb(f"{place}/shelf")
    return {
        "system": platform.platform(terse=True),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else "unknown",
        "file system": _filesystem(directory),
        "python": platform.python_version(),
        **{name: version for name, version in versions.items() if version is not None},
        "sqlite": sqlite3.sqlite_version,
        "shelve": database,
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


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


def plain(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    """Return figures as JSON objects, with what is compared in them; one that failed has its error and no numbers."""
    jobs: dict[str, dict[str, Figure]] = {}
    for figure in figures:
        jobs.setdefault(figure.job.name, {})[figure.contender.name] = figure
    return [_plain(figure, job) for job in jobs.values() for figure in job.values()]


def _plain(figure: Figure, job: Mapping[str, Figure]) -> dict[str, Any]:
    contender = figure.contender
    item: dict[str, Any] = {
        "job": figure.job.name,
        "title": figure.job.title,
        "store": contender.store,
        "way": contender.way,
        "unit": figure.job.unit,
    }
    if figure.error is not None:
        return {**item, "error": figure.error}
    return {
        **item,
        "median": figure.median,
        "best": figure.best,
        "p99": figure.p99,
        "spread": figure.spread,
        "samples": sum(map(len, figure.rounds)),
        "medians": figure.medians,
        "ratio": _ratio(figure, contender.beside, job),
        "beside": contender.beside,
        "goals": [_judged(goal, figure, job) for goal in contender.goals],
    }


def _ratio(figure: Figure, beside: str | None, job: Mapping[str, Figure]) -> float | None:
    other = None if beside is None else job.get(beside)
    return None if other is None or other.error is not None else figure.ratio(other)


def _judged(goal: Goal, figure: Figure, job: Mapping[str, Figure]) -> dict[str, Any]:
    """Return a goal with the value to compare, and whether it is met: None if the other contender has no figure."""
    value = figure.median if goal.of is None else _ratio(figure, goal.of, job)
    return {
        "limit": goal.limit,
        "of": goal.of,
        "reach": goal.reach,
        "value": value,
        "met": None if value is None else goal.met(value),
    }


def table(items: Iterable[Mapping[str, Any]]) -> str:
    """Return what `plain` gives as a Markdown table."""
    rows: list[Sequence[str]] = [HEAD]
    last = None
    for item in items:
        name = f"{item['store']}, {item['way']}" if item["way"] else item["store"]
        begin = (item["title"] if item["job"] != last else "", name)
        last = item["job"]
        if "error" in item:
            rows.append((*begin, "failed", "", "", "", "", "", item["error"]))
            continue
        rows.append(
            (
                *begin,
                _number(item["median"]),
                _number(item["best"]),
                "" if item["p99"] is None else _number(item["p99"]),
                item["unit"],
                "" if item["spread"] is None else f"{item['spread']:.0%}",
                "" if item["ratio"] is None else f"{item['ratio']:.2f} x {_other(item, item['beside'])}",
                "; ".join(_verdict(item, goal) for goal in item["goals"]),
            )
        )
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(
        1, [f"{'-' * (width - 1)}{':' if name in NUMBERS else '-'}" for name, width in zip(HEAD, widths, strict=True)]
    )
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if name in NUMBERS else cell.ljust(width)
            for name, cell, width in zip(HEAD, row, widths, strict=True)
        )
        + " |"
        for row in cells
    )


def _number(value: float) -> str:
    """Return a number with the three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _other(item: Mapping[str, Any], name: str) -> str:
    """Return how a row calls another contender of its job: of its own store, by the way alone."""
    return name.removeprefix(f"{item['store']}, ")


def _verdict(item: Mapping[str, Any], goal: Mapping[str, Any]) -> str:
    unit = item["unit"] if goal["of"] is None else f"x {_other(item, goal['of'])}"
    wanted = f"{'>=' if goal['reach'] else '<='} {goal['limit']:.3g} {unit}"
    if goal["met"] is None:
        return f"{wanted}: not measured"
    return f"{wanted}: {'met' if goal['met'] else 'NOT MET'} ({_number(goal['value'])})"
