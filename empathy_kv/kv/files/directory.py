"""One namespace on disk: documents, the journal of what was committed since they were written, and a lock.

A write takes the lock, brings its table up to date, and appends one frame to the journal: that is the commit. Threads
whose writes have to be synced share one append and one sync.

::

    <namespace>/
      lock              of the one who writes; never unlinked
      journal/          see journal.py
      <name>.json       a document a key
      <name>.json.damaged-1     a document whose bytes were not what was written, kept aside when its key was replaced

Locks are taken in this order: `_keeper` (who makes a checkpoint), `_lock` (who writes), the view's `mutex`.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from empathy_kv.errors import ClosedError, EmpathyKVError, LockTimeoutError, OutcomeUnknown, StorageError
from empathy_kv.kv.files import checkpoint, disk, frames, sweep
from empathy_kv.kv.files.lock import Lock, Mark, WriterLock
from empathy_kv.kv.files.overlay import Change, Overlay, Stamp
from empathy_kv.kv.files.view import View, now
from empathy_kv.kv.operations import Batch, Reply, Set, Settle
from empathy_kv.kv.table import Content, Entry

GROWN: Final = 8 * 1024 * 1024
"""Bytes of journal at which a checkpoint is due, if the documents that it has to write are no larger."""
FULL: Final = 64 * 1024 * 1024
"""Bytes of journal at which one is due in any case."""
_BEHIND: Final = 4
"""Times as much of journal at which those who write wait for the checkpoint."""
_PAUSE: Final = 0.005
_ROUNDS: Final = 10
"""How often a checkpoint writes what was touched meanwhile, before it does so while nobody can write."""
_LEFT: Final = 1_000
"""Documents that may be left for that."""

_NONE: Final = disk.NONE
_TRIES: Final = 8
"""How often a read that takes several documents begins anew because of writers; then it has them wait."""


class Commit:
    """A batch that waits to be written, and then what became of it."""

    __slots__ = ("batch", "change", "error", "group")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.change: Change | None = None
        self.error: BaseException | None = None
        self.group: Group | None = None

    @property
    def done(self) -> bool:
        """Whether it is known what became of it."""
        return self.group is not None and self.group.done


class Group:
    """Batches that are committed together."""

    __slots__ = ("commits", "done")

    def __init__(self) -> None:
        self.commits: list[Commit] = []
        self.done = False


class Directory:
    """The directory of one namespace. Threads may share it."""

    def __init__(self, path: Path, *, durable: bool, timeout: float, wrote: bool = False) -> None:
        """`wrote`: whether something was written here before, so that `close` is to bring the documents up to date."""
        self.path = path
        self._durable = durable
        self._view = View(path)
        self._lock = WriterLock(path / "lock", timeout)
        self._keeper = Lock(path / "journal" / "lock", timeout, kept=False)
        self.snapshot = Mark(path / "journal")
        """That of a snapshot, which forbids checkpoints."""
        self._timeout = timeout
        self._waited = 0
        self._queue: deque[Commit] = deque()
        self._wrote, self._closed = wrote, False
        self.used = False
        """Whether it was used again since the engine last looked for one to let go."""

    # Reading

    def read(self, batch: Batch) -> list[Reply]:
        """Execute a batch that writes nothing."""
        view = self._view
        try:
            for _ in range(_TRIES):
                replies = view.read(batch)
                if replies is not None:
                    return replies
            with self._lock.hold():
                replies = view.read(batch)
            assert replies is not None  # noqa: S101 - nothing moves under the lock
            return replies
        except OSError as error:
            if isinstance(error, EmpathyKVError):
                raise
            raise disk.translate(error, self.path) from error

    def keys(self) -> Iterator[str]:
        """Yield the keys. What the journal touched is taken at once, the documents are read as the caller goes on."""
        with disk.translated(self.path):
            yield from self._view.keys()

    # Writing

    def write(self, batch: Batch) -> list[Reply]:
        """Execute a batch that writes, as one durable commit."""
        try:
            if self._view.journal.descriptor == _NONE or self._lock.shut:
                self._make()  # Somebody may have removed what was only read here until now.
            if not self._durable and batch.token is None and type(batch.operations[0]) is not Settle:
                return self._apply(batch)
            return self._share(batch)
        except OSError as error:
            if isinstance(error, EmpathyKVError):
                raise
            raise disk.translate(error, self.path) from error

    def _apply(self, batch: Batch) -> list[Reply]:
        """Commit a batch whose frame needs no replies in it, and no sync: what is applied is in the journal."""
        while True:
            replies = self._lock.run(self._append, batch, meanwhile=self._look)
            if replies is not None:
                return replies
            self._renew()

    def _append(self, batch: Batch) -> list[Reply] | None:
        """Commit a batch, unless no journal can take it. The lock is held."""
        with self._view.mutex:
            return self._log(batch) if self._ready() else None

    def _look(self) -> None:
        """Take what others write while they have the lock, so that less is left to do once we have it."""
        with self._view.mutex:
            self._view.follow()

    def _log(self, batch: Batch) -> list[Reply]:
        view = self._view
        table, journal = view.table, view.journal
        at = now()
        bases: Mapping[str, int] = {}
        if not blind(batch):
            view.replay()
            table.admit(batch, at)
            bases = table.bases(batch)
        revision = journal.revision + 1
        data = frames.line(revision, at, False, batch, None, bases)
        journal.append(data)
        self._wrote = True
        try:
            table.revision = revision
            replies = table.apply(batch.operations, at)
            journal.taken(data, revision)
        except BaseException as error:
            view.restart()  # The journal knows.
            if isinstance(error, Exception):
                raise OutcomeUnknown(f"the batch is committed; its replies are lost: {error}") from error
            raise
        return replies

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
                if not self._lock.run(self._lead, commit):
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
        """Commit all that wait, unless the batch was committed meanwhile; return False if no journal can take them.

        The lock is held.
        """
        if commit.done:
            return True
        with self._view.mutex:
            ready = self._ready()
        if ready:
            self._commit()
        return ready

    def _ready(self) -> bool:
        """Take what was committed, and return whether the journal can be appended to. Lock and mutex are held."""
        if self._closed:
            raise ClosedError("the store is closed")
        view, journal = self._view, self._view.journal
        if view.sure and journal.current():
            return True
        if not self._lock.there():
            return False  # The directory was removed or replaced: who writes to what is there holds another lock.
        if journal.gone():
            view.restart()
        view.follow()
        if journal.refusal is not None:
            raise journal.refusal
        journal.mend()
        return journal.usable

    def _make(self) -> None:
        """Make the directories, before their locks can be taken."""
        self._view.guard()
        disk.make(self._view.journal.directory)

    def _commit(self) -> None:
        """Commit all batches that wait, each executed or refused for itself, with one append and one sync.

        The lock is held. With sync, the table shows what they did only when that is durable.
        """
        at = now()
        view, journal = self._view, self._view.journal
        group = Group()
        changes: list[Change] = []
        lines: list[bytes] = []
        try:
            with view.mutex:
                view.catch_up()
                while self._queue:
                    commit = self._queue[0]
                    commit.group = group
                    group.commits.append(commit)  # An interrupt must find it in one of the two.
                    self._queue.popleft()
                    self._execute(commit, at, changes, lines)
                data = lines[0] if len(lines) == 1 else b"".join(lines)
                if data and self._durable:
                    undo(changes)
                    view.busy = True
                elif data:
                    try:
                        journal.append(data)
                    except BaseException:
                        undo(changes)
                        raise
                    journal.taken(data, view.table.revision)
                    self._wrote = True
            if data and self._durable:
                if journal.synced < journal.offset:
                    # Whoever wrote that may have died before it was durable. A frame that has this one behind it has
                    # to be: else what a power cut leaves looks like damage.
                    self._sync()
                journal.append(data)
                self._sync()
                with view.mutex:
                    self._redo(changes, data)
        except OSError as error:
            lost = {change.token for change in changes}
            for commit in group.commits:
                # One that was refused, or had its replies from before, does not depend on this append.
                if commit.error is None and commit.change is not None and commit.change.token in lost:
                    commit.error = self._failed(error, commit.batch)
        except BaseException:
            # An interrupt: what was written of the frames, the next look at the journal will tell.
            with view.mutex:
                view.restart()
            for commit in group.commits:
                commit.error = commit.error or OutcomeUnknown("the commit was interrupted", token=commit.batch.token)
            raise
        finally:
            # At once, and before any call, in which an interrupt would keep those who wait from it.
            group.done = True
            view.busy = False
            for change in changes:
                change.end()

    def _redo(self, changes: Sequence[Change], data: bytes) -> None:
        view, journal = self._view, self._view.journal
        try:
            for change in changes:
                change.redo()
            journal.taken(data, view.table.revision)
            journal.synced = journal.offset
        except Exception:  # noqa: BLE001 - it is committed, and the replies are known: the journal has the rest
            view.restart()
        self._wrote = True
        view.busy = False

    def _execute(self, commit: Commit, at: int, changes: list[Change], lines: list[bytes]) -> None:
        batch, table = commit.batch, self._view.table
        commit.change = change = Change(table, batch, at)
        try:
            bases = table.bases(batch)
            change.execute(None if batch.token is None else frames.digest(batch))
        except EmpathyKVError as error:
            commit.error = error
            return
        except OSError as error:
            commit.error = disk.translate(error, self.path)
            return
        if change.wrote:
            changes.append(change)
            lines.append(frames.line(table.revision, at, self._durable, batch, change.slot, bases))

    def _sync(self) -> None:
        journal = self._view.journal
        try:
            journal.sync()
        except OSError as error:
            journal.take_back()
            journal.end_here()
            # If the next does not begin, a power cut may still bring the frame back.
            try:
                known = self._keeper.acquire(wait=False)
                if known:
                    try:
                        checkpoint.turn(self._view, {})
                    finally:
                        self._keeper.release()
            except (OSError, EmpathyKVError):
                known = False
            raise _SyncError(error, known) from error

    def _failed(self, error: OSError, batch: Batch) -> EmpathyKVError:
        """Return what became of a batch whose frame was not written or synced."""
        place = self._view.journal.directory
        if isinstance(error, _SyncError) and not error.known:
            return OutcomeUnknown(f"{error.strerror}: {place} could not be made durable", token=batch.token)
        return disk.translate(error, place)

    # Checkpoint

    def grown(self) -> bool:
        """Return whether a checkpoint is due, because the journal is as large as what it costs to write."""
        return self._over(1)

    def _over(self, times: int) -> bool:
        offset = self._view.journal.offset
        return offset > times * GROWN and offset > times * min(self._view.table.loaded, FULL)

    def ease(self) -> None:
        """Wait, for a while, for a checkpoint that is made and that those who write leave behind.

        What is written while it is made has to be written out, too: at its end nobody could write for long, and the
        journal would grow for ever. Who waited in vain does so again when the journal has grown as much again. Who
        cannot even look does not wait: what was written is committed.
        """
        if not self._over(_BEHIND):
            self._waited = 0
        elif self._view.journal.offset >= self._waited:
            with contextlib.suppress(Exception):
                self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + self._timeout / 2
        while self._over(_BEHIND):
            if self._keeper.acquire(wait=False):  # Nobody makes one.
                self._keeper.release()
                return
            if self.snapshot.seen():  # It forbids one, perhaps for hours.
                return
            if time.monotonic() >= end:
                self._waited = self._view.journal.offset + _BEHIND * GROWN
                return
            time.sleep(_PAUSE)
            self._look()

    @property
    def behind(self) -> bool:
        """Whether something was written here that the documents may not have yet."""
        return self._wrote and (self.pending() > 0 or self._view.journal.descriptor == _NONE)

    def pending(self) -> int:
        """Return how many bytes of journal the documents do not have yet."""
        return self._view.journal.offset - self._view.journal.began

    def checkpoint(self, *, wait: bool = True) -> None:
        """Bring the documents up to date and begin a new journal. Nothing to do is no error.

        Without `wait`, one that another process is making will do.
        """
        view, journal = self._view, self._view.journal
        with disk.translated(self.path):
            with view.mutex:
                view.catch_up()
                if journal.descriptor != _NONE and not self.exists:
                    view.restart()  # It was removed, and what was written to it with it.
                if journal.descriptor == _NONE:
                    return
                expiring = journal.refusal is None and sweep.due(view.table, now())
                if not self.pending() and journal.usable and not journal.cut and not expiring:
                    return
            if not self._keeper.acquire(wait=wait):
                return
            try:
                written: dict[str, Stamp] = {}
                self._require_place(written)
                for _ in range(_ROUNDS):
                    if checkpoint.write(view, written) <= _LEFT:
                        break
                at = now()
                swept = sweep.look(self.path, at) if sweep.due(view.table, at) else None
                with self._lock.hold():
                    if self._require_place(written):
                        swept = None
                    with view.mutex:
                        self._ready()
                    if journal.descriptor != _NONE:
                        checkpoint.turn(view, written, swept)
            finally:
                self._keeper.release()

    def _require_place(self, written: dict[str, Stamp]) -> bool:
        """Begin anew, and say so, if what is there is not what is known here: it was removed, or replaced by a copy."""
        with self._view.mutex:
            gone = self._view.journal.gone()
            if gone:
                self._view.restart()
                self._view.catch_up()
                written.clear()
        return gone

    # Snapshots

    @property
    def exists(self) -> bool:
        """Whether anything was ever written."""
        return disk.there(str(self._view.journal.directory))

    def kept(self) -> contextlib.AbstractContextManager[None]:
        """Let no document change while the block runs: what is written meanwhile stays in the journal."""
        try:
            self.checkpoint()  # As little as possible is to be read from the journal.
        except StorageError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise  # One that may only be read: the journal has the rest.
        return self._keeper.hold()  # Which does not keep the descriptors of the rest.

    def still(self) -> contextlib.AbstractContextManager[None]:
        """Let nobody write while the block runs."""
        return self._lock.hold()

    def frozen(self) -> Overlay:
        """Return the table of this moment, which does not follow the journal. Both locks are held.

        It is true as long as no document changes.
        """
        view = View(self.path)
        try:
            with view.mutex:
                view.catch_up()
        finally:
            view.journal.reset()
        return view.table

    @contextlib.contextmanager
    def refilled(self) -> Iterator[Callable[[str, Content], None]]:
        """Give what writes a document a key, in the place of all that there are. Nobody can write meanwhile."""
        view = self._view
        with disk.translated(self.path):
            self._make()
            self._keeper.reopen()
            self._lock.reopen()
            with self._keeper.hold(), self._lock.hold():
                try:
                    version = checkpoint.clear(view)
                    each = not disk.at_once()
                    yield lambda key, content: checkpoint.put(view, key, Entry(content, version), durable=each)
                    checkpoint.settle(view)
                finally:
                    with view.mutex:
                        view.restart()

    def _renew(self) -> None:
        """Make a journal that can be appended to: the first, or one in the place of one that ended or is doubtful."""
        view = self._view
        self._make()
        self._keeper.reopen()
        self._lock.reopen()
        with self._keeper.hold(), self._lock.hold():
            with view.mutex:
                ready = self._ready()
            if not ready and view.journal.descriptor == _NONE:
                checkpoint.first(view)
            elif not ready:
                checkpoint.turn(view, {})

    def close(self, *, checkpoint: bool = True) -> None:
        """Bring the documents up to date if anything was written here, and give the descriptors back."""
        self._require_outside()
        try:
            if checkpoint and self._wrote:
                self.checkpoint()
        finally:
            self._closed = True
            self._keeper.close()
            self._lock.close()
            with self._view.mutex:
                self._view.restart()

    def _require_outside(self) -> None:
        """Raise `LockTimeoutError` if the table stays in use: by what a signal interrupted whose handler calls this."""
        end = time.monotonic() + self._timeout
        while self._view.mutex.locked():
            if time.monotonic() > end:
                raise LockTimeoutError(
                    f"{self.path} has been in use for {self._timeout:g} s", path=str(self.path), timeout=self._timeout
                )
            time.sleep(_PAUSE)


class _SyncError(OSError):
    """A sync that failed. `known`: whether what was to be synced is certainly gone."""

    def __init__(self, error: OSError, known: bool) -> None:
        super().__init__(error.errno, error.strerror, error.filename)
        self.known = known


def blind(batch: Batch) -> bool:
    """Return whether a batch is a lone `Set` for ever: then nothing of it depends on what the table holds."""
    first = batch.operations[0]
    return type(first) is Set and first.ttl is None and len(batch.operations) == 1 and not batch.checks


def undo(changes: Sequence[Change]) -> None:
    """Undo changes, the last first."""
    for change in reversed(changes):
        change.undo()
