"""Measure this package side by side with what one would use instead. Prints a Markdown table."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import files
import growth
import imports
import memory
import metrics
import patterns
import remote
import results
import sql
from attrs import evolve
from harness import FEW, LEAST, Figure, Job, Progress, allowances, measure
from report import plain, table
from surroundings import surroundings

FAMILIES: Final[Mapping[str, Callable[[str], list[Job]]]] = {
    "files": files.jobs,
    "memory": memory.jobs,
    "redis": remote.jobs,
    "metrics": metrics.jobs,
    "patterns": patterns.jobs,
    "sql": sql.jobs,
    "start": imports.jobs,
}
SCALES: Final = {
    "full": "ten minutes",
    "quick": "a minute",
    "tiny": "seconds, to see that everything works: the figures say nothing",
}
SECONDS: Final = {"full": 210.0, "quick": 25.0, "tiny": math.inf}
"""What the jobs of a run share. The last of them take more, for what they set up and the rounds that each has; that and
removing it all have the rest of the ten minutes, or of the one."""
ROUNDS: Final = {"full": LEAST, "quick": FEW, "tiny": 1}
"""The rounds that each job has, however little time is left."""


def main() -> int:
    """Run it. Returns 1 if a contender failed or a cost grew; a goal that is not met is no failure."""
    options = _options()
    if os.environ.get("PYTHONHASHSEED") != "0":  # Else the order of sets and the fill of dicts change with each run.
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONHASHSEED": "0"})
    left_out: dict[str, str] = {}
    took: dict[str, float] = {}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="empathy-kv-bench-", dir=options.dir) as scratch:
        about = {**surroundings(Path(scratch)), "scale": options.scale}
        figures = _measured(options, Path(scratch), left_out, took)
    about["seconds"] = round(time.monotonic() - begin)
    rows = plain(figures)
    if options.growth:
        print(growth.table(figures))
    else:
        print(results.surroundings_lines(about), table(rows), sep="\n\n")
    if left_out:
        print("\nLeft out: " + "; ".join(f"{store} ({reason})" for store, reason in left_out.items()))
    if options.json is not None:
        written = {"about": about, "seconds": took, "left_out": left_out, "figures": rows}
        options.json.write_text(json.dumps(written, indent=1) + "\n")
    if options.save and options.growth:
        results.GROWTH_FILE.write_text(growth.page(results.surroundings_lines(about), figures))
    elif options.save:
        results.save(about, rows, left_out)
    failed = any(figure.error is not None for figure in figures)
    return int(failed or (options.growth and growth.grown(figures)))


def _measured(
    options: argparse.Namespace, scratch: Path, left_out: dict[str, str], took: dict[str, float]
) -> list[Figure]:
    """Measure the jobs, and note what is left out and how many seconds each took."""
    progress = Progress()
    figures: list[Figure] = []
    seconds = math.inf if options.growth else SECONDS[options.scale]
    jobs = [_possible(job, options.stores, left_out) for job in options.jobs]
    for job, allowed in zip(jobs, allowances([job.weight for job in jobs], seconds), strict=True):
        start = time.monotonic()
        figures += measure(job, scratch, progress, allowed, ROUNDS[options.scale])
        took[job.name] = round(time.monotonic() - start, 1)
    progress.clear()
    return figures


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
    parser.add_argument(
        "--growth", action="store_true", help="see whether a cost grows with what a store holds; takes half an hour"
    )
    parser.add_argument("--save", action="store_true", help="keep the table in scripts/, and quote it in README.md")
    options = parser.parse_args()
    if options.dir is not None and not options.dir.is_dir():
        parser.error(f"{options.dir} is no directory")
    if options.dir is not None:
        options.dir = options.dir.resolve()
    if options.save and (options.scale != "full" or options.jobs or options.stores):
        parser.error("--save keeps the figures of a full run, of all jobs and stores")
    every = planned(options.scale, options.growth)
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


def planned(scale: str, grown: bool = False) -> list[Job]:
    """Return the jobs of a run, each named after its family."""
    families: Iterable[tuple[str, list[Job]]]
    families = [("growth", growth.jobs(scale))] if grown else [(name, jobs(scale)) for name, jobs in FAMILIES.items()]
    return [evolve(job, name=f"{family}/{job.name}") for family, jobs in families for job in jobs]


def _possible(job: Job, stores: tuple[str, ...], left_out: dict[str, str]) -> Job:
    """Return the job with those of the chosen stores that can be measured here; note why others cannot."""
    chosen = [row for row in job.contenders if row.store.startswith(stores)]
    left_out.update({row.store: row.missing for row in chosen if row.missing is not None})
    return evolve(job, contenders=[row for row in chosen if row.missing is None])


def run() -> None:
    """Run it and end this process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Python's default would leave the scratch directory.
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
