"""One namespace on disk: documents, the journal of what was committed since they were written, and a lock.

A write takes the lock, brings its table up to date, and appends one frame to the journal: that is the commit. A reader
takes no lock: it asks for the journal's size, takes what is new, and answers from what the journal touched and, for all
else, from the documents. An answer for which it had to open a document counts only if the journal did not move
meanwhile.

A checkpoint writes the documents of all that the journal touched, without the lock; then, with it, of what was touched
meanwhile; syncs them; and begins the next journal. Replay skips what a document holds already, by the version in it, so
it may be done again after a crash at any point. A document that the journal can make from nothing (it begins with a
`Set` of it) may be cut short by a crash; one that it changes is replaced as a whole.

::

    <namespace>/
      lock              of the one who writes; never unlinked
      journal/          see journal.py
      <name>.json       a document a key
      <name>.json.damaged-1     a document whose bytes were not what was written, kept aside when its key was replaced

Locks are taken in this order: `_keeper` (who makes a checkpoint), `_lock` (who writes), `_mutex` (the table, for
moments; nothing is written or synced under it, but an append that is not synced).
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock as Mutex
from typing import Final

from empathy_kv.errors import ClosedError, DamagedError, EmpathyKVError, LockTimeoutError, OutcomeUnknown, StorageError
from empathy_kv.kv.files import disk, documents, journal
from empathy_kv.kv.files.lock import Lock
from empathy_kv.kv.files.overlay import Change, Overlay, Stamp, Tombstone, highest
from empathy_kv.kv.operations import Batch, Get, Reply, Settle
from empathy_kv.kv.table import Entry, expired

GROWN: Final = 8 * 1024 * 1024
"""Bytes of journal at which a checkpoint is due, if the documents that it has to write are no larger."""
FULL: Final = 64 * 1024 * 1024
"""Bytes of journal at which one is due in any case."""
GROUP: Final = 4 * 1024 * 1024
"""Bytes that are committed together at most."""

_NONE: Final = disk.NONE
_TRIES: Final = 8
"""How often a read that takes several documents begins anew because of writers; then it has them wait."""


def now() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Commit:
    """A batch that waits to be written, and then what became of it."""

    __slots__ = ("batch", "change", "done", "error")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.change: Change | None = None
        self.error: BaseException | None = None
        self.done = False


class Directory:
    """The directory of one namespace. Threads may share it."""

    def __init__(self, path: Path, *, durable: bool, timeout: float) -> None:
        self.path = self._path = path
        self._journals = path / "journal"
        self._durable = durable
        self._lock = Lock(path / "lock", timeout)
        self._keeper = Lock(self._journals / "lock", timeout)
        self._mutex = Mutex()
        self._queue: deque[Commit] = deque()
        self._busy = False
        """Whether the journal may hold what the table does not show yet. Only who has `_lock` sets it."""
        self._suspect = False
        """Whether a sync of the journal failed: nothing may be appended to it any more."""
        self._wrote = self._closed = False
        self._descriptor = _NONE
        self._restart()

    def __del__(self) -> None:
        disk.shut(self._descriptor)  # If it was not closed: its journal has everything.

    def _restart(self) -> None:
        """Begin anew, knowing nothing."""
        descriptor, self._descriptor = self._descriptor, _NONE
        disk.shut(descriptor)
        self._table = Overlay(self._path)
        self._number = 0
        self._offset = self._began = self._synced = self._revision = 0
        self._refusal: OSError | None = None
        self._ended = self._cut = self._booted = self._lenient = False

    # Reading

    def read(self, batch: Batch) -> list[Reply]:
        """Execute a batch that writes nothing."""
        try:
            for _ in range(_TRIES):
                with self._mutex:
                    replies = self._read(batch)
                if replies is not None:
                    return replies
            with self._lock.hold(), self._mutex:
                replies = self._read(batch)
            assert replies is not None  # noqa: S101 - nothing moves under the lock
            return replies
        except OSError as error:
            raise disk.translate(error, self._path) from error

    def _read(self, batch: Batch) -> list[Reply] | None:
        """Answer from the table; None if documents were read that may be of a later moment than the rest."""
        if self._moved():
            self._refresh()
        table = self._table
        operations = batch.operations
        if len(operations) == 1 and type(operations[0]) is Get and not batch.checks:
            # What the general way comes to, for what is asked most.
            key = operations[0].key
            entry = table.touched.get(key) or table.read.entries.get(key)
            if type(entry) is Entry and type(entry.content) is bytes and entry.expires is None:
                return [entry.content]
        mark, loads = self._mark(), table.loads
        try:
            replies, _ = table.execute(batch, now(), None)
        except DamagedError:
            if self._mark() == mark:
                raise
            return None
        return replies if table.loads == loads or self._mark() == mark else None

    def _mark(self) -> tuple[int, int]:
        """Return what changes when a batch is committed or a checkpoint done."""
        if self._busy:
            return (0, 0)  # Nobody else can write.
        if self._descriptor == _NONE or self._ended:
            return (sum(journal.numbers(self._journals)[-1:]), 0)
        return (self._number, os.lseek(self._descriptor, 0, os.SEEK_END))

    def keys(self) -> Iterator[str]:
        """Yield the keys. What the journal touched is taken at once, the documents are read as the caller goes on."""
        with disk.translated(self._path):
            with self._mutex:
                if self._moved():
                    self._refresh()
                items = self._table.items()
            at = now()
            for key, entry in items:
                if not expired(entry, at):
                    yield key

    def _moved(self) -> bool:
        """Return whether the journal is not as it was when the table was brought up to date."""
        if self._busy:
            return False  # Nobody else can write.
        if self._descriptor == _NONE:
            self._guard()
            return bool(journal.numbers(self._journals))
        if self._ended:
            return journal.numbers(self._journals)[-1:] != [self._number]
        return os.lseek(self._descriptor, 0, os.SEEK_END) != self._offset

    def _refresh(self) -> None:
        """Bring the table up to what is committed."""
        if self._busy:
            return
        while True:
            if self._descriptor == _NONE and not self._attach():
                return
            if self._ended:
                if not self._follow():
                    return
                continue
            size = os.lseek(self._descriptor, 0, os.SEEK_END)
            if size < self._offset:  # A frame was taken back that we had taken.
                self._restart()
            elif size == self._offset or not self._take(size):
                # Otherwise look again: what a frame needs of its document may be of a later one.
                return

    def _guard(self) -> None:
        """Refuse a link or a file in the place of our directories; what stands above them is the user's."""
        for path in (self._path.parent, self._path, self._journals):
            try:
                if not stat.S_ISDIR(os.lstat(path).st_mode):
                    raise DamagedError(f"{path} is no directory", path=str(path))
            except FileNotFoundError:
                return

    def _attach(self) -> bool:
        """Open the newest journal and return whether there is one."""
        for _ in range(100):
            numbers = journal.numbers(self._journals)
            if not numbers:
                return False
            with contextlib.suppress(FileNotFoundError):  # A checkpoint has just begun the next.
                self._open(numbers[-1])
                return True
        raise StorageError(f"{self._journals} changes faster than it can be read", path=str(self._journals))

    def _open(self, number: int) -> None:
        path = journal.place(self._journals, number)
        descriptor, refusal = disk.opened(path)
        try:
            if os.fstat(descriptor).st_nlink > 1:
                raise DamagedError(f"{path} has another name: it is a hard link", path=str(path))
            head, end = journal.begin(descriptor, str(path))
        except BaseException:
            disk.shut(descriptor)
            raise
        old, self._descriptor = self._descriptor, descriptor
        disk.shut(old)
        self._refusal, self._number = refusal, number
        self._offset = self._began = self._synced = end
        self._ended = self._cut = False
        self._booted = head.boot != disk.boot()
        self._lenient = self._booted or not head.boot
        for line in head.waiting:
            self._table.replay(line)
        self._table.revision = self._revision = head.revision
        self._table.sessions = head.restored()

    def _follow(self) -> bool:
        """Go on with the journal that followed the one that ended, and return whether there is one."""
        newest = journal.numbers(self._journals)[-1:]
        if newest == [self._number]:
            return False
        try:
            if newest == [self._number + 1]:
                self._table.carried(now())
                self._open(newest[0])
                return True
        except FileNotFoundError:
            pass  # It has ended, too.
        self._restart()
        return True

    def _take(self, size: int) -> bool:
        """Replay what is new, and return whether there was any."""
        path = str(journal.place(self._journals, self._number))
        for pause in (0.0005, 0.005, 0.0):
            try:
                data = journal.load(self._descriptor, self._offset, size - self._offset)
                part = journal.parse(data, path, self._offset, booted=self._lenient)
                break
            except DamagedError:
                # A frame may have been taken back, and another written, while it was read: look again.
                if not pause:
                    raise
                time.sleep(pause)
                size = os.lseek(self._descriptor, 0, os.SEEK_END)
        for payload, end in part.payloads:
            line = journal.read(payload, path)
            if line.revision != self._revision + bool(line.operations):
                raise DamagedError(f"{path} is damaged: a batch is missing or in the wrong place", path=path)
            self._table.replay(line)
            self._revision = line.revision
            self._offset = end
        self._cut = part.cut
        if part.ended:
            self._offset += len(journal.END)
            self._ended = True
        return part.ended or bool(part.payloads)

    # Writing

    def write(self, batch: Batch) -> list[Reply]:
        """Execute a batch that writes, as one durable commit."""
        try:
            if self._descriptor == _NONE:
                self._guard()
                disk.make(self._journals)
            if not self._durable and batch.token is None and not isinstance(batch.operations[0], Settle):
                return self._apply(batch)
            return self._share(batch)
        except OSError as error:
            if isinstance(error, EmpathyKVError):
                raise
            raise disk.translate(error, self._path) from error

    def _apply(self, batch: Batch) -> list[Reply]:
        """Commit a batch whose frame needs no replies in it, and no sync: what is applied is in the journal."""
        while True:
            self._lock.acquire()
            try:
                if self._ready():
                    at = now()
                    with self._mutex:
                        table = self._table
                        table.admit(batch, at)
                        data = journal.line(table.revision + 1, at, False, batch, None, table.bases(batch))
                        self._append(data, ())
                        self._wrote = True
                        try:
                            table.revision += 1
                            replies = table.apply(batch.operations, at)
                            self._offset += len(data)
                            self._revision = table.revision
                        except BaseException as error:
                            self._restart()  # The journal knows.
                            if isinstance(error, Exception):
                                raise OutcomeUnknown(
                                    f"the batch is committed; its replies are lost: {error}"
                                ) from error
                            raise
                        return replies
            finally:
                self._lock.release()
            self._renew()

    def _share(self, batch: Batch) -> list[Reply]:
        """Commit a batch together with those of other threads that wait: one append and one sync for all of them."""
        commit = Commit(batch)
        self._queue.append(commit)
        self._join(commit)
        if commit.error is not None:
            raise commit.error
        assert commit.change is not None  # noqa: S101 - for the type checker
        return commit.change.replies

    def _join(self, commit: Commit) -> None:
        """Wait until another thread has committed the batch, or commit all that wait."""
        try:
            while not commit.done:
                if not self._lead(commit):
                    self._renew()
        except BaseException as error:
            try:
                self._queue.remove(commit)
            except ValueError:
                while not commit.done:  # Another thread has taken it, and will say what became of it.
                    time.sleep(0.001)
                if isinstance(error, LockTimeoutError):
                    return
            raise

    def _lead(self, commit: Commit) -> bool:
        """Commit all that wait, unless the batch was committed meanwhile; return False if no journal can take them."""
        self._lock.acquire()
        try:
            if commit.done:
                return True
            ready = self._ready()
            if ready:
                self._commit()
            return ready
        finally:
            self._lock.release()

    def _ready(self) -> bool:
        """Bring the table up to date under the lock, and return whether the journal can be appended to."""
        with self._mutex:
            if self._closed:
                raise ClosedError("the store is closed")
            if self._descriptor == _NONE:
                self._refresh()
            else:
                status = os.fstat(self._descriptor)
                if status.st_nlink == 0:
                    self._restart()  # Somebody removed it; a checkpoint says so by an end.
                if status.st_nlink == 0 or status.st_size != self._offset or self._ended:
                    self._refresh()
            if self._refusal is not None:
                raise self._refusal
            if self._cut and not self._ended:
                os.ftruncate(self._descriptor, self._offset)
                self._cut = False
        return not (self._descriptor == _NONE or self._ended or self._booted or self._suspect)

    def _commit(self) -> None:
        """Commit all batches that wait, each executed or refused for itself, with one append and one sync.

        The lock is held. With sync, the table shows what they did only when that is durable.
        """
        at = now()
        group: list[Commit] = []
        changes: list[Change] = []
        frames: list[bytes] = []
        try:
            with self._mutex:
                while self._queue:
                    group.append(self._queue[0])  # An interrupt must find it in one of the two.
                    self._queue.popleft()
                    self._execute(group[-1], at, changes, frames)
                data = frames[0] if len(frames) == 1 else b"".join(frames)
                if data and self._durable:
                    undo(changes)
                    self._busy = True
                elif data:
                    self._append(data, changes)
                    self._offset += len(data)
                    self._revision = self._table.revision
                    self._wrote = True
            if data and self._durable:
                if self._synced < self._offset:
                    # Whoever wrote that may have died before it was durable. A frame that has this one behind it has
                    # to be: else what a power cut leaves looks like damage.
                    self._sync()
                self._append(data, ())
                self._sync()
                with self._mutex:
                    self._redo(changes, len(data))
        except OSError as error:
            lost = {change.token for change in changes}
            for commit in group:
                # One that was refused, or had its replies from before, does not depend on this append.
                if commit.error is None and commit.change is not None and commit.change.token in lost:
                    commit.error = self._failed(error, commit.batch)
        except BaseException:
            # An interrupt: what was written of the frames, the next look at the journal will tell.
            with self._mutex:
                self._restart()
            for commit in group:
                commit.error = commit.error or OutcomeUnknown("the commit was interrupted", token=commit.batch.token)
            raise
        finally:
            self._busy = False
            for change in changes:
                change.end()
            for commit in group:
                commit.done = True

    def _redo(self, changes: Sequence[Change], size: int) -> None:
        try:
            for change in changes:
                change.redo()
            self._offset += size
            self._synced = self._offset
            self._revision = self._table.revision
        except Exception:  # noqa: BLE001 - it is committed, and the replies are known: the journal has the rest
            self._restart()
        self._wrote = True
        self._busy = False

    def _execute(self, commit: Commit, at: int, changes: list[Change], frames: list[bytes]) -> None:
        batch = commit.batch
        commit.change = change = Change(self._table, batch, at)
        try:
            bases = self._table.bases(batch)
            change.execute(None if batch.token is None else journal.digest(batch))
        except EmpathyKVError as error:
            commit.error = error
            return
        except OSError as error:
            commit.error = disk.translate(error, self._path)
            return
        if change.wrote:
            changes.append(change)
            frames.append(journal.line(self._table.revision, at, self._durable, batch, change.slot, bases))

    def _append(self, data: bytes, changes: Sequence[Change]) -> None:
        try:
            disk.append(self._descriptor, data)
        except BaseException:
            undo(changes)
            self._take_back()
            raise

    def _sync(self) -> None:
        try:
            disk.sync_data(self._descriptor)
        except OSError as error:
            self._take_back()
            self._suspect = True
            # The kernel has dropped what it could not write, and the next sync would say that all is well. So this
            # journal ends; if even that fails, a power cut may still bring the frame back.
            try:
                known = self._keeper.acquire(wait=False)
                if known:
                    try:
                        self._turn()
                    finally:
                        self._keeper.release()
            except (OSError, EmpathyKVError):
                known = False
            raise _SyncError(error, known) from error
        except BaseException:
            self._suspect = True
            raise

    def _take_back(self) -> None:
        """Remove frames that were not committed. If that fails too, the next writer does it."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, self._offset)

    def _failed(self, error: OSError, batch: Batch) -> EmpathyKVError:
        """Return what became of a batch whose frame was not written or synced."""
        if isinstance(error, _SyncError) and not error.known:
            return OutcomeUnknown(f"{error.strerror}: {self._journals} could not be made durable", token=batch.token)
        return disk.translate(error, self._journals)

    # Checkpoint

    def grown(self) -> bool:
        """Return whether a checkpoint is due, because the journal is as large as what it costs to write."""
        return self._offset > GROWN and self._offset > min(self._table.loaded, FULL)

    def pending(self) -> int:
        """Return how many bytes of journal the documents do not have yet."""
        return self._offset - self._began

    def checkpoint(self, *, wait: bool = True) -> None:
        """Bring the documents up to date and begin a new journal. Nothing to do is no error.

        Without `wait`, one that another process is making will do.
        """
        with disk.translated(self._path):
            with self._mutex:
                if self._moved():
                    self._refresh()
                if self._descriptor == _NONE or (
                    not self.pending() and not (self._cut or self._ended or self._booted or self._suspect)
                ):
                    return
            if not self._keeper.acquire(wait=wait):
                return
            try:
                written: dict[str, Stamp] = {}
                self._document(written)
                with self._lock.hold():
                    self._ready()
                    if self._descriptor != _NONE:
                        self._turn(written)
            finally:
                self._keeper.release()

    def _renew(self) -> None:
        """Make a journal that can be appended to: the first, or one in the place of one that ended or is doubtful."""
        self._guard()
        disk.make(self._journals)
        self._keeper.reopen()
        self._lock.reopen()
        with self._keeper.hold(), self._lock.hold():
            if self._ready():
                return
            if self._descriptor == _NONE:
                self._table.revision = highest(self._path)
                self._next([])
            else:
                self._turn()

    def _turn(self, written: dict[str, Stamp] | None = None) -> None:
        """Write the documents that were not `written`, and begin the next journal. Both locks are held."""
        self._busy = True
        try:
            self._document({} if written is None else written)
            self._next(self._gone())
        finally:
            self._busy = False

    def _document(self, written: dict[str, Stamp]) -> None:
        """Write the documents of what the journal touched, durably, but for those `written` in their present state."""
        with self._mutex:
            if self._moved():
                self._refresh()
            table = self._table
            keys = [key for key, entry in table.touched.items() if written.get(key) != stamp(entry)]
        if not keys:
            return
        few = disk.few(keys)
        drafts: list[tuple[Path, str]] = []
        synced = _NONE
        for start in range(0, len(keys), 64):
            with self._mutex:
                at = now()
                end = self._offset
                descriptor = _NONE if end == synced else os.dup(self._descriptor)
                encoded = [self._encoded(key, at) for key in keys[start : start + 64] if key in table.touched]
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
                if data and (key not in table.replaced or not self._created(path, data, durable=few)):
                    draft = self._journals / f"{path.name}.new"
                    with contextlib.suppress(FileNotFoundError):
                        draft.unlink()
                    disk.create(draft, data, durable=few)
                    drafts.append((draft, key))
        if not few:
            disk.sync_files(self._path)
        for draft, key in drafts:
            path = table.path(key)
            if key in table.replaced:
                set_aside(path, disk.load(draft))
            draft.replace(path)
        disk.sync_directory(self._path)

    def _gone(self) -> list[str]:
        """Return the keys whose documents are to be deleted, after keeping aside what is damaged of them."""
        at = now()
        gone = []
        for key, entry in self._table.touched.items():
            if isinstance(entry, Tombstone) or expired(entry, at):
                path = self._table.path(key)
                try:
                    path.lstat()  # Not lexists: it takes an I/O error for absence.
                except FileNotFoundError:
                    continue
                set_aside(path, b"")
                gone.append(key)
        return gone

    def _encoded(self, key: str, at: int) -> tuple[str, Stamp, bytes]:
        """Return a key's state and its document, which is empty for what is deleted or has expired."""
        entry = self._table.touched[key]
        data = documents.encode(key, entry) if isinstance(entry, Entry) and not expired(entry, at) else b""
        return key, stamp(entry), data

    @staticmethod
    def _created(path: Path, data: bytes, *, durable: bool) -> bool:
        """Write a document that is not there, and return whether it was not."""
        try:
            disk.create(path, data, durable=durable)
        except FileExistsError:
            return False
        return True

    def _next(self, gone: Sequence[str]) -> None:
        """End the journal and begin the next where the table stands. The documents are up to date, but for those gone.

        They go when the next journal is there, which says that they are deleted: what the old one changes needs them.
        """
        number = self._number + 1
        self._table.forget(now())
        head = journal.head(
            self._table.revision, self._table.sessions, disk.boot(), self._table.still_waiting(gone, now())
        )
        draft = self._journals / f"{number}.new"
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        disk.create(draft, head, durable=True)
        if self._descriptor != _NONE and not self._ended:
            self._end()
        draft.rename(journal.place(self._journals, number))
        disk.sync_directory(self._journals)
        with self._mutex:
            self._table.carried(now())
            self._open(number)
            self._booted = self._suspect = False
        for key in gone:
            with contextlib.suppress(FileNotFoundError):
                self._table.path(key).unlink()
        self._sweep()

    def _end(self) -> None:
        # Before the next one is there: whoever has this one open must not append to it any more.
        try:
            disk.append(self._descriptor, journal.END)
        except BaseException:
            self._take_back()
            raise
        with self._mutex:
            self._ended = True
            self._offset += len(journal.END)

    def _sweep(self) -> None:
        """Remove what is over: older journals, and what a crash left of files that were being written."""
        keep = {journal.place(self._journals, self._number).name, "lock"}
        with os.scandir(self._journals) as found:
            left = [entry.name for entry in found if entry.name not in keep]
        for name in left:
            with contextlib.suppress(OSError):  # On Windows somebody may have it open.
                (self._journals / name).unlink()

    def close(self, *, checkpoint: bool = True) -> None:
        """Bring the documents up to date if anything was written here, and give the descriptors back."""
        try:
            if checkpoint and self._wrote:
                self.checkpoint()
        finally:
            self._closed = True
            self._keeper.close()
            self._lock.close()
            with self._mutex:
                self._restart()


class _SyncError(OSError):
    """A sync that failed. `known`: whether what was to be synced is certainly gone."""

    def __init__(self, error: OSError, known: bool) -> None:
        super().__init__(error.errno, error.strerror, error.filename)
        self.known = known


def stamp(entry: Entry | Tombstone) -> Stamp:
    """Return what tells this state of a key from all others."""
    return (entry.version, entry.expires if isinstance(entry, Entry) else None)


def undo(changes: Sequence[Change]) -> None:
    """Undo changes, the last first."""
    for change in reversed(changes):
        change.undo()


def set_aside(path: Path, becomes: bytes) -> None:
    """Keep a document that is no sound one under another name, unless a crash left it on its way to what it becomes."""
    try:
        data = disk.load(path)
        if documents.left(data, becomes):
            return
        documents.decode(data, str(path))
    except FileNotFoundError:
        return
    except DamagedError:
        disk.set_aside(path)
