"""A warm process of one thread, with everything imported, that forks a child for each call.

A child starts in milliseconds, where a new interpreter takes a quarter of a second. The process that runs the tests
cannot be the one that forks: a child would have the locks of its threads.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final, NoReturn, Self

from attrs import frozen

_WRITE: Final = os.write
_SET_TRACER: Final = 0x59616D61  # PR_SET_PTRACER of linux/prctl.h; -1 is any process.


@frozen
class Ended:
    """How a child ended: its exit status (negative: the signal), what it said before, its traceback if it raised."""

    status: int
    said: list[Any]
    error: str = ""


class Forks:
    """The warm process. As a context manager it ends at the end."""

    def __init__(self) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; import forks; forks.serve()"
        self._process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(
        self, function: Callable[..., None], *arguments: Any, seconds: float = 20.0, tracer: Sequence[str] = ()
    ) -> Ended:
        """Call `function(say, *arguments)` in a child of its own, and return what it passed to `say`.

        The function must stand in a module. After so many `seconds` SIGALRM ends the child. `tracer` is the command
        line of a strace, which is attached before the function is called.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((function, arguments, seconds, tuple(tracer)), self._process.stdin)
        self._process.stdin.flush()
        result = pickle.load(self._process.stdout)
        assert isinstance(result, Ended)
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def serve() -> None:
    """Be the warm process."""
    # What a child prints must not end up among the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(_forked(*request), answers)
        answers.flush()


def _forked(
    function: Callable[..., None], arguments: tuple[Any, ...], seconds: float, tracer: tuple[str, ...]
) -> Ended:
    heard, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(heard)
        if tracer:
            ctypes.CDLL(None).prctl(_SET_TRACER, ctypes.c_ulong(-1), 0, 0, 0)  # Yama lets only ancestors trace.
            os.kill(os.getpid(), signal.SIGSTOP)
        _work(function, arguments, seconds, tell)
    os.close(tell)
    with _attached(tracer, child) if tracer else nullcontext(), os.fdopen(heard, "rb") as pipe:
        said = list(_messages(pipe.read()))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(status, said[:-1], said[-1]) if status == 1 else Ended(status, said)


def _work(function: Callable[..., None], arguments: tuple[Any, ...], seconds: float, tell: int) -> NoReturn:
    def say(message: Any) -> None:
        data = pickle.dumps(message)
        _WRITE(tell, len(data).to_bytes(4, "little") + data)

    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        function(say, *arguments)
    except BaseException:  # noqa: BLE001 - it is told to whoever asked
        say(traceback.format_exc())
        os._exit(1)
    os._exit(0)  # Without a word to anything that is still open: a process that is killed says none either.


def _messages(data: bytes) -> Iterator[Any]:
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        yield pickle.loads(data[at + 4 : end])
        at = end


@contextmanager
def _attached(tracer: tuple[str, ...], process: int) -> Iterator[None]:
    os.waitpid(process, os.WUNTRACED)  # It has stopped itself, so its next call is the first that is traced.
    with subprocess.Popen([*tracer, "-p", str(process)], stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        line = running.stderr.readline()
        os.kill(process, signal.SIGCONT if "attached" in line else signal.SIGKILL)
        yield
        running.stderr.read()
