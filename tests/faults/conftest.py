"""What the fault tests share: one warm process, and every scenario once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from forks import Forks
from scenarios import PROFILE, SCENARIOS
from stage import Stage


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    with Forks() as warm:
        yield warm


@pytest.fixture(scope="session")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in memory where there is one: thousands of small stores come and go, and no power cut is near."""
    shared = Path("/dev/shm")
    if PROFILE == "nightly" or not os.access(shared, os.W_OK):
        yield tmp_path_factory.mktemp("stages")
        return
    with tempfile.TemporaryDirectory(prefix="empathy-kv-", dir=shared) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def staged(forks: Forks, memory: Path) -> Callable[[str, str], Stage]:
    """Give a scenario, by its name, with a durability; made once for all tests of a process."""
    stages: dict[tuple[str, str], Stage] = {}

    def stage(name: str, durability: str) -> Stage:
        if (name, durability) not in stages:
            scenario = next(item for item in SCENARIOS if item.name == name)
            stages[name, durability] = Stage(forks, memory / f"{name}-{durability}", scenario, durability)
        return stages[name, durability]

    return stage


SHARED_MEMORY: Final = Path("/dev/shm")


@pytest.fixture
def ram(tmp_path: Path) -> Iterator[Path]:
    """An empty directory in memory where there is one: thousands of stores are made in it, and none has to last."""
    if not SHARED_MEMORY.is_dir():
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(dir=SHARED_MEMORY, prefix="empathy-kv-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def for_all(ram: Path) -> Path:
    """An empty directory that every user can reach, which those of pytest are not."""
    if SHARED_MEMORY not in ram.parents:
        pytest.skip(f"there is no {SHARED_MEMORY} here, which other users can reach")
    ram.chmod(0o755)
    return ram
