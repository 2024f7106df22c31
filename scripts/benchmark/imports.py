"""The jobs of the family "start": what a program pays before its first call."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from harness import PACKAGE, Contender, Goal, Job, Room
from peers.shape import missing

ROUNDS: Final[Mapping[str, int]] = {"full": 15, "quick": 2, "tiny": 1}
GOAL: Final = Goal(80.0)
"""The milliseconds that the import may take."""

WAYS: Final[Mapping[str, tuple[str, str]]] = {
    "import": ("", "import empathy_kv"),
    'connect("memory:")': ("memory", 'import empathy_kv; empathy_kv.connect("memory:")'),
    'connect("file:...")': ("disk", 'import empathy_kv; empathy_kv.connect("file:" + place)'),
    'connect("redis://...")': ("server", 'import empathy_kv; empathy_kv.connect("redis://localhost:1")'),
}
"""Of this package: what it is compared with, and the code."""

OTHERS: Final[Mapping[str, tuple[str, str]]] = {
    "diskcache": ("disk", "diskcache"),
    "lmdb": ("disk", "lmdb"),
    "sqlitedict": ("disk", "sqlitedict"),
    "shelve": ("disk", "shelve"),
    "sqlite3": ("disk", "sqlite3"),
    "py-key-value disk": ("disk", "key_value.aio.stores.disk"),
    "litestar files": ("disk", "litestar.stores.file"),
    "cachetools": ("memory", "cachetools"),
    "py-key-value memory": ("memory", "key_value.aio.stores.memory"),
    "LangGraph InMemoryStore": ("memory", "langgraph.store.memory"),
    "redis-py": ("server", "redis"),
    "py-key-value Redis": ("server", "key_value.aio.stores.redis"),
    "litestar Redis": ("server", "litestar.stores.redis"),
}
"""The same of others, and the module."""


def jobs(scale: str) -> list[Job]:
    """Return the jobs of this family."""
    rows = [
        Contender(PACKAGE, partial(start_turns, code), way, (GOAL,) if way == "import" else (), among=among or PACKAGE)
        for way, (among, code) in WAYS.items()
    ]
    rows += [
        Contender(
            name,
            partial(start_turns, f"import {module}"),
            f"import, {among}",
            missing=missing(module.partition(".")[0]),
            among=among,
        )
        for name, (among, module) in OTHERS.items()
        if scale == "full" or "." not in module  # Those of large packages take seconds.
    ]
    return [Job("import", "import, in a new process", "ms", ROUNDS[scale], rows)]


def start_turns(code: str, room: Room) -> Iterator[Sequence[float]]:
    begin = f"import time; place = {str(room.own)!r}; start = time.perf_counter()"
    while True:
        # Without the directory of this program in the path of the new one, where modules of other names may stand.
        command = [sys.executable, "-P", "-c", f"{begin}; {code}; print(time.perf_counter() - start)"]
        yield [float(subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL).stdout)]
