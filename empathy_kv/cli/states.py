"""`empathy-kv states`: the collaboration states of users."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from attrs import evolve
from cyclopts import App, Parameter

from empathy_kv.cli.console import Refused, confirm, counted, document, progress, share, show, show_json, table, tell
from empathy_kv.cli.options import HERE, DryRun, Json, Where, Yes, opened, overwriting, present, required, suited
from empathy_kv.codec import codec, parse
from empathy_kv.errors import CodecError, DamagedError, StateNotFoundError
from empathy_kv.paths import destination
from empathy_kv.records import CollaborationState
from empathy_kv.states import StateManager
from empathy_kv.streams import write

app: Final = App(name="states", help="The collaboration states of users.")

_CODEC: Final = codec(CollaborationState)


@app.command(name="list")
def list_(*, json: Json = False, store: Where = HERE) -> None:
    """List the users, and how far each is trusted."""
    with present(store) as open_store:
        states = list(_all(open_store.states))
    if json:
        show_json([_CODEC.unstructure(state) for state in states])
        return
    rows = [
        (
            state.user_id,
            f"{state.trust_level:.2f}",
            f"{state.current_level} of {state.target_level}",
            state.interaction_count,
            share(state.success_rate) if state.interaction_count else None,
            state.last_interaction,
        )
        for state in states
    ]
    if rows:
        show(table(("USER", "TRUST", "LEVEL", "INTERACTIONS", "SUCCESS", "LAST"), rows, ("LAST", "INTERACTIONS")))
    tell(counted(len(rows), "user"))


@app.command(name="show")
def show_(user_id: str, /, *, json: Json = False, store: Where = HERE) -> None:
    """Show the state of a user."""
    with present(store) as open_store:
        record = _CODEC.unstructure(open_store.states.load_state(user_id))
    if json:
        show_json(record)
    else:
        show(document(record))


@app.command
def export(
    file: Annotated[Path, Parameter(help="A file .json or .jsonl, or a directory for a file a user")],
    /,
    *,
    yes: Yes = False,
    dry_run: DryRun = False,
    store: Where = HERE,
) -> None:
    """Write all states to a file, whole or not at all; or to a directory of <user>.json, as StateManager keeps them."""
    if file.suffix and not file.is_dir():
        suited(file, ".json", ".jsonl")
    elif file.exists() and not file.is_dir():
        raise Refused(f"{file} is no directory, and does not end in .json or .jsonl", 2)
    with present(store) as open_store, progress("states") as done:
        states = []
        for state in _all(open_store.states):
            states.append(state)
            done(len(states), None)
    if not overwriting(file, f"{counted(len(states), 'state')} to {file}", yes=yes, dry_run=dry_run):
        return
    if file.is_dir() or not file.suffix:
        directory = StateManager(state_dir=file)
        for state in states:
            directory.save_state(state.user_id, state)
    elif file.suffix.lower() == ".jsonl":
        write(destination(file), (_CODEC.encode(state) + b"\n" for state in states))
    else:
        whole = msgspec.json.encode({"states": [msgspec.Raw(_CODEC.encode(state)) for state in states]})
        write(destination(file), [msgspec.json.format(whole, indent=2), b"\n"])
    tell(f"wrote {counted(len(states), 'state')} to {file}")


@app.command(name="import")
def import_(
    file: Annotated[
        Path, Parameter(help="A file .json, of one state or many, or .jsonl, or a directory of <user>.json")
    ],
    /,
    *,
    existing: Annotated[
        Literal["refuse", "keep", "replace"] | None,
        Parameter(help="What to do about a user who has another state; default: refuse", show_default=False),
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    store: Where = HERE,
) -> None:
    """Save the states of a file or directory; those of empathy-framework are read, too.

    What is there already, just so, is left alone: an import that was interrupted can be done again.
    """
    states = list(_loaded(required(file)))
    with opened(store) as open_store:
        target = open_store.states
        there = {state.user_id: _found(target, state) for state in states}
        same = {user_id for user_id, found in there.items() if found == "same"}
        other = [user_id for user_id, found in there.items() if found == "other"]
        if other and existing in (None, "refuse"):
            raise Refused(
                f"{counted(len(other), 'user')} with another state, as {other[0]!r}: say --existing keep or replace"
            )
        kept = same | (set(other) if existing == "keep" else set())
        states = [state for state in states if state.user_id not in kept]
        replaced = len(other) if existing == "replace" else 0
        told = f"{counted(len(states), 'state')} ({replaced:,} in the place of others)"
        if dry_run:
            tell(f"would save {told}")
            return
        if replaced:
            confirm(f"Replace {counted(replaced, 'state')}?", yes)
        with progress("states") as done:
            for number, state in enumerate(states, 1):
                target.save_state(state.user_id, state)
                done(number, len(states))
    tell(f"saved {told}")


@app.command
def delete(
    users: Annotated[list[str], Parameter(negative="")],
    /,
    *,
    yes: Yes = False,
    dry_run: DryRun = False,
    store: Where = HERE,
) -> None:
    """Delete the states of users."""
    with present(store) as open_store:
        for user_id in users:
            # One that is not there is a mistake, of which to hear now; to delete a damaged one brings the others back.
            with contextlib.suppress(DamagedError):
                open_store.states.load_state(user_id)
        if dry_run:
            tell(f"would delete {counted(len(set(users)), 'state')}")
            return
        confirm(f"Delete {counted(len(set(users)), 'state')}?", yes)
        deleted = sum(open_store.states.delete_state(user_id) for user_id in users)
    tell(f"deleted {counted(deleted, 'state')}")


def _all(states: StateManager) -> Iterator[CollaborationState]:
    for user_id in states.list_users():
        try:
            yield states.load_state(user_id)
        except StateNotFoundError:
            continue  # It was deleted meanwhile.


def _found(states: StateManager, state: CollaborationState) -> Literal["none", "same", "other"]:
    """Return what stands in the place of a state."""
    try:
        return "same" if states.load_state(state.user_id) == state else "other"
    except StateNotFoundError:
        return "none"
    except DamagedError:
        return "other"  # So that it can be replaced, which is what brings it back.


def _loaded(file: Path) -> Iterator[CollaborationState]:
    if file.is_dir():
        yield from _all(StateManager(state_dir=file))
        return
    try:
        if file.suffix.lower() == ".jsonl":
            for number, line in enumerate(file.read_bytes().splitlines(), 1):
                if line.strip():
                    yield _CODEC.structure(parse(line), f"$[{number}]")
            return
        whole: Any = parse(file.read_bytes())
        found = whole.get("states") if isinstance(whole, dict) else None
        if not isinstance(found, list):
            if not isinstance(whole, dict) or not whole.keys() & {"user_id", "trust_level"}:
                told = "expected an object with an array of states, or a state @ $.states"
                raise CodecError(told, path="$.states")
            state = _CODEC.structure(whole)
            # One of empathy-framework may not say whose it is; its file is named so.
            yield state if state.user_id else evolve(state, user_id=file.stem)
            return
        for number, item in enumerate(found):
            yield _CODEC.structure(item, f"$.states[{number}]")
    except CodecError as error:
        raise Refused(f"{file}: {error}") from error
