"""The library of patterns: its rules (`PatternRules`), sans-I/O.

Questions are answered from an `Index` in memory. Where the patterns are is a form of `Patterns`: `PatternLibrary()` has
nothing but the index (`LocalPatterns`); on a store that workers share, the index follows the store (`shared_patterns`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from msgspec.structs import replace

from empathy_kv.codec import codec, json_value
from empathy_kv.errors import (
    ArgumentError,
    ArgumentTypeError,
    CodecError,
    PatternExistsError,
    PatternNotFoundError,
)
from empathy_kv.index import SORTS, Held, Index
from empathy_kv.kv.interface import KV, Steps, method, run
from empathy_kv.kv.operations import boolean, integer, number, octets, text
from empathy_kv.matching import Question
from empathy_kv.records import MAX_ID, Pattern, PatternMatch, now

_CODEC: Final = codec(Pattern)

Contribution = tuple[str, Pattern]
"""Who contributes, and what."""


class Patterns(Protocol):
    """Where the patterns of a library are. Writes check what has to be checked in the same commit."""

    index: Index
    """The patterns that are known here."""

    def pull(self) -> Steps[None]:
        """Bring the index up to date."""

    def add(self, contributions: Sequence[Contribution]) -> Steps[None]:
        """Add patterns; `PatternExistsError` if an id is taken."""

    def remove(self, ids: Sequence[str]) -> Steps[list[bool]]:
        """Remove patterns and return which were there."""

    def bump(self, pattern_id: str, success: bool, at: datetime) -> Steps[None]:
        """Count an outcome; `PatternNotFoundError` if the pattern is not there."""

    def link(self, pairs: Sequence[tuple[str, str]]) -> Steps[None]:
        """Link patterns both ways; `PatternNotFoundError` if one is not there."""


def missing(pattern_id: str) -> PatternNotFoundError:
    """Return the error of an id that no pattern has."""
    return PatternNotFoundError(f"no pattern has the id {pattern_id!r}", pattern_id=pattern_id)


def taken(pattern_id: str) -> PatternExistsError:
    """Return the error of an id that a pattern has."""
    return PatternExistsError(
        f"a pattern with the id {pattern_id!r} is in the library; remove it first, or use another id",
        pattern_id=pattern_id,
    )


class LocalPatterns:
    """The index itself is the library. Nothing is yielded: there is no I/O."""

    def __init__(self) -> None:
        self.index = Index()

    def pull(self) -> Steps[None]:
        yield from ()

    def add(self, contributions: Sequence[Contribution]) -> Steps[None]:
        yield from ()
        # Through the stored form: the library has a copy of its own, and holds nothing that cannot be stored.
        documents = [(pattern.id, agent, octets(_CODEC.encode(pattern), "pattern")) for agent, pattern in contributions]
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
    """What a library does, whoever runs it: every method is a generator of steps."""

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._index = patterns.index

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
        seen: set[str] = set()
        for agent_id, pattern in _pairs(contributions, "contributions"):
            _agent(agent_id)
            if not isinstance(pattern, Pattern):
                raise ArgumentTypeError(f"pattern must be a Pattern, not {type(pattern).__name__}", argument="pattern")
            text(pattern.agent_id, "pattern.agent_id", MAX_ID)
            if text(pattern.id, "pattern.id", MAX_ID) in seen:
                raise taken(pattern.id)
            seen.add(pattern.id)
        for one, other in _pairs(links, "links"):
            if text(one, "links", MAX_ID) == text(other, "links", MAX_ID):
                raise ArgumentError(f"links must be of two patterns, not of {one!r} with itself", argument="links")
        if len(contributions) > 1 or links:
            # The store looks at one page at a time: what can be known before the first is looked at here.
            yield from self._patterns.pull()
            for pattern_id in seen:
                if pattern_id in self._index:
                    raise taken(pattern_id)
            for pattern_id in (end for pair in links for end in pair):
                if pattern_id not in seen and pattern_id not in self._index:
                    raise missing(pattern_id)
        yield from self._patterns.add(contributions)
        if links:
            yield from self._patterns.link(links)

    def get_pattern(self, pattern_id: str) -> Steps[Pattern | None]:
        """Return a pattern, None if it is not there. It is the caller's own copy."""
        text(pattern_id, "pattern_id", MAX_ID)
        yield from self._patterns.pull()
        with self._index.lock:
            held = self._index.get(pattern_id)
            return None if held is None else held.pattern()

    def remove_pattern(self, pattern_id: str) -> Steps[bool]:
        """Remove a pattern with its links and return whether it was there; removing twice is no error."""
        text(pattern_id, "pattern_id", MAX_ID)
        removed = yield from self._patterns.remove([pattern_id])
        return removed[0]

    def remove_patterns(self, pattern_ids: Iterable[str]) -> Steps[int]:
        """Remove many patterns, in batches of 500, and return how many were there."""
        ids = list(dict.fromkeys(text(pattern_id, "pattern_ids", MAX_ID) for pattern_id in _ids(pattern_ids)))
        removed = yield from self._patterns.remove(ids)
        return sum(removed)

    def find_patterns(
        self,
        context: Mapping[str, Any],
        *,
        pattern_type: str | None = None,
        min_confidence: float = 0.5,
        limit: int = 10,
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
        yield from self._patterns.pull()
        with self._index.lock:
            return self._index.find(Question(question, pattern_type, min_confidence, limit))

    def query_patterns(
        self,
        agent_id: str,
        context: Mapping[str, Any],
        pattern_type: str | None = None,
        min_confidence: float = 0.5,
        limit: int = 10,
    ) -> Steps[list[PatternMatch]]:
        """Return what `find_patterns` returns; `agent_id` is who asks."""
        text(agent_id, "agent_id", MAX_ID)
        matches = yield from self.find_patterns(
            context, pattern_type=pattern_type, min_confidence=min_confidence, limit=limit
        )
        return matches

    def record_pattern_outcome(self, pattern_id: str, success: bool) -> Steps[None]:
        """Count one use of a pattern. `PatternNotFoundError` (a KeyError and a ValueError) if it is not there."""
        text(pattern_id, "pattern_id", MAX_ID)
        boolean(success, "success")
        yield from self._patterns.bump(pattern_id, success, now())

    def link_patterns(self, pattern_id_1: str, pattern_id_2: str) -> Steps[None]:
        """Link two patterns, both ways; linking twice is no error. `PatternNotFoundError` if one is not there."""
        text(pattern_id_1, "pattern_id_1", MAX_ID)
        text(pattern_id_2, "pattern_id_2", MAX_ID)
        if pattern_id_1 == pattern_id_2:
            raise ArgumentError("pattern_id_2 must be another pattern than pattern_id_1", argument="pattern_id_2")
        yield from self._patterns.link([(pattern_id_1, pattern_id_2)])

    def get_related_patterns(self, pattern_id: str, depth: int = 1) -> Steps[list[Pattern]]:
        """Return the patterns within `depth` links of one, each once, the nearest first; not the pattern itself."""
        text(pattern_id, "pattern_id", MAX_ID)
        integer(depth, "depth", 0)
        yield from self._patterns.pull()
        with self._index.lock:
            return self._index.related(pattern_id, depth)

    def get_agent_patterns(self, agent_id: str) -> Steps[list[Pattern]]:
        """Return the patterns that an agent contributed, in order; of an unknown agent, none."""
        text(agent_id, "agent_id", MAX_ID)
        yield from self._patterns.pull()
        with self._index.lock:
            return self._index.of_agent(agent_id)

    def get_top_patterns(self, n: int = 10, sort_by: str = "success_rate") -> Steps[list[Pattern]]:
        """Return the `n` best by "success_rate", "usage_count" or "confidence", ties in order of contribution."""
        integer(n, "n", 0)
        if sort_by not in SORTS:
            raise ArgumentError(f"sort_by must be one of {', '.join(SORTS)}, not {sort_by!r}", argument="sort_by")
        yield from self._patterns.pull()
        with self._index.lock:
            return self._index.top(n, sort_by)

    def get_library_stats(self) -> Steps[dict[str, Any]]:
        """Return totals and averages; the average success rate is that of the patterns that were used."""
        yield from self._patterns.pull()
        with self._index.lock:
            return self._index.stats()

    def get_agent_contributions(self) -> Steps[dict[str, list[str]]]:
        """Return the ids that each agent contributed, in order."""
        yield from self._patterns.pull()
        with self._index.lock:
            return self._index.contributions()

    def get_links(self) -> Steps[list[tuple[str, str]]]:
        """Return each link once, as a pair of ids."""
        yield from self._patterns.pull()
        with self._index.lock:
            return self._index.links()

    def view(self) -> Steps[PatternView]:
        """Return the patterns by id, as they are now."""
        yield from self._patterns.pull()
        return PatternView(self._index)


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
    """The patterns of a library by id, in order of contribution. Each look-up gives a copy."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        with self._index.lock:
            return iter([held.id for held in self._index])

    def __contains__(self, pattern_id: object) -> bool:
        return pattern_id in self._index

    def __getitem__(self, pattern_id: str) -> Pattern:
        with self._index.lock:
            held = self._index.get(pattern_id)
            if held is None:
                raise missing(pattern_id)
            return held.pattern()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} patterns)"


class PatternLibrary:
    """Reusable solutions: contributed by agents, found by what they fit, judged by their outcomes.

    `PatternLibrary()` is in memory; save and load it with `PatternPersistence`. `store.patterns` is the same on a store
    that many workers share. Patterns that it returns are copies.
    """

    def __init__(self, patterns: Patterns | None = None, kv: KV | None = None) -> None:
        self._rules = PatternRules(LocalPatterns() if patterns is None else patterns)
        self._run = functools.partial(run, kv)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self._rules._patterns).__name__})"

    contribute_pattern = method(PatternRules.contribute_pattern)
    contribute_patterns = method(PatternRules.contribute_patterns)
    restore = method(PatternRules.restore)
    get_pattern = method(PatternRules.get_pattern)
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

    _view = method(PatternRules.view)

    @property
    def patterns(self) -> PatternView:
        """The patterns by id, in order of contribution."""
        return self._view()

    @property
    def agent_contributions(self) -> dict[str, list[str]]:
        """The ids that each agent contributed, in order."""
        return self.get_agent_contributions()
