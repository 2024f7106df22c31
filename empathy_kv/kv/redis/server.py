"""What the engine does, whoever drives it: batches, keys, what the server promises. Sans-I/O."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final

from empathy_kv.errors import NotApplied, OutcomeUnknown
from empathy_kv.kv.interface import Doubts, Durability
from empathy_kv.kv.operations import Batch, Get, Name, Reply, Settle, Token, named, number, text
from empathy_kv.kv.redis.commands import (
    FORMS,
    Call,
    Layout,
    kind_of,
    looked_up,
    page,
    parsed,
    read,
    require_done,
    settled,
    watch,
    written,
    wrong,
)
from empathy_kv.kv.redis.execution import Execution, code, translate
from empathy_kv.kv.redis.promises import QUESTIONS, STRENGTH, promised
from empathy_kv.kv.redis.topology import Talk, Topology

_PAGE: Final = 1000
"""Keys that one step of `keys` looks at."""


class Server:
    """Namespaces on a server, under a prefix."""

    def __init__(self, topology: Topology, *, prefix: str, timeout: float, replicas: int) -> None:
        self.prefix = text(prefix, "prefix", 128)
        self._execution = Execution(topology, number(timeout, "timeout", 0.001, 3600.0), replicas)
        self._layout = functools.lru_cache(maxsize=4096)(functools.partial(Layout, prefix))
        self._doubts = Doubts()

    def execute(self, batch: Batch) -> Talk[list[Reply]]:
        """Do a batch, or nothing of it, and return the replies."""
        layout = self._layout(batch.namespace)
        operations = batch.operations
        if batch.writes:
            if type(operations[0]) is Settle:
                return [(yield from self._settle(operations[0].token, layout))]
            return (yield from self._write(batch, layout, batch.token))
        if batch.checks:
            return (yield from self._write(batch, layout, None))
        if not operations:
            return []
        said = yield from self._execution.perform(looked_up(batch, layout))
        if len(operations) == 1 and not isinstance(said, Exception):
            operation = operations[0]
            return [FORMS[type(operation)].reply(operation, said)]  # type: ignore[index]  # a Settle writes
        return (yield from self._seen(batch, layout, said))

    def several(self, batches: Sequence[Batch]) -> Talk[list[list[Reply]]]:
        """Do batches that only read, in one round trip, and return their replies."""
        replies: list[list[Reply]] = [[] for _ in batches]
        together: list[tuple[int, Batch, Layout]] = []
        for place, batch in enumerate(batches):
            if batch.writes or batch.checks:
                replies[place] = yield from self.execute(batch)
            elif batch.operations:
                together.append((place, batch, self._layout(batch.namespace)))
        calls = [looked_up(batch, layout) for _, batch, layout in together]
        all_said = yield from self._execution.several(calls)
        for (place, batch, layout), said in zip(together, all_said, strict=True):
            replies[place] = yield from self._seen(batch, layout, said)
        return replies

    def _seen(self, batch: Batch, layout: Layout, said: Any) -> Talk[list[Reply]]:
        """Return the replies of a batch that only reads."""
        if len(batch.operations) == 1:
            if not isinstance(said, Exception):
                return read(batch, [said])
            said = [said]
        elif None not in said and all(type(operation) is Get for operation in batch.operations):
            return [stored[stored.index(b" ") + 1 :] for stored in said]  # As `commands.value`, a thousand at once.
        # An error does not say what the key holds, and MGET has none for what is no value.
        doubtful = [
            operation
            for operation, reply in zip(batch.operations, said, strict=True)
            if isinstance(reply, Exception) or (reply is None and type(operation) is Get)
        ]
        if not doubtful:
            return read(batch, said)
        kinds = yield from self._execution.several([kind_of(operation.key, layout) for operation in doubtful])  # type: ignore[union-attr]  # a Settle writes
        for operation, kind in zip(doubtful, kinds, strict=True):
            if kind not in (b"none", operation.kind.encode()):  # type: ignore[union-attr]  # one of any kind has no error
                raise wrong(operation.key, kind.decode())  # type: ignore[union-attr]
        if any(isinstance(reply, Exception) for reply in said):
            return (yield from self.execute(batch))  # It is another key by now.
        return read(batch, said)

    def durability(self) -> Talk[Durability]:
        """Return what the servers say of themselves; the weakest counts."""
        promises = [promised(told) for told in (yield from self._execution.everywhere(QUESTIONS))]
        return min(promises, key=lambda promise: STRENGTH.index(promise.survives))

    def _write(self, batch: Batch, layout: Layout, token: Token | None) -> Talk[list[Reply]]:
        call = written(batch, layout, token)
        call.doubtful = token in self._doubts
        while True:
            try:
                said = yield from self._execution.perform(call)
                require_done(said, batch, layout, token)
            except OutcomeUnknown:
                self._doubts.add(token)
                raise
            except NotApplied:
                if token is None or not call.doubtful:
                    raise
                # An earlier try may still arrive, and not be refused: it is made void, unless it was applied.
                if not (yield from self._sealed(token, layout)):
                    raise
            else:
                self._doubts.discard(token)
                return read(batch, parsed(said))

    def _sealed(self, token: Token, layout: Layout) -> Talk[bool]:
        try:
            return (yield from self._settle(token, layout))
        except NotApplied as error:
            raise OutcomeUnknown(
                "the write was refused, but an earlier try of it may still arrive; settle(token) tells", token=token
            ) from error

    def _settle(self, token: Token, layout: Layout) -> Talk[bool]:
        said = yield from self._execution.perform(settled(token, layout))
        require_done(said, Batch(token.namespace, ()), layout, token)
        self._doubts.discard(token)
        return bool(said)

    def watch(
        self, namespaces: Sequence[Name], verb: str, who: str, milliseconds: int, revisions: Sequence[int]
    ) -> Talk[list[Any]]:
        """Return what each namespace answers to one who takes a snapshot; None: he watches it no more.

        Nor does he if the server is another one, or was started again. `revisions`: of each, the one after which
        changes are asked for.
        """
        layouts = [self._layout(named(namespace)) for namespace in namespaces]
        asked = list(zip(layouts, revisions, strict=True))
        if verb == "begin":
            # The answers that count are those of servers that all knew him by then.
            yield from self._watched([watch(layout, verb, who, milliseconds, 0, load=True) for layout in layouts])
        return (
            yield from self._watched([watch(layout, verb, who, milliseconds, revision) for layout, revision in asked])
        )

    def _watched(self, calls: Sequence[Call]) -> Talk[list[Any]]:
        answers = yield from self._execution.several(calls)
        for place, answer in enumerate(answers):
            if isinstance(answer, Exception):
                if code(answer) != "NOSCRIPT":
                    raise translate(answer)
                answers[place] = None
        return answers

    def keys_of(self, namespace: Name, watched: Sequence[bytes]) -> dict[str, int]:
        """Return the keys that a watch has seen, with their revisions."""
        layout = self._layout(namespace)
        return {layout.name(key): int(at) for key, at in zip(watched[::2], watched[1::2], strict=True)}

    def page(self, namespace: Name, after: bytes | None) -> Talk[tuple[list[str], bytes | None]]:
        """Return some keys of a namespace, and what to go on after, None if these were the last."""
        layout = self._layout(named(namespace))
        said = yield from self._execution.perform(page(layout, after, _PAGE))
        last, *keys = said
        return [key.decode() for key in keys], last or None
