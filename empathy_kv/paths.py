"""The paths of files and directories that callers give."""

from __future__ import annotations

import os
from pathlib import Path

from empathy_kv.errors import ArgumentError, ArgumentTypeError


def destination(filepath: object, argument: str = "filepath") -> Path:
    """Return the path of a file to be written or read."""
    if not isinstance(filepath, (str, os.PathLike)):
        raise ArgumentTypeError(f"{argument} must be a path, not {type(filepath).__name__}", argument=argument)
    path = os.fspath(filepath)
    if isinstance(path, bytes) or not path or "\0" in path or "\ud800" <= max(path) <= "\udfff":
        raise ArgumentError(f"{argument} must be a path, not {path!r}", argument=argument)
    return Path(path)
