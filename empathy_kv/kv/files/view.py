"""A namespace as this process knows it: the journal that is open, and a table that is brought up to it.

A reader takes no lock: it asks for the journal's size, takes what is new, and answers from what the journal touched
and, for all else, from the documents. An answer for which a document was opened counts only if the journal did not move
meanwhile.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Lock as Mutex
from typing import Final

from empathy_kv.errors import DamagedError
from empathy_kv.kv.files import disk, frames
from empathy_kv.kv.files.journal import Journal, numbers
from empathy_kv.kv.files.overlay import Overlay, listed
from empathy_kv.kv.operations import Batch, Get, Reply
from empathy_kv.kv.table import Entry, expired

_NONE: Final = disk.NONE
_PAGE: Final = 64
"""Documents that are read at once."""
SURE: Final = 1.0
"""Seconds for which it may go unnoticed that the directory was moved or replaced: to ask costs as much as a read."""
_TRIES: Final = 8
"""How often the documents are listed anew because of checkpoints."""


def now() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class View:
    """The journal and the table of one namespace. Threads share them by `mutex`.

    It is held for moments: nothing is written or synced under it, but an append that is not synced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mutex = Mutex()
        self.journal = Journal(path / "journal")
        self.table = Overlay(path)
        self._unread: list[bytes] = []
        """Lines that were taken from the journal, and that the table does not have yet."""
        self.busy = False
        """Whether the journal may hold what the table does not show yet. Only who has the lock of writers sets it."""
        self._until = 0.0
        """Until when, by the monotonic clock, the journal is taken for the one that stands there."""

    def restart(self) -> None:
        """Begin anew, knowing nothing."""
        self.journal.reset()
        self.table = Overlay(self.path)
        self._unread.clear()

    @property
    def sure(self) -> bool:
        """Whether the journal was the one that stands there a moment ago."""
        return time.monotonic() < self._until

    def read(self, batch: Batch) -> list[Reply] | None:
        """Execute a batch that writes nothing; None if documents that it read may be of a later moment."""
        with self.mutex:
            journal = self.journal
            if (
                self._unread
                or journal.descriptor == _NONE
                or journal.ended
                or time.monotonic() >= self._until
                or os.lseek(journal.descriptor, 0, os.SEEK_END) != journal.offset
            ):
                self.catch_up()  # It asks the same, by five calls, which take as long as all the rest.
            table = self.table
            operations = batch.operations
            if len(operations) == 1 and type(operations[0]) is Get and not batch.checks:
                # What the general way comes to, for what is asked most.
                key = operations[0].key
                entry = table.touched.get(key) or table.read.entries.get(key)
                if type(entry) is Entry and type(entry.content) is bytes and entry.expires is None:
                    return [entry.content]
            loads = table.loads
            try:
                replies, _ = table.execute(batch, now(), None)
            except DamagedError:
                if self.catch_up():
                    return None
                raise
            return None if table.loads != loads and self.catch_up() else replies

    def keys(self) -> Iterator[str]:
        """Yield the keys, each once. The names of the documents are taken at once, about 150 bytes each.

        Not as the caller goes on: of a directory in which files are replaced meanwhile, a listing may name one twice,
        and leave one out. What documents hold is read as the caller goes on.
        """
        with self.mutex:
            self.catch_up()
        for _ in range(_TRIES):
            number = self.journal.number
            paths = list(listed(self.path))
            with self.mutex:
                # All whose documents were replaced while they were listed, unless a checkpoint has ended since.
                self.catch_up()
                touched = dict(self.table.touched)
                if self.journal.number == number:
                    break
        at = now()
        # Nobody need read these documents. What a crash left of one that the journal makes from nothing is no damage.
        told = set(map(self.table.path, touched))
        paths = [path for path in paths if path not in told]
        yield from [key for key, entry in touched.items() if isinstance(entry, Entry) and not expired(entry, at)]
        damage: DamagedError | None = None
        paths.reverse()
        while paths:
            page = [paths.pop() for _ in range(min(_PAGE, len(paths)))]
            found: list[str] = []
            with self.mutex:
                for key, entry in self._documents(page):
                    if isinstance(entry, DamagedError):
                        damage = damage or entry
                    elif not expired(entry, at):
                        found.append(key)
            yield from found
        if damage is not None:
            raise damage

    def _documents(self, paths: list[str]) -> Iterator[tuple[str, Entry | DamagedError]]:
        """Yield the key and the content of each document, or its path and what is wrong with it."""
        self.catch_up()
        table = self.table  # After that, which may begin anew.
        read: list[tuple[str, Entry, int]] = []
        for path in paths:
            try:
                key, entry, size = table.document(path)
            except FileNotFoundError:
                continue  # It was deleted since.
            except DamagedError as error:
                yield path, error
            else:
                if size:
                    read.append((key, entry, size))
                yield key, entry
        if not self.catch_up():
            for key, entry, size in read:
                table.keep(key, entry, size)

    # Following the journal; `mutex` is held

    def catch_up(self) -> bool:
        """Bring the table up to what is committed, and return whether there was anything new."""
        news = self.follow()
        while self._unread:
            self.replay()
            self.follow()  # Again: what a line needs of its document may be of a later one.
            news = True
        return news

    def follow(self) -> bool:
        """Take what was committed, for `catch_up`, and return whether there was anything.

        It costs a part of that, and is enough to append what does not depend on it.
        """
        news = False
        while not self.busy and self._moved() and self._advance():  # If it is busy, nobody else can write.
            news = True
        if not news and not self.busy and not self.sure:
            self._until = time.monotonic() + SURE
            if self.journal.gone():
                self.restart()
                self.follow()
                return True
        return news

    def replay(self) -> None:
        """Bring the table up to what was taken; who has the lock of writers has taken all there is."""
        if not self._unread:
            return
        table, path = self.table, str(self.journal.path)
        newest = table.revision
        lines, self._unread = self._unread, []
        try:
            for line in lines:
                table.replay(frames.read(line, path))
        except BaseException:
            self.restart()
            raise
        table.revision = max(table.revision, newest)  # What was written here before these were replayed is newer.

    def _moved(self) -> bool:
        if self.journal.descriptor == _NONE:
            self.guard()
        return self.journal.moved()

    def _advance(self) -> bool:
        """Go on by what there is, and return whether there was any."""
        journal = self.journal
        if journal.descriptor == _NONE:
            head = journal.attach()
            if head is not None:
                self.table = Overlay(self.path)  # What was read while there was no journal followed none.
                self._begin(head)
            return head is not None
        if journal.ended:
            return self._succeed()
        if os.lseek(journal.descriptor, 0, os.SEEK_END) < journal.offset:  # A frame was taken back that we had taken.
            self.restart()
            return True
        lines = journal.take()
        self._unread += lines
        return journal.ended or bool(lines)

    def _succeed(self) -> bool:
        """Go on with the journal that followed the one that ended, and return whether there is one."""
        journal = self.journal
        newest = numbers(journal.directory)[-1:]
        if newest == [journal.number]:
            return False
        try:
            if newest == [journal.number + 1]:
                self.turn(newest[0])
                return True
        except FileNotFoundError:
            pass  # It has ended, too.
        self.restart()
        return True

    def turn(self, number: int) -> None:
        """Go on with the next journal: the documents have what this one touched."""
        self.replay()
        self._begin(self.journal.open(number))

    def _begin(self, head: frames.Head) -> None:
        try:
            self.table.begin(head)
        except BaseException:
            self.restart()
            raise

    def guard(self) -> None:
        """Refuse a link or a file in the place of our directories; what stands above them is the user's."""
        for path in (self.path.parent, self.path, self.journal.directory):
            try:
                if not stat.S_ISDIR(os.lstat(path).st_mode):
                    raise DamagedError(f"{path} is no directory", path=str(path))
            except FileNotFoundError:
                return
