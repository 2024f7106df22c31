"""`empathy-kv store`: a store as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cyclopts import App, Parameter

from empathy_kv.cli.console import (
    Refused,
    confirm,
    counted,
    facts,
    printable,
    progress,
    show,
    show_json,
    table,
    tell,
)
from empathy_kv.cli.options import HERE, DryRun, Json, Where, Yes, absent, address, others, present, required
from empathy_kv.errors import DamagedError
from empathy_kv.metrics import HISTORY
from empathy_kv.migration import Migration, older_lines
from empathy_kv.snapshot import Counts, Lines, dump
from empathy_kv.urls import connect, names_store

app: Final = App(name="store", help="A store as a whole.")

_IMPORTED: Final = (".json", ".jsonl", ".json.gz", ".json.zst")


@app.command
def info(*, json: Json = False, store: Where = HERE) -> None:
    """Show what a store is and how much is in it."""
    with present(store) as open_store:
        metrics = open_store.metrics.get_global_stats()
        found: dict[str, Any] = {
            "store": address(store),
            "patterns": len(open_store.patterns.patterns),
            "states": len(open_store.states.list_users()),
            "metrics_users": metrics["total_users"],
            "interactions": metrics["total_interactions"],
        }
    if json:
        show_json(found)
    else:
        show(facts((name.replace("_", " "), value) for name, value in found.items()))


@app.command
def check(*, json: Json = False, store: Where = HERE) -> int:
    """Read everything and tell what is damaged or foreign; nothing is changed. The exit status is 1 if anything is."""
    with present(store) as open_store:
        damage = open_store.check()
    if json:
        show_json([{"path": error.path, "problem": str(error)} for error in damage])
    elif damage:
        show(table(("PROBLEM",), ((str(error),) for error in damage)))
    tell(f"found {counted(len(damage), 'problem')}" if damage else "all is well")
    for cure in _cures(damage):
        tell(cure)
    return 1 if damage else 0


def _cures(damage: Sequence[DamagedError]) -> Iterator[str]:
    """Yield what can be done about damage, each once."""
    kinds = set(map(_kind, damage))
    if kinds - {"foreign"}:
        yield "what is damaged comes back from a backup: empathy-kv backup restore --replace"
    if "library" in kinds:
        yield "what the library keeps of its patterns alone: empathy-kv patterns repair makes it anew"
    if "document" in kinds:
        yield (
            "a document alone: set its key or delete it, as by empathy-kv states import FILE --existing replace, or "
            "empathy-kv states delete USER"
        )
    if "journal" in kinds:
        yield "a journal: move it out of the store first, which goes on with what its documents hold"
    if "foreign" in kinds:
        yield "what is kept aside, or not part of the store: look at it, and move it out of the store"


def _kind(error: DamagedError) -> Literal["library", "document", "journal", "foreign"]:
    from empathy_kv.kv.files.check import foreign

    path = Path(error.path)
    if str(error) == str(foreign(path)):
        return "foreign"
    if path.parent.name == "patterns" and path.stem in ("order", "changes", "epoch", "stamp"):
        return "library"
    if path.parent.name == "journal":
        return "journal"
    return "document" if path.suffix == ".json" else "foreign"


@app.command
def checkpoint(*, store: Where = HERE) -> None:
    """Bring the JSON documents of a store on files up to date, to be read by people and by backups."""
    with present(store) as open_store:
        open_store.checkpoint()
        tell(f"{printable(address(store))} is up to date")


@app.command
def migrate(
    source: Annotated[
        str, Parameter(name="FROM", help="URL of a store; or a directory or database of empathy-framework")
    ],
    target: Annotated[str, Parameter(name="TO", help="URL of the store that is to hold the same")],
    /,
    *,
    history_limit: Annotated[
        int, Parameter(help="So many interactions of a user are kept one by one, where not all are", show_default=True)
    ] = HISTORY,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Make the store TO hold what FROM holds, exactly, and compare the two.

    It is of one moment, and others may go on to write to FROM. If it is interrupted, run it again.

    Patterns, links, states and metrics are moved; collections and namespaces of your own are not.
    """
    for url in (source, target):
        if url.partition(":")[0].lower() == "memory":
            raise Refused("what is in memory: is gone with its process: name another store", 2)
    if source == target:
        raise Refused("FROM and TO are the same store", 2)
    with (
        connect(target, history_limit=history_limit) as into,
        _lines(source) as lines,
        progress("reading") as reading,
        Migration(lines, into, progress=reading) as migration,
    ):
        counts = migration.counts
        if counts == Counts():
            raise Refused(_nothing(source))
        there = migration.found()
        done = there == migration.content
        if not done and dry_run:
            place = "" if there is None else f" in the place of {_told(there.counts)}"
            tell(f"would move {_told(counts)}{place}")
        elif not done:
            if there is not None:
                confirm(f"Replace {_told(there.counts)} in {printable(address(target))}?", yes)
            with progress("writing") as writing:
                migration.run(progress=writing)
            tell(f"moved {_told(counts)}; both sides are equal")
        else:
            tell(f"nothing to do: both sides hold {_told(counts)}")
    if json:
        show_json(
            {
                "patterns": counts.patterns,
                "states": counts.states,
                "metrics_users": counts.users,
                "interactions": counts.interactions,
                "sha256": migration.content.sha256,
                "moved": not done and not dry_run,
            }
        )


def _nothing(source: str) -> str:
    """Return what is said of a source that holds nothing to be moved."""
    if not names_store(source) and Path(source).is_dir() and not absent(f"file:{source}"):
        return f"{source} is a store: name it as file:{source}"
    return "FROM holds nothing that could be moved"  # Not its URL: it may hold a password.


def _told(counts: Counts) -> str:
    interactions = counted(counts.interactions, "interaction")
    users = counted(counts.users, "user")
    return f"{counted(counts.patterns, 'pattern')}, {counted(counts.states, 'state')}, {interactions} of {users}"


@contextlib.contextmanager
def _lines(source: str) -> Iterator[Lines]:
    """Give the snapshot of what is named: a store by its URL, a directory of states, a file of SQLite's."""
    if not names_store(source):
        path = required(Path(source))
        if path.is_dir():
            with contextlib.closing(older_lines(path)) as lines:
                yield lines
            return
        if path.name.lower().endswith(_IMPORTED):
            told = "a library is imported by `empathy-kv patterns import`, states by `empathy-kv states import`"
            raise Refused(f"{path} is no store: {told}")
        source = f"sqlite:///{path}"
    if absent(source):
        told = "FROM is the URL of one, or a directory or database of empathy-framework"
        raise Refused(f"there is no store at {source}: {told}")
    with connect(source) as store, contextlib.closing(dump(store)) as lines:
        others(store, "moved")
        yield lines
