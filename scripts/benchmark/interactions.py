"""Metrics with many interactions, recorded in little time: what a store holds after it is what single calls leave."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

from empathy_kv import Interaction, Store
from empathy_kv.kv.interface import run
from empathy_kv.kv.operations import Batch, HIncrBy, Name, Operation, ZAdd
from empathy_kv.metrics import HISTORY
from empathy_kv.records import now
from empathy_kv.shared_metrics import KVMetrics
from empathy_kv.timelines import Timelines

PAGE: Final = 10_000
USERS: Final = 100
INSERT_ROW: Final = "INSERT INTO interactions (user_id, empathy_level, success, response_time_ms) VALUES (?, ?, ?, ?)"
"""How another program records that knows the table."""


def interactions(count: int) -> Iterator[tuple[str, int, bool, float]]:
    """Yield what `record_interaction` takes, of `USERS` users in turn."""
    for n in range(count):
        turn = n // USERS
        yield f"user_{n % USERS}", 1 + (n + turn) % 5, (n + turn) % 8 != 0, 10.0 + (n * 7919 + turn * 31) % 1000 / 4


def record_many(store: Store, calls: Iterable[tuple[str, int, bool, float]], history_limit: int = HISTORY) -> None:
    """Record interactions: the operations of each, as the package has them, but those of many in one batch."""
    metrics = KVMetrics(store.kv.shards, history_limit)
    timelines = Timelines(history_limit)
    calls = iter(calls)
    store.metrics.record_interaction(*next(calls))  # It settles over how many shards users are spread.
    while page := list(itertools.islice(calls, PAGE)):
        shards: dict[Name, list[Operation]] = {}
        users: set[tuple[Name, str]] = set()
        for user, level, success, took in page:
            steps = metrics.record(Interaction(user, level, success, took, now(), None), False)
            batch = next(steps)
            while not batch.writes:
                batch = steps.send(store.kv.execute(batch))
            shards.setdefault(batch.namespace, []).extend(batch.operations)
            users.add((batch.namespace, user))
        for shard, operations in shards.items():
            store.kv.execute(Batch(shard, merged(operations)))
        for shard, user in users:
            run(store.kv, timelines.move(shard, user))


def merged(operations: Iterable[Operation]) -> list[Operation]:
    """Return fewer operations that do the same: increments are summed, members are added together.

    For that, no two operations of different kinds or conditions may be on one key, but for those that trim or count it,
    which come last.
    """
    sums: dict[str, Counter[str]] = {}
    added: dict[tuple[str, str | None], dict[bytes, float]] = {}
    others: dict[Operation, None] = {}
    for operation in operations:
        if isinstance(operation, HIncrBy):
            sums.setdefault(operation.key, Counter()).update(operation.increments)
        elif isinstance(operation, ZAdd):
            members = added.setdefault((operation.key, operation.only), {})
            choose = {"LT": min, "GT": max}.get(cast(str, operation.only))
            for member, score in operation.members.items():
                members[member] = score if choose is None else choose(score, members.get(member, score))
        else:
            others[operation] = None
    result: list[Operation] = [HIncrBy(key, increments) for key, increments in sums.items()]
    result += [ZAdd(key, members, cast(Any, only)) for (key, only), members in added.items()]
    return [*result, *others]
