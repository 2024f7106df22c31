"""The options that commands share, and the opening of the store that one names."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import Parameter

from empathy_kv.cli.console import Refused, confirm, counted, tell
from empathy_kv.store import Store
from empathy_kv.urls import DEFAULT_URL, PREFIX, connect, place

Where: TypeAlias = Annotated[
    str, Parameter(name=["--store", "-s"], env_var="EMPATHY_KV_URL", help="URL of the store", show_default=False)
]
Json: TypeAlias = Annotated[
    bool, Parameter(name="--json", negative="", show_default=False, help="JSON instead of a table")
]
Yes: TypeAlias = Annotated[bool, Parameter(name=["--yes", "-y"], negative="", show_default=False, help="Do not ask")]
DryRun: TypeAlias = Annotated[
    bool, Parameter(name="--dry-run", negative="", show_default=False, help="Say what would be done, do nothing")
]
Tags: TypeAlias = Annotated[list[str] | None, Parameter(name=["--tag", "-t"], negative="", help="A tag that counts")]

HERE = DEFAULT_URL


@contextlib.contextmanager
def opened(where: str) -> Iterator[Store]:
    """Open the store for one command, the first write of which makes it."""
    with connect(where) as store:
        yield store


@contextlib.contextmanager
def present(where: str) -> Iterator[Store]:
    """Open a store that is there, for a command that makes none.

    One that is not there would be taken for an empty one, and a mistake in its name for good news.
    """
    if absent(where):
        told = "name one by --store or EMPATHY_KV_URL; `empathy-kv demo` fills one"
        raise Refused(f"there is no store at {where}: {told}")
    with connect(where) as store:
        yield store


def required(path: Path) -> Path:
    """Return the path of a file, or a directory, that is there."""
    if not path.exists():
        raise Refused(f"there is no file {path}")
    return path


def file_at(path: Path) -> Path:
    """Return the path of a file that is there."""
    if required(path).is_dir():
        raise Refused(f"{path} is a directory: name a file")
    return path


def suited(file: Path, *suffixes: str) -> None:
    """Refuse a file whose name does not say what is to be in it."""
    if file.is_dir():
        raise Refused(f"{file} is a directory: name a file", 2)
    if not file.name.lower().endswith(suffixes):
        raise Refused(f"{file} must end in {', '.join(suffixes[:-1])} or {suffixes[-1]}, which says its form", 2)


def overwriting(path: Path, told: str, *, yes: bool, dry_run: bool) -> bool:
    """Return whether to write what is told of, after a question if that replaces something."""
    if dry_run:
        tell(f"would write {told}" + (", in the place of what is there" if path.exists() else ""))
        return False
    if path.exists():
        confirm(f"Replace what is in {path}?" if path.is_dir() else f"Replace {path}?", yes)
    return True


def others(store: Store, verb: str) -> None:
    """Tell what of a store a snapshot does not have, as far as that is known."""
    found = store._contents().others()
    if found:
        several = "collections or namespaces"
        tell(f"not {verb}: {counted(found, 'collection or namespace', several)} of your own")


def address(where: str) -> str:
    """Return the URL of a store as it may be shown: without a user and a password, and a path from the root."""
    path = place(where)
    scheme, _, rest = where.partition(":")
    if path is not None:
        return f"{scheme}:{'///' if scheme.lower() == 'sqlite' else ''}{path.absolute()}"
    authority, slash, further = rest.removeprefix("//").partition("/")
    user, _, host = authority.rpartition("@")
    host, mark, query = (host + slash + further).partition("?")
    if set(host + query) & set("@#") or set(user) & set("?#"):
        # Readers of URLs do not agree on what is a password here.
        return f"{scheme}:"
    kept = [setting for setting in query.split("&") if re.fullmatch(r"db=\d+", setting)]
    return f"{scheme}:{'//' if rest.startswith('//') else ''}{host}{mark if kept else ''}{'&'.join(kept)}"


def absent(where: str) -> bool:
    """Return whether a URL names a store on this machine's disk, and nothing was ever stored there."""
    path = place(where)
    if path is None:
        return False  # Of servers, nobody knows.
    # A directory of other things is no store: what is stored stands in one below it.
    return not (path if path.is_file() else path / PREFIX).exists()
