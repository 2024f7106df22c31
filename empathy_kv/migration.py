"""Moving all that a store holds into another one, of whatever kind: once, exactly, and checked at the end."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from empathy_kv.codec import codec
from empathy_kv.errors import CheckError, StateNotFoundError, UnfinishedError
from empathy_kv.records import CollaborationState
from empathy_kv.snapshot import Content, Counts, Lines, Progress, content, dump, restore, stream
from empathy_kv.snapshot_lines import state_line
from empathy_kv.spool import Spool
from empathy_kv.states import StateManager
from empathy_kv.store import Store

_STATE: Final = codec(CollaborationState)


class Migration:
    """A snapshot that is to be moved into a store. It is read when this is made, and waits in a temporary file.

    Doing it again after an interruption, at whatever point, comes to the same: it says with `found` what is left to do.
    """

    def __init__(self, lines: Iterable[bytes], target: Store, *, progress: Progress | None = None) -> None:
        self._target = target
        self._spool = Spool()
        try:
            for number, line in enumerate(lines, 1):
                self._spool.append(line)
                if progress is not None and number % 1_000 == 0:
                    progress(number, None)
            self.content = content(self._spool, history_limit=target._contents().limit)
            """What the target will hold: of interactions of a user, as many as it keeps one by one."""
        except BaseException:
            self._spool.close()
            raise

    @property
    def counts(self) -> Counts:
        """How much the target will hold."""
        return self.content.counts

    def found(self) -> Content | None:
        """Return what the target holds: None if that is nothing, or a part that an interrupted restore left."""
        try:
            there = content(dump(self._target))
        except UnfinishedError:
            return None
        return None if there.counts == Counts() else there

    def run(self, *, progress: Progress | None = None) -> None:
        """Make the target hold the snapshot, whatever it held, and compare.

        `CheckError` if it does not hold it then, because somebody else wrote to it meanwhile.
        """
        restore(self._target, self._spool, replace=True, progress=progress)
        there = content(dump(self._target))
        if there != self.content:
            raise CheckError(
                f"the store holds {there.counts} now, and not what was moved, {self.counts}: "
                "somebody wrote to it meanwhile; run it again when nobody does",
                key="",
                expected=None,
                actual=0,
            )

    def close(self) -> None:
        """Remove the temporary file."""
        self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def older_lines(directory: Path) -> Lines:
    """Return the snapshot of a directory as the documentation of empathy-framework lays it out, each file as it is.

    `state` in it has the states, `patterns.db` the patterns, `metrics.db` the metrics; one that has none of these has
    the states itself, a file `<user>.json` each.
    """
    return stream(_older(directory))


_PATTERNS: Final = (b'{"pattern"',)
_METRICS: Final = (b'{"metrics"', b'{"ids"', b'{"interactions"')


def _older(directory: Path) -> Lines:
    there = [name for name in ("patterns.db", "state", "metrics.db") if (directory / name).exists()]
    if "patterns.db" in there:
        yield from _of_database(directory / "patterns.db", _PATTERNS)
    if "state" in there or not there:
        yield from _of_states(directory / "state" if there else directory)
    if "metrics.db" in there:
        yield from _of_database(directory / "metrics.db", _METRICS)


def _of_database(path: Path, kinds: tuple[bytes, ...]) -> Lines:
    from empathy_kv.sql.snapshot import SQLContents
    from empathy_kv.sql.sqlite import SQLite

    with SQLite(path) as database:
        for line in SQLContents(database).lines():
            if line.startswith(kinds):
                yield line


def _of_states(directory: Path) -> Lines:
    states = StateManager(state_dir=directory)
    for user_id in states.list_users():
        try:
            state = states.load_state(user_id)
        except StateNotFoundError:
            continue  # It was deleted meanwhile.
        yield state_line(_STATE.encode(state))
