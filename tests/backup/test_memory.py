"""What a backup costs in memory does not depend on how much is in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NIGHTLY = os.environ.get("EMPATHY_KV_PROFILE") == "nightly"

# Lines that cannot be compressed to less than half, sixty megabytes of them: four parts.
CHILD = """
import os, sys
from empathy_kv.backup import archive, urls

def lines():
    yield b'{"format":"empathy-kv","version":1}'
    for _ in range(60):
        yield from (os.urandom(49_000).hex().encode() for _ in range(10))
    yield b'{"end":{"patterns":0,"states":0,"users":0,"interactions":0,"sha256":""}}'

def used():
    # Not what `resource` says, which begins with what the parent had.
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) >> 10 for line in file if line.startswith("VmHWM"))

target = urls.opened(sys.argv[1], 60.0)
archive.listed(target)
before = used()
made = archive.write(target, lines())
written = used()
read = sum(map(len, archive.lines(target, made)))
assert [problem for problem in archive.problems(target, made) if problem] == []
print(len(made.parts), read, written - before, used() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells how much memory a process had at most")
@pytest.mark.parametrize("kind", ["directory", "gs"])
def test_writing_and_reading_holds_a_part_at_a_time(url: str) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, url], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    parts, read, writing, reading = map(int, done.stdout.split())
    assert parts >= 4
    assert read > 58_000_000
    assert writing + reading > 8  # A part is held.
    assert writing < 48, f"writing took {writing} MiB"
    assert reading < 48, f"reading took {reading} MiB"


# A store of few users with long histories, which is what takes most, made of lines; then what backing it up takes, and
# restoring it elsewhere.
STORE = """
import sys
from empathy_kv import Backups, Pattern, CollaborationState, connect
from empathy_kv.codec import codec
from empathy_kv.totals import Totals, moment
from empathy_kv.snapshot import restore, stream
from empathy_kv.snapshot_lines import pattern_line, state_line, tally, user_lines

def used():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) >> 10 for line in file if line.startswith("VmHWM"))

def lines(patterns, states, users, each):
    for number in range(patterns):
        pattern = Pattern(f"p{number}", "agent", "suggestion", "Retry", "What it is for. " * 20, {"task": "api"})
        yield pattern_line(codec(Pattern).encode(pattern), "agent", [f"p{number - 1}"] if number % 10 == 9 else [])
    for number in range(states):
        yield state_line(codec(CollaborationState).encode(CollaborationState(f"u{number}", 0.5)))
    for number in range(users):
        items = [(10**15 + 10**6 * n, 3, n % 7 > 0, n % 997 / 7, f"request-{number}-{n}") for n in range(each)]
        totals = Totals(first=moment(items[0][0]), last=moment(items[-1][0]))
        tally(totals, items)
        yield from user_lines(f"u{number}", totals, items, ())

verb, url, target, *sizes = sys.argv[1:]
with connect(url, durability="os") as store, Backups(target) as backups:
    before = used()
    if verb == "fill":
        restore(store, stream(lines(*map(int, sizes))))
    elif verb == "create":
        backups.create(store)
    else:
        backups.restore(None, store)
    print(used() - before, used())
"""

SIZES = {"small": (200, 100, 40, 4_000), "one": (200, 100, 1, 200_000), "whole": (100_000, 10_000, 100, 10_000)}
"""Patterns, states, users, interactions of each."""
LIMIT = 200
"""Megabytes that a process may take, whatever is in the store."""
MOST = {"small": 70, "one": 100, "whole": 150}
"""Megabytes beside what it takes to begin with: ids and links are held, and by the child what it makes."""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells how much memory a process had at most")
@pytest.mark.parametrize("size", [*SIZES] if NIGHTLY else ["small"])
@pytest.mark.parametrize("place", ["files", "redis", "sqlite", "postgresql"] if NIGHTLY else ["files"])
def test_what_is_held_does_not_depend_on_what_is_in_the_store(
    place: str, size: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    urls = {"files": f"file:{tmp_path}/store", "sqlite": f"sqlite:///{tmp_path}/store.db"}
    if place in urls:
        url, other = urls[place], f"{urls[place]}-copy"
    elif place == "redis":
        url = other = request.getfixturevalue("redis_server").url
    else:
        url, other = (request.getfixturevalue("postgres_server").schema() for _ in range(2))
    taken = {}
    for verb, where in (("fill", url), ("create", url), ("restore", other)):
        if place == "redis" and verb != "create":
            request.getfixturevalue("redis_server").flush()
        done = subprocess.run(
            [sys.executable, "-c", STORE, verb, where, tmp_path / "backups", *map(str, SIZES[size])],
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        beside, whole = map(int, done.stdout.split())
        taken[verb] = beside
        assert whole < LIMIT, f"{verb} took {whole} MiB"
    assert all(beside < MOST[size] for beside in taken.values()), taken
