"""A restore into a server or a database whose process is killed at any point, and one that is run again after that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from places import Place, fill, places

from empathy_kv import CollaborationState, Pattern, Store, UnfinishedError
from empathy_kv.cli.app import run
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.records import Interaction
from empathy_kv.snapshot import Content, content, dump, restore

__all__ = ["places"]

SHARES = range(1, 10) if os.environ.get("EMPATHY_KV_PROFILE") == "nightly" else (4, 8)
"""Tenths of all that is said to the server or database, before which the process is killed."""

# Its arguments: the URL of the store, a file of lines, when it is killed, and whether it migrates the file's store.
RESTORE = """
import os, signal, sys
from empathy_kv import connect
from empathy_kv.cli.app import run
from empathy_kv.snapshot import restore

url, source, point, migrates = sys.argv[1:]
count = 0

def counted(exchange):
    def killed(*arguments):
        global count
        count += 1
        if count == int(point):
            os.kill(os.getpid(), signal.SIGKILL)
        return exchange(*arguments)
    return killed

if url.startswith("redis"):
    from empathy_kv.kv.redis.connections import _Wire as wire
    wire.exchange = counted(wire.exchange)
elif url.startswith("sqlite"):
    from empathy_kv.sql.sqlite import _Connection as wire
    wire._answer = counted(wire._answer)
else:
    from empathy_kv.sql.postgres import _Session as wire
    wire._answer = counted(wire._answer)
if migrates == "yes":
    assert run(["store", "migrate", source, url, "--yes"]) == 0
else:
    with connect(url, timeout=20.0) as store, open(source, "rb") as file:
        restore(store, (line[:-1] for line in file), replace=True)
print(count)
"""


def call(place: Place, source: str, point: int, *, migrates: bool) -> subprocess.CompletedProcess[str]:
    arguments = [place.url, source, str(point), "yes" if migrates else "no"]
    return subprocess.run(
        [sys.executable, "-c", RESTORE, *arguments], capture_output=True, text=True, env=os.environ, check=False
    )


@pytest.mark.parametrize(("kind", "migrates"), [("redis", True), ("sqlite", True), ("postgresql", False)])
def test_what_was_killed_is_whole_or_says_so_and_is_finished_by_running_it_again(
    kind: str, migrates: bool, places: Callable[[str], Place], tmp_path: Path
) -> None:
    given = places("files").open()
    given.patterns.contribute_patterns("a", [Pattern(f"p{n}", "a", "t", "n") for n in range(1500)])
    given.patterns.link_patterns("p1", "p2")
    interactions = [Interaction(f"u{n % 7}", 3, True, 1.0 * n, id=f"{n}") for n in range(50)]
    fill(given, states=[CollaborationState("ada", 0.9)], interactions=interactions)
    lines = list(dump(given))
    new = content(lines)
    file = tmp_path / "lines"
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    given.close()
    (stored,) = [each for each in tmp_path.iterdir() if each.is_dir()]
    source = f"file:{stored}" if migrates else str(file)
    place = places(kind)
    whole = call(place, source, 0, migrates=migrates)
    assert whole.returncode == 0, whole.stderr
    total = int(whole.stdout.split()[-1])
    before = Store(MemoryKV())
    fill(before, states=[CollaborationState("before")])
    old = content(dump(before))
    seen = set()
    for point in sorted({max(1, total * share // 10) for share in SHARES}):
        restore(place.open(), dump(before), replace=True)
        killed = call(place, source, point, migrates=migrates)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        try:
            there: Content | None = content(dump(place.open()))
        except UnfinishedError:
            assert kind == "redis"
            seen.add("unfinished")
            there = None  # Which needs no leave to be replaced.
        else:
            assert there in (old, new), point
            seen.add("whole")
        if migrates:
            assert run(["store", "migrate", source, place.url, "--yes"]) == 0
        else:
            restore(place.open(), lines, replace=there is not None)
        store = place.open()
        assert content(dump(store)) == new
        assert store.metrics.get_global_stats()["total_interactions"] == 50
    assert kind != "redis" or "unfinished" in seen
