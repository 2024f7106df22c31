"""One namespace on disk: documents, the journal of what was committed since they were written, and a lock.

A write takes the lock, brings the table up to date, and appends one frame to the journal: that is the commit. A reader
takes no lock: it looks at the journal's size (fstat), reads what is new, and answers from what the journal touched and,
for all else, from the documents. A checkpoint writes the documents, then begins a new journal in the place of the old;
a reader that had the old one open sees that it was unlinked. Replay skips what a document holds already, by the version
in it, so that it may be done again after a crash at any point.

::

    <namespace>/
      lock              never unlinked
      journal           replaced by a checkpoint
      <name>.json       a document a key
      .<name>.new       a file being written; left by a crash, swept at the next checkpoint
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from attrs import define

from empathy_kv.errors import DamagedError, EmpathyKVError, OutcomeUnknown, StorageError, StoragePermissionError
from empathy_kv.kv.files import documents, journal
from empathy_kv.kv.files.lock import Lock
from empathy_kv.kv.files.names import name
from empathy_kv.kv.operations import Batch, Operation, Reply, Settle
from empathy_kv.kv.table import Entry, Session, Table, expired

CHECKPOINT: Final = 8 * 1024 * 1024
"""Bytes of journal after which a writer makes a checkpoint."""

_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def now() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into one of ours."""
    try:
        yield
    except EmpathyKVError:
        raise
    except PermissionError as error:
        raise StoragePermissionError(
            f"{error.strerror}: {error.filename or path}", errno=error.errno, path=str(error.filename or path)
        ) from error
    except OSError as error:
        raise StorageError(
            f"{error.strerror}: {error.filename or path}", errno=error.errno, path=str(error.filename or path)
        ) from error


@define
class Tombstone:
    """A key that was deleted since the documents were written."""

    version: int


class DocumentTable(Table):
    """The table of a namespace whose entries are documents, but for those that the journal touched."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.touched: dict[str, Entry | Tombstone] = {}
        self.loads = 0
        """How many documents were looked for."""

    def find(self, key: str) -> Entry | None:
        entry = self.touched.get(key)
        if entry is None:
            entry = self._load(key)
        return None if isinstance(entry, Tombstone) else entry

    def store(self, key: str, entry: Entry) -> None:
        self.touched[key] = entry

    def drop(self, key: str) -> None:
        self.touched[key] = Tombstone(self.revision)

    def items(self) -> Iterator[tuple[str, Entry]]:
        touched = list(self.touched.items())
        return itertools.chain(
            ((key, entry) for key, entry in touched if isinstance(entry, Entry)),
            self._documents(frozenset(key for key, _ in touched)),
        )

    def _documents(self, touched: frozenset[str]) -> Iterator[tuple[str, Entry]]:
        """Yield what documents hold, but for what the journal touched."""
        try:
            files = [entry.name for entry in os.scandir(self._path)]
        except FileNotFoundError:
            return
        for file in files:
            if file.endswith(".json") and not file.startswith("."):
                loaded = self._open(self._path / file)
                if loaded is not None and loaded[0] not in touched and loaded[2] is not None:
                    yield loaded[0], loaded[2]

    def replay(self, line: journal.Line) -> None:
        """Apply a committed batch, but for the keys whose documents hold it already."""
        self.revision = line.revision
        operations = line.replay()
        done = {key for key in {item.key for item in operations} if self._held(key) >= line.revision}
        pending: list[Operation] = [item for item in operations if item.key not in done]
        self.apply(pending, line.at)
        if line.session:
            session = self.sessions.setdefault(line.session, Session({}, line.at))
            session.used = line.at
            session.slots[line.slot] = line.kept()

    def _held(self, key: str) -> int:
        entry = self.touched.get(key) or self._load(key)
        return -1 if entry is None else entry.version

    def _load(self, key: str) -> Entry | Tombstone | None:
        path = self._path / f"{name(key)}.json"
        self.loads += 1
        loaded = self._open(path)
        if loaded is None:
            return None
        true_key, version, entry = loaded
        if true_key != key:
            raise DamagedError(f"{path} is damaged: it holds the key {true_key!r}, not {key!r}", path=str(path))
        return Tombstone(version) if entry is None else entry

    @staticmethod
    def _open(path: Path) -> tuple[str, int, Entry | None] | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | _NOFOLLOW)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            data = file.read()
        return documents.decode(data, str(path))


class Directory:
    """The directory of one namespace. Threads may share it."""

    def __init__(self, path: Path, *, durable: bool, timeout: float) -> None:
        self._path = path
        self._durable = durable
        self._journal = path / "journal"
        self._lock = Lock(path / "lock", timeout)
        self._mutex = threading.RLock()
        self._table = DocumentTable(path)
        self._descriptor: int | None = None
        self._offset = 0
        self._seen = 0

    def __del__(self) -> None:
        if self._descriptor is not None:  # It was not closed: its journal has everything.
            os.close(self._descriptor)

    # Reading

    def read(self, batch: Batch) -> list[Reply]:
        """Execute a batch that writes nothing."""
        with self._mutex, translated(self._path):
            while True:
                self._refresh()
                loads = self._table.loads
                replies, _ = self._table.execute(batch, now(), None)
                # With documents of two moments the replies could show half of a batch.
                if self._table.loads - loads < 2 or not self._moved():
                    return replies

    def keys(self) -> Iterator[str]:
        """Yield the keys. What the journal touched is taken at once, the documents are read as the caller goes on."""
        with translated(self._path):
            with self._mutex:
                self._refresh()
                items = self._table.items()
            for key, entry in items:
                if not expired(entry, now()):
                    yield key

    def _moved(self) -> bool:
        if self._descriptor is None:
            return self._journal.exists()
        status = os.fstat(self._descriptor)
        return status.st_nlink == 0 or status.st_size != self._seen

    def _refresh(self) -> None:
        """Bring the table up to what is committed."""
        while True:
            if self._descriptor is None and not self._open():
                return
            assert self._descriptor is not None  # noqa: S101 - for the type checker
            status = os.fstat(self._descriptor)
            if status.st_nlink == 0:
                self._reset()
                continue
            if status.st_size != self._seen:
                if status.st_size < self._seen:  # A failed append was taken back.
                    self._reset()
                    continue
                self._take(status.st_size)
            return

    def _open(self) -> bool:
        try:
            self._descriptor = os.open(self._journal, os.O_RDWR | os.O_APPEND | _NOFOLLOW)
        except FileNotFoundError:
            return False
        return True

    def _reset(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None
        self._table = DocumentTable(self._path)
        self._offset = self._seen = 0

    def _take(self, size: int) -> None:
        assert self._descriptor is not None  # noqa: S101 - for the type checker
        path = str(self._journal)
        os.lseek(self._descriptor, self._offset, os.SEEK_SET)  # Windows has no pread.
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            data = file.read(size - self._offset)
        for payload, end in journal.payloads(data, path, self._offset):
            if self._offset == 0:
                head = journal.head(payload, path)
                self._table.revision = head.revision
                self._table.sessions = head.restored()
            else:
                self._table.replay(journal.read(payload, path))
            self._offset = end
        self._seen = size

    # Writing

    def write(self, batch: Batch) -> list[Reply]:
        """Execute a batch that writes, as one durable commit."""
        with translated(self._path):
            make(self._path, durable=self._durable)
            with self._mutex, self._lock.hold():
                self._refresh()
                if self._descriptor is None:
                    self._begin()
                at = now()
                digest = None if batch.token is None else journal.digest(batch)
                try:
                    replies, wrote = self._table.execute(batch, at, digest)
                    if wrote:
                        self._append(self._line(batch, at), batch)
                except EmpathyKVError:
                    raise
                except BaseException:
                    self._reset()  # The table may hold what the journal does not.
                    raise
                if self._seen > CHECKPOINT:
                    self._checkpoint()
                return replies

    def _line(self, batch: Batch, at: int) -> bytes:
        settles = batch.operations[0] if batch.operations and isinstance(batch.operations[0], Settle) else None
        token = settles.token if settles is not None else batch.token
        slot = None if token is None else self._table.sessions[token.session].slots[token.slot]
        return journal.frame(
            journal.line(self._table.revision, at, None if settles is not None else batch, token, slot)
        )

    def _append(self, data: bytes, batch: Batch) -> None:
        assert self._descriptor is not None  # noqa: S101 - for the type checker
        if self._seen > self._offset:  # What a crash left of a frame that was never committed.
            os.ftruncate(self._descriptor, self._offset)
        try:
            written = os.write(self._descriptor, data)
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except BaseException:
            self._take_back()
            raise
        if self._durable:
            try:
                _sync(self._descriptor)
            except OSError as error:
                self._take_back()
                raise OutcomeUnknown(
                    f"{error.strerror}: {self._journal} could not be made durable", token=batch.token
                ) from error
        self._offset += len(data)
        self._seen = self._offset

    def _take_back(self) -> None:
        """Remove a frame that was not committed whole. If that fails too, the next writer does it."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, self._offset)  # type: ignore[arg-type]
        self._reset()

    def _begin(self) -> None:
        """Put a new journal in its place, which begins where the table stands. The lock is held."""
        head = journal.Head.of(self._table.revision, self._table.sessions)
        replace(self._journal, journal.frame(head))
        sync_directory(self._path)
        self._reset()
        self._refresh()

    # Checkpoint

    def checkpoint(self) -> None:
        """Bring the documents up to date and begin a new journal. Nothing to do is no error."""
        with translated(self._path), self._mutex:
            if not self._journal.exists():
                return
            with self._lock.hold():
                self._refresh()
                if self._table.touched or self._seen > self._offset:
                    self._checkpoint()

    def _checkpoint(self) -> None:
        at = now()
        table = self._table
        deleted = []
        for key, entry in table.touched.items():
            path = self._path / f"{name(key)}.json"
            if isinstance(entry, Tombstone) or expired(entry, at):
                if path.exists():
                    # The document goes once the journal is new: until then replay needs to know the deletion.
                    replace(path, documents.encode(key, None, entry.version))
                    deleted.append(path)
            else:
                replace(path, documents.encode(key, entry))
        sync_directory(self._path)
        table.forget(at)
        self._begin()
        for path in deleted:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        for left in self._path.glob(".*.new"):
            with contextlib.suppress(FileNotFoundError):
                left.unlink()

    def close(self, *, checkpoint: bool = True) -> None:
        """Bring the documents up to date and give the descriptors back."""
        try:
            if checkpoint:
                self.checkpoint()
        finally:
            with self._mutex:
                self._reset()
                self._lock.close()


def _sync(descriptor: int) -> None:
    getattr(os, "fdatasync", os.fsync)(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Windows has no such call, and needs none."""
    if os.name == "nt":
        return
    descriptor: Any = os.open(path, os.O_RDONLY | _NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make(path: Path, *, durable: bool) -> None:
    """Make a directory with its parents, for its owner alone. One that is there is no error."""
    if path.is_dir():
        return
    for directory in (*reversed(path.parents), path):
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
            if durable:
                sync_directory(directory.parent)


def replace(path: Path, data: bytes, mark: str = "new") -> None:
    """Write a whole file in the place of another, which stays as it is until then.

    Until then it is a file beside it. Where no lock keeps others from doing the same, `mark` tells theirs from ours.
    """
    draft = path.with_name(f".{path.name}.{mark}")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
