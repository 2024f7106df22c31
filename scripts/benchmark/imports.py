"""The jobs of the family "start": what a program pays before its first call."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from harness import PACKAGE, Contender, Goal, Job, Room
from peers.shape import missing

ROUNDS: Final[Mapping[str, int]] = {"full": 10, "quick": 1, "tiny": 1}
GOAL: Final = Goal(80.0)
"""The milliseconds that the import may take."""

WAYS: Final[Mapping[str, tuple[str, str]]] = {
    "import": ("", "import empathy_kv"),
    'connect("memory:")': ("memory", 'import empathy_kv; empathy_kv.connect("memory:")'),
    'connect("file:...")': ("disk", 'import empathy_kv; empathy_kv.connect("file:" + place)'),
    'connect("redis://...")': ("server", 'import empathy_kv; empathy_kv.connect("redis://localhost:1")'),
}
"""Of this package: what it is compared with, and the code."""

OTHERS: Final[Mapping[str, tuple[str, str, str]]] = {
    "diskcache": ("disk", "diskcache", "diskcache.Cache(place)"),
    "lmdb": ("disk", "lmdb", "lmdb.open(place)"),
    "sqlitedict": ("disk", "sqlitedict", 'sqlitedict.SqliteDict(place + "/db").close()'),
    "shelve": ("disk", "shelve", 'shelve.open(place + "/shelf")'),
    "sqlite3": ("disk", "sqlite3", 'sqlite3.connect(place + "/db").execute("PRAGMA journal_mode = WAL")'),
    "py-key-value disk": ("disk", "key_value.aio.stores.disk", "key_value.aio.stores.disk.DiskStore(directory=place)"),
    "py-key-value file tree": (
        "disk",
        "key_value.aio.stores.filetree",
        "key_value.aio.stores.filetree.FileTreeStore(data_directory=place)",
    ),
    "litestar files": (
        "disk",
        "litestar.stores.file",
        "import pathlib; litestar.stores.file.FileStore(pathlib.Path(place))",
    ),
    "cachetools": ("memory", "cachetools", "cachetools.TTLCache(1000, 60.0)"),
    "py-key-value memory": ("memory", "key_value.aio.stores.memory", "key_value.aio.stores.memory.MemoryStore()"),
    "LangGraph InMemoryStore": ("memory", "langgraph.store.memory", "langgraph.store.memory.InMemoryStore()"),
    "redis-py": ("server", "redis", 'redis.Redis.from_url("redis://localhost:1")'),
    "py-key-value Redis": (
        "server",
        "key_value.aio.stores.redis",
        'key_value.aio.stores.redis.RedisStore(url="redis://localhost:1")',
    ),
    "litestar Redis": (
        "server",
        "litestar.stores.redis",
        'litestar.stores.redis.RedisStore.with_client("redis://localhost:1")',
    ),
}
"""The same of others: what they are compared with, the module, and what opens a store."""


def jobs(scale: str) -> list[Job]:
    """Return the jobs of this family."""
    rows = [
        Contender(PACKAGE, partial(start_turns, code), way, (GOAL,) if way == "import" else (), among=among or PACKAGE)
        for way, (among, code) in WAYS.items()
    ]
    rows += [
        Contender(
            name,
            partial(start_turns, f"import {module}; {code}"),
            f"open, {among}",
            missing=missing(module.partition(".")[0]),
            among=among,
        )
        for name, (among, module, code) in OTHERS.items()
        if scale == "full" or "." not in module  # Those of large packages take seconds.
    ]
    return [Job("import", "import and open, in a new process", "ms", ROUNDS[scale], rows, warm_up=0)]


def start_turns(code: str, room: Room) -> Iterator[Sequence[float]]:
    begin = f"import time; place = {str(room.own)!r}; start = time.perf_counter()"
    while True:
        # Without the directory of this program in the path of the new one, where modules of other names may stand.
        command = [sys.executable, "-P", "-c", f"{begin}; {code}; print(time.perf_counter() - start)"]
        yield [float(subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL).stdout)]
