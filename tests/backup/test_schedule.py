"""The clock of `backup run`. What it does when it is time stands in tests/cli/test_backup_command.py."""

from __future__ import annotations

import sys
import threading
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest

from empathy_kv import ArgumentError, Backups, Store, connect
from empathy_kv.backup import schedule
from empathy_kv.errors import UnsupportedError


def memory() -> Store:
    return connect("memory:")


def test_times_that_were_slept_through_are_made_up_for_once() -> None:
    scheduler = schedule._scheduler()
    ran: list[str] = []
    late, done = datetime.now(UTC) - timedelta(hours=5), threading.Event()
    scheduler.add_job(ran.append, "interval", hours=1, args=["slept"], next_run_time=late)
    scheduler.add_job(done.set, "date", run_date=datetime.now(UTC) + timedelta(seconds=0.5))
    scheduler.start()
    try:
        assert done.wait(60)
    finally:
        scheduler.shutdown()  # It waits for what it began.
    assert ran == ["slept"]


def test_a_schedule_without_a_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError):
        schedule.run(Backups(tmp_path), memory, [])


def test_without_apscheduler_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("apscheduler")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "apscheduler", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'APScheduler<4' brings it, as the extra backup does"):
        schedule.run(Backups(tmp_path), memory, [time(2)])
