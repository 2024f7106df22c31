"""Jobs about what agents write to files as they learn: a pattern, its outcome, the state of a user."""

from __future__ import annotations

from functools import partial

from counting import counted_turns, counting_row
from harness import Job
from peers import learned
from storing import on_disk


def jobs(rounds: int, turn: int) -> list[Job]:
    """Return the jobs, in which one of each is written at a time."""
    return [
        Job(
            name,
            title,
            "us",
            rounds,
            [counting_row(each, on_disk, partial(counted_turns, each, turn)) for each in recorders],
        )
        for name, title, recorders in (
            ("contribute", "contribute_pattern, a new one", learned.CONTRIBUTED),
            ("outcome", f"record_pattern_outcome, of {learned.KNOWN} patterns", learned.OUTCOMES),
            ("state", f"save_state, of {learned.KNOWN} users", learned.STATES),
        )
    ]
