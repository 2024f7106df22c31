"""A checkpoint: the documents are brought up to the journal, and the next journal begins.

The documents of what the journal touched are written without the lock of writers; then, with it, those of what was
touched meanwhile. They are synced, and the next journal begins. Replay skips what a document holds already, by the
version in it, so it may be done again after a crash at any point. A document that the journal can make from nothing (it
begins with a `Set` of it) may be cut short by a crash; one that it changes is replaced as a whole.

What has expired by then has no document any more. That is decided once, under both locks, and the head of the next
journal says it: clocks go back, and those of two processes differ.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from empathy_kv.errors import DamagedError
from empathy_kv.kv.files import disk, documents, frames, sweep
from empathy_kv.kv.files.journal import place
from empathy_kv.kv.files.overlay import Stamp, Tombstone, highest, lapsed, listed
from empathy_kv.kv.files.sweep import Swept
from empathy_kv.kv.files.view import View, now
from empathy_kv.kv.table import Entry

_NONE: Final = disk.NONE
_PAGE: Final = 64
"""Documents that are encoded at once, while other threads wait for the table."""


def first(view: View) -> None:
    """Begin the first journal. Both locks are held."""
    for path in (view.path, *view.path.parents[:2]):
        disk.sync_directory(path)  # Whoever made what is in it may have been killed before that was durable.
    table = view.table
    table.revision = highest(view.path)
    _next(view, [], now(), table.due if table.revision else None)


def turn(view: View, written: dict[str, Stamp], swept: Swept | None = None) -> None:
    """Write the documents that were not `written`, and begin the next journal. Both locks are held.

    `swept`: what a look at the documents found since `_keeper` was taken. Since then they are the same, but for those
    of what the journal touched.
    """
    view.busy = True
    try:
        at = now()
        write(view, written, at)
        table, gone = view.table, _gone(view, at)
        due = table.due
        if swept is not None:
            gone += [key for key in swept.expired(at) if key not in table.touched and key not in table.damaged]
            due = swept.due(at)
        _next(view, gone, at, sweep.earliest(due, table.touched.values(), at))
    finally:
        view.busy = False


def clear(view: View) -> int:
    """Remove all documents, and return the version that those have to have which are put there. Both locks are held.

    The journal begins anew before, with a later revision: so nothing that stands in one is ever done to them.
    """
    with view.mutex:
        view.catch_up()
    if view.journal.descriptor == _NONE:
        first(view)
    with view.mutex:
        view.table.clear()
    view.table.revision += 1
    _next(view, [], now(), view.table.due)
    for path in listed(view.path):
        os.unlink(path)
    return view.table.revision


def put(view: View, key: str, entry: Entry, *, durable: bool) -> None:
    """Write a document that is not there, in a directory that was cleared. Both locks are held."""
    disk.create(view.table.path(key), documents.encode(key, entry), durable=durable)


def settle(view: View) -> None:
    """Make what was put into a directory durable. Both locks are held."""
    if disk.at_once():
        disk.sync_files(view.path)
    disk.sync_directory(view.path)
    # Twice: who follows the journal from the one to the next keeps what he knows, and then begins anew.
    _next(view, [], now(), view.table.due)
    _next(view, [], now(), view.table.due)


def write(view: View, written: dict[str, Stamp], at: int | None = None) -> int:
    """Write the documents of what the journal touched, durably, but for those `written` in their present state.

    What has expired `at` that time is left as it is, and not `written`: a clock may go back, and then it has not.
    Returns how many there were. Only one process and thread may do it at a time.
    """
    at = now() if at is None else at
    with view.mutex:
        view.catch_up()
        table, journal = view.table, view.journal
        changed = [(key, entry) for key, entry in table.touched.items() if written.get(key) != stamp(entry)]
        keys = [key for key, entry in changed if isinstance(entry, Tombstone) or not lapsed(entry, at)]
    if not keys:
        return 0
    few = disk.few(keys)
    drafts: list[tuple[str, str]] = []
    synced = _NONE
    for start in range(0, len(keys), _PAGE):
        with view.mutex:
            end = journal.offset
            descriptor = _NONE if end == synced else os.dup(journal.descriptor)
            page = [(key, table.touched[key]) for key in keys[start : start + _PAGE] if key in table.touched]
            encoded = [
                (key, stamp(entry), _encoded(key, entry))
                for key, entry in page
                if isinstance(entry, Tombstone) or not lapsed(entry, at)
            ]
        if descriptor != _NONE:
            # First the journal: a document that is ahead of what a power cut leaves of it has half a batch.
            try:
                disk.sync_data(descriptor)
            finally:
                disk.shut(descriptor)
            synced = end
        for key, state, data in encoded:
            written[key] = state
            path = table.path(key)
            if data and (key not in table.replaced or not _created(path, data, durable=few)):
                draft = f"{journal.directory}{os.sep}{os.path.basename(path)}.new"
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(draft)
                disk.create(draft, data, durable=few)
                drafts.append((draft, key))
    if not few:
        disk.sync_files(view.path)
    for draft, key in drafts:
        path = table.path(key)
        if key in table.replaced:
            set_aside(path, disk.load(draft))
        os.replace(draft, path)
    disk.sync_directory(view.path)
    return len(keys)


def _encoded(key: str, entry: Entry | Tombstone) -> bytes:
    """Return a key's document, which is empty for what is deleted."""
    return documents.encode(key, entry) if isinstance(entry, Entry) else b""


def _created(path: str, data: bytes, *, durable: bool) -> bool:
    """Write a document that is not there, and return whether it was not."""
    try:
        disk.create(path, data, durable=durable)
    except FileExistsError:
        return False
    return True


def _gone(view: View, at: int) -> list[str]:
    """Return the touched keys whose documents are to be deleted, after keeping aside what is damaged of them."""
    gone = []
    for key, entry in view.table.touched.items():
        if lapsed(entry, at):
            path = view.table.path(key)
            if disk.there(path):
                set_aside(path, b"")
                gone.append(key)
    return gone


def _next(view: View, gone: Sequence[str], at: int, due: int | None) -> None:
    """End the journal and begin the next where the table stands. The documents are up to date, but for those gone.

    They go when the next journal is there, which says that they are deleted: what the old one changes needs them. Those
    that stay expire at `due` or later.
    """
    table, journal = view.table, view.journal
    number = journal.number + 1
    table.forget(at)
    head = frames.head(table.revision, table.sessions, disk.boot(), table.still_waiting(gone, at), at, due)
    draft = journal.directory / f"{number}.new"
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    disk.create(draft, head, durable=True)
    with view.mutex:
        journal.end()  # Before the next one is there.
    draft.rename(place(journal.directory, number))
    disk.sync_directory(journal.directory)
    with view.mutex:
        view.turn(number)
        journal.booted = False  # Of this very boot, even where nothing names it.
    for key in gone:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(table.path(key))
    _sweep(journal.directory, {journal.path.name, "lock"})


def _sweep(directory: Path, keep: set[str]) -> None:
    """Remove what is over: older journals, and what a crash left of files that were being written."""
    with os.scandir(directory) as found:
        left = [entry.path for entry in found if entry.name not in keep]
    for path in left:
        with contextlib.suppress(OSError):  # On Windows somebody may have it open.
            os.unlink(path)


def set_aside(path: str, becomes: bytes) -> None:
    """Keep a document that is no sound one under another name, unless a crash left it on its way to what it becomes."""
    try:
        data = disk.load(path)
        if documents.left(data, becomes):
            return
        documents.decode(data, path)
    except FileNotFoundError:
        return
    except DamagedError:
        disk.set_aside(path)


def stamp(entry: Entry | Tombstone) -> Stamp:
    """Return what tells this state of a key from all others."""
    return (entry.version, entry.expires if isinstance(entry, Entry) else None)
