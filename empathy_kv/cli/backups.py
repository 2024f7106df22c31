"""`empathy-kv backup`: backups of a whole store."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Iterator
from datetime import time
from typing import Annotated, Any, Final, TypeAlias

from cyclopts import App, Parameter

from empathy_kv.backup import Backup, Backups, Keep, schedule
from empathy_kv.backup.urls import place
from empathy_kv.cli.console import Refused, confirm, counted, printable, progress, show, show_json, size, table, tell
from empathy_kv.cli.options import HERE, DryRun, Json, Where, Yes, opened, others, present
from empathy_kv.errors import ArgumentError, NotEmptyError
from empathy_kv.snapshot import Counts

app: Final = App(name="backup", help="Backups of a whole store: to a directory, Amazon S3, Azure or Google Cloud.")

Target: TypeAlias = Annotated[
    str,
    Parameter(
        name=["--target", "-t"],
        env_var="EMPATHY_KV_BACKUPS",
        help="Where backups are: a directory, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX, gs://BUCKET/PREFIX; endpoint "
        "and credentials stand in AWS_..., AZURE_..., GOOGLE_...",
    ),
]
Name: TypeAlias = Annotated[str | None, Parameter(help="Which one, by default the newest", show_default=False)]
Last: TypeAlias = Annotated[int, Parameter(name="--keep", help="Keep the newest so many", show_default=False)]
Daily: TypeAlias = Annotated[int, Parameter(help="Keep the newest of each of so many days", show_default=False)]
Weekly: TypeAlias = Annotated[int, Parameter(help="Keep the newest of each of so many weeks", show_default=False)]
Monthly: TypeAlias = Annotated[int, Parameter(help="Keep the newest of each of so many months", show_default=False)]


@app.command
def create(*, target: Target, json: Json = False, store: Where = HERE) -> None:
    """Back up a store, as it is at one moment; others may go on writing.

    Patterns, links, states and metrics are in it; collections and namespaces of your own are not.
    """
    with aimed(target) as backups, present(store) as open_store, progress("records") as done:
        made = backups.create(open_store, progress=done)
        others(open_store, "backed up")
    if json:
        show_json(_document(made))
        return
    show(made.name)
    tell(f"backed up {_counted(made.counts)} in {size(made.size)}")


@app.command(name="list")
def list_(*, target: Target, json: Json = False) -> None:
    """List the backups, the oldest first."""
    with kept(target) as backups:
        found = backups.list()
    if json:
        show_json([_document(backup) for backup in found])
        return
    usable = [backup for backup in found if backup.problem is None]
    if usable:
        columns = ("NAME", "FINISHED", "PATTERNS", "STATES", "USERS", "INTERACTIONS", "SIZE")
        show(table(columns, map(_row, usable), ("USERS", "STATES", "PATTERNS", "INTERACTIONS", "SIZE", "FINISHED")))
    for backup in found:
        if backup.problem is not None:
            tell(printable(f"cannot be used: {backup.problem}"))
    tell(counted(len(usable), "backup"))


@app.command
def verify(name: Name = None, /, *, target: Target, json: Json = False) -> int:
    """Read all of a backup and tell what is damaged. The exit status is 1 if anything is."""
    with kept(target) as backups, progress("parts") as done:
        backup = backups.find(name)
        problems = backups.verify(backup.name, progress=done)
    if json:
        show_json([{"path": error.path, "problem": str(error)} for error in problems])
    elif problems:
        show(table(("PROBLEM",), ((str(error),) for error in problems)))
    tell(f"found {counted(len(problems), 'problem')} in {backup.name}" if problems else f"{backup.name} is whole")
    return 1 if problems else 0


@app.command
def restore(
    name: Name = None,
    /,
    *,
    target: Target,
    replace: Annotated[
        bool, Parameter(negative="", show_default=False, help="Replace all that the store holds")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    store: Where = HERE,
) -> None:
    """Put all of a backup into a store, or nothing. It is verified first."""
    with kept(target) as backups:
        backup = backups.find(name)
        told = f"{backup.name}: {_counted(backup.counts)}"
        if dry_run:
            with progress("parts") as done:
                problems = backups.verify(backup.name, progress=done)
            if problems:
                raise problems[0]
            tell(f"would restore {told}")
            return
        if replace:
            confirm(f"Replace all that is in the store by {told}?", yes)
        try:
            with opened(store) as open_store, progress("records") as done:
                backups.restore(backup.name, open_store, replace=replace, progress=done)
        except NotEmptyError as error:
            raise Refused("the store is not empty: --replace replaces all that it holds") from error
    tell(f"restored {told}")


@app.command
def prune(
    *,
    target: Target,
    keep: Last = 0,
    daily: Daily = 0,
    weekly: Weekly = 0,
    monthly: Monthly = 0,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Remove the backups that no rule keeps, and what backups that died left behind more than a day ago."""
    if not (keep or daily or weekly or monthly):
        raise Refused("say which to keep, as --keep 7, or --daily 7 --weekly 4 --monthly 12", 2)
    rules = Keep(last=keep, daily=daily, weekly=weekly, monthly=monthly)
    with kept(target) as backups:
        found = backups.prune(rules, dry_run=True)
        told = counted(len(found.removed), "backup") + (
            f" and {counted(found.leftovers, 'object')} of dead ones" if found.leftovers else ""
        )
        for backup in found.unusable:
            tell(printable(f"left alone: {backup.problem}"))
        if dry_run:
            for backup in found.removed:
                show(backup.name)
            tell(f"would remove {told}, keep {len(found.kept):,}")
            return
        if found.removed:
            confirm(f"Remove {told}, keep {len(found.kept):,}?", yes)
        done = backups.prune(rules)
    tell(f"removed {counted(len(done.removed), 'backup')}, kept {len(done.kept):,}")


@app.command
def run(
    *,
    target: Target,
    at: Annotated[list[str], Parameter(negative="", help="When, as 02:00; may be given several times")],
    keep: Last = 0,
    daily: Daily = 0,
    weekly: Weekly = 0,
    monthly: Monthly = 0,
    store: Where = HERE,
) -> None:
    """Back up a store each day at a time, and prune if a rule is given, until it is told to end (SIGTERM, Ctrl-C).

    A line a run says how it went; one that failed does not end it.
    """
    times = [_time(each) for each in at]
    rules = None
    if keep or daily or weekly or monthly:
        rules = Keep(last=keep, daily=daily, weekly=weekly, monthly=monthly)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("empathy_kv").setLevel(logging.INFO)
    with aimed(target) as backups:
        # A URL that is none is a mistake of which to hear now, and not in the night.
        with present(store):
            pass
        # A store that is gone some night would be backed up as an empty one, in the place of what is pruned then.
        schedule.run(backups, functools.partial(present, store), times, rules)


@contextlib.contextmanager
def aimed(target: str) -> Iterator[Backups]:
    """Open the backups at a target, the first of which makes a directory."""
    try:
        backups = Backups(target)
    except ArgumentError as error:
        # Here, because the argument of `connect` has the same name.
        raise Refused(str(error).replace("target must", "the target of backups must", 1), 2) from error
    with backups:
        yield backups


@contextlib.contextmanager
def kept(target: str) -> Iterator[Backups]:
    """Open the backups at a target, for a command that makes none: a directory is there, or its name is a mistake."""
    with aimed(target) as backups:
        path = place(target)
        if path is not None and not path.exists():
            told = "name that of the backups by --target or EMPATHY_KV_BACKUPS; `empathy-kv backup create` makes one"
            raise Refused(f"there is no directory {path}: {told}")
        yield backups


def _time(word: str) -> time:
    try:
        found = time.fromisoformat(word)
    except ValueError:
        found = None
    if found is None or found.tzinfo is not None or found.microsecond:
        raise Refused(f"--at is a time of the day as 02:00, not {word!r}", 2)
    return found


def _counted(counts: Counts) -> str:
    return ", ".join(
        (
            counted(counts.patterns, "pattern"),
            counted(counts.states, "state"),
            f"{counted(counts.interactions, 'interaction')} of {counted(counts.users, 'user')}",
        )
    )


def _row(backup: Backup) -> tuple[object, ...]:
    counts = backup.counts
    figures = (counts.patterns, counts.states, counts.users, counts.interactions)
    return (backup.name, backup.finished_at, *figures, size(backup.size))


def _document(backup: Backup) -> dict[str, Any]:
    return {
        "name": backup.name,
        "created_at": backup.created_at,
        "finished_at": backup.finished_at,
        "patterns": backup.counts.patterns,
        "states": backup.counts.states,
        "users": backup.counts.users,
        "interactions": backup.counts.interactions,
        "parts": len(backup.parts),
        "size": backup.size,
        "raw_size": backup.raw_size,
        "problem": None if backup.problem is None else str(backup.problem),
    }
