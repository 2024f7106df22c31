"""Every code block of the user's own page runs as it stands, with only the import root renamed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

PAGE: Final = (Path(__file__).parent / "reference" / "persistence.md").read_text()
BLOCKS: Final = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
PYTHON: Final = [text for language, text in BLOCKS if language == "python"]
JSON: Final = [text for language, text in BLOCKS if language == "json"]

LIBRARY: Final = """
from empathy_kv import Pattern, PatternLibrary, PatternPersistence
presupposed = PatternLibrary()
presupposed.contribute_pattern("agent_1", Pattern("pat_1", "agent_1", "suggestion", "Deploy"))
PatternPersistence.save_to_sqlite(presupposed, "patterns.db")
"""
AGENT: Final = """
from empathy_kv import EmpathyOS
empathy = EmpathyOS(user_id="user_123", target_level=4)
"""
METRICS: Final = """
from empathy_kv import MetricsCollector
presupposed = MetricsCollector(db_path="metrics.db")
for level, success in ((2, True), (3, True), (3, False)):
    presupposed.record_interaction("user_123", level, success, 100.0)
presupposed.record_interaction("user_456", 1, True, 300.0)
"""

# By its place on the page: what the block presupposes, what follows it to see what it defined, what it prints.
EXPECTED: Final[list[tuple[str, str, list[str]]]] = [
    ("", "", ["Loaded 0 patterns from JSON", "Loaded 0 patterns from SQLite"]),
    ("", "", ["Restored trust level: 50%", "Restored empathy level: 2", "Users with saved states: ['user_123']"]),
    (
        AGENT,
        "",
        ["Total interactions: 1", "Success rate: 100%", "  Level 2: 1 times", "  Level 3: 0 times", "Total users: 1"],
    ),
    (
        "",
        "",
        ["No existing patterns, starting fresh", "No saved state, starting fresh", "All data persisted successfully"],
    ),
    (LIBRARY, "", ["Migrated 1 patterns"]),
    (
        METRICS,
        "",
        [
            "User: user_123",
            "  Total interactions: 3",
            "  Success rate: 67%",
            "  Avg response time: 100ms",
            "  Current level: 3",
            "  Most used level: Level 3 (2 times)",
            "User: user_456",
            "  Total users: 2",
            "  Total interactions: 4",
            "  Overall success rate: 75%",
        ],
    ),
    ("", "", ["Migrating 0 user states...", "Migration complete!"]),
    (LIBRARY, "schedule.run_all()\n", ["Backup saved: backups/patterns_"]),
    ("", "print(callable(batch_save_patterns))\n", ["True"]),
]


def run(code: str, directory: Path) -> str:
    code = code.replace("empathy_os", "empathy_kv")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=directory, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_has_the_blocks_that_are_expected() -> None:
    assert len(PYTHON) == len(EXPECTED)
    assert len(JSON) == 2


@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_a_code_block_of_the_page_runs_as_it_stands(number: int, tmp_path: Path) -> None:
    before, after, lines = EXPECTED[number]
    printed = run(before + PYTHON[number] + after, tmp_path)
    for line in lines:
        assert line in printed


def test_the_complete_setup_finds_what_it_saved_when_it_runs_again(tmp_path: Path) -> None:
    run(PYTHON[3], tmp_path)
    printed = run(PYTHON[3], tmp_path)
    assert "Loaded 0 existing patterns" in printed
    assert "Restored state: trust=50%, level=2" in printed


def test_the_state_migration_moves_the_states(tmp_path: Path) -> None:
    code = PYTHON[6].replace('"/', f'"{tmp_path}/')
    saved = json.loads(JSON[1])
    old = tmp_path / "old/system/.empathy/state"
    old.mkdir(parents=True)
    (old / "user_123.json").write_text(JSON[1])
    assert "  Migrated user_123: trust=65%, level=3" in run(code, tmp_path)
    assert json.loads((tmp_path / "new/system/.empathy/state/user_123.json").read_text()) == saved


def test_the_pattern_library_of_the_page_is_read_and_written_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "page.json").write_text(JSON[0])
    code = """
from empathy_os.persistence import PatternPersistence
library = PatternPersistence.load_from_json("page.json")
PatternPersistence.save_to_sqlite(library, "page.db")
PatternPersistence.save_to_json(PatternPersistence.load_from_sqlite("page.db"), "again.json")
"""
    run(code, tmp_path)
    page, again = json.loads(JSON[0]), json.loads((tmp_path / "again.json").read_text())
    assert again["patterns"] == page["patterns"]
    assert again["agent_contributions"] == page["agent_contributions"]
    assert again["metadata"].keys() == page["metadata"].keys()
