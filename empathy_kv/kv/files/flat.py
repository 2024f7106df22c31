"""A flat directory of JSON files, `<key>.json`, each the bare value: the documented form of saved states.

It is an engine for one namespace of values. A write replaces one file, under a lock, and is durable when it returns.
There is no room in the form for anything else, so a batch that writes is one `Set` or `Delete`, nothing expires, and
the version of a value is a hash of its bytes. The values must be JSON objects.

A key that is no safe file name gets one that is (`files.names`), and stands in the document as `user_id`. A file that
was put there under the bare key, as empathy-framework does, is read and replaced where it is. If a key has both, the
safe name counts.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from empathy_kv.errors import ArgumentError, DamagedError, OutcomeUnknown, StorageError
from empathy_kv.kv.files.disk import load, make, replace, set_aside, sync_directory, translated
from empathy_kv.kv.files.lock import Lock
from empathy_kv.kv.files.names import name
from empathy_kv.kv.interface import KV
from empathy_kv.kv.operations import Batch, Check, Delete, Exists, Get, Name, Reply, Set, Settle, Version
from empathy_kv.kv.table import Slot, Writers, refused

_DRAFT: Final = re.compile(r"\..+\.json\.new")


class _Id(msgspec.Struct):
    user_id: str | None = None


_IDS = msgspec.json.Decoder(_Id)


class FlatDirectory(KV):
    """The files of one directory, as the values of one namespace."""

    looked = True  # Nothing is ever restored into it as a whole.

    def __init__(self, path: Path, namespace: Name, *, timeout: float = 5.0) -> None:
        super().__init__()
        self._path = path.absolute()
        self._namespace = namespace
        self._lock = Lock(self._path / ".lock", timeout)
        self._writers = Writers()
        self._swept = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._path)!r})"

    def execute(self, batch: Batch) -> list[Reply]:
        self._require(batch)
        with translated(self._path):
            if not batch.writes:
                return self._read(batch)
            if not self._path.exists():
                # Nothing is made for a call that is refused, or that has nothing to do.
                replies = self._admit(batch)
                if replies is None and isinstance(batch.operations[0], Delete):
                    replies = self._remember(batch, [False])
                if replies is not None:
                    return replies
            make(self._path)
            with self._lock.hold():
                return self._write(batch)

    def _require(self, batch: Batch) -> None:
        if batch.namespace != self._namespace:
            raise ArgumentError(f"namespace must be {self._namespace}, not {batch.namespace}", argument="namespace")
        for operation in batch.operations:
            if not isinstance(operation, (Get, Set, Delete, Exists, Version, Settle)):
                raise ArgumentError(
                    f"operations must be on values, not {type(operation).__name__}", argument="operations"
                )
            if isinstance(operation, Set) and operation.ttl is not None:
                raise ArgumentError("ttl must be None: the files of a flat directory do not expire", argument="ttl")
        for check in batch.checks:
            if check.member is not None:
                raise ArgumentError("checks must be on values, not on members", argument="checks")
        if batch.writes and len(batch.operations) != 1:
            raise ArgumentError("operations must be one, if it writes", argument="operations")

    def _read(self, batch: Batch) -> list[Reply]:
        values: dict[str, bytes | None] = {}  # Read once: a value and its version belong together.
        replies: list[Reply] = []
        for operation in batch.operations:
            key = operation.key  # type: ignore[union-attr]  # a Settle writes
            if key not in values:
                values[key] = self._load(key)
            value = values[key]
            replies.append(
                value
                if isinstance(operation, Get)
                else value is not None
                if isinstance(operation, Exists)
                else _version(value)
            )
        return replies

    def _admit(self, batch: Batch) -> list[Reply] | None:
        """Return the replies if they are known without doing anything, None if the batch can be done; else raise."""
        operation: Any = batch.operations[0]
        if isinstance(operation, Settle):
            return self._writers.settle(operation.token, _now())[0]
        if batch.token is not None:
            replies = self._writers.recall(batch.token, _now(), (batch.operations, batch.checks))
            if replies is not None:
                return replies
        for check in batch.checks:
            self._test(check)
        return None

    def _remember(self, batch: Batch, replies: list[Reply]) -> list[Reply]:
        token = batch.token
        if token is not None:
            # A copy, because the caller may change its list.
            slot = Slot(token.sequence, (batch.operations, batch.checks), replies.copy())
            self._writers.remember(token, _now(), slot)
        return replies

    def _write(self, batch: Batch) -> list[Reply]:
        known = self._admit(batch)
        if known is not None:
            return known
        operation: Any = batch.operations[0]
        self._sweep()
        files = self._files(operation.key)
        for file in files:
            try:
                _object(load(file), file)
            except DamagedError:
                set_aside(file)
        if isinstance(operation, Set):
            safe = self._safe(operation.key)
            if not files and _there(safe):
                raise StorageError(
                    f"{safe} holds {self._id(safe.name)!r}, which this file system takes for {operation.key!r}",
                    errno=errno.EEXIST,
                    path=str(safe),
                )
            replace(files[0] if files else safe, operation.value)
            replies: list[Reply] = [_version(operation.value)]
        else:
            for file in files:
                file.unlink(missing_ok=True)
            replies = [bool(files)]
        try:
            sync_directory(self._path)
        except OSError as error:
            raise OutcomeUnknown(
                f"{error.strerror}: {self._path} could not be made durable", token=batch.token
            ) from error
        return self._remember(batch, replies)

    def _sweep(self) -> None:
        """Remove, once, what a crash left of files that were being written. The lock is held."""
        if not self._swept:
            with os.scandir(self._path) as found:
                left = [entry.name for entry in found if _DRAFT.fullmatch(entry.name)]
            for file in left:
                (self._path / file).unlink(missing_ok=True)
            self._swept = True

    def _test(self, check: Check) -> None:
        actual = _version(self._load(check.key))
        if actual == 0 if check.version is None else actual != check.version:
            raise refused(check, actual)

    def _safe(self, key: str) -> Path:
        return self._path / f"{name(key)}.json"

    def _files(self, key: str) -> list[Path]:
        """Return the files of a key that are there, the one that counts first."""
        safe = self._safe(key)
        found = [safe] if _there(safe) and self._owns(safe, key) else []
        bare = self._path / f"{key}.json"
        if safe.name != bare.name and not _unsafe(bare.name) and _there(bare) and self._belongs(bare, key):
            found.append(bare)
        return found

    def _owns(self, safe: Path, key: str) -> bool:
        """Return False for a file whose name a folding file system takes for that of the key, and says whose it is."""
        holder = self._id(safe.name) if safe.name == f"{key}.json" else None
        return holder is None or holder == key or _folded(holder) != _folded(key)

    def _belongs(self, bare: Path, key: str) -> bool:
        # That it is there says nothing where names are folded, and listing the directory takes long: its content
        # decides, but where that does not say whose it is.
        return self._id(bare.name) == key or (self._listed(bare.name) and self._key(bare.name) == key)

    def _listed(self, file: str) -> bool:
        # Not by asking for it: a file system that folds names would show the file of another key.
        try:
            with os.scandir(self._path) as entries:
                return any(entry.name == file for entry in entries)
        except FileNotFoundError:
            return False

    def _load(self, key: str) -> bytes | None:
        files = self._files(key)
        if not files:
            if os.path.lexists(self._path) and not self._path.is_dir():
                raise DamagedError(f"{self._path} is no directory", path=str(self._path))
            return None
        data = _content(files[0])
        return None if data is None else _object(data, files[0])

    def keys(self, namespace: Name) -> Iterator[str]:
        if namespace != self._namespace:
            raise ArgumentError(f"namespace must be {self._namespace}, not {namespace}", argument="namespace")
        with translated(self._path):
            try:
                files = [entry.name for entry in os.scandir(self._path) if entry.is_file(follow_symlinks=False)]
            except FileNotFoundError:
                return
            names = [file for file in files if file.endswith(".json") and not file.startswith(".") and _text(file)]
            yield from dict.fromkeys(self._key(file) for file in names)

    def _key(self, file: str) -> str:
        """Return the key whose value a file is."""
        stem = file.removesuffix(".json")
        if "~" not in stem:
            return stem
        found = self._id(file)
        return found if found is not None and name(found) == stem else stem

    def _id(self, file: str) -> str | None:
        """Return the id in a document, None if it has none or is damaged: who asks for it by its id is told so."""
        try:
            data = _content(self._path / file)
            return None if data is None else _IDS.decode(data).user_id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, DamagedError):
            return None

    def close(self) -> None:
        self._lock.close()


def _content(path: Path) -> bytes | None:
    """Return what a file holds, None if it is not there; raise `DamagedError` for a link, a pipe, a directory."""
    try:
        return load(path)
    except FileNotFoundError:
        return None


def _object(data: bytes, path: Path) -> bytes:
    """Return what is a JSON object; raise `DamagedError` for all else."""
    try:
        msgspec.json.decode(data, type=dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged: {error}", path=str(path)) from error
    return data


def _now() -> int:
    return time.time_ns() // 1_000_000


def _unsafe(file: str) -> bool:
    return file.startswith(".") or "/" in file or os.sep in file or "\0" in file or len(file.encode()) > 255


def _there(path: Path) -> bool:
    """Return whether something has this name; not to be allowed to know is no answer."""
    try:
        path.lstat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ENAMETOOLONG):
            return False  # Windows refuses to look for some names.
        raise
    return True


def _folded(key: str) -> str:
    return unicodedata.normalize("NFC", key).casefold()


def _text(file: str) -> bool:
    """Return whether a name is one that a key can have had; of others the bytes are no UTF-8."""
    try:
        file.encode()
    except UnicodeEncodeError:
        return False
    return True


def _version(data: bytes | None) -> int:
    if data is None:
        return 0
    return int.from_bytes(hashlib.blake2b(data, digest_size=7).digest(), "big") + 1
