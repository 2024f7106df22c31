"""The figures of a run as plain objects for JSON, and those as one Markdown table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from harness import Figure, Goal, Role

HEAD: Final = (
    *("job", "store", "survives", "median", "p99", "unit", "rounds", "spread"),
    *("x best peer", "x reference", "x floor", "goal"),
)
NUMBERS: Final = ("median", "p99", "rounds", "spread", "x best peer", "x reference", "x floor")
RATIOS: Final = ("to_best_peer", "to_reference", "to_floor")


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
    reference = _worst(figure, _all(figure, job, "reference")) if contender.ours else None
    if contender.ours and contender.role == "mark":
        peer = reference = floor = None
    return {
        **item,
        "median": figure.median,
        "best": figure.best,
        "p99": figure.p99,
        "spread": figure.spread,
        "samples": sum(map(len, figure.rounds)),
        "medians": figure.medians,
        **_compared("best_peer", figure, peer),
        **_compared("reference", figure, reference),
        **_compared("floor", figure, floor),
        "beside": contender.beside,
        "ratio": _ratio(figure, contender.beside, job),
        "goals": [_judged(goal, figure, job) for goal in contender.goals],
    }


def _compared(name: str, figure: Figure, other: Figure | None) -> dict[str, Any]:
    return {
        name: None if other is None else other.contender.name,
        f"to_{name}": None if other is None else figure.ratio(other),
    }


def best_peer(figure: Figure, job: Mapping[str, Figure]) -> Figure | None:
    """Return of those that one would use instead the one that a figure compares worst with, None if there is none.

    It does the same work, and what it wrote survives at least what a write of this package's own row in that work does:
    of several rows, of the one that promises least. Where nobody would use anything else, it is the reference.

    Not the one with the best median, which may be that of a few quiet rounds: the ratio that is shown has to be the
    worst of those that could be.
    """
    ours = [other for other in _same_work(figure, job) if other.contender.ours]
    least = min((_rank(other) for other in ours), default=0)
    rivals = [other for other in _all(figure, job, "peer") if _rank(other) >= least]
    return _worst(figure, rivals or _all(figure, job, "reference"))


def lowest_floor(figure: Figure, job: Mapping[str, Figure]) -> Figure | None:
    """Return the floor of the same work, None if none was measured."""
    return _worst(figure, _all(figure, job, "floor"))


def _same_work(figure: Figure, job: Mapping[str, Figure]) -> list[Figure]:
    return [other for other in job.values() if other.contender.among == figure.contender.among]


def _all(figure: Figure, job: Mapping[str, Figure], role: Role) -> list[Figure]:
    """Return the figures that others have of the same work as what they are in that job."""
    return [
        other
        for other in _same_work(figure, job)
        if not other.contender.ours and other.contender.role == role and other.error is None
    ]


def _rank(figure: Figure) -> int:
    return 0 if figure.contender.survives is None else figure.contender.survives.rank


def _worst(figure: Figure, others: Iterable[Figure]) -> Figure | None:
    """Return that of others beside which a figure looks worst, None if there is none."""
    ratios = [(ratio, other) for other in others if (ratio := figure.ratio(other)) is not None]
    if not ratios:
        return None
    return (min if figure.higher_is_better else max)(ratios, key=lambda each: each[0])[1]


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
                str(len(item["medians"])),
                "" if item["spread"] is None else f"{item['spread']:.0%}",
                *("" if item[ratio] is None else number(item[ratio]) for ratio in RATIOS),
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
