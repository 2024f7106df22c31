"""Ways of saving a library of patterns to a file and loading it again: as JSON, and as the documented table."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import reference
from attrs import frozen
from harness import NOTHING, PACKAGE, POWER, PREFIX, Promise, Role

from empathy_kv import Pattern, PatternLibrary, PatternPersistence

Held = Mapping[str, Pattern]


@frozen
class Keeping:
    """A way of saving and loading. What is saved is at hand as a library and as a dict; what is loaded is either."""

    store: str
    save: Callable[[PatternLibrary, Held, Path], object]
    load: Callable[[Path], Any]
    survives: Promise
    role: Role = "peer"

    def loaded(self, path: Path) -> Held:
        """Return what a file has as a dict."""
        found = self.load(path)
        return dict(found.patterns) if isinstance(found, PatternLibrary) else found


# JSON

_PLAIN: Final = (
    *("id", "agent_id", "pattern_type", "name", "description", "context", "code", "confidence"),
    *("usage_count", "success_count", "failure_count", "tags"),
)


def _document(held: Held) -> dict[str, Any]:
    patterns = [
        {
            **{name: getattr(made, name) for name in _PLAIN},
            "discovered_at": made.discovered_at.replace(tzinfo=None).isoformat(),
            "last_used": None if made.last_used is None else made.last_used.replace(tzinfo=None).isoformat(),
        }
        for made in held.values()
    ]
    return {"patterns": patterns, **_about(held)}


def _about(held: Held) -> dict[str, Any]:
    return {
        "agent_contributions": {"agent": list(held)},
        "metadata": {"saved_at": datetime.now(UTC).isoformat(), "pattern_count": len(held), "version": "1.0"},
    }


def save_by_hand(_: PatternLibrary, held: Held, path: Path) -> None:
    """Write patterns as the system does it that this package takes the place of: neither durably nor atomically."""
    with path.open("w") as file:
        json.dump(_document(held), file, indent=2)


def load_by_hand(path: Path) -> Held:
    """Read them again, and check nothing."""
    with path.open() as file:
        document = json.load(file)
    held = {}
    for item in document["patterns"]:
        last_used = item.pop("last_used")
        made = Pattern(
            **{name: item[name] for name in _PLAIN},
            discovered_at=datetime.fromisoformat(item["discovered_at"]),
            last_used=None if last_used is None else datetime.fromisoformat(last_used),
        )
        held[made.id] = made
    return held


def _save_text(_: PatternLibrary, held: Held, path: Path) -> None:
    _replace(path, json.dumps(_document(held)).encode())  # Without `indent`: with it no C encodes.


class _Saved(msgspec.Struct):
    patterns: list[Pattern]
    agent_contributions: dict[str, list[str]]
    metadata: dict[str, Any]


_encode_saved: Final = msgspec.json.Encoder().encode
_decode_saved: Final = msgspec.json.Decoder(_Saved).decode


def _save_typed(_: PatternLibrary, held: Held, path: Path) -> None:
    _replace(path, _encode_saved({"patterns": list(held.values()), **_about(held)}))


def load_typed(path: Path) -> Held:
    """Read what msgspec wrote, of which the types are checked."""
    return {made.id: made for made in _decode_saved(path.read_bytes()).patterns}


def _replace(path: Path, data: bytes) -> None:
    """Write a file that is there wholly or not at all, and is on the disk."""
    draft = path.with_suffix(".new")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


BY_HAND: Final = "json by hand"
JSON: Final = (
    Keeping(
        PACKAGE,
        lambda library, _, path: PatternPersistence.save_to_json(library, path),
        PatternPersistence.load_from_json,
        POWER,
    ),
    Keeping("json.dumps, fsync", _save_text, load_by_hand, POWER),
    Keeping("msgspec, fsync", _save_typed, load_typed, POWER),
    Keeping(BY_HAND, save_by_hand, load_by_hand, NOTHING, role="reference"),
)


# SQLite


def _opened(path: Path, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    with contextlib.suppress(sqlite3.OperationalError):  # They are there.
        reference.make_pattern_tables(connection)
    return connection


def _save_rows(_: PatternLibrary, held: Held, path: Path) -> None:
    with contextlib.closing(_opened(path, "FULL")) as connection, connection:
        for made in held.values():
            connection.execute(reference.PUT_PATTERN, reference.pattern_row(made, json.dumps))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _save_many(_: PatternLibrary, held: Held, path: Path) -> None:
    with contextlib.closing(_opened(path, "EXTRA")) as connection, connection:
        connection.executemany(reference.PUT_PATTERN, (reference.pattern_row(made, _json) for made in held.values()))


def _load_rows(decode: Callable[[str], Any], path: Path) -> Held:
    held = {}
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for row in connection.execute(f"SELECT {', '.join(reference.PATTERN_COLUMNS)} FROM patterns"):
            made = Pattern(*row)
            made.context = decode(row[5])
            made.tags = decode(row[11])
            made.discovered_at = datetime.fromisoformat(row[12])
            made.last_used = None if row[13] is None else datetime.fromisoformat(row[13])
            held[made.id] = made
    return held


BY_CALL: Final = "sqlite3, row by row"
SQLITE: Final = (
    Keeping(
        PACKAGE,
        lambda library, _, path: PatternPersistence.save_to_sqlite(library, path),
        PatternPersistence.load_from_sqlite,
        POWER,
    ),
    Keeping("sqlite3, executemany + msgspec", _save_many, partial(_load_rows, msgspec.json.decode), POWER),
    Keeping(BY_CALL, _save_rows, partial(_load_rows, json.loads), PREFIX, role="reference"),
)
