"""The server is lost in the middle of a dump: what comes is a moment that there was, or an error, never a mixture.

What was read before may be lost with the server. Then what is read after it does not go with it, and nothing in the
data says so: the snapshot's watch, too, is as it was before.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from groups import DURABLE, Cluster, SentinelGroup, asked, cluster, role, sentinel_group, until
from servers import RedisServer

import empathy_kv.shared_snapshot as shared
from empathy_kv import CollaborationState, Pattern, Store, UnavailableError, connect
from empathy_kv.errors import EmpathyKVError
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.snapshot import dump, restore

Group = SentinelGroup | Cluster


@contextlib.contextmanager
def opened(url: str) -> Iterator[Store]:
    with connect(url, prefix="test-snapshot", timeout=30.0) as store:
        yield store


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have something done before the patterns of a dump are read, and something else before its states are."""

    def steps(**before: Callable[[], None]) -> None:
        for name, step in before.items():
            original = getattr(shared, name)
            once = iter([step])

            def wrapped(*arguments: Any, original: Any = original, once: Any = once) -> Any:
                for do in once:
                    do()
                yield from original(*arguments)

            monkeypatch.setattr(shared, name, wrapped)

    return steps


def fill(store: Store) -> None:
    store.patterns.contribute_pattern("a", Pattern("before", "a", "t", "n"))
    store.states.save_state("ada", CollaborationState("ada", 0.1))


def write(store: Store) -> None:
    store.patterns.contribute_pattern("a", Pattern("lost", "a", "t", "n"))


def test_a_server_that_comes_back_without_what_was_read_makes_no_dump(during: Callable[..., None]) -> None:
    with RedisServer() as server, opened(server.url) as store, opened(server.url) as other:
        fill(store)

        def before_patterns() -> None:
            asked(server, "SAVE")  # The watch is in it, and what is written now is not.
            write(other)

        def before_states() -> None:
            server.kill()
            server.start()
            other.states.save_state("ada", CollaborationState("ada", 0.9))

        during(_patterns=before_patterns, _states=before_states)
        with pytest.raises(UnavailableError, match="take it again"):
            list(dump(store))
        copy = Store(MemoryKV())
        restore(copy, dump(store))
        assert list(copy.patterns.patterns) == ["before"]
        assert copy.states.load_state("ada").trust_level == 0.9


def test_a_replica_that_never_had_what_was_read_makes_no_dump(during: Callable[..., None]) -> None:
    with sentinel_group() as group, opened(group.url) as store, opened(group.url) as other:
        fill(store)
        old = group.master()
        assert old is not None
        (replica,) = (server for server in group.servers if server is not old)

        def before_patterns() -> None:
            asked(old, "WAIT", 1, 10_000)  # The watch is there.
            replica.freeze()
            asked(old, "CLIENT", "KILL", "TYPE", "replica")  # Nothing waits for it in its socket.
            write(other)

        def before_states() -> None:
            old.kill()
            replica.thaw()
            until(lambda: group.master() is replica)
            other.states.save_state("ada", CollaborationState("ada", 0.9))

        during(_patterns=before_patterns, _states=before_states)
        with pytest.raises(UnavailableError, match="take it again"):
            list(dump(store))
        copy = Store(MemoryKV())
        restore(copy, dump(store))
        assert list(copy.patterns.patterns) == ["before"]


def test_a_connection_that_is_cut_is_no_other_server(during: Callable[..., None]) -> None:
    with RedisServer() as server, opened(server.url) as store, opened(server.url) as other:
        fill(store)

        def cut() -> None:
            other.states.save_state("grace", CollaborationState("grace", 0.5))
            asked(server, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        during(_patterns=cut, _states=cut)
        assert len(list(dump(store))) == 5


def test_two_dumps_do_not_know_each_other(during: Callable[..., None]) -> None:
    with RedisServer() as server, opened(server.url) as store:
        fill(store)
        during(_patterns=lambda: None, _states=lambda: list(dump(store)))
        assert len(list(dump(store))) == 4


class Counting(threading.Thread):
    """Writes one number to a state, then to another, and so on; a number that was not answered is written again."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.stopped = False
        self.failure: BaseException | None = None
        self.reached = 0

    def run(self) -> None:
        try:
            with opened(self.url) as store:
                for number in itertools.count(1):
                    for name in NAMES:
                        while not self.stopped:
                            with contextlib.suppress(EmpathyKVError):
                                store.states.save_state(name, CollaborationState(name, interaction_count=number))
                                break
                    if self.stopped:
                        return
                    self.reached = number
        except BaseException as error:  # noqa: BLE001 - the test tells it
            self.failure = error


NAMES: Final = [f"user {number}" for number in range(20)]


@pytest.fixture(scope="module", params=["cluster", "sentinel"])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    with cluster(3, *DURABLE) if request.param == "cluster" else sentinel_group(*DURABLE) as made:
        yield made


def victim_of(group: Group) -> RedisServer:
    found = group.master() if isinstance(group, SentinelGroup) else group.server_of("{test-snapshot:states}")
    assert found is not None
    return found


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_dumps_while_a_master_is_lost_are_moments_or_errors(group: Group, fault: str) -> None:
    until(group.ready)
    victim = victim_of(group)
    with opened(group.url) as store:
        for name in NAMES:
            store.states.save_state(name, CollaborationState(name))
        writer = Counting(group.url)
        writer.start()
        moments: list[int] = []
        done = threading.Event()

        def dumping() -> None:
            while not done.is_set():
                copy = Store(MemoryKV())
                try:
                    restore(copy, dump(store))
                except EmpathyKVError:
                    continue
                except BaseException as error:  # noqa: BLE001 - the test tells it
                    writer.failure = writer.failure or error
                    return
                counts = [copy.states.load_state(name).interaction_count for name in NAMES]
                if not (sorted(counts, reverse=True) == counts and counts[0] - counts[-1] <= 1):
                    writer.failure = AssertionError(counts)
                moments.append(counts[0])

        until(lambda: writer.reached > 5)
        dumper = threading.Thread(target=dumping)
        dumper.start()
        try:
            until(lambda: len(moments) > 3)
            (victim.kill if fault == "kill" else victim.freeze)()
            until(lambda: moved(group, victim))
            count = len(moments)
            until(lambda: len(moments) > count + 3)
        finally:
            done.set()
            writer.stopped = True
            if fault == "freeze":
                victim.thaw()
            else:
                victim.start()
            dumper.join()
            writer.join()
            until(lambda: role(victim) is not None)
    assert writer.failure is None


def moved(group: Group, old: RedisServer) -> bool:
    try:
        return victim_of(group) is not old
    except (AssertionError, LookupError):
        return False
