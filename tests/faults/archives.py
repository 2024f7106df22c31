"""What is done to a directory of backups while faults hit it, and what has to be so afterwards, whatever they were."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from calls import Calls, Fault

from empathy_kv import Backups, CollaborationState, Keep, Store, connect
from empathy_kv.backup import parts
from empathy_kv.errors import EmpathyKVError, UnfinishedError
from empathy_kv.snapshot import Content, Counts, content, dump

NOBODY: Final = timedelta(seconds=-3600)
"""An age that everything has: of what is still there, nobody is at work on anything."""
USERS: Final = 20


def filled(store: Store, generation: int = 0) -> Store:
    """Put a few states and interactions into a store; those of another generation are others."""
    for number in range(USERS):
        user = f"user {number} of {generation}"
        store.states.save_state(user, CollaborationState(user, extra={"text": os.urandom(100).hex()}))
    for number in range(6):
        store.metrics.record_interaction(f"user of {generation}", 3, number % 2 == 0, 1.0 * number)
    return store


def small() -> None:
    """Let a backup of that have three parts."""
    parts.RAW, parts._BLOCK = 3_000, 300  # type: ignore[misc]


Story = Callable[[Backups, Store], None]


def creating(backups: Backups, store: Store) -> None:
    backups.create(store)


def pruning(backups: Backups, store: Store) -> None:
    backups.prune(Keep(last=1), abandoned=NOBODY)


STORIES: Final[dict[str, Story]] = {"create": creating, "prune": pruning}


def perform(say: Callable[[Any], None], story: str, directory: Path, fault: Fault) -> None:
    """Play a story on a directory, and say which calls it made and, if it raised one of our errors, that."""
    small()
    with connect("memory:") as store, Calls(directory) as calls, Backups(directory) as backups:
        filled(store)
        try:
            with calls.under(fault):
                STORIES[story](backups, store)
        except EmpathyKVError as error:
            say(error)
        else:
            say(None)
        say(calls.made)


def restore(say: Callable[[Any], None], directory: Path, where: Path, fault: Fault) -> None:
    """Restore the newest backup into a store on files, over what that holds."""
    with Calls(where) as calls:
        with Backups(directory) as backups, calls.under(fault), connect(f"file:{where}", durability="os") as store:
            backups.restore(None, store, replace=True)
        say(calls.made)


def wrong(directory: Path, kept: Iterable[str], made: int) -> list[str]:
    """Return what is not as promised, wherever it was that a backup or its removal stopped.

    Each backup that is listed is whole; those that were `kept` are, and at least so many others. A backup can be made,
    and pruning leaves nothing that no manifest names.
    """
    found: list[str] = []
    small()
    with Backups(directory) as backups, connect("memory:") as store:
        listed = backups.list()
        for backup in listed:
            if backup.problem is not None:
                found.append(f"{backup.name} is listed and cannot be used: {backup.problem}")
            else:
                found += [
                    f"{backup.name} is listed and not whole: {problem}" for problem in backups.verify(backup.name)
                ]
        names = {backup.name for backup in listed}
        found += [f"{name} is not listed" for name in kept if name not in names]
        if len(names.difference(kept)) < made:
            found.append(f"listed are {sorted(names)}, which are not {made} new ones")
        last = backups.create(filled(store, 1))
        found += [str(problem) for problem in backups.verify()]
        backups.prune(Keep(last=1), abandoned=NOBODY)
        there = {path.relative_to(directory).as_posix() for path in directory.rglob("*")}
        expected = {f"{last.name}.json", last.name, *last.paths()}
        if there != expected:
            found.append(f"after the next backup was made and the others pruned, there are {sorted(there ^ expected)}")
    return found


def held(where: Path) -> Content | None:
    """Return what a store on files holds; None if it says that a restore was not finished."""
    try:
        with connect(f"file:{where}") as store:
            return content(dump(store))
    except UnfinishedError:
        return None


EMPTY: Final = Counts()
