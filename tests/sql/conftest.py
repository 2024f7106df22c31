"""Databases of both kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import PostgresServer

from empathy_kv.sql.database import Database
from empathy_kv.sql.postgres import Postgres
from empathy_kv.sql.sqlite import SQLite


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database where nothing is yet, as `connect` takes it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.schema()


@pytest.fixture
def opened(url: str) -> Iterator[Callable[[], Database]]:
    """Opens that database, each time as another worker does."""
    databases: list[Database] = []

    def open_database() -> Database:
        if url.startswith("sqlite"):
            databases.append(SQLite(Path(url.removeprefix("sqlite:///"))))
        else:
            databases.append(Postgres(url, timeout=20.0))
        return databases[-1]

    yield open_database
    for database in databases:
        database.close()
