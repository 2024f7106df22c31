"""Measure this package side by side with what one would use instead. Prints a Markdown table."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import files
import patterns
import remote
import sql
from attrs import evolve
from harness import Figure, Job, Progress, measure
from report import machine, plain, table

FAMILIES: Final = {"files": files.jobs, "redis": remote.jobs, "patterns": patterns.jobs, "sql": sql.jobs}
SCALES: Final = {
    "full": "some minutes",
    "quick": "about a minute",
    "tiny": "seconds, to see that everything works: the figures say nothing",
}


def main() -> int:
    """Run it. Returns 1 if a contender failed; a goal that is not met is no failure."""
    options = _options()
    if os.environ.get("PYTHONHASHSEED") != "0":  # Else the order of sets and the fill of dicts change with each run.
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONHASHSEED": "0"})
    left_out: dict[str, str] = {}
    progress = Progress()
    took: dict[str, float] = {}
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="empathy-kv-bench-", dir=options.dir) as scratch:
        about = {"scale": options.scale, **machine(Path(scratch))}
        for job in options.jobs:
            start = time.monotonic()
            figures += measure(_possible(job, options.stores, left_out), Path(scratch), progress)
            took[job.name] = round(time.monotonic() - start, 1)
    progress.clear()
    about["seconds"] = round(sum(took.values()))
    rows = plain(figures)
    print(", ".join(f"{name} {value}" for name, value in about.items()), end="\n\n")
    print(table(rows))
    if left_out:
        print("\nLeft out: " + "; ".join(f"{store} ({reason})" for store, reason in left_out.items()))
    if options.json is not None:
        options.json.write_text(
            json.dumps({"about": about, "seconds": took, "left_out": left_out, "figures": rows}, indent=1) + "\n"
        )
    return int(any(figure.error is not None for figure in figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="a family or a job; all of them if none is given")
    scales = parser.add_mutually_exclusive_group()
    for scale, what in SCALES.items():
        scales.add_argument(
            f"--{scale}", dest="scale", action="store_const", const=scale, default="full", help=f"takes {what}"
        )
    parser.add_argument("--stores", default="", metavar="NAME,...", help="only stores whose names begin so")
    parser.add_argument("--dir", type=Path, help="where to measure; default: where temporary files go")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to a file, too")
    parser.add_argument("--list", action="store_true", help="list the jobs and their stores, and measure nothing")
    options = parser.parse_args()
    if options.dir is not None and not options.dir.is_dir():
        parser.error(f"{options.dir} is no directory")
    if options.dir is not None:
        options.dir = options.dir.resolve()
    every = [
        evolve(job, name=f"{family}/{job.name}") for family, jobs in FAMILIES.items() for job in jobs(options.scale)
    ]
    names = {job.name: {job.name, *job.name.split("/")} for job in every}
    if options.list:
        for job in every:
            print(f"{job.name:16} {job.title}: {', '.join(dict.fromkeys(row.store for row in job.contenders))}")
        sys.exit()
    for wanted in options.jobs:
        if not any(wanted in called for called in names.values()):
            parser.error(f"no job is called {wanted}; there are {', '.join(names)}")
    options.jobs = [job for job in every if not options.jobs or not names[job.name].isdisjoint(options.jobs)]
    options.stores = tuple(options.stores.split(","))
    if not any(row.store.startswith(options.stores) for job in options.jobs for row in job.contenders):
        parser.error(f"none of these jobs has a store whose name begins with {' or '.join(options.stores)}")
    return options


def _possible(job: Job, stores: tuple[str, ...], left_out: dict[str, str]) -> Job:
    """Return the job with those of the chosen stores that can be measured here; note why others cannot."""
    chosen = [row for row in job.contenders if row.store.startswith(stores)]
    left_out.update({row.store: row.missing for row in chosen if row.missing is not None})
    return evolve(job, contenders=[row for row in chosen if row.missing is None])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Python's default would leave the scratch directory.
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
