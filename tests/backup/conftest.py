"""Targets of every kind, and backups that are small and yet have several parts."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from services import Running, amazon, find_azurite, google, microsoft

from empathy_kv.backup import parts, service, urls
from empathy_kv.backup.target import Target


@pytest.fixture(scope="session")
def s3() -> Iterator[Running]:
    with amazon() as running:
        yield running


@pytest.fixture(scope="session")
def gs() -> Iterator[Running]:
    with google() as running:
        yield running


@pytest.fixture(scope="session")
def az() -> Iterator[Running]:
    if find_azurite() is None:
        pytest.skip("no Azurite here (scripts/test brings one where npm is)")
    with microsoft() as running:
        yield running


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URL of a target of a kind with nothing in it."""
    if kind == "directory":
        return str(tmp_path / "backups")
    running: Running = request.getfixturevalue(kind)
    for name, value in running.environment(running.address).items():
        monkeypatch.setenv(name, value)
    return running.target(f"of a test/{secrets.token_hex(4)}")


@pytest.fixture
def target(url: str) -> Iterator[Target]:
    """A target with nothing in it."""
    target = urls.opened(url, 60.0)
    yield target
    target.close()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few thousand bytes."""
    monkeypatch.setattr(parts, "RAW", 6_000)
    monkeypatch.setattr(parts, "_BLOCK", 500)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that fails is repeated once, at once."""
    retries = {"max_retries": 1, "backoff": {"init_backoff": timedelta(milliseconds=1)}}
    monkeypatch.setattr(service, "_RETRIES", retries)
