"""`empathy-kv store`: a store as a whole."""

from __future__ import annotations

from typing import Any, Final

from cyclopts import App

from empathy_kv.cli.console import counted, facts, printable, show, show_json, table, tell
from empathy_kv.cli.options import HERE, Json, Where, opened

app: Final = App(name="store", help="A store as a whole.")


@app.command
def info(*, json: Json = False, store: Where = HERE) -> None:
    """Show what a store is and how much is in it."""
    with opened(store) as open_store:
        metrics = open_store.metrics.get_global_stats()
        found: dict[str, Any] = {
            "store": repr(open_store),
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
    with opened(store) as open_store:
        damage = open_store.check()
    if json:
        show_json([{"path": error.path, "problem": str(error)} for error in damage])
    elif damage:
        show(table(("PROBLEM",), ((str(error),) for error in damage)))
    tell(f"found {counted(len(damage), 'problem')}" if damage else "all is well")
    return 1 if damage else 0


@app.command
def checkpoint(*, store: Where = HERE) -> None:
    """Bring the JSON documents of a store on files up to date, to be read by people and by backups."""
    with opened(store) as open_store:
        open_store.checkpoint()
        tell(f"{printable(repr(open_store))} is up to date")
