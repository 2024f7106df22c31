"""Collaboration states in the table `states`: a row a user."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from empathy_kv.codec import codec, parse
from empathy_kv.errors import CodecError
from empathy_kv.kv.interface import Steps
from empathy_kv.kv.operations import Check
from empathy_kv.kv.table import refused
from empathy_kv.records import CollaborationState
from empathy_kv.sql.database import Replies, Row, Statement, Transaction
from empathy_kv.sql.schema import STATES, timestamp
from empathy_kv.states import encoded

_CODEC: Final = codec(CollaborationState)
_COLUMNS: Final = (
    *("user_id", "trust_level", "current_level", "target_level"),
    *("interaction_count", "success_count", "failure_count", "last_interaction", "created_at"),
)
_TIMES: Final = ("last_interaction", "created_at")
_LIST: Final = ", ".join(_COLUMNS)

_VERSION: Final = "SELECT version FROM states WHERE user_id = ?"
SELECT: Final = f"SELECT {_LIST}, version, extra FROM states"
_SELECT: Final = f"{SELECT} WHERE user_id = ?"
NUMBER: Final = "INSERT INTO state_versions (user_id) VALUES (?)"
INSERT: Final = f"INSERT INTO states ({_LIST}, extra, version) VALUES ({', '.join('?' * (len(_COLUMNS) + 2))})"
"""Takes what `as_row` returns, and a version."""
_SAVE: Final = f"""INSERT INTO states ({_LIST}, extra, version)
VALUES ({", ".join("?" * (len(_COLUMNS) + 1))}, last_insert_rowid())
ON CONFLICT (user_id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[1:])},
    extra = excluded.extra, version = excluded.version, updated_at = CURRENT_TIMESTAMP"""
_FORGET: Final = "DELETE FROM state_versions WHERE user_id = ?"
_USERS: Final = "SELECT user_id FROM states"
_DELETE: Final = "DELETE FROM states WHERE user_id = ?"


class SQLStates:
    """States in the table `states`."""

    def save(self, state: CollaborationState, expected_version: int | None) -> Steps[int]:
        user = state.user_id
        row = as_row(state)

        def then(replies: Replies) -> Generator[Sequence[Statement], Replies, None]:
            actual = replies[0][0][0] if replies[0] else 0
            if expected_version is not None and actual != expected_version:
                raise refused(Check(user, expected_version), actual, "state of")
            yield (NUMBER, (user,)), (_SAVE, row), (_FORGET, (user,)), (_VERSION, (user,))

        replies = yield Transaction(STATES, ((_VERSION, (user,)),), then, lock=f"state {user}")
        return replies[-1][0][0]  # type: ignore[no-any-return]

    def load(self, user_id: str) -> Steps[CollaborationState | None]:
        found = yield from self.load_versioned(user_id)
        return None if found is None else found[0]

    def load_versioned(self, user_id: str) -> Steps[tuple[CollaborationState, int] | None]:
        (rows,) = yield Transaction(STATES, ((_SELECT, (user_id,)),))
        return read(rows[0]) if rows else None

    def users(self) -> Steps[list[str]]:
        (rows,) = yield Transaction(STATES, ((_USERS, ()),))
        for (user,) in rows:
            if type(user) is not str:
                raise CodecError("expected str @ $.states.user_id", path="$.states.user_id")
        return [user for (user,) in rows]

    def delete(self, user_id: str) -> Steps[bool]:
        replies = yield Transaction(STATES, ((_VERSION, (user_id,)), (_DELETE, (user_id,))), lock=f"state {user_id}")
        return bool(replies[0])


def as_row(state: CollaborationState) -> Row:
    """Return a state as the values of its columns, and last the fields without one."""
    document = parse(encoded(state))
    for column in _TIMES:
        value: datetime | None = getattr(state, column)
        document[column] = None if value is None else timestamp(value)
    row = tuple(document.pop(column) for column in _COLUMNS)
    return *row, msgspec.json.encode(document).decode() if document else None


def read(row: Row) -> tuple[CollaborationState, int]:
    """Return the state of a row of `SELECT`, and its version; `CodecError` if it is none."""
    *values, version, extra = row
    place = f"$.states[{row[0]!r}]"
    document: dict[str, Any] = {
        column: value.isoformat() if type(value) is datetime else value
        for column, value in zip(_COLUMNS, values, strict=True)
        if value is not None
    }
    unknown = {}
    if extra is not None and (type(extra) is not str or type(unknown := parse(extra.encode())) is not dict):
        raise CodecError(f"expected object @ {place}.extra", path=f"{place}.extra")
    if type(version) is not int:
        raise CodecError(f"expected int @ {place}.version", path=f"{place}.version")
    return _CODEC.structure({**unknown, **document}, place), version
