"""The master is killed, or stops for a while, under load: nothing is done twice or by half, and writing goes on."""

from __future__ import annotations

import itertools
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, TypeAlias

import pytest
from attrs import Factory, define
from groups import DURABLE, Cluster, SentinelGroup, cluster, role, sentinel_group, until
from servers import RedisServer

from empathy_kv.errors import NotApplied, OutcomeUnknown
from empathy_kv.kv.interface import KV
from empathy_kv.kv.operations import Batch, HIncrBy, IncrBy, Name, Token
from empathy_kv.kv.redis import AsyncRedisKV, RedisKV
from empathy_kv.testing.blocking import BlockingKV

WRITERS: Final = 4
LATER: Final = 2.0
"""Seconds after the failover in which writing must go on: one, and one for a machine that does other things."""
NAMESPACE: Final[Name] = ("failover",)

Fault: TypeAlias = Literal["kill", "freeze"]


@define
class Load:
    """Writers that count, each time under a name of its own and in all, until they are stopped."""

    kv: KV
    acknowledged: set[str] = Factory(set)
    unknown: dict[str, Token] = Factory(dict)
    last: float = 0.0
    """When the last write was acknowledged."""
    failures: list[BaseException] = Factory(list)
    stopped: threading.Event = Factory(threading.Event)
    threads: list[threading.Thread] = Factory(list)

    def start(self) -> None:
        self.threads = [threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)]
        for thread in self.threads:
            thread.start()

    def _write(self, writer: int) -> None:
        number = 0
        try:
            while not self.stopped.is_set():
                number += 1
                name = f"{writer}.{number}"
                token = self.kv.token(*NAMESPACE)
                try:
                    self.kv.execute(Batch(NAMESPACE, (HIncrBy("each", {name: 1}), IncrBy("all")), (), token))
                except OutcomeUnknown:
                    self.unknown[name] = token
                except NotApplied:
                    pass
                else:
                    self.acknowledged.add(name)
                    self.last = time.monotonic()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test says it
            self.failures.append(error)

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()


Group: TypeAlias = SentinelGroup | Cluster


@pytest.fixture(scope="module", params=["cluster", "sentinel"])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    with cluster(3, *DURABLE) if request.param == "cluster" else sentinel_group(*DURABLE) as made:
        yield made


def master(group: Group, prefix: str) -> RedisServer:
    found = group.master() if isinstance(group, SentinelGroup) else group.server_of(f"{{{prefix}:{NAMESPACE[0]}}}")
    assert found is not None
    return found


def moved(group: Group, prefix: str, old: RedisServer) -> Callable[[], bool]:
    """Whether another server is the master now."""

    def look() -> bool:
        try:
            return master(group, prefix) is not old
        except (AssertionError, LookupError):
            return False

    return look


def in_threads(url: str, **options: Any) -> KV:
    return RedisKV.from_url(url, **options)


def in_an_event_loop(url: str, **options: Any) -> KV:
    return BlockingKV(lambda: AsyncRedisKV.from_url(url, **options))


PAIRS: Final = [
    (in_threads, 0, "kill"),
    (in_threads, 1, "freeze"),
    (in_an_event_loop, 0, "freeze"),
    (in_an_event_loop, 1, "kill"),
]
"""Every two of the settings meet here. In the nightly run, all of them do."""
NIGHTLY: Final = os.environ.get("EMPATHY_KV_PROFILE") == "nightly"
CASES: Final = list(itertools.product((in_threads, in_an_event_loop), (0, 1), ("kill", "freeze"))) if NIGHTLY else PAIRS


@pytest.mark.parametrize(("drive", "replicas", "fault"), CASES)
def test_nothing_is_done_twice_or_by_half_and_writing_goes_on(
    group: Group, fault: Fault, replicas: int, drive: Callable[..., KV]
) -> None:
    prefix = f"test-{secrets.token_hex(4)}"
    until(group.ready)
    victim = master(group, prefix)
    with drive(group.url, prefix=prefix, timeout=30.0, replicas=replicas) as kv:
        load = Load(kv)
        load.start()
        try:
            until(lambda: len(load.acknowledged) >= 50)
            (victim.kill if fault == "kill" else victim.freeze)()
            until(moved(group, prefix, victim))
            failed_over = time.monotonic()
            if replicas:
                # The one replica is the master now: nothing can be confirmed until the old one is there again.
                back(victim, fault)
                until(group.ready)
                ready = time.monotonic()
                until(lambda: load.last > ready)
            else:
                until(lambda: load.last > failed_over)
                assert time.monotonic() - failed_over < LATER
                back(victim, fault)
                until(group.ready)
            count = len(load.acknowledged)
            until(lambda: len(load.acknowledged) > count + 50)
        finally:
            back(victim, fault)
            load.stop()
        assert load.failures == []
        settled = {name for name, token in load.unknown.items() if kv.settle(token)}
        each = kv.namespace(*NAMESPACE).hgetall("each")
        assert set(each.values()) == {b"1"}
        assert kv.namespace(*NAMESPACE).get("all") == b"%d" % len(each)
        assert each.keys() <= load.acknowledged | settled
        assert settled <= each.keys()
        if replicas:
            assert load.acknowledged <= each.keys()


def back(server: RedisServer, fault: Fault) -> None:
    """Let the server come back, if it is not there."""
    if fault == "freeze":
        server.thaw()
    elif server.process.poll() is not None:
        server.start()
    until(lambda: role(server) is not None)
