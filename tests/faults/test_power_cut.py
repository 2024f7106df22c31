"""Power cuts as they are: a file system that loses all that it was not asked to keep, while writers work on a store.

What a cut is, and what the writers do, stands in `power`, which runs as a program of its own. It needs root and loop
devices. `EMPATHY_KV_CUTS` is how many cuts are made in all.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from power import FILE_SYSTEMS, UNABLE, find_tool
from scenarios import PROFILE

DURABILITIES: Final = ("fsync", "os")
CUTS: Final = int(os.environ.get("EMPATHY_KV_CUTS") or {"fast": 12, "nightly": 600}.get(PROFILE, 100))


def cut(file_system: str, durability: str, cuts: int, directory: Path) -> list[dict[str, Any]]:
    """Return what was found after each of so many cuts."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a power cut needs Linux and root")
    program = f"mkfs.{file_system.split()[0]}"
    if find_tool(program) is None:
        pytest.skip(f"no {program} here (scripts/test brings it where it can)")
    mount = directory / "mount"
    mount.mkdir()
    found = run(file_system, durability, cuts, mount)
    assert not any(each["unsynced"] for each in found), "what was written at last, and never synced, is there"
    return found


def run(file_system: str, durability: str, cuts: int, directory: Path) -> list[dict[str, Any]]:
    here = Path(__file__).parent
    result = subprocess.run(
        [sys.executable, here / "power.py", file_system, durability, str(cuts), str(secrets.randbits(32)), directory],
        capture_output=True,
        text=True,
        timeout=60 + 20 * cuts,
        check=False,
        env={**os.environ, "PYTHONPATH": str(here.parent.parent)},
    )
    if result.returncode == UNABLE:
        pytest.skip(f"no power can be cut here: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(found) == cuts
    return found


def judge(found: list[dict[str, Any]]) -> None:
    wrong = [f"cut {number}: {what}" for number, each in enumerate(found) for what in each["wrong"]]
    if wrong:
        shown = "\n".join(wrong[:5])
        pytest.fail(f"{len(wrong)} things are wrong after {len(found)} cuts, the first:\n{shown}", pytrace=False)
    assert sum(each["acknowledged"] for each in found) > len(found), "hardly anything was written"
    assert sum(each["found"] for each in found) > 0


@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("file_system", FILE_SYSTEMS)
def test_a_store_outlives_a_power_cut(file_system: str, durability: str, tmp_path: Path) -> None:
    cuts = -(-CUTS // (len(FILE_SYSTEMS) * len(DURABILITIES)))
    judge(cut(file_system, durability, cuts, tmp_path))


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_store_outlives_the_same_without_a_cut(durability: str, ram: Path) -> None:
    """Its writers are killed, no more: what goes wrong here has nothing to do with power."""
    judge(run("kill", durability, -(-CUTS // 6), ram))


def test_a_store_that_does_not_sync_does_not_outlive_one(tmp_path: Path) -> None:
    """So these cuts are cuts, and what they take is seen."""
    found = cut("ext4", "none", 8, tmp_path)
    assert sum(bool(each["wrong"]) for each in found) > 2
