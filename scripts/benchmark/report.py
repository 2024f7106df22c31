"""The figures of a run as plain objects for JSON, and those as one Markdown table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from harness import RATE, Figure, Goal

HEAD: Final = ("job", "store", "survives", "median", "p99", "unit", "spread", "x best peer", "x floor", "goal")
NUMBERS: Final = ("median", "p99", "spread", "x best peer", "x floor")


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
        "role": "ours" if contender.ours else contender.role,
        "survives": None if contender.survives is None else contender.survives.text,
        "unit": figure.job.unit,
    }
    if figure.error is not None:
        return {**item, "error": figure.error}
    peer, floor = best_peer(figure, job), lowest_floor(figure, job)
    if contender.ours and contender.role == "mark":
        peer = floor = None
    return {
        **item,
        "median": figure.median,
        "best": figure.best,
        "p99": figure.p99,
        "spread": figure.spread,
        "samples": sum(map(len, figure.rounds)),
        "medians": figure.medians,
        "best_peer": None if peer is None else peer.contender.name,
        "to_best_peer": None if peer is None else figure.ratio(peer),
        "floor": None if floor is None else floor.contender.name,
        "to_floor": None if floor is None else figure.ratio(floor),
        "beside": contender.beside,
        "ratio": _ratio(figure, contender.beside, job),
        "goals": [_judged(goal, figure, job) for goal in contender.goals],
    }


def best_peer(figure: Figure, job: Mapping[str, Figure]) -> Figure | None:
    """Return the fastest of those that one would use instead, None if there is none.

    It does the same work, and what it wrote survives at least what a write of this package's own row in that work does:
    of several rows, of the one that promises least.
    """
    among = [other for other in job.values() if other.contender.among == figure.contender.among]
    promised = [0 if other.contender.survives is None else other.contender.survives.rank for other in _ours(among)]
    least = min(promised, default=0)
    rivals = [
        other
        for other in among
        if not other.contender.ours
        and other.contender.role == "peer"
        and other.error is None
        and (other.contender.survives is None or other.contender.survives.rank >= least)
    ]
    return _fastest(rivals)


def lowest_floor(figure: Figure, job: Mapping[str, Figure]) -> Figure | None:
    """Return the floor of the same work, None if none was measured."""
    return _fastest(
        [
            other
            for other in job.values()
            if other.contender.role == "floor"
            and other.contender.among == figure.contender.among
            and other.error is None
        ]
    )


def _ours(figures: Iterable[Figure]) -> list[Figure]:
    return [figure for figure in figures if figure.contender.ours]


def _fastest(figures: Sequence[Figure]) -> Figure | None:
    if not figures:
        return None
    return (max if figures[0].job.unit == RATE else min)(figures, key=lambda figure: figure.median)


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
    rows: list[Sequence[str]] = []
    last = None
    for item in items:
        begin = (item["title"] if item["job"] != last else "", named(item), item["survives"] or "")
        last = item["job"]
        if "error" in item:
            rows.append((*begin, "failed", *[""] * (len(HEAD) - len(begin) - 2), item["error"]))
            continue
        rows.append(
            (
                *begin,
                number(item["median"]),
                "" if item["p99"] is None else number(item["p99"]),
                item["unit"],
                "" if item["spread"] is None else f"{item['spread']:.0%}",
                "" if item["to_best_peer"] is None else number(item["to_best_peer"]),
                "" if item["to_floor"] is None else number(item["to_floor"]),
                "; ".join(_remarks(item)),
            )
        )
    return markdown(HEAD, rows, NUMBERS)


def named(item: Mapping[str, Any]) -> str:
    """Return how a row is called."""
    return f"{item['store']}, {item['way']}" if item["way"] else str(item["store"])


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str]) -> str:
    """Return a table, with columns of numbers at the right."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(
        1, [f"{'-' * (width - 1)}{':' if name in numbers else '-'}" for name, width in zip(head, widths, strict=True)]
    )
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if name in numbers else cell.ljust(width)
            for name, cell, width in zip(head, row, widths, strict=True)
        )
        + " |"
        for row in cells
    )


def number(value: float) -> str:
    """Return a number with the three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def _other(item: Mapping[str, Any], name: str) -> str:
    """Return how a row calls another contender of its job: of its own store, by the way alone."""
    return name.removeprefix(f"{item['store']}, ")


def _remarks(item: Mapping[str, Any]) -> Iterable[str]:
    beside = item["beside"]
    if item["ratio"] is not None and all(goal["of"] != beside for goal in item["goals"]):
        yield f"{number(item['ratio'])} x {_other(item, beside)}"
    for goal in item["goals"]:
        yield _verdict(item, goal)


def _verdict(item: Mapping[str, Any], goal: Mapping[str, Any]) -> str:
    unit = item["unit"] if goal["of"] is None else f"x {_other(item, goal['of'])}"
    wanted = f"{'>=' if goal['reach'] else '<='} {goal['limit']:.3g} {unit}"
    if goal["met"] is None:
        return f"{wanted}: not measured"
    return f"{wanted}: {'met' if goal['met'] else 'NOT MET'} ({number(goal['value'])})"
