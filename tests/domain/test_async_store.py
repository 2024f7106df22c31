"""A store in an event loop gives the answers of one for threads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from engines import DATABASES, ENGINES, place

from empathy_kv import (
    ArgumentError,
    AsyncStore,
    CollaborationState,
    Pattern,
    StateNotFoundError,
    connect,
    connect_async,
)
from empathy_kv.async_store import AsyncMetricsCollector, AsyncPatternLibrary, AsyncStateManager
from empathy_kv.kv.asynchronous import AsyncNamespace
from empathy_kv.kv.interface import KV, Namespace
from empathy_kv.metrics import MetricsCollector
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.sql.async_store import AsyncSQLStore
from empathy_kv.sql.store import SQLStore
from empathy_kv.states import StateManager
from empathy_kv.store import Store
from empathy_kv.testing.blocking import BlockingKV

AT = datetime(2025, 1, 20, tzinfo=UTC)


async def story(call: Callable[[Any], Any], store: Any) -> list[Any]:
    """Use all of a store; `call` makes an answer of what a method returned."""
    told: list[Any] = []
    for number in range(4):
        pattern = Pattern(f"p{number}", "a", "t", f"n{number}", context={"k": number % 2}, tags=["x"], discovered_at=AT)
        await call(store.patterns.contribute_pattern("a", pattern))
    await call(store.patterns.link_patterns("p0", "p1"))
    for number in range(6):
        await call(store.patterns.record_pattern_outcome("p0", number % 3 > 0))
    found = await call(store.patterns.find_patterns({"k": 0, "tags": ["x"]}, min_confidence=0.0))
    told.append([(match.pattern.id, match.relevance) for match in found])
    told.append([pattern.id for pattern in await call(store.patterns.get_related_patterns("p0"))])
    told.append((await call(store.patterns.get_pattern("p0"))).success_count)
    told.append(await call(store.patterns.get_library_stats()))
    told.append(await call(store.patterns.remove_pattern("p3")))
    told.append(await call(store.patterns.get_agent_contributions()))
    told.append(await call(store.states.save_state("u", CollaborationState(user_id="u"))))
    told.append((await call(store.states.load_versioned("u")))[1])
    told.append(await call(store.states.list_users()))
    try:
        await call(store.states.load_state("nobody"))
    except StateNotFoundError as error:
        told.append(error.user_id)
    for number in (*range(10), 9):  # The last one twice.
        told.append(
            await call(
                store.metrics.record_interaction(
                    f"u{number % 3}", 1 + number % 5, True, float(number), at=AT, interaction_id=f"i{number}"
                )
            )
        )
    told += [await call(store.metrics.get_user_stats("u0")), await call(store.metrics.get_global_stats())]
    told += [await call(store.metrics.get_all_users()), await call(store.metrics.get_history("u1"))]
    return told


async def documents_story(call: Callable[[Any], Any], store: Any) -> list[Any]:
    """Use the documents of a store."""
    told: list[Any] = []
    documents = store.collection("c", CollaborationState)
    await call(documents.put_many({str(number): CollaborationState(user_id=str(number)) for number in range(600)}))
    told.append(sorted(await call(documents.get_many(["1", "2", "absent"]))))
    told.append((await call(documents.get("7"))).user_id)
    document, version = await call(documents.get_versioned("7"))
    told.append(await call(documents.put("7", document, expected_version=version)) > version)
    told.append((await call(documents.delete("7")), await call(documents.get("7"))))
    told.append(await call(documents.get_versioned("7")))
    return told


async def now(value: Any) -> Any:
    return value


@pytest.mark.parametrize("name", [name for name in ENGINES if name.endswith(", asyncio") and "cluster" not in name])
def test_the_answers_are_those_of_a_store_for_threads(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    blocking = ENGINES[name].open(place(ENGINES[name], tmp_path, request))
    assert isinstance(blocking, BlockingKV)
    store = AsyncStore(blocking.asynchronous)

    async def whole() -> tuple[list[Any], int, int]:
        told = await story(lambda awaitable: awaitable, store)
        told += await documents_story(lambda awaitable: awaitable, store)
        items = [item async for item in store.collection("c", CollaborationState).items()]
        keys = [key async for key in store.collection("c", CollaborationState).keys()]  # noqa: SIM118 - no mapping
        await store.metrics.export_metrics(tmp_path / "metrics.json")
        await store.close()
        return told, len(items), len(keys)

    told, items, keys = blocking.call(whole())
    with connect("memory:") as other:
        assert told == asyncio.run(story(now, other)) + asyncio.run(documents_story(now, other))
    assert items == keys == 599
    assert json.loads((tmp_path / "metrics.json").read_text())["global"]["total_interactions"] == 10


@pytest.mark.parametrize("name", DATABASES)
def test_the_answers_of_a_database_are_those_of_a_store_for_threads(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    if name == "postgresql":
        url = request.getfixturevalue("postgres_server").schema()

    async def whole() -> list[Any]:
        async with await connect_async(url, timeout=20.0) as store:
            told = await story(lambda awaitable: awaitable, store)
            await store.metrics.export_metrics(tmp_path / "metrics.json")
            await store.checkpoint()
            assert await store.check() == []
            assert (await store.durability()).survives in ("power", "process")
        return told

    with connect("memory:") as other:
        assert asyncio.run(whole()) == asyncio.run(story(now, other))
    assert json.loads((tmp_path / "metrics.json").read_text())["global"]["total_interactions"] == 10
    with connect(url) as again:
        assert again.metrics.get_global_stats()["total_interactions"] == 10


@pytest.mark.parametrize(
    ("threads", "event_loop"),
    [
        (PatternLibrary, AsyncPatternLibrary),
        (StateManager, AsyncStateManager),
        (MetricsCollector, AsyncMetricsCollector),
        (Namespace, AsyncNamespace),
        (Store, AsyncStore),
        (SQLStore, AsyncSQLStore),
        (KV, BlockingKV),
    ],
)
def test_every_public_name_is_there_in_an_event_loop_too(threads: type, event_loop: type) -> None:
    assert {name for name in dir(threads) if not name.startswith("_")} <= set(dir(event_loop))


@pytest.mark.parametrize("url", ["memory:", "file:{}", "sqlite:///{}/store.db"])
def test_a_call_that_nobody_awaits_is_told_by_the_name_of_its_method(url: str, tmp_path: Path) -> None:
    calls: dict[str, Callable[[AsyncStore], object]] = {
        "find_patterns": lambda store: store.patterns.find_patterns({}),
        "save_state": lambda store: store.states.save_state("u", CollaborationState()),
        "get_user_stats": lambda store: store.metrics.get_user_stats("u"),
        "AsyncMetricsCollector.export_metrics": lambda store: store.metrics.export_metrics("figures.json"),
    }
    if not url.startswith("sqlite"):
        calls["AsyncNamespace.incr"] = lambda store: store.kv.namespace("a").incr("n")
        calls["AsyncNamespace.execute"] = lambda store: store.kv.namespace("a").execute()
        calls["AsyncCollection.get"] = lambda store: store.collection("a", Pattern).get("n")

    async def main() -> None:
        async with await connect_async(url.format(tmp_path)) as store:
            for name, call in calls.items():
                with pytest.warns(RuntimeWarning, match=f"coroutine '{name}' was never awaited"):
                    call(store)

    asyncio.run(main())


def test_a_wrong_call_is_told_by_the_name_of_its_method() -> None:
    async def main() -> None:
        store: Any
        async with await connect_async("memory:") as store:
            for each in (store, other):
                with pytest.raises(TypeError, match=r"^find_patterns\(\) takes 2 positional arguments"):
                    each.patterns.find_patterns({}, 1, 2)
                with pytest.raises(TypeError, match=r"^load_state\(\) missing 1 required"):
                    each.states.load_state()
                with pytest.raises(TypeError, match=r"^record_interaction\(\) got an unexpected"):
                    each.metrics.record_interaction("u", 1, ok=True)

    other: Any
    with connect("memory:") as other:
        asyncio.run(main())


@pytest.mark.parametrize("url", ["memory:", "file:{}", None])
def test_stores_are_opened_by_the_same_urls(url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPATHY_KV_URL", f"file:{tmp_path}/other")

    async def main() -> None:
        target = None if url is None else url.format(tmp_path)
        async with await connect_async(target) as store:
            assert await store.kv.namespace("a").incr("n") == 1
            await store.checkpoint()
            assert await store.check() == []

    asyncio.run(main())


def test_a_url_that_names_nothing_is_refused() -> None:
    with pytest.raises(ArgumentError, match="target must be a URL"):
        asyncio.run(connect_async("nothing:"))


def test_an_error_of_an_argument_is_raised_when_it_is_awaited() -> None:
    async def main() -> None:
        async with await connect_async("memory:") as store:
            call: Awaitable[Any] = store.metrics.record_interaction("", 1, True, 1.0)
            with pytest.raises(ArgumentError):
                await call

    asyncio.run(main())


def test_many_calls_on_files_do_not_hold_up_the_event_loop(tmp_path: Path) -> None:
    async def main() -> None:
        async with await connect_async(f"file:{tmp_path}") as store:
            turns = 0

            async def tick() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            ticking = asyncio.create_task(tick())
            ns = store.kv.namespace("a")
            assert sorted(await asyncio.gather(*(ns.incr("n") for _ in range(200)))) == list(range(1, 201))
            ticking.cancel()
            assert turns > 200

    asyncio.run(main())
