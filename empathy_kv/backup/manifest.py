"""The manifest of a backup: what it consists of, and by that what makes it a backup at all.

A target holds, for a backup NAME, `NAME/000000.jsonl.zst` and on, and then `NAME.json`, the manifest. It is written
last and whole, so a backup is listed when everything of it is there, and never before. It is JSON for people to read,
and ends with the SHA-256 of all that stands before that, whatever its format version: a changed byte is told from a
newer version.

What stands in a manifest is not believed: a part has the one name that its place gives it, so a manifest cannot lead
out of its own directory; and what a part may be at most is known, so it cannot ask for more memory or disk.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from attrs import field, frozen

from empathy_kv.errors import DamagedError, EmpathyKVError, UnsupportedError
from empathy_kv.snapshot_lines import Counts

FORMAT: Final = "empathy-kv backup"
VERSION: Final = 1
"""The format that is written, and the newest that is read."""
PART: Final = 8 << 20
"""Compressed bytes after which a part ends; what the compressor still holds and the end of a line may come on top."""
RAW: Final = 128 << 20
"""Bytes of lines after which a part ends."""
LINE: Final = 64 << 20
"""Bytes that a line may have: those of the largest batch, since no record has more."""
LARGEST: Final = 16 << 20
"""Bytes of the largest manifest that is read: one of half a terabyte has less."""

_NAME: Final = re.compile(r"(\d{8}T\d{6}\.\d{6}Z)-[0-9a-f]{8}", re.ASCII)
_TIME: Final = "%Y%m%dT%H%M%S.%fZ"
_DIGEST: Final = re.compile(rb'  "sha256": "([0-9a-f]{64})"\n}\n')
_END: Final = len(b'  "sha256": ""\n}\n') + 64

_Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


@frozen
class Part:
    """A piece of a backup: whole lines, compressed as one zstd frame.

    `size`: bytes at the target, of which `sha256` is the SHA-256. `raw_size`: bytes of its `lines` lines.
    """

    size: int
    sha256: str
    raw_size: int
    lines: int


@frozen(kw_only=True)
class Backup:
    """A backup as its manifest tells of it.

    `name` tells when it was begun, in UTC: names sort by time, and no two are equal. `counts`: how much it holds.

    `problem` is None, or why the manifest cannot be used: a `DamagedError`, or an `UnsupportedError` if a newer version
    wrote it. Then the figures are 0, and what else there is of it is left alone.
    """

    name: str
    created_at: datetime
    finished_at: datetime
    counts: Counts = field(factory=Counts)
    parts: tuple[Part, ...] = field(default=(), repr=False)
    problem: EmpathyKVError | None = field(default=None, eq=str)

    @property
    def size(self) -> int:
        """Bytes of all parts at the target."""
        return sum(part.size for part in self.parts)

    @property
    def raw_size(self) -> int:
        """Bytes of all lines."""
        return sum(part.raw_size for part in self.parts)

    @property
    def lines(self) -> int:
        """Lines of all parts."""
        return sum(part.lines for part in self.parts)

    def paths(self) -> dict[str, Part]:
        """Return where each part is, in their order."""
        return {part_path(self.name, number): part for number, part in enumerate(self.parts)}


def new_name(at: datetime) -> str:
    """Return the name of a backup that is begun at a time."""
    return f"{at.astimezone(UTC).strftime(_TIME)}-{secrets.token_hex(4)}"


def begun(name: str) -> datetime | None:
    """Return when the backup of this name was begun; None if that is no name of one."""
    match = _NAME.fullmatch(name)
    try:
        return datetime.strptime(match[1], _TIME).replace(tzinfo=UTC) if match else None
    except ValueError:  # As a month 13.
        return None


def part_path(name: str, number: int) -> str:
    """Return where a part of a backup is."""
    return f"{name}/{number:06}.jsonl.zst"


def is_part(path: str) -> bool:
    """Return whether a path below a backup is one that a part could have."""
    return re.fullmatch(r"\d{6,}\.jsonl\.zst", path, re.ASCII) is not None


def manifest_path(name: str) -> str:
    """Return where the manifest of a backup is."""
    return f"{name}.json"


@frozen
class _Part:
    name: str
    size: Annotated[int, msgspec.Meta(ge=1, le=PART + LINE + (1 << 20))]
    sha256: _Hash
    raw_size: Annotated[int, msgspec.Meta(ge=1, le=RAW + LINE + (1 << 20))]
    lines: Annotated[int, msgspec.Meta(ge=1, le=RAW + LINE + (1 << 20))]


@frozen
class _Manifest:
    format: str
    version: int
    name: str
    created_at: datetime
    finished_at: datetime
    counts: Counts
    parts: list[_Part]


@frozen
class _Version:
    format: str
    version: int


@frozen
class _End:
    end: Counts


def counts_of(line: bytes) -> Counts | None:
    """Return what the last line of a snapshot says it holds; None if that is not the last line of one."""
    try:
        return msgspec.json.decode(line, type=_End).end
    except msgspec.MsgspecError:
        return None


def encode(backup: Backup) -> bytes:
    """Return the manifest of a backup."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "name": backup.name,
        "created_at": backup.created_at,
        "finished_at": backup.finished_at,
        "counts": backup.counts,
        "parts": [
            {
                "name": path.rpartition("/")[2],
                "size": part.size,
                "sha256": part.sha256,
                "raw_size": part.raw_size,
                "lines": part.lines,
            }
            for path, part in backup.paths().items()
        ],
    }
    body = msgspec.json.format(msgspec.json.encode(document), indent=2).removesuffix(b"\n}") + b",\n"
    return body + b'  "sha256": "%s"\n}\n' % hashlib.sha256(body).hexdigest().encode()


def decode(name: str, data: bytes, where: str) -> Backup:
    """Return the backup of a manifest that stands `where`.

    `DamagedError` if it is not what was written, or none of ours; `UnsupportedError` if a newer version wrote it.
    """
    body, digest = data[:-_END], _DIGEST.fullmatch(data[-_END:])
    if digest is None or hashlib.sha256(body).hexdigest().encode() != digest[1]:
        raise _damaged(where, "its SHA-256 is another")
    try:
        version = msgspec.json.decode(data, type=_Version)
        if version.format != FORMAT:
            raise _damaged(where, f"its format is {version.format[:40]!r}, not {FORMAT!r}")
        if version.version > VERSION:
            raise UnsupportedError(
                f"{where}: a newer empathy_kv wrote this backup, in format {version.version}; this one reads up to "
                f"{VERSION}: upgrade it"
            )
        manifest = msgspec.json.decode(data, type=_Manifest)
    except msgspec.MsgspecError as error:
        raise _damaged(where, str(error)) from error
    if manifest.name != name:
        raise _damaged(where, f"it is that of another backup, {manifest.name[:40]!r}")
    if manifest.version != VERSION:
        raise _damaged(where, f"there is no format {manifest.version}")
    for number, part in enumerate(manifest.parts):
        if f"{name}/{part.name}" != part_path(name, number):
            raise _damaged(where, f"a part is named {part.name[:80]!r}, which none can be")
    if not manifest.parts or manifest.created_at.tzinfo is None or manifest.finished_at.tzinfo is None:
        raise _damaged(where, "there are no parts, or no times in UTC")
    return Backup(
        name=name,
        created_at=manifest.created_at,
        finished_at=manifest.finished_at,
        counts=manifest.counts,
        parts=tuple(Part(part.size, part.sha256, part.raw_size, part.lines) for part in manifest.parts),
    )


def unusable(name: str, at: datetime, problem: EmpathyKVError) -> Backup:
    """Return what is known of a backup whose manifest cannot be used."""
    return Backup(name=name, created_at=at, finished_at=at, problem=problem)


def _damaged(where: str, why: str) -> DamagedError:
    return DamagedError(f"{where} is no manifest as it was written: {why}", path=where)
