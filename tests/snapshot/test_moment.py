"""A dump is one moment of the whole store, while others write."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from groups import Cluster, until
from places import KINDS, Place, fill, places
from servers import PostgresServer, RedisServer, RestrictedServer

import empathy_kv.kv.redis.snapshots as watching
import empathy_kv.shared_snapshot as shared
from empathy_kv import (
    CollaborationState,
    DamagedError,
    Pattern,
    StateNotFoundError,
    Store,
    UnavailableError,
    UnsupportedError,
)
from empathy_kv.errors import EmpathyKVError
from empathy_kv.kv.files.flat import FlatDirectory
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.snapshot import dump, restore

__all__ = ["places"]

WRITERS = 4
LIVE = 3
"""Patterns of a writer that are there at a time."""


class Writer(threading.Thread):
    """Writes to one part of the store after the other, again and again: each has been written to n times, or n - 1."""

    def __init__(self, store: Store, number: int) -> None:
        super().__init__(daemon=True)
        self.store, self.number = store, number
        self.rounds = 0
        self.stopped = False
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for number in itertools.count(1):
                if self.stopped:
                    return
                self.write(number)
                self.rounds = number
        except Exception as error:  # noqa: BLE001 - the test tells it
            self.error = error

    def write(self, number: int) -> None:
        store, me = self.store, self.number
        store.metrics.record_interaction(f"first {me}", 3, True, 1.0)
        state = CollaborationState(interaction_count=number, success_count=number)
        store.states.save_state(f"second {me}", state)
        store.patterns.contribute_pattern("third", Pattern(f"third {me} {number}", "third", "t", f"{number}"))
        if number > LIVE:
            store.patterns.remove_pattern(f"third {me} {number - LIVE}")
        store.metrics.record_interaction(f"fourth {me}", 3, True, 1.0)


def require_moment(store: Store, me: int) -> int:
    """Raise unless a store is one in which a writer was somewhere in a round, and return in which."""
    first = store.metrics.get_user_stats(f"first {me}")["total_operations"]
    try:
        second = store.states.load_state(f"second {me}").interaction_count
    except StateNotFoundError:
        second = 0
    ids = [pattern_id for pattern_id in store.patterns.patterns if pattern_id.startswith(f"third {me} ")]
    there = [int(pattern_id.split()[2]) for pattern_id in ids]
    third = max(there, default=0)
    fourth = store.metrics.get_user_stats(f"fourth {me}")["total_operations"]
    assert first >= second >= third >= fourth >= first - 1, (first, second, third, fourth)
    assert there == list(range(third - len(there) + 1, third + 1))
    assert len(there) in {min(third, LIVE), min(third, LIVE + 1)}
    return first


def require_moments(place: Place, *, dumps: int = 3) -> None:
    """Dump a store a few times while others write to it."""
    source = place.open()
    source.patterns.contribute_patterns("a", [Pattern(f"{n}", "a", "t", "n") for n in range(600)])
    fill(source, states=[CollaborationState(f"{n}") for n in range(20)])
    writers = [Writer(place.open(), number) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        until(lambda: all(writer.rounds or writer.error for writer in writers))
        seen = [0] * WRITERS
        for _ in range(dumps):
            copy = Store(MemoryKV())
            restore(copy, dump(source))
            now = [require_moment(copy, me) for me in range(WRITERS)]
            assert all(before <= after for before, after in zip(seen, now, strict=True))
            seen = now
            assert len([pattern for pattern in copy.patterns.patterns if pattern.isdigit()]) == 600
        until(lambda: all(writer.error or writer.rounds > before for writer, before in zip(writers, seen, strict=True)))
    finally:
        for writer in writers:
            writer.stopped = True
        for writer in writers:
            writer.join()
    assert [writer.error for writer in writers] == [None] * WRITERS


@pytest.mark.parametrize("kind", KINDS)
def test_no_dump_has_a_later_write_without_those_before_it(kind: str, places: Callable[[str], Place]) -> None:
    require_moments(places(kind))


def test_it_is_the_same_moment_on_all_nodes_of_a_cluster(redis_cluster: Cluster) -> None:
    place = Place(redis_cluster.url)
    try:
        require_moments(place, dumps=2)
    finally:
        place.close()


def test_it_needs_no_privilege_that_the_readme_does_not_name(redis_restricted: RestrictedServer) -> None:
    place = Place(redis_restricted.url, prefix="test-snapshot")
    try:
        store = place.open()
        fill(store, states=[CollaborationState("ada", 0.7)])
        copy = Store(MemoryKV())
        restore(copy, dump(store))
        assert copy.states.load_state("ada").trust_level == 0.7
        restore(store, dump(copy), replace=True)
    finally:
        place.close()


@pytest.mark.parametrize("kind", ["redis", "fakeredis"])
def test_what_changes_while_it_is_read_is_read_again(
    kind: str, places: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part changes after it was read: it is changed, goes, or comes."""
    place = places(kind)
    source, other = place.open(), place.open()
    for number in range(30):
        source.patterns.contribute_pattern("a", Pattern(f"{number}", "a", "t", "before"))
        source.states.save_state(f"{number}", CollaborationState(f"{number}", 0.1))
        source.metrics.record_interaction(f"{number}", 1, True, 1.0)
    source.patterns.link_patterns("3", "5")
    before = shared._caught_up

    def caught_up(*arguments: object) -> object:
        other.patterns.remove_patterns(["0", "3"])
        other.patterns.contribute_pattern("b", Pattern("0", "b", "t", "again"))
        other.patterns.link_patterns("7", "9")
        for number in range(1, 20):
            other.states.save_state(f"{number}", CollaborationState(f"{number}", 0.9))
            other.metrics.record_interaction(f"{number}", 2, True, 1.0)
        other.states.delete_state("0")
        other.metrics.record_interaction("new", 2, True, 1.0)
        return before(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shared, "_caught_up", caught_up)
    monkeypatch.setattr(shared, "_FEW", 3)  # In several rounds.
    copy = Store(MemoryKV())
    restore(copy, dump(source))
    assert copy.patterns.patterns == other.patterns.patterns
    assert list(copy.patterns.patterns)[-1] == "0"
    assert copy.patterns.get_links() == other.patterns.get_links() == [("7", "9")]
    assert copy.states.list_users() == other.states.list_users()
    assert [copy.states.load_state(user) for user in copy.states.list_users()] == [
        other.states.load_state(user) for user in copy.states.list_users()
    ]
    assert copy.metrics.get_global_stats() == other.metrics.get_global_stats()


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_consumes_a_dump_slowly_keeps_nobody_waiting(kind: str, places: Callable[[str], Place]) -> None:
    place = places(kind)
    source = place.open()
    fill(source, states=[CollaborationState(f"{number}") for number in range(10)])
    lines = dump(source)
    head = [next(lines), next(lines)]
    other = place.open()
    other.states.save_state("new", CollaborationState())
    other.checkpoint()
    other.close()
    assert len([*head, *lines]) == 12


@pytest.mark.parametrize("kind", KINDS)
def test_a_dump_that_is_left_lets_go(kind: str, places: Callable[[str], Place]) -> None:
    place = places(kind)
    source = place.open()
    fill(source, states=[CollaborationState(f"{number}") for number in range(10)])
    lines = dump(source)
    next(lines)
    next(lines)
    lines.close()
    source.checkpoint()
    assert len(list(dump(source))) == 12


def _watches(server: RedisServer) -> list[bytes]:
    with redis.Redis(port=server.port) as client:
        return [key for key in client.scan_iter() if key.endswith((b"#watch", b"#written"))]


def test_nothing_of_a_dump_stays_on_the_server(redis_server: RedisServer, places: Callable[[str], Place]) -> None:
    place = places("redis")
    source = place.open()
    fill(source, states=[CollaborationState("ada")])
    list(dump(source))
    assert _watches(redis_server) == []
    with source.kv.snapshot([("states",)]), source.kv.snapshot([("states",)]):
        assert len(_watches(redis_server)) == 2
    assert _watches(redis_server) == []


def test_of_a_dump_that_died_nothing_stays_for_long(redis_server: RedisServer, places: Callable[[str], Place]) -> None:
    place = places("redis")
    source = place.open()
    snapshot = source.kv.snapshot([("states",)])
    still = snapshot.__enter__().still()
    still.__enter__()  # And here its process is killed.
    began = time.monotonic()
    source.states.save_state("ada", CollaborationState())
    assert time.monotonic() - began >= watching._STILL / 1000 / 2  # It had to wait, and went on.
    with redis.Redis(port=redis_server.port) as client:
        assert [0 < client.pttl(key) <= watching._WATCHED for key in _watches(redis_server)] == [True, True]
    assert len(list(dump(place.open()))) == 3


def test_a_dump_that_the_server_forgot_about_is_no_dump(
    redis_server: RedisServer, places: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = places("redis")
    source = place.open()
    fill(source, states=[CollaborationState("ada")])
    before = shared._caught_up

    def caught_up(*arguments: object) -> object:
        with redis.Redis(port=redis_server.port) as client:
            client.delete(*_watches(redis_server))
        return before(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shared, "_caught_up", caught_up)
    with pytest.raises(UnavailableError, match="forgot"):
        list(dump(source))


def test_writers_that_were_let_go_too_early_are_followed(
    places: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each first time the writers are still it takes too long, and one of them goes on."""
    place = places("redis")
    source, other = place.open(), place.open()
    fill(source, states=[CollaborationState("ada", 0.1)])
    again = shared._again
    tried = itertools.count()

    def slow(*arguments: object) -> None:
        again(*arguments)  # type: ignore[arg-type]
        if next(tried) == 1:
            monkeypatch.setattr(watching, "_STILL", 0)
            other.states.save_state("ada", CollaborationState("ada", 0.9))
        else:
            monkeypatch.setattr(watching, "_STILL", 1000)

    monkeypatch.setattr(watching, "_STILL", 50)
    monkeypatch.setattr(shared, "_again", slow)
    copy = Store(MemoryKV())
    restore(copy, dump(source))
    assert copy.states.load_state("ada").trust_level == 0.9


def test_a_damaged_document_makes_no_dump(places: Callable[[str], Place]) -> None:
    place = places("files")
    store = place.open()
    fill(store, states=[CollaborationState("ada"), CollaborationState("grace")])
    place.close()
    (path,) = [path for path in _files(place) if path.endswith("ada.json")]
    with open(path, "r+b") as file:
        file.write(b"[")
    lines: list[bytes] = []
    with pytest.raises(DamagedError) as caught:
        lines.extend(dump(place.open()))
    assert caught.value.path == path
    assert not any(line.startswith(b'{"end"') for line in lines)


def _files(place: Place) -> list[str]:
    return [
        os.path.join(directory, name)
        for directory, _, names in os.walk(place.url.removeprefix("file:"))
        for name in names
    ]


def test_a_connection_that_the_server_ended_is_replaced(
    postgres_server: PostgresServer, places: Callable[[str], Place]
) -> None:
    source = places("postgresql").open()
    fill(source, states=[CollaborationState("ada")])
    postgres_server.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'empathy_kv'"
    )
    assert len(list(dump(source))) == 3


def test_two_dumps_at_once_are_two_moments(places: Callable[[str], Place]) -> None:
    source = places("redis").open()
    fill(source, states=[CollaborationState(f"{number}") for number in range(600)])
    results: list[object] = []

    def run() -> None:
        try:
            results.append(len(list(dump(source))))
        except EmpathyKVError as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [602] * 3


def test_an_engine_that_has_no_snapshots_says_so() -> None:
    with pytest.raises(UnsupportedError):
        list(dump(Store(FlatDirectory(Path("nowhere"), ("store",)))))
