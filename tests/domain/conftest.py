"""Stores on every engine, and places that more than one worker can open."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from attrs import Factory, define
from engines import DATABASES, ENGINES, DatabaseEngine, Engine, Place, place
from servers import PostgresServer

from empathy_kv.kv.memory import MemoryKV
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.sql.store import SQLStore
from empathy_kv.states import StateManager
from empathy_kv.store import Store

NAMES: Final = ("memory", "files", "fakeredis", "redis")
"""The engines that the domain is tested on; "files" is that with durability "os"."""
SHARED: Final = tuple(name for name in NAMES if ENGINES[name].shares)
TABLES: Final = tuple(DATABASES)
"""The databases, which have the domain and no engine below it."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the databases where a test is about the engine below (marked `needs_kv`)."""
    left_out = [
        item
        for item in items
        if item.get_closest_marker("needs_kv") is not None
        and not set(TABLES).isdisjoint(item.callspec.params.values() if hasattr(item, "callspec") else ())
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@define
class Home:
    """One place on one engine. Each `open` is another worker there; on an engine that shares nothing, another store."""

    name: str
    engine: Engine | DatabaseEngine
    place: Place
    opened: list[Store] = Factory(list)

    def open(self, **options: Any) -> Store:
        store: Store
        if isinstance(self.engine, DatabaseEngine):
            store = SQLStore(self.engine.open(self.place))  # It keeps all interactions, whatever the limit.
        else:
            store = Store(self.engine.open(self.place), **options)
        self.opened.append(store)
        return store

    def close(self) -> None:
        while self.opened:
            self.opened.pop().close()


Fresh: TypeAlias = Callable[[], Home]
"""Gives a home where nothing is yet, as often as it is called: what a test with many examples needs."""


_SCHEMAS: Final = 2
"""After so many homes on a server the first is emptied and given again: to make all tables anew takes long."""


def _homes(request: pytest.FixtureRequest, path: Path) -> Iterator[Fresh]:
    name = request.param
    made: list[Home] = []
    numbers = itertools.count()

    def fresh() -> Home:
        directory = path / f"home-{next(numbers)}"
        if name in ENGINES:
            home = Home(name, ENGINES[name], place(ENGINES[name], directory, request))
        elif name == "sqlite":
            home = Home(name, DATABASES[name], Place(directory))
        else:
            server: PostgresServer = request.getfixturevalue("postgres_server")
            if len(made) < _SCHEMAS:
                url = server.schema()
            else:
                made[-_SCHEMAS].close()
                url = made[-_SCHEMAS].place.url
                server.empty(url)
            home = Home(name, DATABASES[name], Place(directory, url))
        made.append(home)
        return home

    yield fresh
    for home in made:
        home.close()


@pytest.fixture(params=[*NAMES, *TABLES])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fresh]:
    """On every engine."""
    yield from _homes(request, tmp_path)


@pytest.fixture(params=[*SHARED, *TABLES])
def fresh_shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fresh]:
    """On every engine that workers share, and that keeps what was stored: it can be closed and opened again."""
    yield from _homes(request, tmp_path)


@define
class SharedMemory(Home):
    """A home in memory whose workers share it: it lasts as long as they do."""

    kv: MemoryKV = Factory(MemoryKV)

    def open(self, **options: Any) -> Store:
        return Store(self.kv, **options)


@pytest.fixture(params=["memory", *SHARED])
def fresh_workers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fresh]:
    """On every engine, for workers that share it."""
    for fresh in _homes(request, tmp_path):
        if request.param == "memory":
            yield lambda: SharedMemory("memory", ENGINES["memory"], Place(tmp_path))
        else:
            yield fresh


@pytest.fixture
def home(fresh: Fresh) -> Home:
    return fresh()


@pytest.fixture
def shared(fresh_shared: Fresh) -> Home:
    return fresh_shared()


@pytest.fixture
def store(home: Home) -> Store:
    return home.open()


@pytest.fixture(params=["local", *NAMES, *TABLES])
def libraries(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], PatternLibrary]]:
    """Gives an empty library as often as it is called: `PatternLibrary()`, and that of a store on every engine."""
    if request.param == "local":
        yield PatternLibrary
    else:
        for fresh in _homes(request, tmp_path):
            yield functools.partial(_patterns, fresh)


def _patterns(fresh: Fresh) -> PatternLibrary:
    return fresh().open().patterns


@pytest.fixture
def library(libraries: Callable[[], PatternLibrary]) -> PatternLibrary:
    return libraries()


@pytest.fixture(params=["directory", *NAMES, *TABLES])
def states(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateManager]:
    """A manager of states: of a directory, and on every engine."""
    if request.param == "directory":
        yield StateManager(state_dir=tmp_path / "above" / "state")
    else:
        for fresh in _homes(request, tmp_path):
            yield fresh().open().states


@pytest.fixture(params=["directory", *SHARED, *TABLES])
def managers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], StateManager]]:
    """Gives managers of one place, each a worker of its own."""
    if request.param == "directory":
        yield functools.partial(StateManager, state_dir=tmp_path / "above" / "state")
    else:
        for fresh in _homes(request, tmp_path):
            yield functools.partial(_states, fresh())


def _states(home: Home) -> StateManager:
    return home.open().states
