"""The options that commands share, and the opening of the store that one names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import Parameter

from empathy_kv.cli.console import Refused
from empathy_kv.store import Store
from empathy_kv.urls import DEFAULT_URL, connect

Where: TypeAlias = Annotated[
    str, Parameter(name=["--store", "-s"], env_var="EMPATHY_KV_URL", help="URL of the store", show_default=False)
]
Json: TypeAlias = Annotated[bool, Parameter(name="--json", negative="", help="JSON instead of a table")]
Yes: TypeAlias = Annotated[bool, Parameter(name=["--yes", "-y"], negative="", help="Do not ask")]
DryRun: TypeAlias = Annotated[bool, Parameter(name="--dry-run", negative="", help="Say what would be done, do nothing")]
Tags: TypeAlias = Annotated[list[str] | None, Parameter(name=["--tag", "-t"], negative="", help="A tag that counts")]

HERE = DEFAULT_URL


@contextlib.contextmanager
def opened(where: str) -> Iterator[Store]:
    """Open the store for one command."""
    with connect(where) as store:
        yield store


def required(path: Path) -> Path:
    """Return the path of a file that is there."""
    if not path.exists():
        raise Refused(f"there is no file {path}")
    return path
