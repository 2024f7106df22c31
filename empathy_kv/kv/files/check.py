"""A look at a whole store: every byte is read, nothing is changed."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from empathy_kv.errors import DamagedError
from empathy_kv.kv.files import disk, documents, frames
from empathy_kv.kv.files.journal import Journal
from empathy_kv.kv.files.names import name
from empathy_kv.kv.files.overlay import Overlay
from empathy_kv.kv.table import Entry

_DAMAGED: Final = re.compile(r".+\.json\.damaged-[0-9]+")


def namespaces(base: Path) -> list[Path]:
    """Return the directories of the namespaces below a prefix, in order."""
    try:
        with os.scandir(base) as found:
            return sorted(base / entry.name for entry in found if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def check(base: Path) -> Iterator[DamagedError]:
    """Yield what is damaged or foreign below a prefix."""
    if disk.there(base) and not stat.S_ISDIR(os.lstat(base).st_mode):
        yield DamagedError(f"{base} is no directory", path=str(base))
        return
    spaces = namespaces(base)
    if spaces:
        for file in sorted(base.iterdir()):
            if file not in spaces:
                yield foreign(file)
    for space in spaces:
        yield from _namespace(space)


def _namespace(path: Path) -> Iterator[DamagedError]:
    overlay = Overlay(path)
    yield from _journals(path / "journal", overlay)
    becoming = {Path(overlay.path(key)): key for key in overlay.replaced}
    for file in sorted(path.iterdir()):
        if file.name in ("journal", "lock"):
            continue
        if _DAMAGED.fullmatch(file.name):
            yield DamagedError(f"{file} was found damaged and kept aside", path=str(file))
        elif not file.name.endswith(".json") or file.name.startswith("."):
            yield foreign(file)
        else:
            entry = overlay.touched.get(becoming.get(file, ""))
            key = becoming.get(file, "")
            yield from _document(file, documents.encode(key, entry) if isinstance(entry, Entry) else b"")


def _document(file: Path, becomes: bytes) -> Iterator[DamagedError]:
    try:
        data = disk.load(file)
        if documents.left(data, becomes):
            return
        key, _ = documents.decode(data, str(file))
        if f"{name(key)}.json" != file.name:
            yield DamagedError(f"{file} is damaged: it holds the key {key!r}", path=str(file))
    except FileNotFoundError:
        return
    except DamagedError as error:
        yield error


def _journals(directory: Path, overlay: Overlay) -> Iterator[DamagedError]:
    if disk.there(directory) and not stat.S_ISDIR(os.lstat(directory).st_mode):
        yield DamagedError(f"{directory} is no directory", path=str(directory))
        return
    if not directory.exists():
        return
    for file in sorted(directory.iterdir()):
        if file.name != "lock" and file.suffix != ".new" and not file.name.isdecimal():
            yield foreign(file)
    journal = Journal(directory)
    try:
        try:
            head = journal.attach()
            if head is not None:
                overlay.begin(head)
                for line in journal.take():
                    overlay.replay(frames.read(line, str(journal.path)))
        finally:
            journal.reset()
    except DamagedError as error:
        yield error


def foreign(path: Path) -> DamagedError:
    """Return what is said of a file that is none of the store's."""
    return DamagedError(f"{path} is not part of the store", path=str(path))
