"""The last figures, as they are kept beside the scripts, and the few of them that the README quotes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from harness import PACKAGE
from report import markdown, named, number, table

ROOT: Final = Path(__file__).parents[2]
FILE: Final = ROOT / "scripts" / "bench-results.md"
GROWTH_FILE: Final = ROOT / "scripts" / "bench-growth.md"
README: Final = ROOT / "README.md"
BEGIN: Final = "<!-- scripts/bench --save writes this table, and the same in scripts/bench-results.md -->\n"
END: Final = "<!-- end of what it writes -->\n"

HEADLINES: Final = (
    *("files/put", "files/get", "files/delete", "files/list", "files/counter", "files/timeline"),
    *("files/fsync", "files/fsync-record", "memory/put", "memory/get"),
    *("redis/put", "redis/get", "redis/count", "redis/record", "redis/bulk", "redis/tasks"),
    *("patterns/ask", "patterns/skewed", "patterns/json", "metrics/user", "sql/record", "sql/save", "start/import"),
)
"""The jobs of which one row is quoted: the last of this package that has a peer, which is the hardest."""
QUOTED: Final = ("job", PACKAGE, "unit", "best of the others", "its median", "ratio", "x floor")

HOW: Final = """\
Contenders take turns, round by round, in an order that changes. A median is that of the rounds' medians, p99 is of all
samples, the spread is that of the middle half of the rounds. Ratios are the median of the ratios within each round, so
what slowed down a whole round cancels out. No garbage is collected while a turn is timed, but before it; the hash seed
is pinned; the first round warms up and does not count. Times are of a call with an object in and an object out.

"survives" is the worst that a write survives once it returned. The best peer of a job is the fastest that one would use
instead and that promises at least as much. The floor is the least that the job takes: bytes made by msgspec in C, and
a bare append, or a bare socket with hiredis. What is neither (the bare GET of redis-py, a sketch of a log) is there to
be looked at. Stores that can only be awaited (py-key-value, litestar) are called one after the other in one event loop
that runs all the time: what awaiting costs is in their figures, starting a loop is not."""


def document(about: Mapping[str, Any], items: Sequence[Mapping[str, Any]], left_out: Mapping[str, str]) -> str:
    """Return the results of a run as a page."""
    parts = [
        "# What `scripts/bench` measured last",
        surroundings_lines(about),
        HOW,
        "## In short",
        BEGIN + summary(items) + "\n" + END.rstrip(),
        "## Everything",
        table(items),
    ]
    if left_out:
        parts.append("Left out: " + "; ".join(f"{store} ({reason})" for store, reason in left_out.items()))
    return "\n\n".join(parts) + "\n"


def surroundings_lines(about: Mapping[str, Any]) -> str:
    """Return what is said of the machine and the versions, a line each."""
    return "\n".join(f"- {name}: {value}" for name, value in about.items())


def summary(items: Iterable[Mapping[str, Any]]) -> str:
    """Return the table of a few figures, those of `HEADLINES`."""
    items = list(items)
    rows = []
    for job in HEADLINES:
        ours = [
            item
            for item in items
            if item["job"] == job and item["store"] == PACKAGE and item.get("to_best_peer") is not None
        ]
        if ours:
            rows.append(_quoted(ours[-1], items))
    return markdown(QUOTED, rows, (PACKAGE, "its median", "ratio", "x floor"))


def _quoted(item: Mapping[str, Any], items: Iterable[Mapping[str, Any]]) -> Sequence[str]:
    peer = next(other for other in items if other["job"] == item["job"] and named(other) == item["best_peer"])
    return (
        f"{item['title']}, {item['way']}" if item["way"] else item["title"],
        number(item["median"]),
        item["unit"],
        item["best_peer"],
        number(peer["median"]),
        number(item["to_best_peer"]),
        "" if item["to_floor"] is None else number(item["to_floor"]),
    )


def quoted(page: str) -> str:
    """Return what a page quotes; `ValueError` unless it does so once."""
    found = re.findall(f"{re.escape(BEGIN)}(.*?){re.escape(END)}", page, re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"a page has to quote figures once, not {len(found)} times")
    return str(found[0])


def requoted(page: str, figures: str) -> str:
    """Return a page with other figures in the place of those that it quotes."""
    return page.replace(BEGIN + quoted(page) + END, BEGIN + figures + END)


def save(about: Mapping[str, Any], items: Sequence[Mapping[str, Any]], left_out: Mapping[str, str]) -> None:
    """Write the results file, and quote it in the README."""
    page = document(about, items, left_out)
    readme = README.read_text(encoding="utf-8")
    FILE.write_text(page, encoding="utf-8")
    README.write_text(requoted(readme, quoted(page)), encoding="utf-8")
