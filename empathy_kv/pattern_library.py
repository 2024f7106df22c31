"""The library of patterns: its rules (`PatternRules`), sans-I/O.

Lookups are answered from an `Index` in memory. Where the patterns are is a form of `Patterns`: `PatternLibrary()` has
nothing but the index (`LocalPatterns`); on a store that workers share, each has an index that follows the store
(`shared_patterns`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from attrs import evolve
from msgspec.structs import replace

from empathy_kv.codec import codec, json_value
from empathy_kv.errors import (
    ArgumentError,
    ArgumentTypeError,
    CodecError,
    PatternExistsError,
    PatternNotFoundError,
)
from empathy_kv.index import SORTS, Held, Index, links
from empathy_kv.kv.interface import Engine, Steps, method, run
from empathy_kv.kv.operations import boolean, integer, number, octets, text
from empathy_kv.matching import Question
from empathy_kv.records import MAX_ID, PROVEN, Pattern, PatternMatch, now

_CODEC: Final = codec(Pattern)

Contribution = tuple[str, Pattern]
"""Who contributes, and what."""


Progress = Callable[[int, int], None]
"""What is told how many patterns are done, and of how many."""


class Patterns(Protocol):
    """Where the patterns of a library are. Writes check what has to be checked in the same commit."""

    on_load: Progress | None
    """What is told how far the loading of a library is."""

    def pull(self, max_staleness: float) -> Steps[Index]:
        """Return all patterns as they are now, or were at some moment of the last `max_staleness` seconds.

        What was written here before is always among them.
        """

    def pull_known(self) -> Steps[Index | None]:
        """Return all patterns as they are now, None if they would have to be loaded first."""

    def get(self, pattern_id: str, max_staleness: float) -> Steps[Held | None]:
        """Return one pattern, as `pull` does, without loading the others."""

    def count(self) -> Steps[int]:
        """Return how many there are, without loading them."""

    def there(self, ids: Sequence[str]) -> Steps[set[str]]:
        """Return which of these ids are taken, without loading anything."""

    def add(self, contributions: Sequence[Contribution]) -> Steps[None]:
        """Add patterns; `PatternExistsError` if an id is taken."""

    def remove(self, ids: Sequence[str]) -> Steps[list[bool]]:
        """Remove patterns and return which were there."""

    def bump(self, pattern_id: str, success: bool, at: datetime) -> Steps[None]:
        """Count an outcome; `PatternNotFoundError` if the pattern is not there."""

    def update(self, pattern: Pattern) -> Steps[None]:
        """Let a pattern say what this one does, as `updated` has it; `PatternNotFoundError` if it is not there."""

    def link(self, pairs: Sequence[tuple[str, str]]) -> Steps[None]:
        """Link patterns both ways; `PatternNotFoundError` if one is not there."""

    def repair(self) -> Steps[int]:
        """Find the patterns again that are there and that the library has lost; return how many."""


def missing(pattern_id: str) -> PatternNotFoundError:
    """Return the error of an id that no pattern has."""
    return PatternNotFoundError(f"no pattern has the id {pattern_id!r}", pattern_id=pattern_id)


def taken(pattern_id: str) -> PatternExistsError:
    """Return the error of an id that a pattern has."""
    return PatternExistsError(
        f"a pattern with the id {pattern_id!r} is in the library; remove it first, or use another id",
        pattern_id=pattern_id,
    )


def encoded(pattern: Pattern) -> bytes:
    """Return a contributed pattern as it is stored; `CodecError`, which names it, if it cannot be."""
    try:
        return octets(_CODEC.encode(pattern), "pattern")
    except CodecError as error:
        raise CodecError(f"pattern {pattern.id!r}: {error}", path=error.path, argument="pattern") from error


def updated(held: Held, pattern: Pattern) -> bytes:
    """Return the document of a pattern that says something else: what happened to it stays as it was.

    That is how often it was used and with which outcome, when it was found and last used; and its confidence, where its
    uses have decided about that.
    """
    contributed = _CODEC.decode(held.document)
    proven = held.pattern().usage_count >= PROVEN
    return encoded(
        evolve(
            pattern,
            confidence=contributed.confidence if proven else pattern.confidence,
            usage_count=contributed.usage_count,
            success_count=contributed.success_count,
            failure_count=contributed.failure_count,
            discovered_at=contributed.discovered_at,
            last_used=contributed.last_used,
        )
    )


class LocalPatterns:
    """The index itself is the library. Nothing is yielded: there is no I/O."""

    def __init__(self, index: Index | None = None) -> None:
        self.on_load: Progress | None = None
        self.index = Index() if index is None else index

    def pull(self, max_staleness: float) -> Steps[Index]:  # noqa: ARG002 - nothing is ever stale
        yield from ()
        return self.index

    def pull_known(self) -> Steps[Index | None]:
        yield from ()
        return self.index

    def get(self, pattern_id: str, max_staleness: float) -> Steps[Held | None]:  # noqa: ARG002 - as above
        yield from ()
        return self.index.get(pattern_id)

    def count(self) -> Steps[int]:
        yield from ()
        return len(self.index)

    def there(self, ids: Sequence[str]) -> Steps[set[str]]:
        yield from ()
        return {pattern_id for pattern_id in ids if pattern_id in self.index}

    def add(self, contributions: Sequence[Contribution]) -> Steps[None]:
        yield from ()
        # Through the stored form: the library has a copy of its own, and holds nothing that cannot be stored.
        documents = [(pattern.id, agent, encoded(pattern)) for agent, pattern in contributions]
        with self.index.lock:
            for pattern_id, _, _ in documents:
                if pattern_id in self.index:
                    raise taken(pattern_id)
            for pattern_id, agent, document in documents:
                self.index.put(Held(pattern_id, agent, self.index.last + 1, document))

    def remove(self, ids: Sequence[str]) -> Steps[list[bool]]:
        yield from ()
        with self.index.lock:
            return [self.index.remove(pattern_id) for pattern_id in ids]

    def bump(self, pattern_id: str, success: bool, at: datetime) -> Steps[None]:
        yield from ()
        with self.index.lock:
            held = self._require(pattern_id)
            self.index.put(
                replace(held, succeeded=held.succeeded + success, failed=held.failed + (not success), last_used=at)
            )

    def update(self, pattern: Pattern) -> Steps[None]:
        yield from ()
        with self.index.lock:
            held = self._require(pattern.id)
            self.index.put(replace(held, document=updated(held, pattern)))

    def repair(self) -> Steps[int]:
        yield from ()
        return 0

    def link(self, pairs: Sequence[tuple[str, str]]) -> Steps[None]:
        yield from ()
        with self.index.lock:
            for end in itertools.chain.from_iterable(pairs):
                self._require(end)
            for one, other in pairs:
                for near, far in ((one, other), (other, one)):
                    held = self._require(near)
                    self.index.put(replace(held, links=held.links | {far}))

    def _require(self, pattern_id: str) -> Held:
        held = self.index.get(pattern_id)
        if held is None:
            raise missing(pattern_id)
        return held


class PatternRules:
    """What a library does, whoever runs it: every method is a generator of steps.

    Lookups take `max_staleness`: how many seconds old the library may be that they answer from. None is what the
    library's own `max_staleness` says.
    """

    def __init__(self, patterns: Patterns) -> None:
        self.patterns = patterns
        self.max_staleness = 0.0

    def _pull(self, max_staleness: float | None) -> Steps[Index]:
        index = yield from self.patterns.pull(self._allowed(max_staleness))
        return index

    def _allowed(self, max_staleness: float | None) -> float:
        return self.max_staleness if max_staleness is None else number(max_staleness, "max_staleness", 0.0)

    def contribute_pattern(self, agent_id: str, pattern: Pattern) -> Steps[None]:
        """Add a pattern in the name of an agent. `PatternExistsError` (a ValueError) if its id is taken."""
        yield from self.contribute_patterns(agent_id, [pattern])

    def contribute_patterns(self, agent_id: str, patterns: Iterable[Pattern]) -> Steps[None]:
        """Add many patterns in the name of one agent.

        Each is checked before any is written, and they go in batches of 500: if an id is found to be taken by another
        worker meanwhile (`PatternExistsError`), the batches before it stay.
        """
        _agent(agent_id)
        if not isinstance(patterns, Iterable):
            raise ArgumentTypeError(f"patterns must be a list, not {type(patterns).__name__}", argument="patterns")
        yield from self.restore([(agent_id, pattern) for pattern in patterns])

    def restore(self, contributions: Sequence[Contribution], links: Sequence[tuple[str, str]] = ()) -> Steps[None]:
        """Add patterns in the names of their contributors, in order, and links among them."""
        seen: dict[str, None] = {}
        for agent_id, pattern in _pairs(contributions, "contributions"):
            _agent(agent_id)
            if _pattern(pattern).id in seen:
                raise taken(pattern.id)
            seen[pattern.id] = None
        for one, other in _pairs(links, "links"):
            if text(one, "links", MAX_ID) == text(other, "links", MAX_ID):
                raise ArgumentError(f"links must be of two patterns, not of {one!r} with itself", argument="links")
        if len(contributions) > 1 or links:
            # The store looks at one page at a time: what can be known before the first is looked at here.
            others = {end: None for pair in links for end in pair if end not in seen}
            there = yield from self.patterns.there([*seen, *others])
            for pattern_id in seen.keys() & there:
                raise taken(pattern_id)
            for pattern_id in others.keys() - there:
                raise missing(pattern_id)
        yield from self.patterns.add(contributions)
        if links:
            yield from self.patterns.link(links)

    def get_pattern(self, pattern_id: str, *, max_staleness: float | None = None) -> Steps[Pattern | None]:
        """Return a pattern, None if it is not there. It is the caller's own copy."""
        text(pattern_id, "pattern_id", MAX_ID)
        held = yield from self.patterns.get(pattern_id, self._allowed(max_staleness))
        return None if held is None else held.pattern()

    def update_pattern(self, pattern: Pattern) -> Steps[None]:
        """Let the pattern with this id say what this one does. `PatternNotFoundError` if it is not there.

        Its place, its contributor, its links, and what was recorded of it stay: a pattern that `get_pattern` gave can
        be changed and given here, while others record outcomes of it. From five uses on its confidence stays, too.
        """
        encoded(_pattern(pattern))  # What cannot be stored is refused before anything is asked.
        yield from self.patterns.update(pattern)

    def remove_pattern(self, pattern_id: str) -> Steps[bool]:
        """Remove a pattern with its links and return whether it was there; removing twice is no error."""
        text(pattern_id, "pattern_id", MAX_ID)
        removed = yield from self.patterns.remove([pattern_id])
        return removed[0]

    def remove_patterns(self, pattern_ids: Iterable[str]) -> Steps[int]:
        """Remove many patterns, in batches of 500, and return how many were there."""
        ids = list(dict.fromkeys(text(pattern_id, "pattern_ids", MAX_ID) for pattern_id in _ids(pattern_ids)))
        removed = yield from self.patterns.remove(ids)
        return sum(removed)

    def find_patterns(
        self,
        context: Mapping[str, Any],
        *,
        pattern_type: str | None = None,
        min_confidence: float = 0.5,
        limit: int = 10,
        max_staleness: float | None = None,
    ) -> Steps[list[PatternMatch]]:
        """Return the patterns that fit a situation, the most relevant first, ties in order of contribution.

        `context` is a JSON object; its `tags`, an array of texts, are compared with the patterns' tags. Patterns of
        another type or of less confidence are left out. At most `limit`; none is an empty list.
        """
        if not isinstance(context, Mapping):
            raise ArgumentTypeError(f"context must be a mapping, not {type(context).__name__}", argument="context")
        if pattern_type is not None:
            text(pattern_type, "pattern_type", MAX_ID)
        number(min_confidence, "min_confidence", 0.0, 1.0)
        integer(limit, "limit", 1)
        try:
            question = json_value(dict(context), "$")
        except CodecError as error:
            raise CodecError(f"context: {error}", path=error.path, argument="context") from error
        index = yield from self._pull(max_staleness)
        with index.lock:
            return index.find(Question(question, pattern_type, min_confidence, limit))

    def query_patterns(
        self,
        agent_id: str,
        context: Mapping[str, Any],
        pattern_type: str | None = None,
        min_confidence: float = 0.5,
        limit: int = 10,
        *,
        max_staleness: float | None = None,
    ) -> Steps[list[PatternMatch]]:
        """Return what `find_patterns` returns; `agent_id` is who asks."""
        text(agent_id, "agent_id", MAX_ID)
        matches = yield from self.find_patterns(
            context,
            pattern_type=pattern_type,
            min_confidence=min_confidence,
            limit=limit,
            max_staleness=max_staleness,
        )
        return matches

    def record_pattern_outcome(self, pattern_id: str, success: bool) -> Steps[None]:
        """Count one use of a pattern. `PatternNotFoundError` (a KeyError and a ValueError) if it is not there."""
        text(pattern_id, "pattern_id", MAX_ID)
        boolean(success, "success")
        yield from self.patterns.bump(pattern_id, success, now())

    def link_patterns(self, pattern_id_1: str, pattern_id_2: str) -> Steps[None]:
        """Link two patterns, both ways; linking twice is no error. `PatternNotFoundError` if one is not there."""
        text(pattern_id_1, "pattern_id_1", MAX_ID)
        text(pattern_id_2, "pattern_id_2", MAX_ID)
        if pattern_id_1 == pattern_id_2:
            raise ArgumentError("pattern_id_2 must be another pattern than pattern_id_1", argument="pattern_id_2")
        yield from self.patterns.link([(pattern_id_1, pattern_id_2)])

    def get_related_patterns(
        self, pattern_id: str, depth: int = 1, *, max_staleness: float | None = None
    ) -> Steps[list[Pattern]]:
        """Return the patterns within `depth` links of one, each once, the nearest first; not the pattern itself.

        Of an unknown pattern, none.
        """
        text(pattern_id, "pattern_id", MAX_ID)
        integer(depth, "depth", 0)
        index = yield from self._pull(max_staleness)
        with index.lock:
            return index.related(pattern_id, depth)

    def get_agent_patterns(self, agent_id: str, *, max_staleness: float | None = None) -> Steps[list[Pattern]]:
        """Return the patterns that an agent contributed, in order; of an unknown agent, none."""
        text(agent_id, "agent_id", MAX_ID)
        index = yield from self._pull(max_staleness)
        with index.lock:
            return index.of_agent(agent_id)

    def get_top_patterns(
        self, n: int = 10, sort_by: str = "success_rate", *, max_staleness: float | None = None
    ) -> Steps[list[Pattern]]:
        """Return the `n` best by "success_rate", "usage_count" or "confidence", ties in order of contribution."""
        integer(n, "n", 0)
        if not isinstance(sort_by, str) or sort_by not in SORTS:
            raise ArgumentError(f"sort_by must be one of {', '.join(SORTS)}, not {sort_by!r}", argument="sort_by")
        index = yield from self._pull(max_staleness)
        with index.lock:
            return index.top(n, sort_by)

    def get_library_stats(self, *, max_staleness: float | None = None) -> Steps[dict[str, Any]]:
        """Return figures of the whole library; of an empty one, zeros.

        `total_patterns`, `total_usage`, `total_agents`, `average_confidence`, `average_success_rate` (of the patterns
        that were used), and `patterns_by_type`: how many there are of each.
        """
        index = yield from self._pull(max_staleness)
        with index.lock:
            return index.stats()

    def view(self) -> Steps[PatternView]:
        """Return the patterns by id, loaded, so that whoever looks at them asks nobody."""
        index = yield from self.patterns.pull(0.0)
        return PatternView(self.patterns, functools.partial(run, None), index)

    def snapshot(self, *, max_staleness: float | None = None) -> Steps[list[Held]]:
        """Return all patterns in the order of contribution, as they are at one moment, still encoded: what is saved."""
        index = yield from self._pull(max_staleness)
        with index.lock:
            return list(index)

    def get_agent_contributions(self, *, max_staleness: float | None = None) -> Steps[dict[str, list[str]]]:
        """Return the ids that each agent contributed, in order."""
        index = yield from self._pull(max_staleness)
        with index.lock:
            return index.contributions()

    def repair(self) -> Steps[int]:
        """Find the patterns again that are in the store, and that the library has lost; return how many.

        So it is where a file in which the library keeps the order of its patterns was damaged or deleted. They come
        after the others, by when they were discovered. Where nothing is lost it changes nothing.
        """
        found = yield from self.patterns.repair()
        return found

    def get_links(self, *, max_staleness: float | None = None) -> Steps[list[tuple[str, str]]]:
        """Return each link once, as a pair of ids."""
        index = yield from self._pull(max_staleness)
        with index.lock:
            return links(index)


def _pattern(value: Any) -> Pattern:
    if not isinstance(value, Pattern):
        raise ArgumentTypeError(f"pattern must be a Pattern, not {type(value).__name__}", argument="pattern")
    text(value.agent_id, "pattern.agent_id", MAX_ID)
    text(value.id, "pattern.id", MAX_ID)
    return value


def _agent(agent_id: str) -> None:
    if not text(agent_id, "agent_id", MAX_ID).strip():
        raise ArgumentError("agent_id must not be blank", argument="agent_id")


def _pairs(value: object, argument: str) -> Sequence[tuple[Any, Any]]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise ArgumentTypeError(f"{argument} must be a list, not {type(value).__name__}", argument=argument)
    for item in value:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise ArgumentTypeError(f"{argument} must be a list of pairs; {item!r:.40} is none", argument=argument)
    return value


def _ids(value: object) -> Iterable[str]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ArgumentTypeError(f"pattern_ids must be a list, not {type(value).__name__}", argument="pattern_ids")
    return value


class PatternView(Mapping[str, Pattern]):
    """The patterns of a library by id, in order of contribution. Each look-up gives a copy.

    A library that is not loaded here stays so for `len`, `in` and one key; to go over all of it loads it.
    """

    def __init__(self, patterns: Patterns, run: Callable[[Steps[Any]], Any], index: Index | None) -> None:
        self._patterns = patterns
        self._run = run
        self._index = index

    def __len__(self) -> int:
        return self._run(self._patterns.count()) if self._index is None else len(self._index)

    def __iter__(self) -> Iterator[str]:
        index = self._index
        if index is None:
            index = self._index = self._run(self._patterns.pull(0.0))
        with index.lock:
            return iter([held.id for held in index])

    def __contains__(self, pattern_id: object) -> bool:
        return isinstance(pattern_id, str) and self._held(pattern_id) is not None

    def __getitem__(self, pattern_id: str) -> Pattern:
        held = self._held(pattern_id) if isinstance(pattern_id, str) else None
        if held is None:
            raise missing(pattern_id)
        return held.pattern()

    def _held(self, pattern_id: str) -> Held | None:
        if self._index is not None:
            return self._index.get(pattern_id)
        try:
            text(pattern_id, "pattern_id", MAX_ID)
        except ArgumentError:
            return None
        held: Held | None = self._run(self._patterns.get(pattern_id, 0.0))
        return held

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} patterns)"


class Settings:
    """What can be set of a library, for threads and in an event loop."""

    _rules: PatternRules

    @property
    def max_staleness(self) -> float:
        """How many seconds old the library may be that lookups answer from; 0.0 at first.

        At 0.0 every lookup sees what any worker did before; it asks the store, in one small round trip. Above, one that
        comes so soon after another asks nobody. What this worker did itself, it sees always.
        """
        return self._rules.max_staleness

    @max_staleness.setter
    def max_staleness(self, seconds: float) -> None:
        self._rules.max_staleness = number(seconds, "max_staleness", 0.0)

    @property
    def on_load(self) -> Progress | None:
        """What is called while a shared library is loaded, with how many patterns are loaded, and of how many.

        The first lookup of a worker loads it, and one after more changes than the feed keeps. None calls nothing. What
        it raises ends the lookup; the next one loads anew.
        """
        return self._rules.patterns.on_load

    @on_load.setter
    def on_load(self, call: Progress | None) -> None:
        if call is not None and not callable(call):
            raise ArgumentTypeError(f"on_load must be callable, not {type(call).__name__}", argument="on_load")
        self._rules.patterns.on_load = call


class PatternLibrary(Settings):
    """Reusable solutions: contributed by agents, found by what they fit, judged by their outcomes.

    `PatternLibrary()` is in memory; save and load it with `PatternPersistence`. `store.patterns` is the same on a store
    that many workers share. Patterns that it returns are copies.
    """

    def __init__(self, patterns: Patterns | None = None, kv: Engine | None = None) -> None:
        self._rules = PatternRules(LocalPatterns() if patterns is None else patterns)
        self._run = functools.partial(run, kv)
        self._kv = kv

    def __repr__(self) -> str:
        # On a store, where it is: to count the patterns there would take a round trip.
        where = f"{self._run(self._rules.patterns.count())} patterns" if self._kv is None else repr(self._kv)
        return f"{type(self).__name__}({where})"

    contribute_pattern = method(PatternRules.contribute_pattern)
    contribute_patterns = method(PatternRules.contribute_patterns)
    restore = method(PatternRules.restore)
    get_pattern = method(PatternRules.get_pattern)
    update_pattern = method(PatternRules.update_pattern)
    remove_pattern = method(PatternRules.remove_pattern)
    remove_patterns = method(PatternRules.remove_patterns)
    find_patterns = method(PatternRules.find_patterns)
    query_patterns = method(PatternRules.query_patterns)
    record_pattern_outcome = method(PatternRules.record_pattern_outcome)
    link_patterns = method(PatternRules.link_patterns)
    get_related_patterns = method(PatternRules.get_related_patterns)
    get_agent_patterns = method(PatternRules.get_agent_patterns)
    get_top_patterns = method(PatternRules.get_top_patterns)
    get_library_stats = method(PatternRules.get_library_stats)
    get_agent_contributions = method(PatternRules.get_agent_contributions)
    get_links = method(PatternRules.get_links)
    snapshot = method(PatternRules.snapshot)
    repair = method(PatternRules.repair)

    @property
    def patterns(self) -> PatternView:
        """The patterns by id, in order of contribution."""
        return PatternView(self._rules.patterns, self._run, self._run(self._rules.patterns.pull_known()))

    @property
    def agent_contributions(self) -> dict[str, list[str]]:
        """The ids that each agent contributed, in order."""
        return self.get_agent_contributions()
