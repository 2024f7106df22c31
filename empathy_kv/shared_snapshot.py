"""The snapshot of a store in the namespaces of an engine: read at one moment, and written.

What is read of each pattern, state and user (a part) is spooled. Where the engine's snapshot is no moment from the
start, the parts that changed meanwhile are read again, and count instead of what was read before.

A restore says in the namespace `store`, under `restore`, that it began, empties the domain's namespaces, fills them,
and takes that back. As long as it stands there, whoever opens the store is told (`KV.look`). What is done twice
because the first was interrupted comes out the same.
"""

from __future__ import annotations

import contextlib
import math
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar, cast

import msgspec

from empathy_kv import remembered, timelines
from empathy_kv.codec import codec
from empathy_kv.errors import CodecError, LockTimeoutError, NotEmptyError
from empathy_kv.index import Held
from empathy_kv.kv.interface import KV, RESTORING, Steps, unfinished
from empathy_kv.kv.operations import (
    Batch,
    Check,
    Delete,
    Get,
    HGetAll,
    Name,
    Operation,
    Set,
    ZCard,
    ZRange,
    ZRangeByScore,
    ZScore,
)
from empathy_kv.kv.refilling import Members, Refill
from empathy_kv.kv.snapshots import Snapshot
from empathy_kv.records import LEVELS, CollaborationState, Pattern
from empathy_kv.remembered import Remembered
from empathy_kv.shared_metrics import SHARDS, STORE, at_level, at_levels, counters, numbered, shard_of, totals_of
from empathy_kv.shared_patterns import NAMESPACE as PATTERNS
from empathy_kv.shared_patterns import held_of, places, unlisted, unplaced
from empathy_kv.snapshot_lines import (
    Figures,
    Ids,
    Interactions,
    Item,
    PatternItem,
    Record,
    StateItem,
    pattern_line,
    state_line,
    user_lines,
)
from empathy_kv.spool import Spool
from empathy_kv.states import NAMESPACE as STATES
from empathy_kv.states import read
from empathy_kv.timelines import Timed, Timelines
from empathy_kv.totals import YEARS, Totals

_MARK: Final = RESTORING.operations[0].key  # type: ignore[union-attr]
_PATTERN: Final = codec(Pattern)
_STATE: Final = codec(CollaborationState)
_ORDER: Final = 20_000
"""Patterns whose ids are read at once."""
_TOGETHER: Final = 500
"""Parts that are read at once."""
_TIMELINES: Final = 5_000
"""Interactions that are read at once, if one user has no more."""
_FEW: Final = 100
"""Parts that are read while nobody can write."""
_ROUNDS: Final = 100
"""How often parts that changed are read again at most."""

R = TypeVar("R")
Part: TypeAlias = tuple[Name, str]
"""A pattern, state or user, by its namespace and id."""


class _Draft(msgspec.Struct, array_like=True, gc=False):
    """A part as it was read. A pattern has a place; `lines` are those of the stream, but for a pattern its document."""

    namespace: Name
    id: str
    order: int
    agent: str
    links: list[str]
    lines: list[msgspec.Raw]


_ENCODE: Final = msgspec.json.Encoder().encode
_DECODE: Final = msgspec.json.Decoder(_Draft).decode


def namespaces(shards: int) -> list[Name]:
    """Return the namespaces that have what the domain keeps."""
    return [PATTERNS, STATES, STORE, *map(numbered, range(shards))]


class KVContents:
    """What a store on an engine holds, as records of a snapshot."""

    years: Final = YEARS

    def __init__(self, kv: KV, history_limit: int) -> None:
        self._kv = kv
        self.limit = history_limit

    def others(self) -> int | None:
        """Return how many collections and namespaces of the user's own there are; None: nobody knows."""
        return self._kv.others(namespaces(self._shards() or self._kv.shards))

    # Reading

    def lines(self) -> Generator[bytes, None, None]:
        """Yield the lines of all records, as they were at one moment."""
        with Spool() as base, Spool() as late:
            changed = self._collect(base, late)
            yield from _merged(base, late, changed)

    def _collect(self, base: Spool, late: Spool) -> dict[Part, int | None]:
        """Spool all parts, and those that changed meanwhile; return where these are, None for one that is gone."""
        while True:
            shards = self._shards() or self._kv.shards
            with self._kv.snapshot(namespaces(shards)) as snapshot:
                ((kept, mark),) = snapshot.several([Batch(STORE, (Get(SHARDS), *RESTORING.operations))])
                if mark is not None:
                    raise unfinished()
                if int(kept or shards) != shards:
                    continue  # Somebody has settled it just now.
                for draft in _everything(snapshot, shards):
                    base.append(_ENCODE(draft))
                return _caught_up(snapshot, late)

    def _shards(self) -> int:
        (kept,) = self._kv.execute(Batch.of(STORE, Get(SHARDS)))
        return int(kept or 0)

    # Writing

    def fill(self, records: Callable[[], Iterator[Record]], sha256: str, replace: bool) -> None:
        """Make records all that the store holds. `NotEmptyError` if it holds others, unless they are to be replaced."""
        kv = self._kv
        began, known = kv.execute(Batch(STORE, (*RESTORING.operations, Get(SHARDS))))
        shards = int(known or kv.shards)
        if began is None and not replace and not self._is_empty(shards):
            raise NotEmptyError("the store holds something already: restore into an empty one, or replace what it has")
        mark = kv.namespace(*STORE).set(_MARK, sha256.encode())
        kv.checkpoint()  # So that it is durable in any case, before anything else is written.
        kv.looked = False  # As long as this takes, here too.
        with kv.refill([name for name in namespaces(shards) if name != STORE]) as into:
            _Filling(into, shards, self.limit).fill(records())
        kv.commit(Batch(STORE, (Set(SHARDS, b"%d" % shards), Delete(_MARK)), (Check(_MARK, mark),)))

    def _is_empty(self, shards: int) -> bool:
        questions = [Batch.of(PATTERNS, ZCard("order"))]
        questions += [Batch.of(numbered(shard), ZCard("first")) for shard in range(shards)]
        return not any(count for (count,) in self._kv.several(questions)) and not any(self._kv.keys(STATES))


# Reading


def _everything(snapshot: Snapshot, shards: int) -> Iterator[_Draft]:
    first = -math.inf
    while True:
        ((page,),) = snapshot.several([Batch.of(PATTERNS, ZRangeByScore("order", first, limit=_ORDER))])
        if not page:
            if first == -math.inf:
                _require_no_patterns(snapshot)
            break
        yield from _patterns(snapshot, [(member.decode(), order) for member, order in page])
        first = page[-1][1] + 1
    yield from _states(snapshot, snapshot.keys(STATES))
    for shard in map(numbered, range(shards)):
        # All of a shard: ranks move when somebody comes, and then a page might lack some.
        ((began, ended),) = snapshot.several([Batch(shard, (ZRange("first"), ZRange("last")))])
        last = {member[2:]: at for member, at in ended}  # Without the level; of several, the latest comes last.
        yield from _users(snapshot, shard, [(member.decode(), at, last.get(member)) for member, at in began])


def _require_no_patterns(snapshot: Snapshot) -> None:
    """Raise if a library that has no order has patterns: a snapshot without them would be taken for all there is."""
    ((changed,),) = snapshot.several([Batch.of(PATTERNS, ZRange("changes", -_TOGETHER, -1))])
    ids = [member.decode() for member, _ in changed]
    (replies,) = snapshot.several([Batch(PATTERNS, places(ids))])
    for pattern_id in unplaced(ids, replies):
        raise unlisted(pattern_id)


def _patterns(snapshot: Snapshot, places: Sequence[tuple[str, float | None]]) -> Iterator[_Draft]:
    for page in _cut(places):
        (found,) = snapshot.several([Batch(PATTERNS, [HGetAll(f"p:{pattern_id}") for pattern_id, _ in page])])
        for (pattern_id, order), fields in zip(page, found, strict=True):
            held = held_of(pattern_id, fields, order)
            if held is not None:
                yield _Draft(
                    PATTERNS, pattern_id, held.order, held.agent, sorted(held.links), [msgspec.Raw(_document(held))]
                )


def _document(held: Held) -> bytes:
    """Return the document of a pattern with what was recorded since it was contributed."""
    if not (held.succeeded or held.failed):
        return held.document
    try:
        return _PATTERN.encode(held.pattern())
    except CodecError as error:
        path = f"$.patterns[{held.id!r}]{error.path.removeprefix('$')}"
        raise CodecError(f"{str(error).rpartition(' @ ')[0]} @ {path}", path=path) from error


def _states(snapshot: Snapshot, users: Iterable[str]) -> Iterator[_Draft]:
    for page in _cut(users):
        (found,) = snapshot.several([Batch(STATES, tuple(map(Get, page)))])
        for user_id, document in zip(page, found, strict=True):
            if document is not None:
                line = state_line(_STATE.encode(read(user_id, document)))
                yield _Draft(STATES, user_id, 0, "", [], [msgspec.Raw(line)])


def _users(
    snapshot: Snapshot, shard: Name, users: Iterable[tuple[str, float | None, float | None]]
) -> Iterator[_Draft]:
    for page in _cut(users):
        (found,) = snapshot.several([Batch(shard, [HGetAll(f"user:{user}") for user, _, _ in page])])
        group: list[tuple[str, Totals]] = []
        size = 0
        for (user, first, last), fields in zip(page, found, strict=True):
            if not fields:
                continue
            totals = totals_of(fields, first, last)
            # As many as there may be.
            if group and size + totals.operations > _TIMELINES:
                yield from _timelines(snapshot, shard, group)
                group, size = [], 0
            group.append((user, totals))
            size += totals.operations
        yield from _timelines(snapshot, shard, group)


def _timelines(snapshot: Snapshot, shard: Name, group: Sequence[tuple[str, Totals]]) -> Iterator[_Draft]:
    users = [user for user, _ in group]
    kept = _answered(snapshot, timelines.read(shard, users))
    named = _answered(snapshot, remembered.read(shard, users))
    for (user, totals), timeline, names in zip(group, kept, named, strict=True):
        items, forgotten = _own_names(
            [(at, one.level, one.success, one.response_time_ms, one.id) for at, one in timeline], names
        )
        lines = user_lines(user, totals, items, forgotten)
        yield _Draft(shard, user, 0, "", [], list(map(msgspec.Raw, lines)))


def _answered(snapshot: Snapshot, steps: Steps[R]) -> R:
    """Drive a piece of domain code that only reads, on a snapshot."""
    try:
        request = next(steps)
        while True:
            request = steps.send(snapshot.several(request.batches))
    except StopIteration as stop:
        return cast(R, stop.value)


def _own_names(items: list[Item], named: Sequence[str]) -> tuple[list[Item], set[str]]:
    """Return interactions of which no two have one id, and the ids that none of them has.

    One that came so long ago that it was forgotten could be given again, while its interaction is still kept.
    """
    names = [item[4] for item in items if item[4] is not None]
    known = set(names)
    if len(known) != len(names):
        once: set[str] = set()
        for place, item in enumerate(items):
            if item[4] is not None:
                if item[4] in once:
                    items[place] = (*item[:4], None)
                once.add(item[4])
    return items, set(named) - known


def _caught_up(snapshot: Snapshot, late: Spool) -> dict[Part, int | None]:
    """Read what changed until nothing does; return where each part that did is, None for one that is gone."""
    found: dict[Part, int | None] = {}
    few = _FEW
    before = 0
    for _ in range(_ROUNDS):
        news = _parts(snapshot.changed())
        if len(news) > few:
            _again(snapshot, news, late, found)
            if 2 * len(news) > before:
                few *= 2  # Others write about as fast as it is read.
            before = len(news)
            continue
        _again(snapshot, news, late, found)
        with contextlib.suppress(LockTimeoutError):
            with snapshot.still():
                _again(snapshot, _parts(snapshot.changed()), late, found)
            return found
    raise LockTimeoutError("others write faster than it can be read", path="", timeout=0.0)


def _parts(changed: Mapping[Name, set[str]]) -> set[Part]:
    """Return which parts the keys are of that changed."""
    parts: set[Part] = set()
    for namespace, keys in changed.items():
        if namespace == STATES:
            parts.update((STATES, key) for key in keys)
        elif namespace == PATTERNS:
            parts.update((PATTERNS, key.removeprefix("p:")) for key in keys if key.startswith("p:"))
        elif namespace != STORE:
            # What moves is no news, but it was perhaps read while it moved.
            told = (key.partition(":") for key in keys)
            parts.update((namespace, user) for kind, _, user in told if kind in ("user", "pages", "ids"))
    return parts


def _again(snapshot: Snapshot, parts: set[Part], late: Spool, found: dict[Part, int | None]) -> None:
    for part in parts:
        found[part] = None
    by_namespace: dict[Name, list[str]] = {}
    for namespace, part_id in sorted(parts):
        by_namespace.setdefault(namespace, []).append(part_id)
    for namespace, ids in by_namespace.items():
        if namespace == STATES:
            drafts = _states(snapshot, ids)
        elif namespace == PATTERNS:
            drafts = _patterns(snapshot, [place for page in _cut(ids) for place in _places(snapshot, page)])
        else:
            times = [each for page in _cut(ids) for each in _times(snapshot, namespace, page)]
            drafts = _users(snapshot, namespace, times)
        for draft in drafts:
            found[draft.namespace, draft.id] = late.append(_ENCODE(draft))


def _places(snapshot: Snapshot, ids: Sequence[str]) -> Iterator[tuple[str, float | None]]:
    (orders,) = snapshot.several([Batch(PATTERNS, [ZScore("order", pattern_id.encode()) for pattern_id in ids])])
    yield from zip(ids, orders, strict=True)


def _times(snapshot: Snapshot, shard: Name, users: Sequence[str]) -> Iterator[tuple[str, float | None, float | None]]:
    questions: list[Operation] = []
    for user in users:
        questions += (ZScore("first", user.encode()), *(ZScore("last", member) for member in at_levels(user)))
    (times,) = snapshot.several([Batch(shard, questions)])
    each = 1 + len(LEVELS)
    for number, user in enumerate(users):
        first, *lasts = times[each * number : each * (number + 1)]
        yield user, first, max((at for at in lasts if at is not None), default=None)


def _merged(base: Spool, late: Spool, changed: dict[Part, int | None]) -> Iterator[bytes]:
    """Yield the lines of the parts, the patterns in order of contribution: each as it was read last."""
    newer = (_DECODE(late.at(start)) for start in changed.values() if start is not None)
    # Of what changed only the order is held in memory.
    places = sorted(
        (draft.order, changed[draft.namespace, draft.id] or 0) for draft in newer if draft.namespace == PATTERNS
    )
    links = _Links()
    place = 0
    patterns = True
    found: int | None
    for line in base:
        draft = _DECODE(line)
        if patterns:
            patterns = draft.namespace == PATTERNS
            while place < len(places) and (not patterns or places[place][0] < draft.order):
                yield links.line(_DECODE(late.at(places[place][1])))
                place += 1
        if (draft.namespace, draft.id) not in changed:
            yield from [links.line(draft)] if patterns else map(bytes, draft.lines)
    for _, start in places[place:]:
        yield links.line(_DECODE(late.at(start)))
    for (namespace, _), found in changed.items():
        if namespace != PATTERNS and found is not None:
            yield from map(bytes, _DECODE(late.at(found)).lines)


class _Links:
    """The links of the patterns so far: each stands with the later of its ends, and counts if both have it."""

    def __init__(self) -> None:
        self._linked: dict[str, frozenset[str]] = {}

    def line(self, draft: _Draft) -> bytes:
        """Return the line of the next pattern."""
        earlier = [far for far in draft.links if draft.id in self._linked.get(far, ())]
        if draft.links:
            self._linked[draft.id] = frozenset(draft.links)
        return pattern_line(bytes(draft.lines[0]), draft.agent, earlier)


def _cut(items: Iterable[Any]) -> Iterator[list[Any]]:
    page: list[Any] = []
    for item in items:
        page.append(item)
        if len(page) == _TOGETHER:
            yield page
            page = []
    if page:
        yield page


# Writing


class _Filling:
    """Puts records into namespaces, each key once and whole."""

    def __init__(self, into: Refill, shards: int, limit: int) -> None:
        self._put = into.put
        self._shards = shards
        self._timelines = Timelines(limit)
        self._remembered = Remembered(limit)
        self._order: Members = []
        self._totals: dict[Name, Totals] = {}
        self._first: dict[Name, Members] = {}
        self._last: dict[Name, Members] = {}
        self._figures: Figures | None = None
        """Those of the user whose interactions come."""
        self._level = LEVELS[0]
        """That of the newest interaction that came of this user."""
        self._number = 0
        self._entries: list[Timed] = []
        self._names: list[bytes] = []

    def fill(self, records: Iterator[Record]) -> None:
        """Put all of them."""
        for record in records:
            if isinstance(record, Interactions):
                self._interactions(record)
                continue
            if isinstance(record, Ids):
                self._names += map(str.encode, record.ids)
                continue
            self._finish_user()
            if isinstance(record, PatternItem):
                self._pattern(record)
            elif isinstance(record, StateItem):
                self._put(STATES, record.user_id, record.document)
            else:
                self._user(record)
        self._finish_user()
        if self._order:
            self._put(PATTERNS, "order", self._order)
        # Another library, for who has a copy of the one before.
        self._put(PATTERNS, "epoch", secrets.token_hex(8).encode())
        self._put(PATTERNS, "stamp", secrets.token_bytes(8))
        for shard, totals in self._totals.items():
            self._put(shard, "total", counters(totals))
            for name, times in (("first", self._first), ("last", self._last)):
                if shard in times:
                    self._put(shard, name, sorted(times[shard]))

    def _pattern(self, record: PatternItem) -> None:
        self._order.append((len(self._order) + 1.0, record.id.encode()))
        fields = {"doc": record.document, "agent": record.agent.encode()}
        fields.update((f"link:{other}", b"1") for other in (*record.links, *record.later))
        self._put(PATTERNS, f"p:{record.id}", fields)

    def _user(self, record: Figures) -> None:
        self._figures = record
        # Below 0 are those that are too old to be kept.
        self._number = min(0, self._timelines.limit - record.interactions)
        user, shard, totals = record.user_id, shard_of(record.user_id, self._shards), record.totals()
        self._totals.setdefault(shard, Totals()).merge(totals)
        self._put(shard, f"user:{user}", counters(totals))
        if record.first is not None:
            self._first.setdefault(shard, []).append((float(record.first), user.encode()))
        self._level = LEVELS[0]

    def _interactions(self, record: Interactions) -> None:
        self._level = record.items[-1][1]
        for at, level, success, took, name in record.items:
            if self._number >= 0:
                # Numbered, so that each is another one, and stands before all that will be recorded at that time.
                self._entries.append((at, timelines.encoded(f"{self._number:020d}", level, success, took, name)))
                if name is not None:
                    self._names.append(name.encode())
            self._number += 1

    def _finish_user(self) -> None:
        if self._figures is None:
            return
        user, last = self._figures.user_id, self._figures.last
        shard = shard_of(user, self._shards)
        if last is not None:
            self._last.setdefault(shard, []).append((float(last), at_level(user, self._level)))
        for key, content in self._timelines.whole(user, self._entries).items():
            self._put(shard, key, content)
        for key, content in self._remembered.whole(user, self._names).items():
            self._put(shard, key, content)
        self._figures, self._entries, self._names = None, [], []
