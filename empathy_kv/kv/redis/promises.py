"""What a server says of itself: what a write survives, and whether it evicts keys. It may refuse to say."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

from empathy_kv.kv.interface import Durability, EvictionWarning
from empathy_kv.kv.redis.commands import pack

MEMORY: Final = pack("INFO", "memory")
QUESTIONS: Final = (
    pack("INFO", "persistence"),
    MEMORY,
    pack("INFO", "replication"),
    pack("CONFIG", "GET", "appendfsync"),
    pack("CONFIG", "GET", "save"),
)
STRENGTH: Final = ("unknown", "nothing", "process", "power")
"""What a write survives, the weakest first."""


def promised(answers: Sequence[Any]) -> Durability:
    """Return what the answers to `QUESTIONS` promise."""
    persistence, memory, replication = map(_fields, answers[:3])
    fsync, save = map(_setting, answers[3:])
    enabled = persistence.get("aof_enabled")
    aof = "unknown" if enabled is None else "off" if enabled == "0" else "unknown" if fsync is None else fsync
    replicas = replication.get("connected_slaves")
    if enabled is None:
        survives = "unknown"
    elif enabled == "0":
        survives = "nothing"
    else:
        survives = "power" if aof == "always" else "process"
    return Durability(
        survives,  # type: ignore[arg-type]  # one of them
        aof,
        "unknown" if save is None else "on" if save else "off",
        memory.get("maxmemory_policy", "unknown"),
        None if replicas is None else int(replicas),
    )


def _fields(answer: Any) -> dict[str, str]:
    """Return the fields of an answer to INFO; none if the server did not give one."""
    if not isinstance(answer, bytes):
        return {}
    lines = (line.partition(":") for line in answer.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def _setting(answer: Any) -> str | None:
    """Return the value of an answer to CONFIG GET, None if the server did not give one."""
    return answer[1].decode() if isinstance(answer, list) and len(answer) == 2 else None


def warn_of_eviction(answer: Any) -> None:
    """Warn if the answer to `INFO memory` says that the server evicts keys. One that does not tell is not warned of."""
    told = _fields(answer)
    policy = told.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and told.get("maxmemory", "0") != "0":
        warnings.warn(
            f"the server's maxmemory-policy is {policy}: when its memory is full it removes keys, and with them what "
            f"was stored, or what makes a repeated write happen once; set it to noeviction",
            EvictionWarning,
            stacklevel=2,
        )
