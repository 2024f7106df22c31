"""Backups at times of the day, in the foreground, for where there is no cron: `run`.

APScheduler keeps the times, in a thread of its own, and does no more than say that it is time. The work is done in the
main thread, where a signal can end it wherever it is.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time as clock
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import time
from types import FrameType
from typing import Any, Final, TypeAlias

from empathy_kv.backup.backups import Backups
from empathy_kv.backup.retention import Keep
from empathy_kv.errors import ArgumentError, UnsupportedError
from empathy_kv.store import Store

_LOG: Final = logging.getLogger("empathy_kv.backup")


class _Stop(BaseException):
    """A signal said that it is enough."""


Opens: TypeAlias = Callable[[], AbstractContextManager[Store]]


def run(backups: Backups, opens: Opens, at: Sequence[time], keep: Keep | None = None) -> None:
    """Back up the store that a call opens each day at some times (of this machine's zone), until SIGTERM or SIGINT.

    To be called in the main thread. How it went is logged as `empathy_kv.backup`, a line a run: INFO, or ERROR for one
    that failed, which does not keep the next from being made. With `keep`, each is followed by `Backups.prune`. A time
    at which the machine slept, or the run before was still going on, is made up for as soon as that is over: once,
    however many they were. A backup that is cut short by a signal is not listed. `UnsupportedError` if APScheduler is
    not installed.
    """
    if not at:
        raise ArgumentError("at must have a time of the day", argument="at")
    due = threading.Event()
    scheduler = _scheduler()
    for each in at:
        scheduler.add_job(due.set, "cron", hour=each.hour, minute=each.minute, second=each.second)
    # It waits by a clock that may stand still while the machine sleeps. Looking up now and then, it is late by little.
    scheduler.add_job(_nothing, "interval", minutes=1)
    with contextlib.suppress(_Stop), _signals():
        _LOG.info("backups to %r each day at %s", backups, ", ".join(each.isoformat("auto") for each in sorted(at)))
        scheduler.start()
        try:
            while True:
                due.wait()
                due.clear()
                _once(backups, opens, keep)
        finally:
            scheduler.shutdown()


def _nothing() -> None:
    """Do nothing."""


def _once(backups: Backups, opens: Opens, keep: Keep | None) -> None:
    begun = clock.monotonic()
    done = "no backup"
    try:
        with opens() as store:
            made = backups.create(store)
        counts = made.counts
        done = (
            f"backup {made.name} to {backups!r}: {counts.patterns} patterns, {counts.states} states, "
            f"{counts.interactions} interactions, {made.size} bytes in {clock.monotonic() - begun:.1f} s"
        )
        if keep is not None:
            done += f"; {len(backups.prune(keep).removed)} removed"
    except Exception as error:  # noqa: BLE001 - whatever it is, there is a next time
        _LOG.error("%s, then: %s", done, " ".join(str(error).split()) or type(error).__name__)
    else:
        _LOG.info("%s", done)


def _scheduler() -> Any:
    try:
        from apscheduler.schedulers.background import BackgroundScheduler
    except ImportError as error:
        raise UnsupportedError(
            "a schedule needs APScheduler, which is not installed here; "
            "pip install 'APScheduler<4' brings it, as the extra backup does"
        ) from error
    return BackgroundScheduler(job_defaults={"coalesce": True, "misfire_grace_time": None})


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signals call
        raise _Stop

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
