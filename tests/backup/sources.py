"""Lines as a snapshot has them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec

COUNTS = {"patterns": 3, "states": 2, "users": 1, "interactions": 40}


def snapshot(lines: int = 100, seed: int = 1) -> Iterator[bytes]:
    """Yield a snapshot whose lines cannot be compressed to much less than half."""
    dice = random.Random(seed)
    yield b'{"format":"empathy-kv","version":1}'
    for number in range(lines):
        yield msgspec.json.encode({"state": number, "text": dice.randbytes(60).hex() + "é\u2028"})
    yield msgspec.json.encode({"end": {**COUNTS, "sha256": "0" * 64}})
