"""File names of keys: injective, and safe on every file system.

A key of lower-case ASCII letters, digits, `_`, `-` and inner dots is its own name, unless Windows reserves it. Any
other gets a readable part, `~`, and its SHA-256: no file system folds two of these into one, and none is too long. The
true key stands in the document.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from typing import Final

_PLAIN: Final = re.compile(r"[a-z0-9](?:[a-z0-9_.-]{0,98}[a-z0-9_-])?")
_RESERVED: Final = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")
_OTHER: Final = re.compile(r"[^a-z0-9_-]+")


@functools.lru_cache(maxsize=4096)
def name(key: str) -> str:
    """Return the file name of a key, without a suffix: at most 100 ASCII characters."""
    if plain(key) is not None:
        return key
    digest = base64.b32encode(hashlib.sha256(key.encode()).digest()).decode().rstrip("=").lower()
    readable = _OTHER.sub("-", key[:80].lower())[:40].strip("-")
    return f"{readable}~{digest}"


def plain(name: str) -> str | None:
    """Return the key that a file name is, None if it is the name of another key."""
    return name if _PLAIN.fullmatch(name) and not _RESERVED.fullmatch(name) else None
