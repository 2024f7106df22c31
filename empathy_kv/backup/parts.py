"""Lines to compressed parts and back, a piece at a time.

A part is one zstd frame of whole lines, so `zstd -dc NAME/*.zst` shows a backup, and one part can be read without the
others. What is held at once is one compressed part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from empathy_kv.backup.manifest import LINE, PART, RAW, Part
from empathy_kv.errors import DamagedError, UnsupportedError
from empathy_kv.streams import zstd

_BLOCK: Final = 1 << 17
"""Bytes that are compressed at once: a call a line would cost more than the compression."""
_OUTPUT: Final = 1 << 20
"""Bytes that are decompressed at once."""
_LEVEL: Final = 3
_WINDOW: Final = 23
"""Binary logarithm of the bytes of memory that a frame may ask for; those of level 3 ask for a quarter of it."""


def available() -> None:
    """Raise `UnsupportedError` where there is no zstd."""
    try:
        zstd()
    except ImportError as error:
        raise UnsupportedError(
            "backups need zstd, which is not installed here; "
            "pip install backports.zstd brings it, as the extra backup does"
        ) from error


def pack(lines: Iterable[bytes]) -> Iterator[tuple[bytes, Part]]:
    """Yield lines, which have no newline at their end, as compressed parts."""
    packing = _Packing()
    block: list[bytes] = []
    length = 0
    for line in lines:
        block.append(line)
        length += len(line) + 1
        if length >= _BLOCK:
            packing.add(block)
            block, length = [], 0
            if packing.full:
                yield packing.finish()
                packing = _Packing()
    if block:
        packing.add(block)
    if packing.lines:
        yield packing.finish()


class _Packing:
    """A part in the making."""

    def __init__(self) -> None:
        self._compressor = zstd().ZstdCompressor(level=_LEVEL)
        self._pieces: list[bytes] = []
        self._size = 0
        self._raw_size = 0
        self.lines = 0

    @property
    def full(self) -> bool:
        return self._size >= PART or self._raw_size >= RAW

    def add(self, block: list[bytes]) -> None:
        block.append(b"")
        data = b"\n".join(block)
        lines = len(block) - 1
        # A line that is two would be another backup than the source.
        assert data.count(b"\n") == lines, "a line of a snapshot has no newline"  # noqa: S101
        self._raw_size += len(data)
        self.lines += lines
        self._keep(self._compressor.compress(data))

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)

    def finish(self) -> tuple[bytes, Part]:
        self._keep(self._compressor.flush())
        data = b"".join(self._pieces)
        return data, Part(len(data), hashlib.sha256(data).hexdigest(), self._raw_size, self.lines)


def unpack(pieces: Iterable[bytes], part: Part, path: str) -> Iterator[bytes]:
    """Yield the lines of a part, which stands at `path` and comes in pieces.

    `DamagedError` if it is not exactly what the manifest says; nothing is decompressed, and no line yielded, before its
    SHA-256 was found to be right. A part that would decompress to more than the manifest says is given up where it
    does.
    """
    data = _checked(pieces, part, path)
    module = zstd()
    decompressor = module.ZstdDecompressor(options={module.DecompressionParameter.window_log_max: _WINDOW})
    raw_size = lines = held = 0
    rest: list[bytes] = []
    while not decompressor.eof:
        try:
            output = decompressor.decompress(data, max_length=_OUTPUT)
        except module.ZstdError as error:
            raise _damaged(path, str(error)) from error
        if not output and decompressor.needs_input:
            raise _damaged(path, "it breaks off")
        data = b""
        raw_size += len(output)
        if raw_size > part.raw_size:
            raise _damaged(path, f"it decompresses to more than {part.raw_size:,} bytes")
        *whole, last = output.split(b"\n")
        if whole:
            rest.append(whole[0])
            whole[0] = b"".join(rest)
            rest, held = [], 0
            lines += len(whole)
            yield from whole
        rest.append(last)
        held += len(last)
        if held > LINE:
            raise _damaged(path, f"it has a line of more than {LINE:,} bytes")
    if decompressor.unused_data or held or (raw_size, lines) != (part.raw_size, part.lines):
        raise _damaged(path, f"it holds {lines:,} of {part.lines:,} lines, or more than them")


def _checked(pieces: Iterable[bytes], part: Part, path: str) -> bytes:
    """Return the compressed part."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size > part.size:
            raise _damaged(path, f"it has more than {part.size:,} bytes")
    data = b"".join(held)
    if size != part.size:
        raise _damaged(path, f"it has {size:,} of {part.size:,} bytes")
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise _damaged(path, "its SHA-256 is another")
    return data


def _damaged(path: str, why: str) -> DamagedError:
    return DamagedError(f"{path} is not as it was written: {why}", path=path)
