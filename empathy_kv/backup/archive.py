"""Backups at a target: written, found, read and removed. It knows lines of bytes, and not what they say.

Whatever happens in the middle, by kill -9 or because the network is gone, a backup is listed with all that belongs to
it or not at all: parts come first, the manifest last, and for removal the other way round. What a dead process leaves
are objects that no manifest names; `leftovers` finds them once they are old enough that nobody is still at work.
"""

from __future__ import annotations

import collections
import contextlib
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from empathy_kv.backup import manifest
from empathy_kv.backup.manifest import Backup, Part
from empathy_kv.backup.parts import pack, unpack
from empathy_kv.backup.target import Target
from empathy_kv.errors import (
    BackupNotFoundError,
    DamagedError,
    EmpathyKVError,
    MissingFileError,
    NotApplied,
    OutcomeUnknown,
    UnavailableError,
    UnsupportedError,
)

_DRAFT: Final = re.compile(r"\.(.*)\.[0-9a-f]{8}", re.DOTALL)
"""The name of a file of a directory that is being written, as `disk.replace` has it."""


def write(target: Target, lines: Iterable[bytes]) -> Backup:
    """Write a backup of the lines of a snapshot, the last of which says what it holds, and return it.

    If it fails, what was written of it is removed as far as possible, and it is not listed. `OutcomeUnknown` if the
    answer to the last request, which lists it, was lost.
    """
    begun = datetime.now(UTC)
    name = manifest.new_name(begun)
    parts: list[Part] = []
    tail = _Tail(lines)
    try:
        for data, part in pack(tail):
            target.put(manifest.part_path(name, len(parts)), data)
            parts.append(part)
        counts = manifest.counts_of(tail.last)
        if counts is None:
            raise DamagedError(f"backup {name} was not made: the snapshot was cut before its end", path=repr(target))
        backup = Backup(name=name, created_at=begun, finished_at=datetime.now(UTC), counts=counts, parts=tuple(parts))
        _all_there(target, backup)
    except UnavailableError:
        raise  # What cannot be reached cannot be cleaned either.
    except BaseException:  # An interrupt, too, leaves nothing behind.
        with contextlib.suppress(EmpathyKVError):
            target.delete([manifest.part_path(name, number) for number in range(len(parts) + 1)])
        raise
    _list(target, backup)
    return backup


class _Tail:
    """Lines that are passed on, and the last of them."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = lines
        self.last = b""

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            self.last = line
            yield line


def _all_there(target: Target, backup: Backup) -> None:
    """See that nobody removed what a process wrote that stood still for long enough to be taken for dead."""
    found = {each.path: each.size for each in target.below(backup.name)}
    for path, part in backup.paths().items():
        if found.get(path) != part.size:
            raise DamagedError(f"{target!r}/{path} is gone or changed before the backup was finished", path=path)


def _list(target: Target, backup: Backup) -> None:
    """Write the manifest."""
    path = manifest.manifest_path(backup.name)
    data = manifest.encode(backup)
    try:
        target.put(path, data)
    except UnavailableError as error:
        # Its parts must stay: a request whose answer was lost may still be done.
        if _content(target, path, len(data)) != data:
            raise OutcomeUnknown(
                f"backup {backup.name} was written to {target!r}, but whether it is listed is not known, because the "
                f"answer was lost: {error}",
                token=None,
            ) from error
    except NotApplied:
        # It may be there all the same, if it was the sync that failed; then it may be gone after a power cut.
        with contextlib.suppress(EmpathyKVError):
            remove(target, backup)
        raise


def _content(target: Target, path: str, most: int) -> bytes | None:
    try:
        return b"".join(target.get(path, most))
    except EmpathyKVError:
        return None


def listed(target: Target) -> list[Backup]:
    """Return what is listed, the oldest first; those whose manifest cannot be used with their `problem`."""
    names = sorted(name for found in target.objects()[0] if (name := _listed_by(found.path)) is not None)
    backups: list[Backup] = []
    for name in names:
        try:
            backups.append(find(target, name))
        except BackupNotFoundError:
            continue  # It was removed meanwhile.
        except (DamagedError, UnsupportedError) as error:
            at = manifest.begun(name)
            assert at is not None  # noqa: S101 - it is a name
            backups.append(manifest.unusable(name, at, error))
    return backups


def find(target: Target, name: str) -> Backup:
    """Return the backup of a name.

    `BackupNotFoundError` if none of that name is listed; `DamagedError` or `UnsupportedError` if its manifest cannot
    be used.
    """
    if manifest.begun(name) is None:
        raise BackupNotFoundError(
            f"no backup is named {name[:80]!r}; names are as 20250115T020000.000000Z-1a2b3c4d", name=name
        )
    path = manifest.manifest_path(name)
    where = f"{target!r}/{path}"
    try:
        data = b"".join(target.get(path, manifest.LARGEST))
    except MissingFileError as error:
        raise BackupNotFoundError(f"no backup {name} is listed at {target!r}", name=name) from error
    if len(data) > manifest.LARGEST:
        raise DamagedError(f"{where} is no manifest: it has more than {manifest.LARGEST:,} bytes", path=where)
    return manifest.decode(name, data, where)


def lines(target: Target, backup: Backup) -> Iterator[bytes]:
    """Yield the lines of a backup. `DamagedError`, at the latest after the last, if they are not what was written."""
    tail = _Tail(line for path, part in backup.paths().items() for line in _part(target, path, part))
    yield from tail
    _same_counts(target, backup, tail.last)


def problems(target: Target, backup: Backup) -> Iterator[DamagedError | None]:
    """Read all of a backup, and yield for each part what is wrong with it, or None; then what else is wrong.

    That are counts which are not those of the snapshot, and objects in its place that it does not know.
    """
    known = backup.paths()
    whole = True
    tail = _Tail(())
    for path, part in known.items():
        tail = _Tail(_part(target, path, part))
        problem = _problem(tail)
        whole = whole and problem is None
        yield problem
    if whole:
        try:
            _same_counts(target, backup, tail.last)
        except DamagedError as error:
            yield error
    for found in target.below(backup.name):
        if found.path not in known:
            where = f"{target!r}/{found.path}"
            yield DamagedError(f"{where} does not belong to the backup: see what it is, and move it away", path=where)


def _problem(lines: Iterable[bytes]) -> DamagedError | None:
    try:
        collections.deque(lines, maxlen=0)
    except DamagedError as error:
        return error
    return None


def _same_counts(target: Target, backup: Backup, last: bytes) -> None:
    if manifest.counts_of(last) != backup.counts:
        where = f"{target!r}/{manifest.manifest_path(backup.name)}"
        raise DamagedError(f"{where} tells of other counts than the snapshot has", path=where)


def _part(target: Target, path: str, part: Part) -> Iterator[bytes]:
    where = f"{target!r}/{path}"
    try:
        yield from unpack(target.get(path, part.size), part, where)
    except MissingFileError as error:
        raise DamagedError(f"{where} is missing", path=where) from error


def remove(target: Target, backup: Backup) -> None:
    """Remove a backup: first what lists it."""
    target.delete([manifest.manifest_path(backup.name)])
    target.delete(list(backup.paths()))


def leftovers(target: Target, age: timedelta) -> list[list[str]]:
    """Return what backups that died left behind, for each the paths of its objects.

    What is younger than `age` may belong to a backup that is being made. An object that is not named as ours are is
    none of our business.
    """
    before = datetime.now(UTC) - age
    files, names = target.objects()
    whole = {_listed_by(found.path) for found in files}
    dead = [
        [found.path]
        for found in files
        if found.regular and found.modified < before and _is_draft_of_manifest(found.path)
    ]
    for name in names:
        at = manifest.begun(name)
        if at is not None and name not in whole:
            below = target.below(name)
            ours = [each.path for each in below if each.regular and _is_part(each.path.partition("/")[2])]
            if ours and max(each.modified for each in below) < before:
                dead.append(ours)
            elif not below and at < before:
                dead.append([f"{name}/"])
    return dead


def _listed_by(path: str) -> str | None:
    """Return the name of the backup whose manifest is there; None if that is no path of one."""
    name = path.removesuffix(".json")
    return name if name != path and manifest.begun(name) is not None else None


def _is_draft_of_manifest(path: str) -> bool:
    draft = _DRAFT.fullmatch(path)
    return draft is not None and _listed_by(draft[1]) is not None


def _is_part(path: str) -> bool:
    """Return whether a path below a name is that of a part, or of one that is being written."""
    draft = _DRAFT.fullmatch(path)
    return manifest.is_part(draft[1] if draft else path)
