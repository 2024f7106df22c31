"""A directory of JSON files as an engine: a directory a namespace, below the prefix."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from empathy_kv.errors import ArgumentError, ArgumentTypeError, ClosedError, LockTimeoutError
from empathy_kv.kv.files.directory import Directory
from empathy_kv.kv.files.names import name
from empathy_kv.kv.interface import KV
from empathy_kv.kv.operations import Batch, Name, Reply, named, number, text


class FilesKV(KV):
    """Namespaces below `root`/`prefix`. Many processes may use it at once; reading never creates anything.

    `durability`: "fsync" survives a power cut once a write returned; "os" survives the end of the process, and after
    a power cut has a prefix of the batches. `timeout`: seconds to wait for another writer, then `LockTimeoutError`.
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
        if self._root.exists() and not self._root.is_dir():
            raise ArgumentError(f"root must be a directory; {self._root} is none", argument="root")
        self._base = self._root / name(text(prefix, "prefix", 128))
        self._durable = durability == "fsync"
        self._timeout = number(timeout, "timeout", 0.0, 3600.0)
        self._directories: dict[Name, Directory] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._root)!r})"

    def execute(self, batch: Batch) -> list[Reply]:
        directory = self._directory(batch.namespace)
        return directory.write(batch) if batch.writes else directory.read(batch)

    def keys(self, namespace: Name) -> Iterator[str]:
        return self._directory(named(namespace)).keys()

    def checkpoint(self) -> None:
        """Bring the JSON documents of all namespaces that were used here up to date."""
        for directory in list(self._directories.values()):
            directory.checkpoint()

    def close(self) -> None:
        with self._lock:
            directories, self._directories = self._directories, {}
            self._closed = True
        forked = os.getpid() != self._process
        for directory in directories.values():
            # Whoever holds the lock writes the documents; the journal has everything.
            with contextlib.suppress(LockTimeoutError):
                directory.close(checkpoint=not forked)

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
                    directory = Directory(self._base / _place(namespace), durable=self._durable, timeout=self._timeout)
                    self._directories[namespace] = directory
        return directory

    def _forked(self) -> None:
        """Begin anew in the child: the parent's threads may have held the locks that it inherited."""
        self._lock = threading.Lock()
        self._directories = {}
        self._process = os.getpid()


def _place(namespace: Name) -> str:
    """Return the name of a namespace's directory; no file name of a part has a plus."""
    joined = "+".join(map(name, namespace))
    if len(joined) <= 240:
        return joined
    return "+" + name("/".join(part.replace("~", "~0").replace("/", "~1") for part in namespace))
