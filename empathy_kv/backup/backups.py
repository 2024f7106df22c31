"""Backups of stores: made, listed, verified, restored and removed."""

from __future__ import annotations

import os
from datetime import timedelta
from types import TracebackType
from typing import Final, Self, TypeAlias

from attrs import frozen

from empathy_kv import snapshot
from empathy_kv.backup import archive, parts, urls
from empathy_kv.backup.manifest import Backup
from empathy_kv.backup.retention import Keep
from empathy_kv.backup.target import Target
from empathy_kv.errors import ArgumentTypeError, BackupNotFoundError, ClosedError, DamagedError
from empathy_kv.kv.operations import number, text
from empathy_kv.snapshot import Counts, Progress
from empathy_kv.store import Store

_Damage: TypeAlias = list[DamagedError]  # In the class, `list` is its method.

TIMEOUT: Final = 300.0
"""Seconds that a request to a service may take by default."""
ABANDONED: Final = timedelta(days=1)
"""Age from which objects that no manifest names are taken for those of a backup that died."""


@frozen(kw_only=True)
class Pruned:
    """What `Backups.prune` removed, or would remove.

    `kept` and `removed` are in the order of time. `leftovers`: how many objects of backups that died were found.
    `unusable`: backups whose manifest cannot be used, which no rule counts and nothing removes.
    """

    kept: tuple[Backup, ...]
    removed: tuple[Backup, ...]
    unusable: tuple[Backup, ...]
    leftovers: int


class Backups:
    """The backups at one target.

    `target` is a directory, as a path or as `file:DIR`, or `s3://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`,
    `gs://BUCKET/PREFIX` (extra `backup`); endpoint and credentials are what obstore finds in the environment
    (`AWS_...`, `AZURE_...`, `GOOGLE_...`). `timeout`: seconds that a request to a service may take, repetitions
    included.

    Several processes may use a target at the same time. Whatever becomes of them, a backup is listed with everything
    that belongs to it, or not at all. Errors of every method, beside its own: `UnavailableError` if the target cannot
    be reached, `StorageError` if it refuses (`StoragePermissionError` if for lack of rights).
    """

    def __init__(self, target: str | os.PathLike[str], *, timeout: float = TIMEOUT) -> None:
        parts.available()
        self._at = urls.opened(target, number(timeout, "timeout", 0.1, 3600.0))
        self._closed = False

    @property
    def _target(self) -> Target:
        if self._closed:
            raise ClosedError(f"{self!r} was closed")
        return self._at

    def __repr__(self) -> str:
        return f"Backups({str(self._at)!r})"

    def create(self, store: Store, *, progress: Progress | None = None) -> Backup:
        """Back up a whole store: one consistent snapshot, while others may write. Return the backup, which is listed.

        It is streamed: at most a part of it (8 MiB, compressed) is in memory. If it fails, nothing is listed;
        `OutcomeUnknown` if the answer to the request that lists it was lost. `progress` is called as that of
        `empathy_kv.snapshot.dump`.
        """
        target = self._target
        lines = snapshot.dump(store, progress=progress)
        try:
            return archive.write(target, lines)
        finally:
            lines.close()

    def list(self) -> list[Backup]:
        """Return the backups, the oldest first. One whose manifest cannot be used has a `problem`.

        A directory that is not there has none. What is not named as backups are is not looked at.
        """
        return archive.listed(self._target)

    def find(self, name: str | Backup | None = None) -> Backup:
        """Return the backup of a name, that of another call as it is listed now, or the newest usable one.

        `BackupNotFoundError` if there is none, `DamagedError` if its manifest is not what was written,
        `UnsupportedError` if a newer version wrote it.
        """
        if name is not None:
            return archive.find(self._target, name.name if isinstance(name, Backup) else text(name, "name"))
        usable = [backup for backup in self.list() if backup.problem is None]
        if not usable:
            raise BackupNotFoundError(f"no backup is listed at {self._target!r}", name=None)
        return usable[-1]

    def verify(self, name: str | Backup | None = None, *, progress: Progress | None = None) -> _Damage:
        """Read all of a backup, by default the newest one, and return what is wrong with it; empty if all is well.

        A `DamagedError` names the object with its `path`: one of which a byte is changed, that is cut, missing, or
        does not belong there. A backup without a usable manifest raises, as `find` does. `progress` is called with the
        parts that were read and how many there are.
        """
        backup = self.find(name)
        found: _Damage = []
        for done, problem in enumerate(archive.problems(self._target, backup), 1):
            if problem is not None:
                found.append(problem)
            if progress is not None and done <= len(backup.parts):
                progress(done, len(backup.parts))
        return found

    def restore(
        self, name: str | Backup | None, store: Store, *, replace: bool = False, progress: Progress | None = None
    ) -> Counts:
        """Put all of a backup (None: the newest one) into a store, and return how much that is.

        First everything is read and verified: `DamagedError` if anything is wrong with it, and nothing is written.
        Then all of it is restored or nothing, as `empathy_kv.snapshot.restore` does, which also says what becomes of a
        store that is not empty and what `replace` and `progress` mean.
        """
        backup = self.find(name)
        for problem in archive.problems(self._target, backup):
            if problem is not None:
                raise problem
        return snapshot.restore(store, archive.lines(self._target, backup), replace=replace, progress=progress)

    def prune(self, keep: Keep, *, dry_run: bool = False, abandoned: timedelta = ABANDONED) -> Pruned:
        """Remove the backups that no rule keeps, and what backups that died left behind; return what was removed.

        A backup is no longer listed before anything else of it is removed. Objects that no manifest names are removed
        once nothing was written beside them for as long as `abandoned`, by the clocks of this machine and the target:
        younger ones may belong to a backup that is being made. With `dry_run`, nothing is removed.
        """
        if not isinstance(keep, Keep):
            raise ArgumentTypeError(f"keep must be a Keep, as Keep(last=7), not {type(keep).__name__}", argument="keep")
        backups = self.list()
        usable = [backup for backup in backups if backup.problem is None]
        chosen = keep.chosen((backup.name, backup.created_at) for backup in usable)
        removed = tuple(backup for backup in usable if backup.name not in chosen)
        # Looked for first: what is removed now would be found again.
        leftovers = archive.leftovers(self._target, abandoned)
        if not dry_run:
            for backup in removed:
                archive.remove(self._target, backup)
            for paths in leftovers:
                self._target.delete(paths)
        return Pruned(
            kept=tuple(backup for backup in usable if backup.name in chosen),
            removed=removed,
            unusable=tuple(backup for backup in backups if backup.problem is not None),
            leftovers=sum(map(len, leftovers)),
        )

    def close(self) -> None:
        """Give back what it holds. Closing twice is no error; using it afterwards is a `ClosedError`."""
        self._closed = True
        self._at.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
