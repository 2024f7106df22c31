"""The README is true: its code runs, its commands exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
README: Final = (ROOT / "README.md").read_text()
PYTHON: Final = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
CONSOLE: Final = re.findall(r"^```console\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("code", [block for block in PYTHON if "def test_" not in block])
def test_a_code_block_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", [block for block in PYTHON if "def test_" in block])
def test_a_test_that_it_shows_passes(code: str, tmp_path: Path) -> None:
    (tmp_path / "test_shown.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_its_eight_lines_are_eight_and_run_again_and_again(tmp_path: Path) -> None:
    assert len([line for line in PYTHON[0].splitlines() if line]) == 8
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", PYTHON[0]], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.stdout == "Retry up to 3 times\n", done.stderr


TOUR: Final = [block for block in CONSOLE if block.startswith("$ empathy-kv")]


def test_its_commands_are_there_and_can_be_run() -> None:
    commands = [line.removeprefix("$ ") for block in CONSOLE if block not in TOUR for line in block.splitlines()]
    assert commands
    for command in commands:
        assert os.access(ROOT / command.split()[0], os.X_OK), command


def alike(shown: str) -> str:
    """Return what a command prints without what is different each time: names of backups, times, sizes."""
    shown = re.sub(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}", "NAME", shown)
    return re.sub(r"\d\.\d kB", "SIZE", re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", shown))


def test_its_tour_of_the_command_line_prints_what_it_shows(tmp_path: Path) -> None:
    steps = [step.partition("\n") for block in TOUR for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    assert len(steps) > 5
    for command, _, shown in steps:
        name, *arguments = shlex.split(command)
        assert name == "empathy-kv"
        done = subprocess.run(
            [sys.executable, "-c", "from empathy_kv.cli import main; main()", *arguments],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name != "EMPATHY_KV_URL"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            timeout=60,
        )
        assert alike(done.stdout) == alike(shown), command


def test_the_commands_that_a_crontab_and_a_service_have_can_be_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    from empathy_kv.cli.app import APP

    monkeypatch.setenv("EMPATHY_KV_BACKUPS", "backups")
    lines = [
        line
        for block in re.findall(r"^```text\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    commands = [command for line in lines for command in re.findall(r"\bempathy-kv ([^&]+)", line)]
    assert len(commands) == 3
    for command in commands:
        called, bound, _ = APP.parse_args(shlex.split(command), exit_on_error=False, print_error=False)
        assert called.__module__ == "empathy_kv.cli.backups"
        assert bound.arguments


def test_every_class_and_url_that_it_names_exists() -> None:
    import empathy_kv

    for name in re.findall(
        r"`([A-Z]\w+Error|OutcomeUnknown|PatternPersistence|StateManager|MetricsCollector)\b", README
    ):
        assert hasattr(empathy_kv, name), name


def test_the_quickstart_runs_twice_and_shows_what_was_kept(tmp_path: Path) -> None:
    # With this interpreter: that scripts/quickstart makes its own is seen where CI runs on a clean checkout.
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, ROOT / "scripts" / "quickstart.py"],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "TMPDIR": str(tmp_path)},  # It leaves its store there, to be looked at.
        )
        assert done.returncode == 0, done.stderr
        assert "A new process finds 2012 patterns, states of ada, grace, linus" in done.stdout
        assert "Total interactions: 220" in done.stdout
        assert "What to try next:" in done.stdout
