"""Collaboration states: one trust record a user (`StateRules`), sans-I/O.

The namespace `states` holds a value a user: the state as JSON. Its key is the user's id.
"""

from __future__ import annotations

import functools
import os
from typing import Final

from attrs import evolve

from empathy_kv.codec import codec
from empathy_kv.errors import ArgumentError, ArgumentTypeError, CodecError, StateNotFoundError
from empathy_kv.kv.interface import KV, Keys, Steps, method, run
from empathy_kv.kv.operations import Batch, Check, Delete, Get, Set, Version, integer, text
from empathy_kv.records import MAX_ID, CollaborationState

NAMESPACE: Final = ("states",)
_CODEC: Final = codec(CollaborationState)


class StateRules:
    """What a manager of states does, whoever runs it: every method is a generator of steps."""

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
        document = _CODEC.encode(state if state.user_id == user_id else evolve(state, user_id=user_id))
        checks = () if expected_version is None else (Check(user_id, expected_version),)
        replies = yield Batch(NAMESPACE, (Set(user_id, document),), checks)
        version: int = replies[0]
        return version

    def load_state(self, user_id: str) -> Steps[CollaborationState]:
        """Return a user's state. `StateNotFoundError` (a FileNotFoundError and a KeyError) if none was saved."""
        user_id = text(user_id, "user_id", MAX_ID)
        replies = yield Batch.of(NAMESPACE, Get(user_id))
        return _read(user_id, replies[0])

    def load_versioned(self, user_id: str) -> Steps[tuple[CollaborationState, int]]:
        """Return a user's state and its version, for `save_state(..., expected_version=)`."""
        user_id = text(user_id, "user_id", MAX_ID)
        document, version = yield Batch(NAMESPACE, (Get(user_id), Version(user_id)))
        return _read(user_id, document), version

    def list_users(self) -> Steps[list[str]]:
        """Return the ids of all users with a state, sorted."""
        users = yield Keys(NAMESPACE)
        return sorted(users)

    def delete_state(self, user_id: str) -> Steps[bool]:
        """Delete a user's state and return whether there was one; deleting twice is no error."""
        user_id = text(user_id, "user_id", MAX_ID)
        replies = yield Batch.of(NAMESPACE, Delete(user_id))
        deleted: bool = replies[0]
        return deleted


def _read(user_id: str, document: bytes | None) -> CollaborationState:
    if document is None:
        raise StateNotFoundError(f"no state was saved for the user {user_id!r}", user_id=user_id)
    try:
        state: CollaborationState = _CODEC.decode(document)
    except CodecError as error:
        raise CodecError(f"state of {user_id!r} as it is stored: {error}", path=error.path) from error
    state.user_id = user_id  # A document of empathy-framework may lack it.
    return state


class StateManager:
    """Collaboration states of users: saved, loaded, listed, deleted.

    `StateManager(state_dir=...)` keeps a directory of `<user>.json` files in the documented form, and reads those of
    empathy-framework too; the directory is made by the first save. `store.states` is the same on a store.
    """

    def __init__(self, state_dir: str | os.PathLike[str] | None = None, *, kv: KV | None = None) -> None:
        if (state_dir is None) == (kv is None):
            raise ArgumentError("give either state_dir or kv", argument="state_dir")
        if kv is None:
            from empathy_kv.export import destination
            from empathy_kv.kv.files.flat import FlatDirectory

            kv = FlatDirectory(destination(state_dir, "state_dir"), NAMESPACE)
        self._rules = StateRules()
        self._run = functools.partial(run, kv)
        self._kv = kv

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._kv!r})"

    save_state = method(StateRules.save_state)
    load_state = method(StateRules.load_state)
    load_versioned = method(StateRules.load_versioned)
    list_users = method(StateRules.list_users)
    delete_state = method(StateRules.delete_state)
