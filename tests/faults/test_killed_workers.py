"""Many processes that count together and are killed all the while: what was acknowledged is counted, and once."""

from __future__ import annotations

import os
import random
import selectors
import signal
import struct
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NoReturn

import pytest
from attrs import Factory, define
from forks import Forks
from stage import Say

from empathy_kv.kv.files import FilesKV, directory
from empathy_kv.kv.operations import Get, HGet, HGetAll, HIncrBy, IncrBy

WORKERS: Final = 8
TIMES: Final = 1000
PAUSE: Final = 0.1
"""Seconds between two kills."""
RUNS, READS = 3, 34_000

_NUMBER: Final = struct.Struct("<q")


@define
class Member:
    """A process of the crowd. When it is killed, another one begins where it stood."""

    work: Callable[[FilesKV, Callable[[int], None], int], None]
    left: int = 0
    process: int = 0
    pipe: int = -1
    said: list[int] = Factory(list)


def count(kv: FilesKV, say: Callable[[int], None], times: int) -> None:
    """Increment three counters together, and say what they are after each time."""
    for _ in range(times):
        a, b, h = kv.namespace("counters").execute(IncrBy("a"), IncrBy("b"), HIncrBy("h", {"count": 1}))
        assert a == b == h["count"], (a, b, h)
        say(a)


def watch(kv: FilesKV, say: Callable[[int], None], _: int) -> None:
    """Read the counters until the end, and say after every hundred times how many that were."""
    counters, last = kv.namespace("counters"), 0
    while True:
        for _ in range(100):
            a, b, h = counters.execute(Get("a"), Get("b"), HGetAll("h"))
            assert a == b == h.get("count"), (a, b, h)
            now = int(a or b"0")
            assert now >= last, (now, last)
            last = now
        assert set(counters.keys()) == ({"a", "b", "h"} if last else set())
        say(100)


def compact(kv: FilesKV, say: Callable[[int], None], _: int) -> None:
    """Make checkpoints until the end."""
    while True:
        kv.namespace("counters").get("a")
        kv.checkpoint()
        say(0)
        time.sleep(0.02)


class Crowd:
    """Processes that work on one store, and the pipes on which they speak."""

    def __init__(self, place: Path, durability: Literal["fsync", "os"]) -> None:
        self._place = place
        self._durability = durability
        self._pipes = selectors.DefaultSelector()
        self.workers = [Member(count, TIMES) for _ in range(WORKERS)]
        self.others = [Member(watch), Member(compact)]

    def begin(self, member: Member) -> None:
        """Let a process work for this member."""
        member.pipe, tell = os.pipe()
        member.process = os.fork()
        if member.process == 0:
            self._live(member, tell)
        os.close(tell)
        self._pipes.register(member.pipe, selectors.EVENT_READ, member)

    def _live(self, member: Member, tell: int) -> NoReturn:
        parent = os.getppid()

        def say(number: int) -> None:
            os.write(tell, _NUMBER.pack(number))
            if os.getppid() != parent:  # Whoever would kill us is gone.
                os._exit(0)

        assert isinstance(directory.GROWN, int)
        directory.GROWN = 1 << 14  # type: ignore[misc]  # So that each of them makes checkpoints in the background.
        try:
            with FilesKV(self._place, durability=self._durability, timeout=30.0) as kv:
                member.work(kv, say, member.left)
        except BaseException:  # noqa: BLE001 - whatever it is, the crowd fails
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def listen(self, seconds: float) -> None:
        """Take what they say, for so long."""
        deadline = time.monotonic() + seconds
        while (rest := deadline - time.monotonic()) > 0:
            for key, _ in self._pipes.select(rest):
                self._hear(key.data)

    def kill(self, member: Member) -> None:
        """Kill the process of this member, and take what it had said."""
        os.kill(member.process, signal.SIGKILL)
        while member.process:
            self._hear(member)

    def _hear(self, member: Member) -> None:
        data = os.read(member.pipe, 1 << 16)
        said = [number for (number,) in _NUMBER.iter_unpack(data)]
        member.said += said
        member.left -= len(said)
        if not data:
            self._pipes.unregister(member.pipe)
            os.close(member.pipe)
            status = os.waitstatus_to_exitcode(os.waitpid(member.process, 0)[1])
            assert status in (0, -signal.SIGKILL), f"{member.work.__name__} ended with status {status}"
            member.process = 0


def labour(say: Say, place: Path, durability: Literal["fsync", "os"], seed: int) -> None:
    """Let a crowd work until everyone is done and enough was read, killing one every `PAUSE`. Say what came of it."""
    crowd, chance, killed = Crowd(place, durability), random.Random(seed), []
    reader, compactor = crowd.others
    crowd.begin(reader)
    while sum(reader.said) < READS or any(worker.left for worker in crowd.workers):
        if not any(worker.left for worker in crowd.workers):
            for worker in crowd.workers:  # There are reads to be made, and something must happen meanwhile.
                worker.left = TIMES
        for member in (*crowd.workers, compactor):
            if not member.process and (member.left or member is compactor):
                crowd.begin(member)
        crowd.listen(PAUSE)
        victims = [member for member in (*crowd.workers, compactor) if member.process]
        victim = chance.choice(victims)
        crowd.kill(victim)
        killed.append(victim.work.__name__)
    for member in (*crowd.workers, *crowd.others):
        if member.process:
            crowd.kill(member)
    with FilesKV(place) as kv:
        counters = kv.namespace("counters").execute(Get("a"), Get("b"), HGet("h", "count"))
    say((killed, sum(reader.said), [worker.said for worker in crowd.workers], [int(value) for value in counters]))


@pytest.mark.parametrize("run", range(RUNS))
def test_what_killed_workers_had_acknowledged_is_counted_and_once(forks: Forks, memory: Path, run: int) -> None:
    place = memory / f"crowd-{run}"
    ended = forks.run(labour, place, "fsync", run, seconds=300)
    assert (ended.status, ended.error) == (0, "")
    ((killed, reads, said, (a, b, h)),) = ended.said
    acknowledged = [number for numbers in said for number in numbers]
    print(f"{len(acknowledged)} acknowledged, {a - len(acknowledged)} more, {len(killed)} kills, {reads} reads")
    assert a == b == h
    assert all(len(numbers) >= TIMES for numbers in said)
    assert len(set(acknowledged)) == len(acknowledged)
    assert len(acknowledged) <= a <= len(acknowledged) + killed.count("count")
    assert len(killed) > 3
    assert reads >= READS
