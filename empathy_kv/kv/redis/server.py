"""What the engine does, whoever drives it: batches, keys, what the server promises. Sans-I/O."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final

from empathy_kv.errors import NotApplied, OutcomeUnknown, WrongTypeError
from empathy_kv.kv.operations import Batch, Name, Reply, Settle, Token, named, number, text
from empathy_kv.kv.redis.commands import FORMS, Layout, answer, looked_up, page, plain, read, settled, written
from empathy_kv.kv.redis.execution import Execution
from empathy_kv.kv.redis.topology import Talk, Topology

_PAGE: Final = 1000
"""Keys that one step of `keys` looks at."""


class Server:
    """Namespaces on a server, under a prefix."""

    def __init__(self, topology: Topology, *, prefix: str, timeout: float, replicas: int) -> None:
        self.prefix = text(prefix, "prefix", 128)
        self._execution = Execution(topology, number(timeout, "timeout", 0.001, 3600.0), replicas)
        self._layout = functools.lru_cache(maxsize=4096)(functools.partial(Layout, prefix))

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
        if len(operations) == 1:
            call = plain(operations[0], layout)  # type: ignore[arg-type]  # a Settle writes
            if call is not None:
                try:
                    reply = yield from self._execution.perform(call)
                except WrongTypeError:
                    pass  # It does not say what the key holds; the script does.
                else:
                    return [FORMS[type(operations[0])].reply(operations[0], reply)]  # type: ignore[index]
        elif not operations:
            return []
        said = yield from self._execution.perform(looked_up(batch, layout))
        return read(batch, answer(batch, layout, said, None))

    def several(self, batches: Sequence[Batch]) -> Talk[list[list[Reply]]]:
        """Do batches that only read, in one round trip, and return their replies."""
        layouts = [self._layout(batch.namespace) for batch in batches]
        calls = [looked_up(batch, layout) for batch, layout in zip(batches, layouts, strict=True)]
        said = yield from self._execution.several(calls)
        return [
            read(batch, answer(batch, layout, one, None))
            for batch, layout, one in zip(batches, layouts, said, strict=True)
        ]

    def _write(self, batch: Batch, layout: Layout, token: Token | None) -> Talk[list[Reply]]:
        call = written(batch, layout, token)
        while True:
            try:
                said = yield from self._execution.perform(call)
                return read(batch, answer(batch, layout, said, token))
            except NotApplied:
                if token is None or not call.doubtful:
                    raise
                # An earlier try may still arrive, and not be refused: it is made void, unless it was applied.
                if not (yield from self._sealed(token, layout)):
                    raise

    def _sealed(self, token: Token, layout: Layout) -> Talk[bool]:
        try:
            return (yield from self._settle(token, layout))
        except NotApplied as error:
            raise OutcomeUnknown(
                "the write was refused, but an earlier try of it may still arrive; settle(token) tells", token=token
            ) from error

    def _settle(self, token: Token, layout: Layout) -> Talk[bool]:
        said = yield from self._execution.perform(settled(token, layout))
        (applied,) = answer(Batch(token.namespace, ()), layout, said, token)
        return bool(applied)

    def page(self, namespace: Name, after: bytes | None) -> Talk[tuple[list[str], bytes | None]]:
        """Return some keys of a namespace, and what to go on after, None if these were the last."""
        layout = self._layout(named(namespace))
        said = yield from self._execution.perform(page(layout, after, _PAGE))
        last, *keys = said
        return [key.decode() for key in keys], last or None
