"""The commands together, and what becomes of an error: one line that says what was wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from cyclopts import App, ArgumentCollection, CycloptsError, UnknownCommandError, UnusedCliTokensError

import empathy_kv
from empathy_kv.cli.backups import app as backups
from empathy_kv.cli.console import Refused, printable, tell
from empathy_kv.cli.demo import demo
from empathy_kv.cli.metrics import app as metrics
from empathy_kv.cli.patterns import app as patterns
from empathy_kv.cli.states import app as states
from empathy_kv.cli.stores import app as stores
from empathy_kv.errors import ArgumentError, ArgumentTypeError, CodecError, EmpathyKVError, UnavailableError


def _unset(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:  # noqa: ARG001 - as it calls
    """Take a variable that is empty for one that is not set, as `connect` does."""
    for argument in arguments:
        argument.tokens[:] = [token for token in argument.tokens if token.value or token.source != "env"]


APP: Final = App(
    name="empathy-kv",
    help="Look at what agents learned, and move it. EMPATHY_KV_URL, or --store behind a command, names a store, by "
    "default file:.empathy.",
    version=lambda: empathy_kv.__version__,
    help_format="plaintext",
    config=_unset,
)
_EXAMPLE: Final = "empathy-kv states list --store file:.empathy"

for each in (patterns, states, metrics, stores, backups):
    APP.command(each)
APP.command(demo)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 for what failed, 2 for what was asked wrongly."""
    if sys.stdout is None:  # Nobody wants to read it: `>&-`.
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the process ends
    try:
        result = APP(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        command = " ".join(("empathy-kv", *(error.command_chain or ())))
        return _failed(f"{_asked(error)} See {command} --help", 2)
    except Refused as refused:
        return _failed(str(refused), refused.status)
    except CodecError as error:
        return _failed(str(error), 1)  # What a file says was not asked by whoever named it.
    except (ArgumentError, ArgumentTypeError) as error:
        return _failed(_url(str(error)) if error.argument == "target" else str(error), 2)
    except UnavailableError as error:
        return _failed(f"{error}: see that it runs, and that this is its address", 1)
    except (EmpathyKVError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            _discard()  # Whoever read it has seen enough.
            return 0
        return _failed(_plain(error), 1)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    return result if isinstance(result, int) else 0


def _asked(error: CycloptsError) -> str:
    """Return what was wrong with what was asked, as people say it."""
    if isinstance(error, UnusedCliTokensError):
        return f"{' '.join(map(repr, error.unused_tokens or ()))} is one argument too many."
    words = error.unused_tokens or ()
    option, equals, _ = words[0].partition("=") if words else ("", "", "")
    if isinstance(error, UnknownCommandError) and option.startswith("-") and (equals or len(words) > 1):
        # Not what it is set to: that may hold a password.
        return f"{option} stands before the command: options go behind it, as in {_EXAMPLE}."
    return str(error)


def _plain(error: EmpathyKVError | OSError) -> str:
    """Return what an error says, without the number that Python puts before it."""
    if isinstance(error, EmpathyKVError) or error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def _url(message: str) -> str:
    """Return what is wrong with the URL of a store; on a command line a target is that of backups."""
    return message.replace("target must be", "a store is named by", 1)


def _discard() -> None:
    """Let what is still to be printed go nowhere: Python would try again when it closes the stream."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(message: str, status: int) -> int:
    try:
        sys.stdout.flush()
    except OSError:
        _discard()
    tell(f"empathy-kv: {printable(' '.join(message.split()))}")
    return status
