"""A whole store as a stream of lines, and back: `dump` and `restore`; what two streams have in common: `Content`.

What a line is stands in `empathy_kv.snapshot_lines`. The stream has the patterns with their links, the states, and the
metrics with the interactions that are kept one by one, exactly. It does not have what only one kind of store keeps:
collections and namespaces of your own (a server has no list of them), versions of states, and the rows of
`pattern_usage` in a database, whose sums are in the patterns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Final, Protocol, TypeAlias

import msgspec
from attrs import evolve, frozen

from empathy_kv.errors import ArgumentTypeError
from empathy_kv.snapshot_lines import (
    Check,
    Counts,
    Figures,
    Ids,
    Interactions,
    PatternItem,
    Record,
    StateItem,
    bare,
    checked,
    end_line,
    header,
    reread,
)
from empathy_kv.spool import Spool
from empathy_kv.store import Store

__all__ = ["Content", "Counts", "Progress", "content", "dump", "restore"]

Progress: TypeAlias = Callable[[int, int | None], None]
"""Is told how many records are done, and of how many, None while that is not known. An interaction is a record too."""

Lines: TypeAlias = Generator[bytes, None, None]
"""Lines of a snapshot, that are made as they are asked for."""

_REPORT: Final = 1_000


class Contents(Protocol):
    """What a store holds, as records of a snapshot."""

    @property
    def years(self) -> range | None:
        """When interactions may have been, None for any time."""

    @property
    def limit(self) -> int | None:
        """How many interactions of a user are kept one by one, None for all."""

    def others(self) -> int | None:
        """Return how many collections and namespaces of the user's own are not among them; None: nobody knows."""

    def lines(self) -> Lines:
        """Yield the lines of all records, as they were at one moment."""

    def fill(self, records: Callable[[], Iterator[Record]], sha256: str, replace: bool) -> None:
        """Make records all that the store holds, or nothing; they are read as often as `records` is called.

        `NotEmptyError` if it holds others, unless they are to be replaced.
        """


def dump(store: Store, *, progress: Progress | None = None) -> Lines:
    """Yield everything that a store holds, as it was at one moment, while others write; a line at a time.

    The lines have no end of their own. In a file each needs one: `file.writelines(line + b"\\n" for line in
    dump(store))` writes what `restore(store, file)` reads, the file opened as "wb" and "rb". The moment is the same for
    patterns, states and metrics, whatever their namespaces: on files, and on servers, those who write are kept waiting
    for it for some milliseconds; a database shows what was committed. What is read goes through a temporary file
    (TMPDIR), nearly as large as the stream, so nobody waits for whoever consumes it; on files no checkpoints are made
    until it is read. In memory are the ids, the links, and one user's interactions at a time. Closing the generator
    lets go of everything.

    `UnfinishedError` if the store holds a part of a snapshot, `DamagedError` or `CodecError` if something that it holds
    cannot be read: then there is no last line.
    """
    return stream(_contents(store).lines(), progress)


def _contents(store: Store) -> Contents:
    if not isinstance(store, Store):
        raise ArgumentTypeError(
            f"store must be a Store, which connect() returns, not {type(store).__name__}", argument="store"
        )
    return store._contents()


def stream(lines: Lines, progress: Progress | None = None) -> Lines:
    """Yield the lines of records as a whole stream: after a header, and before an end."""
    digest = hashlib.sha256()
    counts = Counts()
    line = header()
    try:
        while True:
            digest.update(line)
            digest.update(b"\n")
            yield line
            following = next(lines, None)
            if following is None:
                break
            line = following
            before = _records(counts)
            counts = _counted(counts, line)
            if progress is not None and before // _REPORT != _records(counts) // _REPORT:
                progress(_records(counts), None)
    finally:
        lines.close()
    if progress is not None:
        progress(_records(counts), _records(counts))
    yield end_line(counts, digest.hexdigest())


class _Kept(msgspec.Struct):
    interactions: int


class _Line(msgspec.Struct):
    metrics: _Kept


_KEPT: Final = msgspec.json.Decoder(_Line).decode


def _counted(counts: Counts, line: bytes) -> Counts:
    # Lines of ours are told apart by how they begin, and only figures have to be read.
    if line.startswith(b'{"pattern"'):
        return Counts(counts.patterns + 1, counts.states, counts.users, counts.interactions)
    if line.startswith(b'{"state"'):
        return Counts(counts.patterns, counts.states + 1, counts.users, counts.interactions)
    if line.startswith(b'{"metrics"'):
        kept = _KEPT(line).metrics.interactions
        return Counts(counts.patterns, counts.states, counts.users + 1, counts.interactions + kept)
    return counts


def _records(counts: Counts) -> int:
    return counts.patterns + counts.states + counts.interactions


def restore(store: Store, lines: Iterable[bytes], *, replace: bool = False, progress: Progress | None = None) -> Counts:
    """Make what a stream of `dump` holds all that a store holds, and return how much that is: all of it, or nothing.

    The lines may be those of `dump` or of a file that is open as "rb": a `b"\\n"` or `b"\\r\\n"` at the end of a line
    is none of it. All are read and checked before anything is written; they wait in a temporary file. `CodecError`,
    with `line` and `path`, if one is not as it has to be, or the last is missing. `NotEmptyError` if the store holds
    patterns, states or metrics, unless they are to be replaced. In each of these cases the store is as it was.

    A database is filled in one transaction. Elsewhere, if the process is killed meanwhile or the disk is full, the
    store holds a part: whoever opens it then is told by an `UnfinishedError`, and a restore, of these or other lines,
    puts it right; that needs no `replace`. One restore at a time: nobody else should write to the store meanwhile, and
    processes that have it open should open it again.

    A store that keeps so many interactions of a user one by one (`history_limit`) takes the newest of them; the
    counters are those of all.
    """
    contents = _contents(store)
    with Spool() as spool:
        check = Check(contents.years)
        later: dict[str, list[str]] = {}
        for line in map(bare, lines):
            record = check.read(line)
            if record is not None:
                spool.append(checked(record, line))
            if isinstance(record, PatternItem):
                for other in record.links:
                    later.setdefault(other, []).append(record.id)
        counts = check.finish()
        total = _records(counts)

        def records() -> Iterator[Record]:
            done = 0
            for line in spool:
                record = reread(line)
                if isinstance(record, PatternItem):
                    record.later = later.get(record.id, [])
                yield record
                before = done
                done += len(record.items) if isinstance(record, Interactions) else _ONE.get(type(record), 0)
                if progress is not None and before // _REPORT != done // _REPORT:
                    progress(done, total)

        contents.fill(records, check.sha256, replace)
    if progress is not None:
        progress(total, total)
    return counts


_ONE: Final = {PatternItem: 1, StateItem: 1}


@frozen
class Content:
    """What a stream holds: two are equal if, and only if, the stores were, of whatever kind.

    `sha256` sums up every record; nothing in it depends on the order in which an engine gives states and users.
    """

    counts: Counts
    sha256: str


def content(lines: Iterable[bytes], *, history_limit: int | None = None) -> Content:
    """Return the content of a stream, which is checked.

    With a `history_limit`, that of the store which such a stream is restored into: of so many interactions of a user.
    """
    check = Check()
    sums = Sums(history_limit)
    for line in map(bare, lines):
        record = check.read(line)
        if record is not None:
            sums.add(record)
    check.finish()
    return sums.content()


class Sums:
    """Sums up records, as `content` does."""

    def __init__(self, history_limit: int | None = None) -> None:
        self._limit = history_limit
        self._patterns = hashlib.sha256()
        self._others = 0
        self._user = hashlib.sha256()
        self._skip = 0
        self._counts = Counts()

    def add(self, record: Record) -> None:
        """Take in the next record."""
        if isinstance(record, PatternItem):
            self._counts = evolve(self._counts, patterns=self._counts.patterns + 1)
            # In their order, which is part of what a library is.
            self._patterns.update(_canonical(msgspec.json.decode(record.document), record.agent, sorted(record.links)))
        elif isinstance(record, StateItem):
            self._counts = evolve(self._counts, states=self._counts.states + 1)
            self._sum(hashlib.sha256(_canonical("state", msgspec.json.decode(record.document))))
        elif isinstance(record, Figures):
            self._sum(self._user)
            kept = record.interactions if self._limit is None else min(record.interactions, self._limit)
            self._skip = record.interactions - kept
            self._counts = evolve(
                self._counts, users=self._counts.users + 1, interactions=self._counts.interactions + kept
            )
            record.interactions = kept
            self._user = hashlib.sha256(_canonical("metrics", record))
        elif isinstance(record, Ids):
            for name in record.ids:
                self._user.update(_canonical(name))
        else:
            items = record.items[self._skip :]
            self._skip -= len(record.items) - len(items)
            for item in items:
                self._user.update(_ITEM(item))

    def _sum(self, digest: object) -> None:
        self._others = (self._others + int.from_bytes(digest.digest())) % (1 << 256)  # type: ignore[attr-defined]

    def content(self) -> Content:
        """Return what was summed up."""
        self._sum(self._user)
        self._user = hashlib.sha256()
        whole = hashlib.sha256(self._patterns.digest() + self._others.to_bytes(32))
        return Content(self._counts, whole.hexdigest())


_ITEM: Final = msgspec.json.Encoder().encode
_SORTED: Final = msgspec.json.Encoder(order="sorted").encode


def _canonical(*values: object) -> bytes:
    return _SORTED(values)
