"""Whole files, written and read as streams; one whose name ends in `.gz` or `.zst` is compressed.

A file that is written is the old one or the new one, whatever happens meanwhile: it is written beside it, synced, and
put in its place. No more than a piece of it is in memory.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import secrets
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from empathy_kv.errors import ArgumentError, CodecError, MissingFileError
from empathy_kv.kv.files.disk import FLAGS, sync_directory, translated

PIECE: Final = 1 << 17
"""Bytes that are read at once."""
_LEVEL: Final = 6
"""Of gzip. Python's own default takes four times as long for a hundredth less."""


def write(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file whole and durably, in the place of one that was there. Missing directories above it are made."""
    with translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Through a link to the file it names: replacing the link would leave that one as it was.
        target = path.resolve() if path.is_symlink() else path
        if target.is_dir():
            raise ArgumentError(f"filepath must be a file; {path} is a directory", argument="filepath")
        draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            with open(draft, "xb", opener=_private) as file:
                with _compressed(file, path, "wb") as stream:
                    for piece in pieces:
                        stream.write(piece)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        sync_directory(target.parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | FLAGS, 0o600)


def read(path: Path) -> Iterator[tuple[bytes, float]]:
    """Yield a file piece by piece, each with the share of the file that was read.

    `MissingFileError` if there is none; `CodecError` if it cannot be decompressed.
    """
    with translated(path):
        try:
            file = path.open("rb")
        except FileNotFoundError as error:
            raise MissingFileError(f"there is no file {path}", path=str(path)) from error
        with file, _compressed(file, path, "rb") as stream:
            size = os.fstat(file.fileno()).st_size
            while piece := _next(stream):
                yield piece, min(1.0, file.tell() / size) if size else 1.0


def _next(stream: IO[bytes]) -> bytes:
    try:
        return stream.read(PIECE)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise CodecError(f"expected gzip: {error}") from error
    except Exception as error:
        if type(error).__name__ == "ZstdError":  # Its module may not be installed.
            raise CodecError(f"expected zstd: {error}") from error
        raise


def _compressed(file: IO[bytes], path: Path, mode: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    """Return the stream of a file by its suffix."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        # Without a name and a time, the same library is the same file.
        return gzip.GzipFile("", mode, _LEVEL, file, mtime=0)  # type: ignore[return-value]
    if suffix == ".zst":
        return _zstd().ZstdFile(file, mode)  # type: ignore[no-any-return]
    return contextlib.nullcontext(file)


def _zstd() -> Any:
    try:
        return zstd()
    except ImportError as error:
        raise ArgumentError(
            "filepath must not end in .zst: zstd is not installed here; "
            "pip install backports.zstd brings it, as the extra zstd does",
            argument="filepath",
        ) from error


def zstd() -> Any:
    """Return the module of that name, which Python has since 3.14; ImportError if it has none and none is installed."""
    if sys.version_info >= (3, 14):
        from compression import zstd as module
    else:
        from backports import zstd as module
    return module
