"""Another process makes a checkpoint in the middle of a write, at any of its calls: nobody loses or counts twice."""

from __future__ import annotations

import os
import select
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from calls import meanwhile_at
from forks import Forks
from scenarios import NAMESPACE, Scenario
from stage import Say, Stage, changes, watched

from empathy_kv.kv.files import FilesKV

CASES = [(name, durability) for name in ("set", "batch", "counter", "timeline") for durability in ("fsync", "os")]
CASES.append(("unsigned", "os"))


class Other:
    """Another process that makes a checkpoint: as far as it gets without the lock, and on when it is told to."""

    def __init__(self, place: Path, durability: Any) -> None:
        self._place = place
        self._durability = durability
        self._go = -1

    def begin(self) -> None:
        """Begin, and return when it is done or waits for the lock."""
        heard, tell = os.pipe()
        waiting, self._go = os.pipe()
        if os.fork() == 0:
            os.close(self._go)
            self._work(tell, waiting)
        os.close(tell)
        os.close(waiting)
        select.select([heard], [], [])

    def _work(self, tell: int, waiting: int) -> NoReturn:
        sleep = time.sleep

        def pause(seconds: Any) -> None:
            os.write(tell, b".")
            os.read(waiting, 1)  # Nothing comes, but the end of it.
            sleep(seconds)

        time.sleep = pause
        try:
            kv = FilesKV(self._place / "store", durability=self._durability)
            kv.namespace(*NAMESPACE).get("v1")
            kv.checkpoint()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the status tells
            traceback.print_exc()
            os._exit(1)

    def end(self) -> int:
        """Let it go on, and return its exit status."""
        os.close(self._go)
        return os.waitstatus_to_exitcode(os.wait()[1])


def interleave(say: Say, scenario: Scenario, place: Path, durability: str, number: int) -> None:
    """Take the steps, with a checkpoint of another process before the call. Say what is read while that waits.

    That is: after how many steps, what, and how the other ended then; and what is read at last.
    """
    other = Other(place, durability)
    fault = meanwhile_at(number, other.begin)
    with watched(scenario, place, durability, fault) as (home, _):
        for token, step in enumerate(scenario.steps):
            met = bool(fault.met)
            home.take(step, token)
            if fault.met and not met:
                amid = home.read()
                say((token + 1, amid, other.end()))
    say(home.read())


@pytest.mark.parametrize(("name", "durability"), CASES)
def test_a_checkpoint_of_another_process_at_any_call_of_a_write_changes_nothing(
    forks: Forks, staged: Callable[[str, str], Stage], name: str, durability: str
) -> None:
    stage = staged(name, durability)
    wrong = []
    for call in stage.calls:
        ended = forks.run(interleave, stage.scenario, stage.new(), durability, call.number)
        found = stage.inspected()
        if ended.status != 0 or found.status != 0:
            wrong.append(f"{call}: {ended.error}{found.error}")
            continue
        (taken, amid, status), last = ended.said
        if status != 0:
            wrong.append(f"{call}: the checkpoint failed")
        for who, state, expected in (
            ("the writer", amid, stage.states[taken]),
            ("the writer at last", last, stage.states[-1]),
            ("a fresh process", found.said[0].state, stage.states[-1]),
        ):
            if state != expected:
                wrong.append(f"{call}: {who} sees {changes(state, expected)}, which is wrong")
    assert wrong == []
