"""A directory of JSON files as an engine: a directory a namespace, below the prefix."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from empathy_kv.errors import (
    ArgumentError,
    ArgumentTypeError,
    ClosedError,
    DamagedError,
    EmpathyKVError,
    LockTimeoutError,
    OutcomeUnknown,
    StorageError,
)
from empathy_kv.kv.files import check, disk
from empathy_kv.kv.files.directory import Directory
from empathy_kv.kv.files.names import name
from empathy_kv.kv.files.view import now
from empathy_kv.kv.interface import KV, Doubts, Durability
from empathy_kv.kv.operations import Batch, Name, Reply, named, number, text
from empathy_kv.kv.refilling import Filled
from empathy_kv.kv.snapshots import Moment
from empathy_kv.kv.table import Content, SortedSet

IDLE: Final = 5.0
"""Seconds without a write after which the documents are brought up to date."""

OPEN: Final = 64
"""Namespaces that are kept open: each takes two descriptors, of which a process may have 1024, or 256."""

_LEFT: Final = -1
"""In the place of the size of a journal that is not open."""

_LOG: Final = logging.getLogger(__name__)


class FilesKV(KV):
    """Namespaces below `root`/`prefix`. Many processes may use it at once; reading never creates anything.

    `durability`: "fsync" survives a power cut once a write returned; "os" survives the end of the process, and after
    a power cut has a prefix of the batches. `timeout`: seconds to wait for another writer, then `LockTimeoutError`.

    The JSON documents follow the journal: at `checkpoint` and `close`, and in the background when the journal has
    grown or nothing was written for 5 s.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        durability: Literal["fsync", "os"] = "fsync",
        timeout: float = 5.0,
        prefix: str = "empathy",
    ) -> None:
        super().__init__()
        if not isinstance(root, (str, os.PathLike)):
            raise ArgumentTypeError(f"root must be a path, not {type(root).__name__}", argument="root")
        if durability not in ("fsync", "os"):
            raise ArgumentError(f"durability must be 'fsync' or 'os', not {durability!r}", argument="durability")
        self._root = Path(root).absolute()
        if "\0" in str(self._root):
            raise ArgumentError(f"root must not have a null character: {str(self._root)!r}", argument="root")
        with disk.translated(self._root):
            if os.path.lexists(self._root) and not self._root.is_dir():
                raise ArgumentError(f"root must be a directory; {self._root} is none", argument="root")
        self._base = self._root / name(text(prefix, "prefix", 128))
        self._durable = durability == "fsync"
        self._certain = not self._durable
        self._doubts = Doubts()
        self._timeout = number(timeout, "timeout", 0.0, 3600.0)
        self._directories: dict[Name, Directory] = {}
        self._left: set[Name] = set()
        """Those that were let go with documents that are behind."""
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._keeper: Keeper | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._root)!r})"

    def execute(self, batch: Batch) -> list[Reply]:
        directory = self._directories.get(batch.namespace)
        if directory is None or self._closed or os.getpid() != self._process:
            directory = self._directory(batch.namespace)
        else:
            directory.used = True
        if not batch.writes:
            return directory.read(batch)
        try:
            replies = directory.write(batch)
        except OutcomeUnknown:
            self._doubts.add(batch.token)
            raise
        except (LockTimeoutError, StorageError) as error:
            # All others come after a look at what was written with the token.
            if batch.token in self._doubts:
                raise OutcomeUnknown(
                    f"an earlier try may have been applied; now: {error}", token=batch.token
                ) from error
            raise
        # It is applied: nothing from here on may raise.
        self._doubts.discard(batch.token)
        if self._directories.get(batch.namespace) is not directory:
            self._left.add(batch.namespace)
        keeper = self._keeper or self._keep()
        if directory.grown():
            if keeper is not None:
                keeper.wake()
            directory.ease()
        return replies

    def keys(self, namespace: Name) -> Iterator[str]:
        """Yield each key once, in no order. The names of the documents are all taken first: about 150 bytes each."""
        return self._directory(named(namespace)).keys()

    @contextlib.contextmanager
    def snapshot(self, namespaces: Sequence[Name]) -> Iterator[Moment]:
        """Return a snapshot. Until the block ends nobody makes checkpoints: the journals grow instead."""
        with disk.translated(self._base), contextlib.ExitStack() as kept:
            yield self._moment(namespaces, kept)

    def _moment(self, namespaces: Sequence[Name], kept: contextlib.ExitStack) -> Moment:
        """Return this moment, which lasts as long as what is `kept`: locks, and no more descriptors than theirs."""
        directories = {namespace: self._directory(named(namespace)) for namespace in sorted(namespaces)}
        there: dict[Name, Directory] = {}
        while True:
            for namespace, directory in directories.items():
                if namespace not in there and directory.exists:
                    kept.enter_context(directory.kept())
                    there[namespace] = directory
            with contextlib.ExitStack() as still:
                for directory in there.values():
                    if directory.exists:  # Somebody may have removed it.
                        still.enter_context(directory.still())
                # One that was made since may have what was written before that of another.
                if any(directories[namespace].exists for namespace in directories.keys() - there.keys()):
                    continue
                moment = Moment({namespace: directory.frozen() for namespace, directory in there.items()}, now())
            for directory in there.values():
                kept.enter_context(directory.snapshot.made())
            return moment

    @contextlib.contextmanager
    def refill(self, namespaces: Sequence[Name]) -> Iterator[Refilled]:
        # The documents themselves are written: journals, and a table of all that is in them, would cost thrice as much.
        with contextlib.ExitStack() as stack:
            puts = {
                namespace: stack.enter_context(self._directory(named(namespace)).refilled())
                for namespace in sorted(namespaces)
            }
            yield Refilled(puts)

    def checkpoint(self) -> None:
        self._require_open()
        used = {directory.path: directory for directory in list(self._directories.values())}
        with disk.translated(self._base):
            paths = check.namespaces(self._base)
        for path in paths:
            directory = used.get(path)
            if directory is not None:
                directory.checkpoint()
            else:
                other = Directory(path, durable=self._durable, timeout=self._timeout)
                try:
                    other.checkpoint()
                finally:
                    other.close(checkpoint=False)

    def check(self) -> list[DamagedError]:
        self._require_open()
        with disk.translated(self._base):
            return list(check.check(self._base))

    def others(self, known: Sequence[Name]) -> int | None:
        ours = {_place(namespace) for namespace in known}
        with disk.translated(self._base):
            return sum(path.name not in ours for path in check.namespaces(self._base))

    def durability(self) -> Durability:
        return Durability("power" if self._durable else "process")

    def close(self) -> None:
        """Bring the documents up to date and give all back. The first that fails is raised when all are closed."""
        with self._lock:
            directories, self._directories = self._directories, {}
            left, self._left = self._left, set()
            keeper, self._keeper = self._keeper, None
            self._closed = True
        forked = os.getpid() != self._process
        if keeper is not None and not forked:
            keeper.stop()
        failed: Exception | None = None
        for namespace in [*directories, *(left - directories.keys())]:
            directory = directories.get(namespace) or self._made(namespace, wrote=True)
            try:
                directory.close(checkpoint=not forked)
            except LockTimeoutError:
                pass  # Whoever holds the lock writes the documents; the journal has everything.
            except Exception as error:  # noqa: BLE001 - it is raised when all are closed
                failed = failed or error
        if failed is not None:
            raise failed

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError("the store is closed")

    def _directory(self, namespace: Name) -> Directory:
        if os.getpid() != self._process:
            self._forked()
        directory = self._directories.get(namespace)
        if directory is None or self._closed:
            with self._lock:
                if self._closed:
                    raise ClosedError("the store is closed")
                directory = self._directories.get(namespace)
                if directory is None:
                    self._let_go()
                    directory = self._made(namespace, wrote=namespace in self._left)
                    self._directories[namespace] = directory
                    self._left.discard(namespace)
        return directory

    def _made(self, namespace: Name, *, wrote: bool = False) -> Directory:
        return Directory(self._base / _place(namespace), durable=self._durable, timeout=self._timeout, wrote=wrote)

    def _let_go(self) -> None:
        """Make room for one more, in the place of the one that was opened first of those not used since the last look.

        It is not closed: that would take it from the threads that are using it. The last that does gives its
        descriptors back.
        """
        for _ in range(OPEN + 1):
            if len(self._directories) < OPEN:
                return
            namespace, directory = next(iter(self._directories.items()))
            del self._directories[namespace]
            if directory.used:
                directory.used = False
                self._directories[namespace] = directory
            elif directory.behind:
                self._left.add(namespace)

    def _keep(self) -> Keeper | None:
        """Start the thread, if one can be started: not while the interpreter ends. The next write tries again."""
        with self._lock:
            if self._keeper is None and not self._closed:
                with contextlib.suppress(RuntimeError):
                    self._keeper = Keeper(self)
            return self._keeper

    def tend(self, seen: Mapping[Name, int]) -> dict[Name, int]:
        """Make the checkpoints that are due: of journals that have grown, and of those that are as at the last call.

        Returns how large they are, for the next call.
        """
        sizes: dict[Name, int] = {}
        for namespace, directory in list(self._directories.items()):
            size = directory.pending()
            if size and (directory.grown() or seen.get(namespace) == size):
                self._tend(directory)
            sizes[namespace] = directory.pending()
        for namespace in self._left.copy():
            if namespace in self._directories:
                continue
            if seen.get(namespace) == _LEFT:
                self._left.discard(namespace)
                directory = self._made(namespace)
                try:
                    if not self._tend(directory):
                        self._left.add(namespace)
                finally:
                    directory.close(checkpoint=False)
            sizes[namespace] = _LEFT
        return sizes

    def _tend(self, directory: Directory) -> bool:
        try:
            directory.checkpoint(wait=False)
        except EmpathyKVError as error:
            # No write is lost: the journal has it. The next write or close will say what is wrong.
            if not isinstance(error, LockTimeoutError):
                _LOG.warning("The documents could not be written: %s", error)
            return False
        return True

    def _forked(self) -> None:
        """Begin anew in the child: the parent's threads may have held the locks that it inherited."""
        self._lock = threading.RLock()
        self._directories = {}
        self._left = set()
        self._keeper = None
        self._process = os.getpid()


class Refilled:
    """Fills directories with documents."""

    def __init__(self, puts: Mapping[Name, Callable[[str, Content], None]]) -> None:
        self._puts = puts

    def put(self, namespace: Name, key: str, content: Filled) -> None:
        """Let a key hold this for ever."""
        if isinstance(content, list):
            members = SortedSet()
            members.order = sorted(content)  # All that a document needs.
            self._puts[namespace](key, members)
        else:
            self._puts[namespace](key, content)


class Keeper:
    """The thread that makes checkpoints in the background, as long as its engine is in use."""

    def __init__(self, kv: FilesKV) -> None:
        self._event = threading.Event()
        self._stopped = False
        self._kv = weakref.ref(kv, lambda _: self._event.set())
        self._thread = threading.Thread(target=self._run, name="empathy_kv checkpoints", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that a journal has grown."""
        self._event.set()

    def stop(self) -> None:
        """End the thread, once the checkpoint that it may be making is done."""
        self._stopped = True
        self._event.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        sizes: dict[Name, int] = {}
        while True:
            self._event.wait(IDLE)
            self._event.clear()
            kv = self._kv()
            if kv is None or self._stopped:
                return
            sizes = kv.tend(sizes)
            del kv


def _place(namespace: Name) -> str:
    """Return the name of a namespace's directory; no file name of a part has a plus."""
    joined = "+".join(map(name, namespace))
    if len(joined) <= 240:
        return joined
    return "+" + name("/".join(part.replace("~", "~0").replace("/", "~1") for part in namespace))
