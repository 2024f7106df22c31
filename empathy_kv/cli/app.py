"""The commands together, and what becomes of an error: one line that says what was wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from cyclopts import App, CycloptsError

import empathy_kv
from empathy_kv.cli.backups import app as backups
from empathy_kv.cli.console import Refused, printable, tell
from empathy_kv.cli.demo import demo
from empathy_kv.cli.metrics import app as metrics
from empathy_kv.cli.patterns import app as patterns
from empathy_kv.cli.states import app as states
from empathy_kv.cli.stores import app as stores
from empathy_kv.errors import ArgumentError, ArgumentTypeError, EmpathyKVError

APP: Final = App(
    name="empathy-kv",
    help="Look at what agents learned, and move it. --store or EMPATHY_KV_URL names a store, by default file:.empathy.",
    version=lambda: empathy_kv.__version__,
    help_format="plaintext",
)
for each in (patterns, states, metrics, stores, backups):
    APP.command(each)
APP.command(demo)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 for what failed, 2 for what was asked wrongly."""
    try:
        result = APP(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        return _failed(str(error), 2)
    except Refused as refused:
        return _failed(str(refused), refused.status)
    except (ArgumentError, ArgumentTypeError) as error:
        return _failed(str(error), 2)
    except (EmpathyKVError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read it has seen enough. Python would complain once more when it closes the stream.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return _failed(str(error), 1)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    return result if isinstance(result, int) else 0


def _failed(message: str, status: int) -> int:
    tell(f"empathy-kv: {printable(' '.join(message.split()))}")
    return status
