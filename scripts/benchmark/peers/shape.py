"""The shape that every store is brought to: what is timed, with nothing around it that a user would not write."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import itertools
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import frozen
from harness import PACKAGE, Promise, Role, timed, timed_async

from empathy_kv import Pattern

Form = Callable[[Pattern], Any]
Pairs = list[tuple[str, Any]]


def _nothing() -> None:
    return None


def _same(document: Pattern) -> Pattern:
    return document


@frozen
class Documents:
    """An open store of documents by id. Of a store that can only be awaited, all functions but `close` are coroutines.

    `time` and `do` run either kind. A loop runs through the calls that are timed: what starting one would cost is in no
    figure, what each call costs in it is.
    """

    put: Callable[[str, Any], object]
    get: Callable[[str], Any]
    delete: Callable[[str], object]
    items: Callable[[Sequence[str]], Any]
    """Returns all as pairs. The ids are for those that cannot list theirs."""
    close: Callable[[], object]
    checkpoint: Callable[[], object] = _nothing
    """Brings to its final place what the store writes behind."""
    bulk: Callable[[Mapping[str, Any]], object] | None = None
    """Stores many at once, if that is something else than a loop."""
    runner: asyncio.Runner | None = None
    """The loop of a store that can only be awaited."""

    def time(self, call: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[float]:
        """Return the seconds of each call of one of the functions."""
        return timed(call, arguments) if self.runner is None else self.runner.run(timed_async(call, arguments))

    def do(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Return what one of the functions returns."""
        result = call(*arguments)
        return self.runner.run(result) if self.runner is not None and inspect.iscoroutine(result) else result

    def fill(self, documents: Mapping[str, Any]) -> None:
        """Store many, in the fastest way that the store has."""
        if self.bulk is not None:
            self.do(self.bulk, documents)
        else:
            self.time(self.put, documents.items())


def awaited(
    runner: asyncio.Runner,
    put: Callable[[str, Any], Coroutine[Any, Any, object]],
    get: Callable[[str], Coroutine[Any, Any, Any]],
    delete: Callable[[str], Coroutine[Any, Any, object]],
    items: Callable[[Sequence[str]], Coroutine[Any, Any, Pairs]],
    close: Callable[[], Coroutine[Any, Any, object]],
    bulk: Callable[[Mapping[str, Any]], Coroutine[Any, Any, object]] | None = None,
) -> Documents:
    """Return an open store that can only be awaited, with its loop, which ends with it."""

    def end() -> None:
        with runner:
            runner.run(close())

    return Documents(put, get, delete, items, end, bulk=bulk, runner=runner)


@frozen
class Peer:
    """A store, by the name that the command line and the table know."""

    name: str
    open: Callable[[str], Documents]
    """Opens it at a place: a directory, or the URL of a server."""
    survives: Promise
    form: Form = _same
    """Makes of a pattern what this store is given; not timed."""
    role: Role = "peer"
    needs: Sequence[str] = ()
    """The modules without which it cannot be used."""
    keeps: bool = True
    """Whether it is a store: the floor of a job does what the job takes, and may keep nothing."""
    slow: bool = False
    """Whether it takes so long that it is called a tenth as often, and not at all in a quick run."""

    @property
    def ours(self) -> bool:
        """Whether it is this package with its own classes, to which the goals apply."""
        return self.name == PACKAGE

    @property
    def missing(self) -> str | None:
        """Why it cannot be used here, None if it can."""
        return missing(*self.needs)


def missing(*modules: str) -> str | None:
    """Return why something cannot be used here that needs modules, None if it can."""
    return next((f"{name} is not installed" for name in modules if not _found(name)), None)


def _found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # Its package is not.
        return False


PAGE: Final = 500


@frozen
class Recording:
    """An open store in which something is counted or recorded."""

    one: Callable[..., object]
    count: Callable[[], int]
    close: Callable[[], object]
    checkpoint: Callable[[], object] = _nothing
    """Brings to its final place what the store writes behind."""
    bulk: Callable[[Sequence[tuple[Any, ...]]], object] | None = None
    """Does it for many arguments at once, if that is something else than a loop."""

    def many(self, arguments: Iterable[tuple[Any, ...]]) -> None:
        """Do it for many arguments, in the fastest way that the store has."""
        if self.bulk is None:
            for each in arguments:
                self.one(*each)
        else:
            arguments = iter(arguments)
            while page := list(itertools.islice(arguments, PAGE)):
                self.bulk(page)


@frozen
class Recorder:
    """A way of counting or recording in a store."""

    store: str
    name: str
    open: Callable[[str], Recording]
    arguments: Callable[[int], tuple[Any, ...]]
    """What is recorded as the n-th."""
    survives: Promise
    missing: str | None = None
    role: Role = "peer"
