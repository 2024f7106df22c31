"""The last figures, as they are kept beside the scripts, and the few of them that the README quotes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from harness import PACKAGE, RATE
from peers.disk import OWN_CLASS
from report import markdown, named, number, table

ROOT: Final = Path(__file__).parents[2]
FILE: Final = ROOT / "scripts" / "bench-results.md"
GROWTH_FILE: Final = ROOT / "scripts" / "bench-growth.md"
README: Final = ROOT / "README.md"
BEGIN: Final = "<!-- scripts/bench --save writes this table, and the same in scripts/bench-results.md -->\n"
END: Final = "<!-- end of what it writes -->\n"

HEADLINES: Final = (
    *("files/put", "files/overwrite", "files/get", "files/first", "files/delete", "files/list", "files/fill"),
    *("files/processes", "files/open", "files/space", "files/counter", "files/timeline", "files/record"),
    *("files/contribute", "files/outcome", "files/state", "files/fsync", "files/fsync-record"),
    *("memory/put", "memory/get", "memory/delete", "memory/list", "memory/space"),
    *("redis/put", "redis/get", "redis/delete", "redis/list", "redis/bulk", "redis/write", "redis/tasks"),
    *("redis/count", "redis/load", "redis/record", "redis/users", "redis/global", "redis/processes", "redis/space"),
    *("metrics/user", "metrics/global", "patterns/ask", "patterns/skewed", "patterns/pattern", "patterns/index"),
    *("patterns/save", "patterns/load", "patterns/peak"),
    *("sql/record", "sql/save", "sql/load", "sql/user", "sql/global", "start/import"),
)
"""The jobs of which the row is quoted that compares worst of this package's, with classes of its own or of a user's."""
BOTH: Final = ("files/put", "files/get")
"""Those of which it is quoted of either."""
QUOTED: Final = ("job", "survives", PACKAGE, "unit", "best of the others", "its median", "ratio", "x floor")

HOW: Final = """\
Contenders take turns, round by round, in an order that changes. A median is that of the rounds' medians, p99 is of all
samples, the spread is that of the middle half of the rounds. Ratios are the median of the ratios within each round, so
what slowed down a whole round cancels out. As in `timeit`, no garbage is collected while a turn is timed, but before
it; only whole libraries are saved and loaded with it, since it is a part of what so many objects cost. The hash seed is
pinned. The first round warms up and does not count, but where memory, disk and imports are measured.

Times are of a call with an object in and an object out, where a row does not say that it is about bytes, a counter or
an entry. All who store bytes have them made by the fastest codec there is, msgspec with the class (`Encoder`,
`Decoder(Pattern)`), those who store dicts by `msgspec.to_builtins` and `convert`. This package has its own codec, which
checks what it is given. diskcache, shelve and sqlitedict pickle what they are given, as they are documented;
"diskcache, msgspec" is given bytes.

"survives" is the worst that a write survives once it returned. Where it is about files, this package is measured with
`durability="os"`, unless it says that it is on the disk when it returns; `"fsync"` is the default. The best peer of a
row is what it compares worst with of all that one would use instead, that do the same, and that survive at least as
much: kill -9, or a power cut. What is left after a power cut that is not survived is not compared (of SQLite with
NORMAL and of this package a prefix; of LMDB without sync perhaps nothing). The reference is how the system does it that
this package takes the place of, written from its description: a file a state, rewritten by `open("w")`, a SQLite
connection a call, a look at each pattern. It is the best peer only where there is no other. The floor is the least that
the job takes: bytes made by msgspec, and a bare append, or a bare socket with hiredis. What is neither (the bare GET of
redis-py, a sketch of a log) is there to be looked at.

What a store writes behind is brought to its place after each turn, outside the clock, by its checkpoint (of SQLite
`wal_checkpoint(TRUNCATE)`, of LMDB `sync(True)`), so that nobody works in the turn of another. What that costs is timed
where a store is filled, and where several processes write: the clock stops when each has made its checkpoint and is
closed. "Once read" has been read before, as all stores of a thousand documents have; "just written" was put in the same
turn. Stores that can only be awaited (py-key-value, litestar) are called one after the other in one event loop that
runs all the time, but by many tasks at once where it says so: what awaiting costs is in their figures, starting a loop
is not. Memory is what a process has for itself (RssAnon), without pages of files."""


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
    """Return the table of a few figures, those of `HEADLINES`, and what of the goals is met."""
    items = list(items)
    rows = []
    for job in HEADLINES:
        of_job = [item for item in items if item["job"] == job]
        stores = ((PACKAGE,), (OWN_CLASS.name,)) if job in BOTH else ((PACKAGE, OWN_CLASS.name),)
        for names in stores:
            ours = [item for item in of_job if item["store"] in names and item.get("to_best_peer") is not None]
            if ours:
                rows.append(_quoted(_worst(ours), of_job))
    return markdown(QUOTED, rows, (PACKAGE, "its median", "ratio", "x floor")) + "\n\n" + goals(items)


def _worst(items: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the row of a job that compares worst with the best of the others."""
    return (min if items[0]["unit"] == RATE else max)(items, key=lambda item: float(item["to_best_peer"]))


def _quoted(item: Mapping[str, Any], of_job: Iterable[Mapping[str, Any]]) -> Sequence[str]:
    peer = next(other for other in of_job if named(other) == item["best_peer"])
    return (
        titled(item),
        item["survives"] or "",
        number(item["median"]),
        item["unit"],
        item["best_peer"],
        number(peer["median"]),
        number(item["to_best_peer"]),
        "" if item["to_floor"] is None else number(item["to_floor"]),
    )


def titled(item: Mapping[str, Any]) -> str:
    """Return how a row of this package is called beside those of other jobs."""
    return ", ".join(filter(None, (item["title"], item["store"].removeprefix(PACKAGE).lstrip(", "), item["way"])))


def goals(items: Iterable[Mapping[str, Any]]) -> str:
    """Return a line about how many goals are met, and which are not."""
    judged = [(item, goal) for item in items for goal in item.get("goals", ()) if goal["met"] is not None]
    missed: dict[str, list[str]] = {}
    for item, goal in judged:
        if not goal["met"]:
            unit = item["unit"] if goal["of"] is None else f"x {goal['of'].removeprefix(PACKAGE + ', ')}"
            at = f"{number(goal['value'])} {unit} ({goal['limit']:.3g})"
            missed.setdefault(", ".join(filter(None, (item["job"], item["way"]))), []).append(at)
    met = f"{len(judged) - sum(map(len, missed.values()))} of {len(judged)} goals are met"
    rows = "; ".join(f"{row} {' and '.join(values)}" for row, values in missed.items())
    return f"{met}; those that are not, with what they should be: {rows}." if missed else f"{met}."


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
