"""The machine as a process sees it, started again and again while the process runs on."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Final

import pytest

BOOT: Final = "/proc/sys/kernel/random/boot_id"
"""Where Linux says which start of the machine this is. It is another after every power cut."""


class Machine:
    """A machine whose `restart` costs nothing: only what tells one start from another changes."""

    def __init__(self) -> None:
        self.boot = secrets.token_hex(8)

    def restart(self) -> None:
        """Let this process see what one sees that begins after the power came back."""
        self.boot = secrets.token_hex(8)
        forget()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Let this process see this machine in the place of the real one."""
        real = io.open

        def opened(file: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(file, (str, os.PathLike)) and os.fspath(file) == BOOT:
                return io.StringIO(f"{self.boot}\n")
            return real(file, *arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(io, "open", opened)
            forget()
            yield
        forget()


def package() -> list[ModuleType]:
    """Return the modules of the file engine."""
    return [module for name, module in sys.modules.items() if name.startswith("empathy_kv.kv.files")]


def forget() -> None:
    """Empty the caches of the package's functions, as in a new process."""
    for clear in _clearings(len(sys.modules)):
        clear()


@functools.cache
def _clearings(modules: int) -> list[Callable[[], None]]:
    """Return what empties the caches, as long as there are so many modules."""
    functions = [function for module in package() for function in vars(module).values()]
    return [function.cache_clear for function in functions if hasattr(function, "cache_clear")]
