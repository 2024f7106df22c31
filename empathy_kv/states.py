"""Collaboration states: one trust record a user (`StateRules`), sans-I/O.

Where they are kept is a form of `States`. In a store it is the namespace `states`, which holds a value a user: the
state as JSON. Its key is the user's id (`KVStates`). In a database it is a table (`sql.states`).
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Final, Protocol

from attrs import evolve

from empathy_kv.codec import codec
from empathy_kv.errors import ArgumentError, ArgumentTypeError, CheckError, CodecError, StateNotFoundError
from empathy_kv.kv.interface import KV, Keys, Steps, method, run
from empathy_kv.kv.operations import Batch, Check, Delete, Get, Set, Version, boolean, integer, text
from empathy_kv.kv.table import refused
from empathy_kv.paths import destination
from empathy_kv.records import MAX_ID, CollaborationState

if TYPE_CHECKING:
    from empathy_kv.sql.database import Database

NAMESPACE: Final = ("states",)
_CODEC: Final = codec(CollaborationState)


class States(Protocol):
    """Where states are kept. A form for an engine yields what that engine executes."""

    def save(self, state: CollaborationState, expected_version: int | None) -> Steps[int]:
        """Store a state under its user's id, and return its version; `CheckError` if that before is not as expected."""

    def load(self, user_id: str) -> Steps[CollaborationState | None]:
        """Return a user's state, None if there is none."""

    def load_versioned(self, user_id: str) -> Steps[tuple[CollaborationState, int] | None]:
        """Return a user's state and its version, None if there is none."""

    def users(self) -> Steps[list[str]]:
        """Return the ids of all users with a state, in no particular order."""

    def delete(self, user_id: str) -> Steps[bool]:
        """Delete a user's state and return whether there was one."""


class KVStates:
    """States in a namespace of a store."""

    def save(self, state: CollaborationState, expected_version: int | None) -> Steps[int]:
        write = Set(state.user_id, encoded(state))
        if expected_version is None:
            replies = yield Batch.of(NAMESPACE, write)
        else:
            check = Check(state.user_id, expected_version)
            try:
                replies = yield Batch(NAMESPACE, (write,), (check,))
            except CheckError as error:
                raise refused(check, error.actual, "state of") from error
        version: int = replies[0]
        return version

    def load(self, user_id: str) -> Steps[CollaborationState | None]:
        (document,) = yield Batch.of(NAMESPACE, Get(user_id))
        return None if document is None else read(user_id, document)

    def load_versioned(self, user_id: str) -> Steps[tuple[CollaborationState, int] | None]:
        document, version = yield Batch(NAMESPACE, (Get(user_id), Version(user_id)))
        return None if document is None else (read(user_id, document), version)

    def users(self) -> Steps[list[str]]:
        users: list[str] = yield Keys(NAMESPACE)
        return users

    def delete(self, user_id: str) -> Steps[bool]:
        replies = yield Batch.of(NAMESPACE, Delete(user_id))
        deleted: bool = replies[0]
        return deleted


def encoded(state: CollaborationState) -> bytes:
    """Return a state as it is stored; `CodecError`, which names its user, if it cannot be."""
    try:
        return _CODEC.encode(state)
    except CodecError as error:
        raise CodecError(f"state of {state.user_id!r}: {error}", path=error.path, argument="state") from error


def read(user_id: str, document: bytes) -> CollaborationState:
    """Return the state of a user as it is stored in a namespace; `CodecError` if it is none."""
    try:
        state: CollaborationState = _CODEC.decode(document)
    except CodecError as error:
        raise CodecError(f"state of {user_id!r} as it is stored: {error}", path=error.path) from error
    state.user_id = user_id  # A document of empathy-framework may lack it.
    return state


class StateRules:
    """What a manager of states does, whoever runs it: every method is a generator of steps."""

    def __init__(self, states: States | None = None) -> None:
        self._states: States = KVStates() if states is None else states

    def save_state(self, user_id: str, state: CollaborationState, *, expected_version: int | None = None) -> Steps[int]:
        """Store a user's state in the place of the one before, and return its version.

        It is stored under `user_id`, and says so, whatever `state.user_id` is. With `expected_version` only if the
        stored one has that version (0: if there is none), else `CheckError` and nothing is changed.
        """
        user_id = text(user_id, "user_id", MAX_ID)
        if not isinstance(state, CollaborationState):
            raise ArgumentTypeError(f"state must be a CollaborationState, not {type(state).__name__}", argument="state")
        if expected_version is not None:
            integer(expected_version, "expected_version", 0)
        state = state if state.user_id == user_id else evolve(state, user_id=user_id)
        version = yield from self._states.save(state, expected_version)
        return version

    def load_state(self, user_id: str) -> Steps[CollaborationState]:
        """Return a user's state. `StateNotFoundError` (a FileNotFoundError and a KeyError) if none was saved."""
        user_id = text(user_id, "user_id", MAX_ID)
        state = yield from self._states.load(user_id)
        if state is None:
            raise _missing(user_id)
        return state

    def load_versioned(self, user_id: str) -> Steps[tuple[CollaborationState, int]]:
        """Return a user's state and its version, for `save_state(..., expected_version=)`."""
        user_id = text(user_id, "user_id", MAX_ID)
        found = yield from self._states.load_versioned(user_id)
        if found is None:
            raise _missing(user_id)
        return found

    def record(self, user_id: str, success: bool) -> Steps[CollaborationState]:
        """Record an interaction in a user's state, as `CollaborationState.record` does, and return what it is now.

        Of those who do so at the same moment, each counts. `StateNotFoundError` if none was saved.
        """
        boolean(success, "success")
        while True:
            state, version = yield from self.load_versioned(user_id)
            state.record(success)
            try:
                yield from self.save_state(user_id, state, expected_version=version)
            except CheckError:
                continue  # Somebody saved it meanwhile.
            return state

    def list_users(self) -> Steps[list[str]]:
        """Return the ids of all users with a state, sorted."""
        users = yield from self._states.users()
        return sorted(users)

    def delete_state(self, user_id: str) -> Steps[bool]:
        """Delete a user's state and return whether there was one; deleting twice is no error."""
        user_id = text(user_id, "user_id", MAX_ID)
        deleted = yield from self._states.delete(user_id)
        return deleted


def _missing(user_id: str) -> StateNotFoundError:
    return StateNotFoundError(f"no state was saved for the user {user_id!r}", user_id=user_id)


class StateManager:
    """Collaboration states of users: saved, loaded, listed, deleted.

    `StateManager(state_dir=...)` keeps a directory of `<user>.json` files in the documented form, and reads those of
    empathy-framework too; the directory is made by the first save. `store.states` is the same on a store.
    """

    def __init__(self, state_dir: str | os.PathLike[str] | None = None, *, kv: KV | Database | None = None) -> None:
        if (state_dir is None) == (kv is None):
            raise ArgumentError("give either state_dir or kv", argument="state_dir")
        if kv is None:
            from empathy_kv.kv.files.flat import FlatDirectory

            kv = FlatDirectory(destination(state_dir, "state_dir"), NAMESPACE)
        if isinstance(kv, KV):
            self._rules = StateRules()
        else:
            from empathy_kv.sql.states import SQLStates

            self._rules = StateRules(SQLStates())
        self._run = functools.partial(run, kv)
        self._kv = kv

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._kv!r})"

    save_state = method(StateRules.save_state)
    load_state = method(StateRules.load_state)
    load_versioned = method(StateRules.load_versioned)
    record = method(StateRules.record)
    list_users = method(StateRules.list_users)
    delete_state = method(StateRules.delete_state)
