"""What people see: tables, bars and questions on a terminal, plain lines in a pipe; and JSON for programs."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_PIPE: Final = 10_000
"""Columns of what is no terminal, so that nothing is cut."""
_GAP: Final = 2
"""Columns between two of a table."""
_SHORT: Final = 14
"""Columns of what is never folded."""


class Refused(Exception):  # noqa: N818 - what a command is
    """A command does not go on. `status`: 1 because of what there is, 2 because of what was asked."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def _console(*, stderr: bool = False) -> Console:
    # Made anew for each use: a test, or a pager, may have put something in the place of the streams.
    file = sys.stderr if stderr else sys.stdout
    console = Console(file=file, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _PIPE
    return console


def expressible(text: str) -> bool:
    """Return whether the encoding of the output has what stands in a text: that of a pipe may be an old one."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def printable(value: object) -> str:
    """Return a value as people read it.

    What would control a terminal, and what the encoding of the output does not have, stands there as an escape.
    """
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    text = f"{value:,}" if type(value) is int else str(value)
    if text.isprintable() and expressible(text):
        return text
    return "".join(c if c.isprintable() and expressible(c) else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()


def share(value: float) -> str:
    """Return a part of one as per cent."""
    return f"{value:.0%}"


def milliseconds(value: float) -> str:
    """Return a time."""
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.2g} ms"


def size(octets: int) -> str:
    """Return an amount of bytes."""
    value, unit = float(octets), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{octets} B" if unit == "B" else f"{value:.1f} {unit}"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], spare: Sequence[str] = ()) -> Table:
    """Return rows under their headings; numbers stand to the right.

    Of the columns that can be spared, the first ones are left out where a terminal is too narrow for all.
    """
    cells = [list(row) for row in rows]
    texts = [[printable(value) for value in row] for row in cells]
    widths = [max((cell_len(row[place]) for row in texts), default=0) for place in range(len(columns))]
    widths = [max(width, cell_len(column)) for width, column in zip(widths, columns, strict=True)]
    shown = list(range(len(columns)))
    for name in spare:
        if sum(widths[place] + _GAP for place in shown) - _GAP <= _console().width:
            break
        shown.remove(columns.index(name))
    result = Table(box=None, pad_edge=False, header_style="bold")
    for place in shown:
        numeric = cells and all(isinstance(row[place], (int, float)) for row in cells)
        result.add_column(
            columns[place],
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=widths[place] <= _SHORT,
            min_width=min(widths[place], _SHORT),
        )
    for row in texts:
        result.add_row(*(Text(row[place]) for place in shown))
    return result


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """Return names and values, one a line."""
    result = Table(box=None, pad_edge=False, show_header=False)
    result.add_column(style="bold")
    result.add_column(overflow="fold")
    for name, value in pairs:
        result.add_row(name, Text(printable(value)))
    return result


def show(*parts: RenderableType | str) -> None:
    """Print for people."""
    console = _console()
    with console.capture() as captured:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str))
    # A table fills its columns with blanks.
    for line in captured.get().splitlines():
        sys.stdout.write(line.rstrip() + "\n")


def show_json(value: Any) -> None:
    """Print for programs."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    if not expressible(text):
        text = re.sub(r"[^\0-\x7f]", lambda match: json.dumps(match[0])[1:-1], text)  # These are in strings only.
    sys.stdout.write(text + "\n")


def tell(message: str) -> None:
    """Say how it went, beside what was asked for."""
    sys.stdout.flush()  # Else a pipe that has both would have this first.
    _console(stderr=True).print(message, soft_wrap=True)


def confirm(question: str, yes: bool) -> None:
    """Ask before something is lost, unless it was said beforehand."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused(f"{question} Nobody can be asked here: say --yes", 2)
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Refused("nothing was changed")


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar as long as something takes, on a terminal only; it is told how much is done, and of how much."""
    console = _console(stderr=True)
    if not console.is_terminal:
        yield _silent
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _silent(done: int, total: int | None) -> None:
    """Show nothing."""


def counted(number: int, what: str, several: str | None = None) -> str:
    """Return a number of things."""
    return f"{number:,} {what if number == 1 else several or what + 's'}"


def document(record: Mapping[str, Any]) -> Table:
    """Return what a record holds, one field a line; objects and lists as JSON."""
    return facts(
        (name, msgspec.json.encode(value).decode() if isinstance(value, (dict, list)) else value)
        for name, value in record.items()
    )
