"""A namespace's table over its documents: what the journal touched is in memory, all else is read when it is asked for.

What was read of documents is kept too, within bounds (`Read`). It needs no look at the file to stay true: a document
changes only by way of the journal, and what the journal says is replayed here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from attrs import frozen

from empathy_kv.errors import DamagedError
from empathy_kv.kv.files import disk, documents, frames
from empathy_kv.kv.files.names import name, plain
from empathy_kv.kv.operations import Batch, Delete, HDel, HIncrBy, HSet, Operation, Reply, Set, Settle, Token
from empathy_kv.kv.table import Entry, Session, Slot, SortedSet, Table, expired

SUFFIX: Final = ".json"
"""How the name of a document ends."""

KEPT: Final = 8 * 1024 * 1024
"""Bytes of documents that are kept of what was read."""
KEPT_LARGE: Final = 32 * 1024 * 1024
"""The same of large documents, which take the longest to read again."""
_LARGE: Final = 128 * 1024
"""Bytes above which a document is a large one."""

_PLACE: Final = 256
"""Bytes that an entry takes beside its document."""


@frozen
class Tombstone:
    """A key that was deleted since the documents were written."""

    version: int


Stamp: TypeAlias = tuple[int, int | None]
"""What tells one state of a key from all others: its version and its expiry."""


class Read:
    """What was read of documents, the oldest first; None is a key that has none.

    It is `KEPT` bytes of small ones, and of large ones `KEPT_LARGE` or twice the largest.
    """

    def __init__(self) -> None:
        self.entries: dict[str, Entry | None] = {}
        self._small, self._large = _Sizes(), _Sizes()

    def put(self, key: str, entry: Entry | None, size: int) -> None:
        """Keep an entry of so many bytes, and drop the oldest others if there are too many."""
        self.drop(key)
        size += _PLACE
        sizes, most = self._small, KEPT
        if size > _LARGE:
            # By themselves: what a program writes all the time would be read again whenever some small ones were read.
            # As much again as the largest: else it would go for the sake of any other, and it is in use.
            sizes, most = self._large, max(KEPT_LARGE, 2 * max([size, *self._large.of.values()]))
        while sizes.of and sizes.total + size > most:
            del self.entries[sizes.pop()]
        self.entries[key] = entry
        sizes.put(key, size)

    def drop(self, key: str) -> None:
        """Forget a key."""
        if key in self.entries:
            del self.entries[key]
            if not self._small.drop(key):
                self._large.drop(key)


class _Sizes:
    """The sizes of some entries, the oldest first, and their sum."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}
        self.total = 0

    def put(self, key: str, size: int) -> None:
        self.of[key] = size
        self.total += size

    def drop(self, key: str) -> bool:
        """Take one out, and return whether it was there."""
        size = self.of.pop(key, None)
        if size is None:
            return False
        self.total -= size
        return True

    def pop(self) -> str:
        """Take the oldest out, and return its key."""
        key = next(iter(self.of))
        self.drop(key)
        return key


class Overlay(Table):
    """The table of the namespace in a directory. `touched` is what the journal touched; documents have the rest."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._prefix = f"{path}{os.sep}"
        self.touched: dict[str, Entry | Tombstone] = {}
        self.replaced: set[str] = set()
        """Keys of which the journal knows all, because it began with a Set or a Delete of them."""
        self.damaged: dict[str, DamagedError] = {}
        """Keys that the journal changes, and whose documents are not what it changed."""
        self.waiting: list[frames.Line] = []
        """What the journal has for them."""
        self.read = Read()
        self.loads = 0
        """How many documents were looked for."""
        self.loaded = 0
        """How many bytes they had."""
        self.due: int | None = 0
        """A time before which no key expires that the journal does not touch, in ms since 1970; None: none will."""

    # What a table asks for

    def find(self, key: str) -> Entry | None:
        entry = self.touched.get(key)
        if entry is None:
            return self._read(key)
        return entry if isinstance(entry, Entry) else None

    def store(self, key: str, entry: Entry) -> None:
        if key not in self.touched:
            self.read.drop(key)
        self.touched[key] = entry

    def drop(self, key: str) -> None:
        self.touched[key] = Tombstone(self.revision)
        self.read.drop(key)

    def there(self, key: str, now: int) -> bool:
        try:
            return super().there(key, now)
        except DamagedError:
            return True  # What is damaged can be deleted and replaced.

    def replace(self, key: str, entry: Entry) -> None:
        if key not in self.touched:
            self._made(key)
        self.touched[key] = entry

    def erase(self, key: str) -> None:
        if key not in self.touched:
            self._made(key)
        self.touched[key] = Tombstone(self.revision)

    # What has expired goes at a checkpoint, by what the journal says then: all who follow it have to hold the same.

    def _expire_later(self, key: str, expires: int, now: int) -> None:
        """Drop nothing, and note nothing."""

    def _never(self, key: str) -> None:
        """Nothing was noted."""

    def _made(self, key: str) -> None:
        """Note that the journal makes a key from nothing."""
        self.replaced.add(key)
        if self.damaged:
            self.damaged.pop(key, None)
        self.read.drop(key)

    # Documents

    def path(self, key: str) -> str:
        """Return where the document of a key stands."""
        return f"{self._prefix}{name(key)}{SUFFIX}"

    def _read(self, key: str) -> Entry | None:
        try:
            return self.read.entries[key]
        except KeyError:
            pass
        if key in self.damaged:
            raise self.damaged[key]
        path = self.path(key)
        self.loads += 1
        try:
            data = disk.load(path)
        except FileNotFoundError:
            self.read.put(key, None, 0)
            return None
        true_key, entry = documents.decode(data, path)
        if true_key != key:
            raise misplaced(path, true_key)
        self.loaded += len(data)
        self.read.put(key, entry, weight(entry))
        return entry

    def document(self, path: str) -> tuple[str, Entry, int]:
        """Return the key of the document in a file, what it holds, and how many bytes were read for that.

        Raises `DamagedError`, and FileNotFoundError if it is not there any more.
        """
        key = plain(path[len(self._prefix) : -len(SUFFIX)])
        if key is not None:
            kept = self.read.entries.get(key)
            if kept is not None:
                return key, kept, 0
        data = disk.load(path)
        true_key, entry = documents.decode(data, path)
        if true_key != key and path != self.path(true_key):
            raise misplaced(path, true_key)
        return true_key, entry, len(data)

    def keep(self, key: str, entry: Entry, size: int) -> None:
        """Keep what was read of a document, if it is what the table would find there."""
        if key not in self.touched and key not in self.read.entries:
            self.loaded += size
            self.read.put(key, entry, weight(entry))

    def items(self) -> Iterator[tuple[str, Entry]]:
        """Yield all keys and their entries, expired or not, as long as nobody writes documents.

        Raises `DamagedError`, at the end, if a document is damaged.
        """
        for key, entry in list(self.touched.items()):
            if isinstance(entry, Entry):
                yield key, entry
        sound = {self.path(key) for key in self.replaced}
        damage: DamagedError | None = None
        for path in listed(self._path):
            try:
                key, entry, _ = self.document(path)
            except DamagedError as error:
                damage = damage or (None if path in sound else error)
            else:
                if key not in self.touched:
                    yield key, entry
        if damage is not None:
            raise damage

    # The journal

    def replay(self, line: frames.Line) -> None:
        """Apply a committed batch, but for the keys whose documents hold it already."""
        self.revision = line.revision
        if len(line.operations) == 1 and self._replace_by(line.operations[0], line):
            return
        operations = line.replay()
        held: dict[str, bool] = {}
        for operation in operations:
            if operation.key not in held:
                held[operation.key] = self._holds(operation, line)
        if self.damaged and any(key in self.damaged for key in held):
            self.waiting.append(line)
        for operation in operations:
            if not held[operation.key]:
                if type(operation) is Delete:
                    self.erase(operation.key)  # Whether it was there needs its document, and nobody asks.
                else:
                    self.apply((operation,), line.at)
        if line.session:
            session = self.sessions.setdefault(line.session, Session({}, line.at))
            session.used = line.at
            session.slots[line.slot] = line.kept()

    def _replace_by(self, operation: Sequence[Any], line: frames.Line) -> bool:
        """Do what replaying a lone `Set` for ever comes to, which is most of what others write; False if it is none."""
        if operation[0] != "set" or len(operation) != 4 or operation[3] is not None:
            return False
        if line.session:
            return False
        key = operation[1]
        entry = self.touched.get(key)
        if entry is None:
            self._made(key)
        elif entry.version >= line.revision:
            return True
        self.touched[key] = Entry(operation[2], line.revision)
        return True

    def still_waiting(self, gone: Sequence[str], at: int) -> list[frames.Line]:
        """Return what the next journal begins with: what this one has for damaged documents, and the keys deleted."""
        lines = [frames.Line(self.revision, at, True, [["del", key] for key in gone])] if gone else []
        for line in self.waiting:
            operations = [item for item in line.operations if item[1] in self.damaged]
            if operations:
                bases = {key: base for key, base in line.bases.items() if key in self.damaged}
                lines.append(frames.Line(line.revision, line.at, line.durable, operations, bases=bases))
        return lines

    def bases(self, batch: Batch) -> dict[str, int]:
        """Return the versions of the documents that a batch is the first to change, 0 for those that are not there."""
        bases: dict[str, int] = {}
        replaced: set[str] = set()
        for operation in batch.operations:
            if not operation.writes or isinstance(operation, Settle):
                continue
            key = operation.key
            if key in self.touched:
                continue
            if type(operation) in _REPLACING:
                replaced.add(key)
            elif key not in bases and key not in replaced:
                entry = self._read(key)
                bases[key] = 0 if entry is None else entry.version
        return bases

    def _holds(self, first: Operation, line: frames.Line) -> bool:
        """Return whether a key is to be left alone: it has what is replayed, or nobody knows what it has."""
        key = first.key
        entry = self.touched.get(key)
        if entry is None and type(first) not in _REPLACING:
            try:
                entry = self._read(key)
                version = 0 if entry is None else entry.version
                if version < line.revision and version != line.bases.get(key, version):
                    path = self.path(key)
                    raise DamagedError(f"{path} is damaged: it is not the one that was changed", path=path)
            except DamagedError as error:
                self.damaged[key] = error
                self.read.drop(key)
                return True
        return entry is not None and entry.version >= line.revision

    def begin(self, head: frames.Head) -> None:
        """Go on with a journal that begins so: the documents have what the one before it touched."""
        self._carry(head.at)
        for line in head.waiting:
            self.replay(line)
        self.revision = head.revision
        self.due = head.due
        self.sessions = head.restored()

    def clear(self) -> None:
        """Know of no key, because all of them go."""
        self.touched.clear()
        self.replaced.clear()
        self.damaged.clear()
        self.waiting.clear()
        self.read = Read()

    def _carry(self, at: int | None) -> None:
        """Keep what was touched as what its documents have; `at` was decided what of it has expired."""
        for key, entry in self.touched.items():
            if at is None:
                self.read.drop(key)
            elif lapsed(entry, at):
                self.read.put(key, None, 0)
            elif isinstance(entry, Entry):
                self.read.put(key, entry, weight(entry))
        self.touched.clear()
        self.replaced.clear()
        self.damaged.clear()
        self.waiting.clear()
        self.loaded = 0


class Change:
    """A batch that was executed on a table, and what it takes to undo that."""

    __slots__ = (
        "_at",
        "_batch",
        "_before",
        "_found",
        "_last",
        "_logged",
        "_marks",
        "_revision",
        "_states",
        "_table",
        "replies",
        "slot",
        "wrote",
    )

    def __init__(self, table: Overlay, batch: Batch, at: int) -> None:
        self._table = table
        self._batch = batch
        self._at = at
        self._revision = table.revision
        self._before: list[tuple[str, Entry | Tombstone | None, DamagedError | None]] = []
        self._states: list[tuple[Entry, Entry, dict[str, bytes | None]]] = []
        self._found: list[tuple[str, Entry | None]] = []
        self._marks: list[tuple[SortedSet, int]] = []
        self._logged: list[SortedSet] = []
        self._last: tuple[int, Slot | None] | None = None
        self.replies: list[Reply] = []
        self.wrote = False
        self.slot: Slot | None = None
        """What is to be remembered of the token."""

    def execute(self, digest: object) -> None:
        """Execute the batch. If that fails, nothing was changed."""
        batch, table = self._batch, self._table
        token = self.token
        if token is not None:
            session = table.sessions.get(token.session)
            self._last = None if session is None else (session.used, session.slots.get(token.slot))
        for operation in batch.operations:
            if operation.writes and not isinstance(operation, Settle):
                self._note(operation)
        try:
            self.replies, self.wrote = table.execute(batch, self._at, digest)
        except BaseException:
            self.undo()
            self.end()
            raise
        if self.wrote and token is not None:
            self.slot = table.sessions[token.session].slots[token.slot]

    @property
    def token(self) -> Token | None:
        """The token of the batch, or the one that it settles."""
        first = self._batch.operations[0] if self._batch.operations else None
        return first.token if isinstance(first, Settle) else self._batch.token

    def _note(self, operation: Any) -> None:
        key = operation.key
        self._before.append((key, self._table.touched.get(key), self._table.damaged.get(key)))
        if type(operation) in _REPLACING:
            return  # They leave the old entry as it is.
        entry = self._table.find(key)
        if key not in self._table.touched:
            self._found.append((key, entry))
        if entry is None:
            return
        content: Any = entry.content
        fields = {}
        if isinstance(content, dict) and isinstance(operation, (HSet, HDel, HIncrBy)):
            names = operation.increments if isinstance(operation, HIncrBy) else operation.fields
            fields = {field: content.get(field) for field in names}
        elif isinstance(content, SortedSet):
            if content.log is None:
                content.log = []
                self._logged.append(content)
            self._marks.append((content, len(content.log)))
        self._states.append((entry, Entry(content, entry.version, entry.expires), fields))

    def end(self) -> None:
        """Stop noting what is needed to undo it."""
        for members in self._logged:
            members.log = None

    def undo(self) -> None:
        """Make the table what it was before."""
        table = self._table
        for members, mark in reversed(self._marks):
            members.undo(mark)
        for entry, old, fields in reversed(self._states):
            content: Any = old.content
            for field, value in fields.items():
                if value is None:
                    content.pop(field, None)
                else:
                    content[field] = value
            entry.content, entry.version, entry.expires = content, old.version, old.expires
        for key, touched, damage in reversed(self._before):
            if touched is not None:
                table.touched[key] = touched
            elif key in table.touched:
                del table.touched[key]
                table.replaced.discard(key)
            if damage is not None:
                table.damaged[key] = damage
        table.revision = self._revision
        token = self.token
        if token is not None and token.session in table.sessions:
            session = table.sessions[token.session]
            if self._last is None:
                del table.sessions[token.session]
            elif self._last[1] is None:
                session.slots.pop(token.slot, None)
            else:
                session.slots[token.slot] = self._last[1]

    def redo(self) -> None:
        """Do again what was undone."""
        table, token = self._table, self.token
        if not isinstance(self._batch.operations[0] if self._batch.operations else None, Settle):
            for key, entry in self._found:
                if key not in table.touched:
                    # Not from its document again: a checkpoint of another process may have put this batch into it.
                    table.read.put(key, entry, 0 if entry is None else weight(entry))
            table.revision += 1
            table.apply(self._batch.operations, self._at)
        if token is not None and self.slot is not None:
            table.remember(token, self._at, self.slot)


def lapsed(entry: Entry | Tombstone, at: int) -> bool:
    """Return whether a key is deleted or has expired, so that it is to have no document."""
    return isinstance(entry, Tombstone) or expired(entry, at)


def weight(entry: Entry) -> int:
    """Return about how many bytes an entry has."""
    content = entry.content
    if isinstance(content, bytes):
        return len(content)
    if isinstance(content, SortedSet):
        return 64 * len(content) + sum(map(len, content.scores))
    return sum(64 + len(field) + len(value) for field, value in content.items())


def highest(path: Path) -> int:
    """Return the highest version of all documents in a directory, 0 if there is none."""
    result = 0
    for file in listed(path):
        with contextlib.suppress(DamagedError):
            result = max(result, documents.decode(disk.load(file), file)[1].version)
    return result


def listed(path: Path) -> Iterator[str]:
    """Yield the paths of the documents in a directory."""
    with contextlib.suppress(FileNotFoundError), os.scandir(path) as found:
        for entry in found:
            if entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                yield entry.path


def misplaced(path: str, key: str) -> DamagedError:
    """Return the error of a document in the file of another key."""
    return DamagedError(f"{path} is damaged: it holds the key {key!r}", path=path)


_REPLACING: Final = frozenset((Set, Delete))
"""Operations that need not know what the key held."""
