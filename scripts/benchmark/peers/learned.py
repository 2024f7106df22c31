"""Ways of keeping what agents learn on a disk: patterns, their outcomes, states of users. One call keeps one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import reference
from documents import encode, pattern
from harness import KILL, NOTHING, PACKAGE, PREFIX

from empathy_kv import CollaborationState
from peers import sketch
from peers.disk import LMDB, SQLITE, connect, lmdb_environment, sqlite_checkpoint, sqlite_connection
from peers.shape import Recorder, Recording

KNOWN: Final = 100
"""Patterns that outcomes are recorded of, and users that have a state."""

_state_of = msgspec.json.Decoder(CollaborationState).decode


def _used(counts: Iterable[int]) -> int:
    """Return how many outcomes were recorded, from how often each of the known patterns was used."""
    return sum(counts) - sum(pattern(number).usage_count for number in range(KNOWN))


def _saved(states: Iterable[CollaborationState]) -> int:
    """Return how many states were saved: each counts those before it."""
    return max((state.interaction_count for state in states), default=0)


# This package


def _our_patterns(place: str) -> Recording:
    store = connect(place)
    library = store.patterns
    return Recording(library.contribute_pattern, lambda: len(library.patterns), store.close, store.checkpoint)


def _our_outcomes(place: str) -> Recording:
    store = connect(place)
    library = store.patterns
    library.contribute_patterns("agent", map(pattern, range(KNOWN)))

    def count() -> int:
        return _used(each.usage_count for each in library.patterns.values())

    return Recording(library.record_pattern_outcome, count, store.close, store.checkpoint)


def _our_states(place: str) -> Recording:
    store = connect(place)
    states = store.states
    return Recording(
        states.save_state, lambda: _saved(map(states.load_state, states.list_users())), store.close, store.checkpoint
    )


# How the system does it that this package takes the place of


def _patterns_by_call(place: str) -> Recording:
    table = reference.PatternTable(Path(place))

    def count() -> int:
        with table.connection() as connection:
            return _count(connection)

    return Recording(table.contribute, count, lambda: None)


def _outcomes_by_call(place: str) -> Recording:
    table = reference.PatternTable(Path(place))
    with table.connection() as connection:
        _put_known(connection)

    def count() -> int:
        with table.connection() as connection:
            return _usage(connection)

    return Recording(table.outcome, count, lambda: None)


def _states_in_files(place: str) -> Recording:
    files = reference.Files(Path(place))

    def save(user_id: str, state: CollaborationState) -> None:
        files.save(user_id, msgspec.to_builtins(state))

    def count() -> int:
        return _saved(msgspec.convert(files.load(user_id), CollaborationState) for user_id in files.ids())

    return Recording(save, count, lambda: None)


# By hand


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _count(connection: sqlite3.Connection) -> int:
    count: int = connection.execute("SELECT count(*) FROM patterns").fetchone()[0]
    return count


def _usage(connection: sqlite3.Connection) -> int:
    return _used(count for (count,) in connection.execute("SELECT usage_count FROM patterns"))


def _put_known(connection: sqlite3.Connection) -> None:
    connection.executemany(
        reference.PUT_PATTERN, (reference.pattern_row(pattern(number), _json) for number in range(KNOWN))
    )


def _kept_patterns(place: str) -> Recording:
    connection = sqlite_connection(place, "NORMAL")
    reference.make_pattern_tables(connection)

    def contribute(_: str, made: Any) -> None:
        connection.execute(reference.PUT_PATTERN, reference.pattern_row(made, _json))

    return Recording(contribute, partial(_count, connection), connection.close, partial(sqlite_checkpoint, connection))


def _kept_outcomes(place: str) -> Recording:
    connection = sqlite_connection(place, "NORMAL")
    reference.make_pattern_tables(connection)
    _put_known(connection)

    def outcome(pattern_id: str, success: bool) -> None:
        connection.execute("BEGIN")
        connection.execute(reference.COUNT_OUTCOME, (success, not success, datetime.now(UTC).isoformat(), pattern_id))
        connection.execute(reference.NOTE_OUTCOME, (pattern_id, success))
        connection.execute("COMMIT")

    return Recording(outcome, partial(_usage, connection), connection.close, partial(sqlite_checkpoint, connection))


def _kept_states(place: str) -> Recording:
    connection = sqlite_connection(place, "NORMAL")
    connection.execute("CREATE TABLE states (user_id TEXT PRIMARY KEY, state BLOB NOT NULL)")
    upsert = "INSERT INTO states VALUES (?, ?) ON CONFLICT (user_id) DO UPDATE SET state = excluded.state"

    def save(user_id: str, state: CollaborationState) -> None:
        connection.execute(upsert, (user_id, msgspec.json.encode(state)))

    def count() -> int:
        return _saved(_state_of(data) for (data,) in connection.execute("SELECT state FROM states"))

    return Recording(save, count, connection.close, partial(sqlite_checkpoint, connection))


def _lmdb_states(place: str) -> Recording:
    environment = lmdb_environment(place, sync=False)

    def save(user_id: str, state: CollaborationState) -> None:
        with environment.begin(write=True) as transaction:
            transaction.put(user_id.encode(), msgspec.json.encode(state))

    def count() -> int:
        with environment.begin() as transaction:
            return _saved(_state_of(data) for _, data in transaction.cursor())

    return Recording(save, count, environment.close, partial(environment.sync, True))


def _append(place: str) -> Recording:
    """Append what is given as bytes, the least that keeping it takes."""
    lengths: list[int] = []
    append, close = sketch.appender(place)
    return Recording(lambda _, made: lengths.append(append(encode(made))), lambda: len(lengths), close)


# What is kept


def _made(number: int) -> tuple[Any, ...]:
    return "agent", pattern(number)


def _outcome(number: int) -> tuple[Any, ...]:
    return pattern(number % KNOWN).id, number % 8 != 0


def _state(number: int) -> tuple[Any, ...]:
    user_id = f"user_{number % KNOWN}"
    return user_id, CollaborationState(user_id, trust_level=0.75, current_level=3, interaction_count=number + 1)


CONTRIBUTED: Final = (
    Recorder(PACKAGE, "", _our_patterns, _made, PREFIX),
    Recorder(SQLITE.name, "a kept connection", _kept_patterns, _made, PREFIX),
    Recorder(reference.TABLE, "", _patterns_by_call, _made, PREFIX, role="reference"),
    Recorder("append + msgspec", "", _append, _made, KILL, role="floor"),
)
OUTCOMES: Final = (
    Recorder(PACKAGE, "", _our_outcomes, _outcome, PREFIX),
    Recorder(SQLITE.name, "a kept connection", _kept_outcomes, _outcome, PREFIX),
    Recorder(reference.TABLE, "", _outcomes_by_call, _outcome, PREFIX, role="reference"),
    Recorder("append + msgspec", "", _append, _outcome, KILL, role="floor"),
)
STATES: Final = (
    Recorder(PACKAGE, "", _our_states, _state, PREFIX),
    Recorder(SQLITE.name, "a kept connection", _kept_states, _state, PREFIX),
    Recorder(LMDB.name, "", _lmdb_states, _state, KILL, LMDB.missing),
    Recorder(reference.FILES, "", _states_in_files, _state, NOTHING, role="reference"),
    Recorder("append + msgspec", "", _append, _state, KILL, role="floor"),
)
