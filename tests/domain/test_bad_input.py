"""Every public method with every kind of bad argument: refused with an error of ours that names the culprit, before
anything is written."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import attrs
import fakeredis
import pytest
from engines import ENGINES, place

from empathy_kv.agent import EmpathyConfig, EmpathyOS
from empathy_kv.collection import Collection
from empathy_kv.errors import ArgumentError, ArgumentTypeError, EmpathyKVError, UnavailableError, WrongTypeError
from empathy_kv.kv.interface import KV
from empathy_kv.kv.memory import MemoryKV
from empathy_kv.kv.operations import Batch, Get, HGetAll, Name, Reply, ZRange
from empathy_kv.metrics import MetricsCollector
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.records import CollaborationState, Pattern
from empathy_kv.states import StateManager
from empathy_kv.store import Store
from empathy_kv.urls import connect


@attrs.define
class Note:
    text: str
    stars: int = 0


class Watched(KV):
    """An engine that counts the writes that get through."""

    def __init__(self, kv: KV) -> None:
        super().__init__()
        self.kv = kv
        self.shards = kv.shards  # type: ignore[misc]
        self.writes: list[Batch] = []
        self.namespaces: dict[Name, None] = {}

    def execute(self, batch: Batch) -> list[Reply]:
        replies = self.kv.execute(batch)
        self.namespaces[batch.namespace] = None
        if batch.writes:
            self.writes.append(batch)
        return replies

    def keys(self, namespace: Name) -> Iterator[str]:
        return self.kv.keys(namespace)

    def close(self) -> None:
        self.kv.close()

    def dump(self) -> dict[tuple[Name, str], Any]:
        """Return all that is stored in the namespaces that were ever used."""
        found = {}
        for namespace in self.namespaces:
            for key in self.kv.keys(namespace):
                for kind in (Get, HGetAll, ZRange):
                    try:
                        found[namespace, key] = self.kv.execute(Batch(namespace, (kind(key),)))
                    except WrongTypeError:
                        continue
                    break
        return found


class Odd:
    """What JSON cannot hold; its text is the same in every process, as the names of tests must be."""

    def __repr__(self) -> str:
        return "Odd()"


def pattern(id: Any = "new", **fields: Any) -> Pattern:
    return Pattern(**{"id": id, "agent_id": "author", "pattern_type": "t", "name": "n", **fields})


def state(**fields: Any) -> CollaborationState:
    return CollaborationState("u", **fields)


# The bad values

LONG: Final = "é" * 256 + "x"  # 513 bytes
NO_TEXT: Final = [None, 5, True, b"u", ["u"], ("u",), {"u": 1}, 1.5, object]
BAD_ID: Final = [*NO_TEXT, "", "x" * 513, LONG, "\ud800", "a\udfff"]
NO_BOOL: Final = [None, 1, 0, "true", "", [], 1.0]
NO_INT: Final = [None, True, "1", 1.0, math.nan, [], 10**30, -(10**30)]
NO_NUMBER: Final = [None, True, "1", [], math.nan, math.inf, -math.inf, 10**400, 1j]
NO_MAPPING: Final = [None, 5, "abc", [("a", 1)], {"a"}, Odd()]
NO_JSON: Final = [{1, 2}, b"x", Odd(), math.nan, math.inf, 2**63, -(2**63) - 1, {1: 2}, {None: 1}]
NO_LIST: Final = [None, 5, True, "abc", 1.5]


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


Case = tuple[str, str, Callable[[Any], Any]]
"""What is called, the culprit, and the call; the culprit is what `argument` says, or what `path` begins with."""


def _patterns() -> Iterator[Case]:
    def call(
        name: str, culprit: str, values: list[Any], arguments: Callable[[Any], tuple[Any, ...]], **named: Any
    ) -> Iterator[Case]:
        for value in values:
            yield (
                f"{name} {culprit}={value!r:.30}",
                culprit,
                lambda on, value=value: getattr(on.patterns, name)(*arguments(value), **named),
            )

    def keyword(name: str, culprit: str, values: list[Any], *arguments: Any) -> Iterator[Case]:
        for value in values:
            yield (
                f"{name} {culprit}={value!r:.30}",
                culprit,
                lambda on, value=value: getattr(on.patterns, name)(*arguments, **{culprit: value}),
            )

    def contributed(field: str, values: list[Any]) -> Iterator[Case]:
        for value in values:
            yield (
                f"contribute {field}={value!r:.30}",
                field,
                lambda on, value=value: on.patterns.contribute_pattern("a", pattern(**{field: value})),
            )

    yield from call("contribute_pattern", "agent_id", [*BAD_ID, " ", "\t\n"], lambda value: (value, pattern()))
    yield from call("contribute_pattern", "pattern", [None, {}, "p", Pattern, state()], lambda value: ("a", value))
    yield from call("contribute_pattern", "pattern.id", BAD_ID, lambda value: ("a", pattern(value)))
    yield from call("contribute_pattern", "pattern.agent_id", BAD_ID, lambda value: ("a", pattern(agent_id=value)))
    yield from contributed("name", [*NO_TEXT, "\ud800"])
    yield from contributed("pattern_type", [*NO_TEXT, "\ud800"])
    yield from contributed("description", [*NO_TEXT, "\ud800"])
    yield from contributed("code", [5, b"x", [], "\ud800"])
    yield from contributed(
        "context", [*NO_MAPPING, *({"a": value} for value in [*NO_JSON, "\ud800"]), {1: 1}, {"a": deep(100)}]
    )
    yield from contributed("confidence", [*NO_NUMBER, 1.0001, -0.0001, 2, -1])
    for field in ("usage_count", "success_count", "failure_count"):
        yield from contributed(field, [*NO_INT, -1])
    yield from contributed("discovered_at", [None, 5, "2025-01-01", "now", []])
    yield from contributed("last_used", [5, "2025-01-01", []])
    yield from contributed("tags", [None, "abc", 5, {"a": 1}, ("a",), {"a"}, ["a", 5], [None], ["\ud800"]])
    yield from contributed("extra", [[1], "x", 5, {"a": b"x"}, {1: 2}, {"name": 1}, {"a": deep(100)}])
    yield from call("contribute_patterns", "agent_id", BAD_ID, lambda value: (value, [pattern()]))
    yield from call("contribute_patterns", "patterns", [None, 5, True], lambda value: ("a", value))
    yield from call("contribute_patterns", "pattern", [["x"], [pattern(), None], "abc"], lambda value: ("a", value))
    yield from call("contribute_patterns", "pattern.id", [[pattern("1"), pattern("")]], lambda value: ("a", value))
    yield from call(
        "contribute_patterns", "confidence", [[pattern("1"), pattern("2", confidence=2)]], lambda value: ("a", value)
    )
    yield from call("restore", "contributions", [None, 5, [1], [("a",)], ["ab"], [pattern()]], lambda value: (value,))
    yield from call("restore", "agent_id", [*BAD_ID, " "], lambda value: ([(value, pattern())],))
    yield from call("restore", "pattern", [None, "p"], lambda value: ([("a", value)],))
    yield from call(
        "restore",
        "links",
        [5, [1], [("new",)], [("new", "new")], [("new", 5)], [("new", "")]],
        lambda value: ([("a", pattern())], value),
    )
    for name in ("get_pattern", "remove_pattern", "get_related_patterns"):
        yield from call(name, "pattern_id", BAD_ID, lambda value: (value,))
    yield from call(
        "remove_patterns", "pattern_ids", [*NO_LIST, b"p", *([value] for value in BAD_ID)], lambda value: (value,)
    )
    yield from call(
        "find_patterns",
        "context",
        [*NO_MAPPING, {1: 1}, *({"a": value} for value in NO_JSON), {"a": deep(100)}],
        lambda value: (value,),
    )
    yield from keyword("find_patterns", "pattern_type", [*NO_TEXT[1:], "\ud800"], {"a": 1})
    yield from keyword("find_patterns", "min_confidence", [*NO_NUMBER, 1.01, -0.01], {"a": 1})
    yield from keyword("find_patterns", "limit", [*NO_INT, 0, -1], {"a": 1})
    yield from call("query_patterns", "agent_id", BAD_ID, lambda value: (value, {"a": 1}))
    yield from call("query_patterns", "context", NO_MAPPING, lambda value: ("a", value))
    yield from keyword("query_patterns", "limit", [0], "a", {"a": 1})
    yield from keyword("query_patterns", "min_confidence", [2], "a", {"a": 1})
    yield from keyword("query_patterns", "pattern_type", [5], "a", {"a": 1})
    yield from call("record_pattern_outcome", "pattern_id", BAD_ID, lambda value: (value, True))
    yield from call("record_pattern_outcome", "success", NO_BOOL, lambda value: ("p", value))
    yield from call("link_patterns", "pattern_id_1", BAD_ID, lambda value: (value, "q"))
    yield from call("link_patterns", "pattern_id_2", [*BAD_ID, "p"], lambda value: ("p", value))
    yield from keyword("get_related_patterns", "depth", [*NO_INT, -1], "p")
    yield from call("get_agent_patterns", "agent_id", BAD_ID, lambda value: (value,))
    yield from call("get_top_patterns", "n", [*NO_INT, -1], lambda value: (value,))
    yield from call(
        "get_top_patterns", "sort_by", [None, 5, "", "name", [], {}, "success_count"], lambda value: (5, value)
    )


def _states() -> Iterator[Case]:
    def save(field: str, values: list[Any]) -> Iterator[Case]:
        for value in values:
            yield (
                f"save_state {field}={value!r:.30}",
                field,
                lambda on, value=value: on.states.save_state("u", state(**{field: value})),
            )

    for name in ("load_state", "load_versioned", "delete_state"):
        for value in BAD_ID:
            yield (
                f"{name} user_id={value!r:.30}",
                "user_id",
                lambda on, name=name, value=value: getattr(on.states, name)(value),
            )
    for value in BAD_ID:
        yield (
            f"save_state user_id={value!r:.30}",
            "user_id",
            lambda on, value=value: on.states.save_state(value, state()),
        )
    for value in (None, {}, "x", CollaborationState, pattern()):
        yield f"save_state state={value!r:.30}", "state", lambda on, value=value: on.states.save_state("u", value)
    for value in (True, "1", 1.0, -1, [], 10**30):
        yield (
            f"save_state expected_version={value!r:.30}",
            "expected_version",
            lambda on, value=value: on.states.save_state("u", state(), expected_version=value),
        )
    yield from save("trust_level", [*NO_NUMBER, 1.0001, -0.0001])
    yield from save("current_level", [*NO_INT, 0, 6])
    yield from save("target_level", [*NO_INT, 0, 6])
    for field in ("interaction_count", "success_count", "failure_count"):
        yield from save(field, [*NO_INT, -1])
    yield from save("last_interaction", [5, "2025-01-01"])
    yield from save("created_at", [None, 5, "2025-01-01"])
    yield from save("extra", [[1], "x", {"a": Odd()}, {"trust_level": 1}, {"a": 2**64}])


def _metrics() -> Iterator[Case]:
    good: dict[str, Any] = {"user_id": "u", "level": 1, "success": True, "response_time_ms": 1.0}

    def record(field: str, values: list[Any]) -> Iterator[Case]:
        for value in values:
            yield (
                f"record_interaction {field}={value!r:.30}",
                field,
                lambda on, value=value: on.metrics.record_interaction(**{**good, field: value}),
            )

    yield from record("user_id", BAD_ID)
    yield from record("level", [*NO_INT, 0, 6, -1])
    yield from record("success", NO_BOOL)
    yield from record("response_time_ms", [*NO_NUMBER, -0.001, -1, 1e13])
    yield from record("at", [5, "2025-01-01", 1.5, datetime(2025, 1, 1, tzinfo=UTC).date()])
    yield from record(
        "at",
        [
            datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
            datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))),
        ],
    )
    yield from record("interaction_id", [value for value in BAD_ID if value is not None])
    for name in ("get_user_stats", "get_history"):
        for value in BAD_ID:
            yield (
                f"{name} user_id={value!r:.30}",
                "user_id",
                lambda on, name=name, value=value: getattr(on.metrics, name)(value),
            )
    for value in (None, 5, b"m.json", "", "a\0.json", "m", "m.txt", "m.json.gz", ".json", "\ud800.json", ["m.json"]):
        yield (
            f"export_metrics filepath={value!r:.30}",
            "filepath",
            lambda on, value=value: on.metrics.export_metrics(value),
        )


def _collections() -> Iterator[Case]:
    note = Note("x")
    for value in [*NO_TEXT, "", "x" * 257, "\ud800"]:
        yield f"collection name={value!r:.30}", "name", lambda on, value=value: on.store.collection(value, Note)
    for value in (None, 5, int, dict, "Note", note, list[int]):
        yield f"collection kind={value!r:.30}", "kind", lambda on, value=value: on.store.collection("notes", value)
    for value in BAD_ID:
        yield f"put id={value!r:.30}", "id", lambda on, value=value: on.notes.put(value, note)
        yield f"get id={value!r:.30}", "id", lambda on, value=value: on.notes.get(value)
        yield f"delete id={value!r:.30}", "id", lambda on, value=value: on.notes.delete(value)
        yield f"get_many id={value!r:.30}", "id", lambda on, value=value: on.notes.get_many(["n", value])
        if not isinstance(value, (list, dict)):
            yield (
                f"put_many id={value!r:.30}",
                "id",
                lambda on, value=value: on.notes.put_many({"n": note, value: note}),
            )
    for value in (None, {}, "x", Note, pattern()):
        yield f"put document={value!r:.30}", "document", lambda on, value=value: on.notes.put("n", value)
        yield (
            f"put_many document={value!r:.30}",
            "document",
            lambda on, value=value: on.notes.put_many({"n": note, "m": value}),
        )
    for field, values in (("text", [*NO_TEXT, "\ud800"]), ("stars", NO_INT)):
        for value in values:
            bad = Note(**{"text": "x", field: value})
            yield f"put {field}={value!r:.30}", field, lambda on, bad=bad: on.notes.put("n", bad)
            yield f"put_many {field}={value!r:.30}", field, lambda on, bad=bad: on.notes.put_many({"n": note, "m": bad})
    for value in (
        0,
        -1,
        0.0,
        -0.5,
        True,
        "5",
        math.nan,
        math.inf,
        10**30,
        timedelta(0),
        timedelta(seconds=-1),
        timedelta.max,
        [],
        1j,
    ):
        yield f"put ttl={value!r:.30}", "ttl", lambda on, value=value: on.notes.put("n", note, ttl=value)
        yield f"put_many ttl={value!r:.30}", "ttl", lambda on, value=value: on.notes.put_many({"n": note}, ttl=value)
    for value in NO_LIST:
        yield f"get_many ids={value!r:.30}", "ids", lambda on, value=value: on.notes.get_many(value)
    for value in NO_MAPPING:
        yield f"put_many documents={value!r:.30}", "documents", lambda on, value=value: on.notes.put_many(value)


def _constructors() -> Iterator[Case]:
    kv = MemoryKV()
    for value in (
        5,
        b"memory:",
        [],
        Path("x"),
        Odd(),
        "",
        "memory",
        ":",
        "nosuch:x",
        "C:\\x",
        "memory:x",
        "memory://x",
        "file:",
        "file:a\0b",
    ):
        yield f"connect target={value!r:.30}", "target", lambda on, value=value: connect(value)
    for value in (
        "file://host/path",
        "file:\ud800",
        "http://x",
        " memory:",
        "redis://h:port",
        "redis://h/not-a-number",
    ):
        yield f"connect target={value!r:.30}", "target", lambda on, value=value: connect(value)
    for value in (None, "", "FSYNC", True, 5, []):
        yield (
            f"connect durability={value!r:.30}",
            "durability",
            lambda on, value=value: connect("memory:", durability=value),
        )
    for url in ("memory:", "file:x", "redis://localhost:1"):
        for value in (None, "5", -1, math.nan, math.inf, True, []):
            yield (
                f"connect {url} timeout={value!r:.30}",
                "timeout",
                lambda on, value=value, url=url: connect(url, timeout=value),
            )
        for value in (None, 5, "", "x" * 129, "\ud800"):
            yield (
                f"connect {url} prefix={value!r:.30}",
                "prefix",
                lambda on, value=value, url=url: connect(url, prefix=value),
            )
        for value in (None, 0, -1, 1.5, True, "5"):
            yield (
                f"connect {url} history_limit={value!r:.30}",
                "history_limit",
                lambda on, value=value, url=url: connect(url, history_limit=value),
            )
    for value in (5, b"x", [], "", "a\0b", "\ud800"):
        yield (
            f"StateManager state_dir={value!r:.30}",
            "state_dir",
            lambda on, value=value: StateManager(state_dir=value),
        )
    yield "StateManager()", "state_dir", lambda on: StateManager()
    yield "StateManager of both", "state_dir", lambda on: StateManager("x", kv=kv)
    for value in (5, b"x", []):
        yield (
            f"MetricsCollector db_path={value!r:.30}",
            "db_path",
            lambda on, value=value: MetricsCollector(db_path=value),
        )
    yield "MetricsCollector()", "db_path", lambda on: MetricsCollector()
    yield "MetricsCollector of both", "db_path", lambda on: MetricsCollector("x", kv=kv)
    for value in (None, 0, -1, True, "5", 1.5):
        yield (
            f"MetricsCollector history_limit={value!r:.30}",
            "history_limit",
            lambda on, value=value: MetricsCollector(kv=kv, history_limit=value),
        )
    for value in (None, 5, dict, "Note"):
        yield f"Collection kind={value!r:.30}", "kind", lambda on, value=value: Collection("n", value, kv=kv)


def _agents() -> Iterator[Case]:
    for value in BAD_ID:
        yield f"EmpathyOS user_id={value!r:.30}", "user_id", lambda on, value=value: EmpathyOS(value)
        yield f"EmpathyConfig user_id={value!r:.30}", "user_id", lambda on, value=value: EmpathyConfig(user_id=value)
        yield f"interact user_id={value!r:.30}", "user_id", lambda on, value=value: on.agent.interact(value, "?", {})
    for value in [*NO_INT, 0, 6]:
        yield f"EmpathyOS target_level={value!r:.30}", "target_level", lambda on, value=value: EmpathyOS("u", value)
        yield (
            f"EmpathyConfig target_level={value!r:.30}",
            "target_level",
            lambda on, value=value: EmpathyConfig(target_level=value),
        )
    for value in NO_BOOL:
        yield (
            f"EmpathyConfig persistence_enabled={value!r:.30}",
            "persistence_enabled",
            lambda on, value=value: EmpathyConfig(persistence_enabled=value),
        )
        yield f"record_success success={value!r:.30}", "success", lambda on, value=value: on.agent.record_success(value)
    for value in (None, 5, b"x", [], "", "a\0b", "\ud800"):
        yield (
            f"EmpathyConfig persistence_path={value!r:.30}",
            "persistence_path",
            lambda on, value=value: EmpathyConfig(persistence_path=value),
        )
    for value in (5, {}, PatternLibrary, "x"):
        yield (
            f"EmpathyOS pattern_library={value!r:.30}",
            "pattern_library",
            lambda on, value=value: EmpathyOS("u", 3, value),
        )
    for value in (5, "x", {}):
        yield f"EmpathyOS responder={value!r:.30}", "responder", lambda on, value=value: EmpathyOS("u", responder=value)
    yield "interact with another user", "user_id", lambda on: on.agent.interact("v", "?", {})
    for value in (None, 5, b"x", ["?"]):
        yield (
            f"interact user_input={value!r:.30}",
            "user_input",
            lambda on, value=value: on.agent.interact("u", value, {}),
        )
    for value in [*NO_MAPPING, {1: 1}, {"a": Odd()}]:
        yield f"interact context={value!r:.30}", "context", lambda on, value=value: on.agent.interact("u", "?", value)


CASES: Final = {
    "patterns": list(_patterns()),
    "states": list(_states()),
    "metrics": list(_metrics()),
    "collections": list(_collections()),
    "agents": list(_agents()),
    "constructors": list(_constructors()),
}


def fill(target: Any) -> None:
    """Store something of all that there is, which nothing may disturb."""
    if hasattr(target, "patterns"):
        target.patterns.contribute_patterns("a", [pattern("p", context={"a": 1}), pattern("q")])
        target.patterns.link_patterns("p", "q")
        target.patterns.record_pattern_outcome("p", True)
    if hasattr(target, "states"):
        target.states.save_state("u", CollaborationState("u", created_at=datetime(2025, 1, 1, tzinfo=UTC)))
    if hasattr(target, "metrics"):
        target.metrics.record_interaction("u", 1, True, 1.0, interaction_id="i")
        target.notes.put("n", Note("kept"))


def files(directory: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in directory.rglob("*")
        if path.name != ".lock"
    }


ON_STORES: Final = ("patterns", "states", "metrics", "collections")
ROWS: Final = [
    pytest.param(where, *case, id=f"{where}: {case[0]}".encode("unicode_escape").decode())
    for where, kinds in {
        "memory": ON_STORES,
        "PatternLibrary()": ("patterns",),
        "state_dir": ("states",),
        "no store": ("agents", "constructors"),
    }.items()
    for kind in kinds
    for case in CASES[kind]
]


@pytest.fixture(scope="module")
def targets(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """Gives what is called, one for all cases, and knows what it held at first."""
    made: dict[str, Any] = {}

    def get(where: str) -> Any:
        if where not in made:
            made[where] = _target(where, tmp_path_factory.mktemp("bad"), request)
            fill(made[where])
            made[where].before = made[where].dump()
        return made[where]

    yield get
    for target in made.values():
        target.close()


def _target(where: str, directory: Path, request: pytest.FixtureRequest) -> Any:
    if where in ENGINES:
        kv = Watched(ENGINES[where].open(place(ENGINES[where], directory / "store", request)))
        store = Store(kv)
        return SimpleNamespace(
            store=store,
            patterns=store.patterns,
            states=store.states,
            metrics=store.metrics,
            notes=store.collection("notes", Note),
            written=lambda: len(kv.writes),
            dump=kv.dump,
            close=store.close,
        )
    if where == "state_dir":
        return SimpleNamespace(
            states=StateManager(state_dir=directory / "state"),
            written=lambda: files(directory),
            dump=lambda: files(directory),
            close=lambda: None,
        )
    library = PatternLibrary()
    if where == "no store":
        agent = EmpathyOS("u", pattern_library=library)
        return SimpleNamespace(
            agent=agent,
            written=lambda: agent.collaboration_state.interaction_count,
            dump=lambda: attrs.asdict(agent.collaboration_state),
            close=lambda: None,
        )
    held = lambda: (dict(library.patterns), library.agent_contributions, library.get_links())  # noqa: E731
    return SimpleNamespace(patterns=library, written=held, dump=held, close=lambda: None)


def check(target: Any, culprit: str, call: Callable[[Any], Any]) -> None:
    written = target.written()
    with pytest.raises(EmpathyKVError) as caught:
        call(target)
    error = caught.value
    assert isinstance(error, (ValueError, TypeError))
    assert str(error)
    assert "\n" not in str(error)
    argument, path = getattr(error, "argument", ""), getattr(error, "path", "")
    assert argument == culprit or path == f"$.{culprit}" or path.startswith((f"$.{culprit}.", f"$.{culprit}["))
    assert target.written() == written


@pytest.mark.parametrize(("where", "what", "culprit", "call"), ROWS)
def test_a_bad_argument_is_refused_by_name_and_nothing_is_written(
    targets: Callable[[str], Any],
    where: str,
    what: str,
    culprit: str,
    call: Callable[[Any], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    check(targets(where), culprit, call)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ON_STORES)
@pytest.mark.parametrize("where", ["files", "fakeredis", "redis"])
def test_every_bad_argument_is_refused_alike_by_the_other_engines(
    targets: Callable[[str], Any], where: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = {}
    for what, culprit, call in CASES[kind]:
        try:
            check(targets(where), culprit, call)
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - all of them are told at once
            wrong[what] = f"{type(error).__name__}: {error}"
    assert wrong == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "where", ["memory", "files", "fakeredis", "redis", "PatternLibrary()", "state_dir", "no store"]
)
def test_after_all_that_everything_is_as_it_was(targets: Callable[[str], Any], where: str) -> None:
    target = targets(where)
    assert target.dump() == target.before


def test_a_password_is_in_no_error_and_no_name() -> None:
    for url in (
        "redis://user:s3cret@h:port/0",
        "redis://:s3cret@localhost:1/x/y",
        "postgres://u:s3cret@h",
        "s3cret",
        "redis://u:s3cret@h?socket_timeout=x",
    ):
        try:
            store = connect(url, timeout=0.05)
        except EmpathyKVError as error:
            said = f"{error} {error!r} {error.__dict__} {error.__cause__}"
        else:
            said = repr(store)
            with pytest.raises(EmpathyKVError) as caught:
                store.states.list_users()
            said += f"{caught.value} {caught.value!r} {caught.value.__dict__}"
            store.close()
        assert "s3cret" not in said, url


def test_a_server_that_does_not_answer_is_named() -> None:
    with connect("redis://localhost:1", timeout=0.05) as store, pytest.raises(UnavailableError, match="localhost:1 "):
        store.states.list_users()
    with connect("unix:///nowhere/redis.sock", timeout=0.05) as store, pytest.raises(UnavailableError) as caught:
        store.metrics.get_global_stats()
    assert "/nowhere/redis.sock" in str(caught.value)


def test_a_wrong_url_in_the_environment_is_told_apart_from_one_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPATHY_KV_URL", "agents")
    with pytest.raises(ArgumentError, match=r"^EMPATHY_KV_URL in the environment must be a URL"):
        connect()
    with pytest.raises(ArgumentError, match=r"^target must be a URL"):
        connect("agents")


def test_a_path_in_the_place_of_a_url_is_told_what_to_write() -> None:
    with pytest.raises(ArgumentTypeError, match="file:DIR"):
        connect(Path("agents"))  # type: ignore[arg-type]


def test_a_file_in_the_place_of_a_directory_is_what_is_wrong_with_the_target(tmp_path: Path) -> None:
    (tmp_path / "agents").touch()
    with pytest.raises(ArgumentError, match=rf"^target must be a directory; {tmp_path}/agents is none") as caught:
        connect(f"file:{tmp_path}/agents")
    assert caught.value.argument == "target"


def test_a_record_of_another_class_is_told_by_what_it_was_given_as() -> None:
    class Special(Pattern):
        """One that is no pattern as it is stored."""

    class Odd(CollaborationState):
        """Nor this a state."""

    with connect("memory:") as store:
        with pytest.raises(ArgumentTypeError, match=r"^pattern must be a Pattern, not Special") as caught:
            store.patterns.contribute_pattern("a", Special("p", "a", "t", "n"))
        assert caught.value.argument == "pattern"
        with pytest.raises(ArgumentTypeError, match=r"^state must be a CollaborationState, not Odd") as caught:
            store.states.save_state("u", Odd("u"))
        assert caught.value.argument == "state"


@pytest.mark.parametrize("url", ["file:///agents?durability=os", "file:///agents#1"])
def test_what_the_url_of_a_directory_cannot_say_is_refused_and_not_dropped(url: str) -> None:
    with pytest.raises(ArgumentError, match="%3F") as caught:
        connect(url)
    assert caught.value.argument == "target"


def test_a_question_mark_in_the_name_of_a_directory_is_written_in_percent(tmp_path: Path) -> None:
    with connect(f"file://{tmp_path}/a%3Fb%23c") as store:
        store.states.save_state("u", state())
    assert (tmp_path / "a?b#c").is_dir()


@pytest.mark.parametrize("url", ["memory:", "sqlite:///agents.db"])
def test_a_wrong_limit_of_the_history_is_refused_where_it_would_not_be_used_too(url: str) -> None:
    with pytest.raises(ArgumentError, match="history_limit"):
        connect(url, history_limit=0)


def test_a_client_of_redis_py_is_taken_and_left_open() -> None:
    with fakeredis.FakeRedis(server=fakeredis.FakeServer()) as client:
        with connect(client) as store:
            store.states.save_state("u", state())
        assert client.ping()
        with connect(client, prefix="other") as store:
            assert store.states.list_users() == []
