"""Every engine passes the suite that is there for all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, Final

import pytest
from engines import ENGINES, Engine, Place, place

from empathy_kv.kv.interface import KV
from empathy_kv.testing.conformance import KVConformance
from empathy_kv.testing.hostile import HOSTILE

NIGHTLY: Final = os.environ.get("EMPATHY_KV_PROFILE") == "nightly"


class Conformance(KVConformance):
    """The suite, for a row of the table of engines."""

    engine: ClassVar[Engine]

    def __init_subclass__(cls, *, engine: str) -> None:
        cls.engine = ENGINES[engine]
        cls.reopens, cls.shares = cls.engine.reopens, cls.engine.shares

    @pytest.fixture
    def place(self, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
        return place(self.engine, tmp_path, request)

    def open(self, place: Place) -> KV:
        return self.engine.open(place)


class TestMemory(Conformance, engine="memory"):
    pass


class TestFiles(Conformance, engine="files"):
    pass


class TestFilesFsync(Conformance, engine="files, fsync"):
    pass


class TestFakeredis(Conformance, engine="fakeredis"):
    pass


class TestRedis(Conformance, engine="redis"):
    pass


class TestMemoryAsyncio(Conformance, engine="memory, asyncio"):
    pass


@pytest.mark.skipif(not NIGHTLY, reason="an engine and a driver that pass with others: for the nightly profile")
class TestFilesAsyncio(Conformance, engine="files, asyncio"):
    pass


class TestFakeredisAsyncio(Conformance, engine="fakeredis, asyncio"):
    pass


class TestRedisAsyncio(Conformance, engine="redis, asyncio"):
    pass


@pytest.mark.skipif(not NIGHTLY, reason="every setting of a client is for the nightly profile")
class TestClientWithRESP3ThatDecodes(Conformance, engine="redis, client with RESP3 that decodes"):
    pass


@pytest.mark.skipif(not NIGHTLY, reason="every setting of a client is for the nightly profile")
class TestClientWithRESP3(Conformance, engine="redis, client with RESP3"):
    pass


@pytest.mark.skipif(not NIGHTLY, reason="every setting of a client is for the nightly profile")
class TestClientWithRESP2ThatDecodes(Conformance, engine="redis, client with RESP2 that decodes"):
    pass


@pytest.mark.skipif(not NIGHTLY, reason="every setting of a client is for the nightly profile")
class TestClientWithRESP2(Conformance, engine="redis, client with RESP2"):
    pass


class TestRedisLeastPrivilege(Conformance, engine="redis, least privilege"):
    pass


class TestCluster(Conformance, engine="cluster"):
    pass


@pytest.mark.skipif(not NIGHTLY, reason="an engine and a driver that pass with others: for the nightly profile")
class TestClusterAsyncio(Conformance, engine="cluster, asyncio"):
    pass


@pytest.mark.skipif(not NIGHTLY, reason="a master that Sentinels name is a server as any: for the nightly profile")
class TestSentinel(Conformance, engine="sentinel"):
    pass


def test_the_list_of_hostile_texts_has_no_two_alike() -> None:
    assert len(HOSTILE) == len(set(HOSTILE)) >= 300
