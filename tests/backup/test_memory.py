"""What a backup costs in memory does not depend on how much is in it."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Lines that cannot be compressed to less than half, sixty megabytes of them: four parts.
CHILD = """
import os, sys
from empathy_kv.backup import archive, targets

def lines():
    yield b'{"format":"empathy-kv","version":1}'
    for _ in range(60):
        yield from (os.urandom(49_000).hex().encode() for _ in range(10))
    yield b'{"end":{"patterns":0,"states":0,"users":0,"interactions":0,"sha256":""}}'

def used():
    # Not what `resource` says, which begins with what the parent had.
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) >> 10 for line in file if line.startswith("VmHWM"))

target = targets.opened(sys.argv[1], 60.0)
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
