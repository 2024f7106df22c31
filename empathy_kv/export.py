"""Files that are written whole: the exports of metrics, and the means for every other."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from empathy_kv.errors import ArgumentError
from empathy_kv.paths import destination
from empathy_kv.streams import write


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: msgspec.json.encode(value).decode() if isinstance(value, dict) else value for name, value in row.items()
    }


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, names)
    writer.writeheader()
    for row in rows:
        writer.writerow(_flat(row))
    return buffer.getvalue().encode()


def _json(rows: Sequence[Mapping[str, Any]]) -> bytes:
    users = {row["user_id"]: {k: v for k, v in row.items() if k != "user_id"} for row in rows[:-1]}
    total = {k: v for k, v in rows[-1].items() if k != "user_id"}
    return msgspec.json.format(msgspec.json.encode({"users": users, "global": total}), indent=2) + b"\n"


def _jsonl(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


_FORMS = {".json": _json, ".jsonl": _jsonl, ".csv": _csv}


def export(rows: Sequence[Mapping[str, Any]], filepath: str | os.PathLike[str]) -> None:
    """Write rows of figures, the last of them those of all users, in the form that the file's suffix says."""
    path = destination(filepath)
    form = _FORMS.get(path.suffix.lower())
    if form is None:
        raise ArgumentError(f"filepath must end in {', '.join(_FORMS)}, not {path.name!r}", argument="filepath")
    write(path, [form(rows)])
