"""What type checkers see. This file is not run: `mypy --strict tests/typing_api.py` is the test (`test_names`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, assert_type

import attrs
import fakeredis

import empathy_kv
from empathy_kv import (
    AsyncStore,
    Backup,
    Backups,
    CheckError,
    CollaborationState,
    Collection,
    EmpathyConfig,
    EmpathyOS,
    Interaction,
    Keep,
    MetricsCollector,
    Pattern,
    PatternLibrary,
    PatternMatch,
    PatternPersistence,
    Response,
    StateManager,
    Store,
    connect,
    connect_async,
)


@attrs.define
class Note:
    text: str


@dataclasses.dataclass
class Plain:
    text: str


def stores() -> None:
    assert_type(connect(), Store)
    assert_type(connect("file:.empathy", durability="os", timeout=1.0, prefix="p", history_limit=5), Store)
    connect(fakeredis.FakeRedis())
    with empathy_kv.connect("memory:") as store:
        assert_type(store, Store)
        assert_type(store.patterns, PatternLibrary)
        assert_type(store.states, StateManager)
        assert_type(store.metrics, MetricsCollector)
        assert_type(store.close(), None)
    connect("memory:", durability="sometimes")  # type: ignore[arg-type]
    connect("memory:", pool=5)  # type: ignore[call-arg]


def patterns(library: PatternLibrary, pattern: Pattern) -> None:
    assert_type(PatternLibrary(), PatternLibrary)
    assert_type(library.contribute_pattern("agent", pattern), None)
    assert_type(library.contribute_patterns("agent", (pattern for _ in "a")), None)
    assert_type(library.get_pattern("p"), Pattern | None)
    assert_type(library.remove_pattern("p"), bool)
    assert_type(library.remove_patterns(["p"]), int)
    assert_type(library.find_patterns({"a": 1}, pattern_type=None, min_confidence=0.5, limit=3), list[PatternMatch])
    assert_type(library.query_patterns("agent", {"a": 1}), list[PatternMatch])
    assert_type(library.find_patterns({"a": 1}, max_staleness=0.5), list[PatternMatch])
    assert_type(library.get_pattern("p", max_staleness=0.5), Pattern | None)
    assert_type(library.max_staleness, float)
    library.on_load = lambda done, total: None
    PatternPersistence.save_to_json(library, "patterns.json", progress=lambda done, total: None)
    assert_type(PatternPersistence.load_from_json("patterns.json", progress=None), PatternLibrary)
    assert_type(library.record_pattern_outcome("p", True), None)
    assert_type(library.link_patterns("p", "q"), None)
    assert_type(library.get_related_patterns("p", depth=2), list[Pattern])
    assert_type(library.get_agent_patterns("agent"), list[Pattern])
    assert_type(library.get_top_patterns(3, sort_by="confidence"), list[Pattern])
    assert_type(library.get_library_stats(), dict[str, Any])
    assert_type(library.get_links(), list[tuple[str, str]])
    assert_type(library.agent_contributions, dict[str, list[str]])
    view: Mapping[str, Pattern] = library.patterns
    assert_type(view["p"], Pattern)
    (match,) = library.find_patterns({})
    assert_type(match.pattern, Pattern)
    assert_type(match.relevance, float)
    assert_type(match.relevance_score, float)
    assert_type(match.confidence, float)
    assert_type(match.matching_factors, list[str])
    assert_type(pattern.success_rate, float)
    assert_type(pattern.last_used, datetime | None)
    assert_type(pattern.copy(), Pattern)
    library.contribute_pattern("agent")  # type: ignore[call-arg]
    library.get_pattern(5)  # type: ignore[arg-type]
    library.find_patterns({"a": 1}, "suggestion")  # type: ignore[call-arg]


def states(state: CollaborationState) -> None:
    manager = StateManager(state_dir=".empathy/state")
    StateManager(state_dir=Path("state"))
    assert_type(manager.save_state("u", state), int)
    assert_type(manager.save_state("u", state, expected_version=0), int)
    assert_type(manager.load_state("u"), CollaborationState)
    assert_type(manager.load_versioned("u"), tuple[CollaborationState, int])
    assert_type(manager.list_users(), list[str])
    assert_type(manager.delete_state("u"), bool)
    assert_type(state.trust_level, float)
    assert_type(state.current_level, int)
    assert_type(state.record(True), None)
    manager.save_state("u", None)  # type: ignore[arg-type]


def metrics(collector: MetricsCollector, at: datetime) -> None:
    assert_type(collector.record_interaction("u", 3, True, 145.3, at=at, interaction_id="i"), bool)
    stats = collector.get_user_stats("u")
    assert_type(stats["total_operations"], int)
    assert_type(stats["success_rate"], float)
    assert_type(stats["level_3_count"], int)
    assert_type(stats["last_interaction"], datetime | None)
    assert_type(stats["daily_counts"], dict[str, int])
    everyone = collector.get_global_stats()
    assert_type(everyone["total_users"], int)
    assert_type(everyone["p95_response_time_ms"], float)
    assert_type(collector.get_all_users(), list[str])
    assert_type(collector.get_history("u"), list[Interaction])
    assert_type(collector.export_metrics("metrics.json"), None)
    collector.record_interaction("u", 3, True)  # type: ignore[call-arg]
    stats["no_such_figure"]  # type: ignore[misc]


def collections(store: Store) -> None:
    notes = store.collection("notes", Note)
    assert_type(notes, Collection[Note])
    assert_type(store.collection("plain", Plain).get("n"), Plain | None)
    assert_type(notes.put("n", Note("x"), ttl=1.5), int)
    assert_type(notes.get("n"), Note | None)
    assert_type(notes.delete("n"), bool)
    assert_type(notes.get_many(["n"]), dict[str, Note])
    assert_type(notes.put_many({"n": Note("x")}), None)
    assert_type(notes.keys(), Iterator[str])
    assert_type(notes.items(), Iterator[tuple[str, Note]])
    notes.put("n", Plain("x"))  # type: ignore[arg-type]


def archives(store: Store) -> None:
    with Backups("s3://bucket/prefix", timeout=60.0) as backups:
        made = backups.create(store, progress=lambda done, total: print(done, total))
        assert_type(made, Backup)
        assert_type(backups.list(), list[Backup])
        assert_type(backups.find().name, str)
        assert_type([error.path for error in backups.verify()], list[str])
        assert_type(backups.restore(None, store, replace=True).patterns, int)
        assert_type(backups.prune(Keep(last=7, daily=30)).removed, tuple[Backup, ...])


def waist(store: Store) -> None:
    jobs = store.kv.namespace("jobs", "1")
    assert_type(jobs.get("k"), bytes | None)
    assert_type(jobs.set("k", b"v", ttl=None, expected_version=0), int)
    assert_type(jobs.incr("n"), int)
    assert_type(jobs.hgetall("h"), dict[str, bytes])
    assert_type(jobs.zrange("z"), list[tuple[bytes, float]])
    assert_type(jobs.keys(), Iterator[str])
    with jobs.batch() as batch:
        batch.set("k", b"v").incr("n").check("k", 0)
    jobs.set("k", "text")  # type: ignore[arg-type]


def agent(library: PatternLibrary, best: Pattern | None) -> None:
    config = EmpathyConfig(user_id="u", target_level=4, persistence_enabled=True, persistence_path=".empathy")
    assert_type(config.url, str)
    empathy = EmpathyOS(
        user_id="u", target_level=4, pattern_library=library, responder=lambda said, context, best: said
    )
    assert_type(empathy.interact(user_id="u", user_input="?", context={"task": "x"}), Response)
    assert_type(empathy.collaboration_state, CollaborationState)
    assert_type(empathy.record_success(True), None)
    EmpathyOS("u", responder=lambda: "x")  # type: ignore[misc, arg-type]


def errors(error: CheckError) -> None:
    assert_type(error.key, str)
    assert_type(error.expected, int | None)
    assert_type(error.message, str)


async def event_loops(at: datetime) -> None:
    async with await connect_async("redis://localhost", timeout=1.0, replicas=1) as store:
        assert_type(store, AsyncStore)
        assert_type(await store.metrics.record_interaction("u", 3, True, 145.3, at=at), bool)
        assert_type((await store.metrics.get_user_stats("u"))["total_operations"], int)
        assert_type(await store.states.load_state("u"), CollaborationState)
        assert_type(await store.patterns.get_pattern("p"), Pattern | None)
        assert_type(await store.patterns.find_patterns({"k": 1}, limit=3), list[PatternMatch])
        assert_type((await store.patterns.patterns)["p"], Pattern)
        assert_type(await store.collection("notes", Note).get("n"), Note | None)
        assert_type((await store.durability()).survives, Literal["nothing", "process", "power", "unknown"])
        jobs = store.kv.namespace("jobs")
        assert_type(await jobs.get("k"), bytes | None)
        assert_type(await jobs.set("k", b"v", ttl=1.5, expected_version=0), int)
        assert_type(await jobs.zrange("z"), list[tuple[bytes, float]])
        assert_type([key async for key in jobs.keys()], list[str])  # noqa: SIM118 - no mapping
        await store.states.save_state("u")  # type: ignore[call-arg]
        await store.metrics.record_interaction("u", "3", True, 1.0)  # type: ignore[arg-type]
