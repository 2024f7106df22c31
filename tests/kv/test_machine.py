"""All engines, side by side with a model of plain dicts."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

import fakeredis
import pytest
from engines import ENGINES, Engine, Place
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from empathy_kv.kv.files import FilesKV
from empathy_kv.kv.interface import KV
from empathy_kv.kv.operations import Batch, Name, Reply
from empathy_kv.testing.machine import Opened, machine

SIZES: Final = {"fast": (50, 20), "default": (500, 50), "nightly": (5000, 100)}
"""How many runs in all, and how many steps each."""


THREADS: Final = ("memory", "files", "fakeredis", "redis")
EVENT_LOOPS: Final = tuple(f"{name}, asyncio" for name in THREADS)
CLUSTER: Final = ("memory", "cluster", "cluster, asyncio")


PARTS: Final = 4
"""In how many tests, which can run side by side."""


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: a power cut is not tested here, and fsync would be most of the time."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


class Turns(KV):
    """Two that have the same directory open, as two processes have, and write to it by turns."""

    def __init__(self, path: Path, durability: Literal["fsync", "os"]) -> None:
        super().__init__()
        self._certain = durability == "os"
        self._all = [FilesKV(path, durability=durability) for _ in range(2)]
        self._next = itertools.cycle([self._all[i] for i in (0, 1, 1, 0, 0, 0, 1)]).__next__

    def execute(self, batch: Batch) -> list[Reply]:
        return self._next().execute(batch)

    def keys(self, namespace: Name) -> Iterator[str]:
        return self._next().keys(namespace)

    def checkpoint(self) -> None:
        self._next().checkpoint()

    def close(self) -> None:
        for kv in self._all:
            kv.close()


def run(engines: Mapping[str, Callable[[], Opened]], share: int) -> None:
    """Run a share of the examples."""
    examples, steps = SIZES[os.environ.get("EMPATHY_KV_PROFILE") or "default"]
    run_state_machine_as_test(
        machine(engines),
        settings=settings(
            max_examples=examples // share,
            stateful_step_count=steps,
            deadline=None,
            # Not `explain`, which would run a failure with all its pauses hundreds of times more.
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.parametrize(
    ("names", "part"),
    [
        pytest.param(THREADS, 0, id="threads-0"),
        pytest.param(THREADS, 1, id="threads-1"),
        # In an event loop and on a Cluster the engines are the same behind another driver.
        pytest.param(EVENT_LOOPS, 0, id="asyncio"),
        pytest.param(CLUSTER, 0, id="cluster"),
    ],
)
def test_all_engines_agree_with_the_model(
    names: tuple[str, ...], part: int, request: pytest.FixtureRequest, directory: Path
) -> None:
    server = "redis_cluster" if names is CLUSTER else "redis_server"
    url = request.getfixturevalue(server).url
    numbers = itertools.count()

    def opened(engine: Engine) -> Callable[[], Opened]:
        def fresh() -> Opened:
            path = directory / str(next(numbers))
            place = Place(path, url, fakeredis.FakeRedis(server=fakeredis.FakeServer()))
            return Opened(
                lambda: engine.open(place),
                reopens=engine.reopens,
                clear=lambda: shutil.rmtree(path, ignore_errors=True),
            )

        return fresh

    run({name: opened(ENGINES[name]) for name in names}, PARTS)


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_two_that_write_to_a_directory_by_turns_agree_with_the_model(
    durability: Literal["fsync", "os"], directory: Path
) -> None:
    numbers = itertools.count()

    def fresh() -> Opened:
        path = directory / str(next(numbers))
        return Opened(
            lambda: Turns(path, durability), reopens=True, clear=lambda: shutil.rmtree(path, ignore_errors=True)
        )

    run({"by turns": fresh}, 2 * PARTS)
