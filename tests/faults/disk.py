"""What a power cut may leave: a model of a POSIX file system, which owes everything that was not synced.

- Contents. What was written to a file since its last sync is there or not, page by page and in any order; a write
  inside one page may be torn in the middle. The size may be ahead of the contents (then there are zeros) or behind.
- Names, and sizes that were set. They last once their directory (or file) is synced. Until then any first part of the
  operations of the whole file system lasts, in their order, as the journals of ext4 and xfs do it; with
  `any_order=True` any part, which is all that POSIX says. A file whose content was synced may still lack its name.

A state is computed from a `History`: what was durable at first, and the events since.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias, TypeVar

from attrs import field, frozen

T = TypeVar("T")

Tree: TypeAlias = dict[str, bytes | None]
"""What stands on a disk: path to content, None for a directory. In the order in which it can be built."""

Place: TypeAlias = tuple[int, str]
"""Where a name stands: the directory's inode, and the name."""

ROOT: Final = 0
"""The inode of the directory that everything is in."""

PAGE: Final = 4096


@frozen
class Names:
    """Names change at once: each gets its inode, or (None) is removed."""

    changes: dict[Place, int | None]


@frozen
class Resize:
    """A file gets a size: what is beyond it is gone, what is new is zeros."""

    inode: int
    size: int


@frozen
class Write:
    inode: int
    offset: int
    data: bytes


@frozen
class Sync:
    """A file, a directory, or (None) the whole file system is made durable."""

    inode: int | None

    def covers(self, event: Event) -> bool:
        if self.inode is None:
            return True
        if isinstance(event, Names):
            return any(directory == self.inode for directory, _ in event.changes)
        return isinstance(event, (Resize, Write)) and event.inode == self.inode


@frozen
class Mark:
    """No call: how many writes had begun, and how many had been acknowledged, from here on."""

    begun: int
    acknowledged: int


Event: TypeAlias = Names | Resize | Write | Sync | Mark


@frozen
class Effort:
    """How far to go. Beyond a limit the states are a sample: the extreme ones first, then some at random."""

    contents: int
    """Contents of one file at one moment."""
    combinations: int
    """Of the contents of several files, and (any order) of names."""
    prefixes: int
    """First parts of the operations on names."""
    piece: int = PAGE
    """Bytes that reach the disk together."""
    any_order: bool = False


@frozen
class History:
    """What was durable at first (`names`, `contents`), which inodes are directories, and what happened since."""

    names: dict[Place, int]
    contents: dict[int, bytes]
    directories: set[int]
    events: list[Event] = field(factory=list)

    @classmethod
    def of(cls, tree: Tree) -> History:
        """Return the history that begins with this on the disk."""
        inodes = {"": ROOT}
        history = cls({}, {}, {ROOT})
        for path, content in tree.items():
            parent, _, name = path.rpartition("/")
            inode = inodes[path] = len(inodes)
            history.names[inodes[parent], name] = inode
            if content is None:
                history.directories.add(inode)
            else:
                history.contents[inode] = content
        return history

    def until(self, end: int) -> History:
        """Return the same history, cut off before the event `end`."""
        return History(self.names, self.contents, set(self.directories), self.events[:end])

    def cached(self) -> dict[str, int]:
        """Return the paths and their inodes as a process sees them now, with all that is not durable yet."""
        return self._paths([event for event in self.events if isinstance(event, Names)])

    def tree(self) -> Tree:
        """Return what a process sees now."""
        return {path: self._seen(inode) for path, inode in self.cached().items()}

    def _seen(self, inode: int) -> bytes | None:
        if inode in self.directories:
            return None
        content = self.contents.get(inode, b"")
        for event in self.events:
            if isinstance(event, (Resize, Write)) and event.inode == inode:
                content = applied(content, event)
        return content

    def _paths(self, kept: Sequence[Names]) -> dict[str, int]:
        """Return the paths that can be reached if of all changes of names these were kept."""
        names = dict(self.names)
        for event in kept:
            for place, inode in event.changes.items():
                if inode is None:
                    names.pop(place, None)
                else:
                    names[place] = inode
        inside: dict[int, list[tuple[str, int]]] = {}
        for (directory, name), inode in sorted(names.items()):
            inside.setdefault(directory, []).append((name, inode))
        found: dict[str, int] = {}
        below = [("", ROOT)]
        while below:
            path, directory = below.pop()
            for name, inode in inside.get(directory, ()):
                found[f"{path}{name}"] = inode
                if inode in self.directories:
                    below.append((f"{path}{name}/", inode))
        return found

    # Power cuts

    def cuts(self, first: int = 0) -> Iterator[int]:
        """Yield how many events have happened at each moment that can leave a state which no later one leaves.

        That is before a sync and before a mark: any other event may as well be lost.
        """
        for end in range(first, len(self.events)):
            if isinstance(self.events[end], (Sync, Mark)):
                yield end
        yield len(self.events)

    def survivors(self, effort: Effort) -> Iterator[Tree]:
        """Yield each state that a power cut may leave now. Some may come more than once."""
        chance = random.Random(len(self.events))
        durable: set[int] = set()
        synced: dict[int, int] = {}  # by inode: before which event
        for end, sync in enumerate(self.events):
            if isinstance(sync, Sync):
                for index, event in enumerate(self.events[:end]):
                    if sync.covers(event):
                        durable.add(index)
                        if isinstance(event, (Resize, Write)):
                            synced[event.inode] = end
        ordered = [index for index, event in enumerate(self.events) if isinstance(event, (Names, Resize))]
        changes: dict[int, list[tuple[int, Resize | Write]]] = {}
        for index, event in enumerate(self.events):
            if isinstance(event, (Resize, Write)):
                changes.setdefault(event.inode, []).append((index, event))
        known: dict[tuple[int, ...], list[bytes]] = {}

        def contents(inode: int, kept: set[int]) -> list[bytes]:
            mine = changes.get(inode, [])
            key = (inode, *(index for index, event in mine if isinstance(event, Resize) and index in kept))
            if key not in known:
                known[key] = self._contents(inode, mine, kept, synced.get(inode, 0), effort, chance)
            return known[key]

        for kept in self._kept(ordered, durable, effort, chance):
            paths = self._paths([event for index in sorted(kept) if isinstance(event := self.events[index], Names)])
            files = {inode for inode in paths.values() if inode not in self.directories}
            choices = {inode: contents(inode, kept) for inode in files}
            for combination in product(list(choices.values()), effort.combinations, chance):
                chosen = dict(zip(choices, combination, strict=True))
                yield {path: chosen.get(inode) for path, inode in paths.items()}

    def _kept(self, ordered: list[int], durable: set[int], effort: Effort, chance: random.Random) -> Iterator[set[int]]:
        """Yield which operations of the journal may have lasted."""
        if effort.any_order:
            certain = durable.intersection(ordered)
            pending = [index for index in ordered if index not in durable]
            for keep in product([[False, True]] * len(pending), effort.combinations, chance):
                yield certain.union(itertools.compress(pending, keep))
        else:
            least = max((place + 1 for place, index in enumerate(ordered) if index in durable), default=0)
            lengths: Sequence[int] = range(least, len(ordered) + 1)
            if len(lengths) > effort.prefixes:
                lengths = [least, *chance.sample(lengths[1:-1], effort.prefixes - 2), len(ordered)]
            for length in lengths:
                yield set(ordered[:length])

    def _contents(
        self,
        inode: int,
        changes: list[tuple[int, Resize | Write]],
        kept: set[int],
        synced: int,
        effort: Effort,
        chance: random.Random,
    ) -> list[bytes]:
        """Return each content that a file may have, from nothing of what is pending to all of it."""
        content = self.contents.get(inode, b"")
        pieces: list[Write] = []
        sizes = [len(content)]
        for index, event in changes:
            if index < synced:
                content = applied(content, event)
                sizes = [len(content)]
            elif isinstance(event, Write):
                pieces.extend(torn(event, effort.piece))
                end = event.offset + len(event.data)
                sizes.extend(size for size in (*range(0, end, PAGE), end) if size > sizes[-1])
            elif index in kept:
                if event.size == 0:  # Nothing of before is left to be chosen.
                    content, pieces = b"", []
                pieces = [cut for piece in pieces if (cut := shortened(piece, event.size))]
                content = applied(content, event)
                sizes = [event.size]
            elif not effort.any_order:
                break  # What was written after that went to places that the journal does not know of.
        size = len(sizes) * 2 ** len(pieces)
        chosen = (
            itertools.product(itertools.product((False, True), repeat=len(pieces)), sizes)
            if size <= effort.contents
            else sampled(len(pieces), sizes, effort.contents, chance)
        )
        found: dict[bytes, None] = {}
        for keep, length in chosen:
            result = content
            for piece in itertools.compress(pieces, keep):
                result = applied(result, piece)
            found[result[:length].ljust(length, b"\0")] = None
        return list(found)


def applied(content: bytes, event: Resize | Write) -> bytes:
    """Return the content after the event."""
    if isinstance(event, Resize):
        return content[: event.size].ljust(event.size, b"\0")
    start = content[: event.offset].ljust(event.offset, b"\0")
    return start + event.data + content[event.offset + len(event.data) :]


def shortened(piece: Write, size: int) -> Write | None:
    """Return what is left of a pending write when the file is cut off at `size`."""
    return Write(piece.inode, piece.offset, piece.data[: size - piece.offset]) if piece.offset < size else None


def torn(write: Write, size: int) -> Iterator[Write]:
    """Yield the pieces of a write that reach the disk or not: what is in one page; at least two halves."""
    end = write.offset + len(write.data)
    borders = [write.offset, *range((write.offset // size + 1) * size, end, size), end]
    if len(borders) == 2 and len(write.data) > 1:
        borders.insert(1, (write.offset + end) // 2)
    for start, stop in itertools.pairwise(borders):
        yield Write(write.inode, start, write.data[start - write.offset : stop - write.offset])


def sampled(count: int, sizes: list[int], limit: int, chance: random.Random) -> Iterator[tuple[tuple[bool, ...], int]]:
    """Yield which of the pieces were kept, with the size: the extreme choices, then some at random."""
    last = max(sizes)
    for first in range(count + 1):
        yield (True,) * first + (False,) * (count - first), last
        yield (False,) * first + (True,) * (count - first), last
    for at in range(count):
        yield (True,) * at + (False,) + (True,) * (count - at - 1), last
    for size in sizes:
        yield (False,) * count, size
        yield (True,) * count, size
    for _ in range(limit - 3 * count - 2 * len(sizes)):
        yield tuple(chance.random() < 0.5 for _ in range(count)), chance.choice(sizes)
    yield (True,) * count, last


def product(choices: Sequence[Sequence[T]], limit: int, chance: random.Random) -> Iterator[tuple[T, ...]]:
    """Yield a choice of each, in every combination; past the limit the extremes, each by itself, and some at random."""
    if math.prod(map(len, choices)) <= limit:
        yield from itertools.product(*choices)
        return
    none, whole = [each[0] for each in choices], [each[-1] for each in choices]
    yield tuple(none)
    yield tuple(whole)
    singles = [(at, value) for at, each in enumerate(choices) for value in each]
    chance.shuffle(singles)
    for at, value in singles[: limit // 2]:
        rest = chance.choice((none, whole))
        yield (*rest[:at], value, *rest[at + 1 :])
    for _ in range(limit // 2):
        yield tuple(map(chance.choice, choices))
