"""Places where a store can be, one a kind of store, for the tests of snapshots."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import fakeredis
import pytest
from attrs import Factory, define

from empathy_kv import PatternLibrary, Store, connect
from empathy_kv.codec import codec
from empathy_kv.errors import IdempotencyError
from empathy_kv.kv.interface import KV
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.records import CollaborationState, Interaction, Pattern

KINDS: Final = ("memory", "files", "fakeredis", "redis", "sqlite", "postgresql")


@define
class Place:
    """A place where nothing is yet. Each `open` is another worker there."""

    url: str
    target: KV | fakeredis.FakeRedis | None = None
    prefix: str = "empathy"
    opened: list[Store] = Factory(list)

    def open(self, *, history_limit: int = 10_000) -> Store:
        target = self.url if self.target is None else self.target
        store = connect(
            target,  # type: ignore[arg-type]
            durability="os",
            timeout=20.0,
            prefix=self.prefix,
            history_limit=history_limit,
        )
        self.opened.append(store)
        return store

    def close(self) -> None:
        while self.opened:
            self.opened.pop().close()


_NUMBERS: Final = itertools.count()


def new(kind: str, directory: Path, request: pytest.FixtureRequest) -> Place:
    """Return a place of a kind."""
    number = next(_NUMBERS)
    if kind == "memory":
        return Place("memory:", MemoryKV())
    if kind == "files":
        return Place(f"file:{directory}/store-{number}")
    if kind == "fakeredis":
        return Place("", fakeredis.FakeRedis(server=fakeredis.FakeServer()))
    if kind == "sqlite":
        return Place(f"sqlite:///{directory}/store-{number}.db")
    if kind == "postgresql":
        return Place(request.getfixturevalue("postgres_server").schema())
    server = request.getfixturevalue("redis_server")
    server.flush()
    return Place(server.url)


def fill(
    store: Store,
    library: PatternLibrary | None = None,
    states: list[CollaborationState] | None = None,
    interactions: list[Interaction] | None = None,
) -> None:
    """Let a store hold records."""
    if library is not None:
        contributors = {pattern_id: agent for agent, ids in library.agent_contributions.items() for pattern_id in ids}
        patterns = [(contributors[pattern_id], pattern) for pattern_id, pattern in library.patterns.items()]
        store.patterns.restore(patterns, library.get_links())
    for state in states or ():
        store.states.save_state(state.user_id, state)
    for each in interactions or ():
        try:
            store.metrics.record_interaction(
                each.user_id, each.level, each.success, each.response_time_ms, at=each.at, interaction_id=each.id
            )
        except IdempotencyError:
            continue


def everything(store: Store) -> object:
    """Return all that a user of a store sees of it, in its own words."""
    library = store.patterns
    patterns = [codec(Pattern).encode(pattern) for pattern in library.patterns.values()]
    states = {
        user: codec(CollaborationState).encode(store.states.load_state(user)) for user in store.states.list_users()
    }
    users = store.metrics.get_all_users()
    metrics = {user: (store.metrics.get_user_stats(user), store.metrics.get_history(user)) for user in users}
    return (
        (patterns, list(library.agent_contributions.items()), library.get_links(), states),
        (metrics, store.metrics.get_global_stats()),
    )


@pytest.fixture
def places(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Place]]:
    """Gives places of any kind; what was opened there is closed at the end."""
    made: list[Place] = []

    def place(kind: str) -> Place:
        made.append(new(kind, tmp_path, request))
        return made[-1]

    yield place
    for each in made:
        each.close()
