"""`empathy-kv patterns`: the library."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from attrs import fields
from cyclopts import App, Parameter

from empathy_kv.cli.console import (
    Refused,
    confirm,
    counted,
    document,
    printable,
    progress,
    share,
    show,
    show_json,
    table,
    tell,
)
from empathy_kv.cli.options import HERE, DryRun, Json, Tags, Where, Yes, file_at, opened, overwriting, present, suited
from empathy_kv.codec import codec, parse
from empathy_kv.errors import CodecError
from empathy_kv.pattern_library import PatternLibrary, missing
from empathy_kv.persistence import PatternPersistence
from empathy_kv.records import Pattern

app: Final = App(name="patterns", help="The library of patterns.")

_CODEC: Final = codec(Pattern)
_SQLITE: Final = (".db", ".sqlite", ".sqlite3")


def _row(pattern: Pattern) -> tuple[object, ...]:
    rate = share(pattern.success_rate) if pattern.usage_count else None
    return (
        pattern.id,
        pattern.name,
        pattern.pattern_type,
        pattern.agent_id,
        share(pattern.confidence),
        pattern.usage_count,
        rate,
        " ".join(pattern.tags),
    )


_SPARE: Final = ("AGENT", "TYPE", "TAGS", "USED", "SUCCESS")
"""What a narrow terminal does not show, the first first."""
_COLUMNS: Final = ("ID", "NAME", "TYPE", "AGENT", "CONFIDENCE", "USED", "SUCCESS", "TAGS")


@app.command(name="list")
def list_(
    *,
    type: Annotated[str | None, Parameter(help="Only this type")] = None,
    agent: Annotated[str | None, Parameter(help="Only what this agent contributed")] = None,
    sort: Annotated[
        Literal["success_rate", "usage_count", "confidence"] | None,
        Parameter(help="Best first by a figure, instead of in the order of contribution"),
    ] = None,
    limit: Annotated[int | None, Parameter(name=["--limit", "-n"], help="At most so many")] = None,
    json: Json = False,
    store: Where = HERE,
) -> None:
    """List the patterns."""
    if limit is not None and limit < 1:
        raise Refused(f"--limit must be 1 or more, not {limit}", 2)
    with present(store) as open_store:
        library = open_store.patterns
        found = library.get_agent_patterns(agent) if agent is not None else list(library.patterns.values())
        if sort is not None:
            found.sort(key=lambda pattern: -getattr(pattern, sort))
    found = [pattern for pattern in found if type is None or pattern.pattern_type == type]
    shown = found[:limit]
    if json:
        show_json([_CODEC.unstructure(pattern) for pattern in shown])
        return
    if shown:
        show(table(_COLUMNS, map(_row, shown), _SPARE))
    tell(counted(len(found), "pattern") + (f", {len(shown):,} shown" if len(shown) < len(found) else ""))


@app.command(name="show")
def show_(pattern_id: str, /, *, json: Json = False, store: Where = HERE) -> None:
    """Show a pattern, and which it is linked to."""
    with present(store) as open_store:
        pattern = open_store.patterns.get_pattern(pattern_id)
        if pattern is None:
            raise missing(pattern_id)
        related = [other.id for other in open_store.patterns.get_related_patterns(pattern_id)]
    record = {**_CODEC.unstructure(pattern), "success_rate": pattern.success_rate, "related": related}
    if json:
        show_json(record)
    else:
        show(document(record))


@app.command
def find(
    situation: Annotated[
        list[str] | None, Parameter(negative="", help="The situation, as KEY=VALUE ...; a VALUE may be JSON")
    ] = None,
    /,
    *,
    tag: Tags = None,
    type: Annotated[str | None, Parameter(help="Only this type")] = None,
    min_confidence: Annotated[float, Parameter(help="At least so much confidence, 0 to 1")] = 0.5,
    limit: Annotated[int, Parameter(name=["--limit", "-n"], help="At most so many")] = 10,
    json: Json = False,
    store: Where = HERE,
) -> None:
    """Find the patterns that fit a situation, the most relevant first."""
    context = dict(map(_pair, situation or ()))
    if not context and not tag:
        raise Refused("say what to look for: KEY=VALUE, or --tag TAG", 2)
    if tag:
        context["tags"] = tag
    with present(store) as open_store:
        matches = open_store.patterns.find_patterns(
            context, pattern_type=type, min_confidence=min_confidence, limit=limit
        )
    if json:
        show_json(
            [
                {
                    "relevance": match.relevance,
                    "matching_factors": match.matching_factors,
                    "pattern": _CODEC.unstructure(match.pattern),
                }
                for match in matches
            ]
        )
        return
    rows = [
        (
            share(match.relevance),
            match.pattern.id,
            match.pattern.name,
            share(match.pattern.confidence),
            ", ".join(match.matching_factors),
        )
        for match in matches
    ]
    if rows:
        show(table(("RELEVANCE", "ID", "NAME", "CONFIDENCE", "BECAUSE OF"), rows, ("CONFIDENCE", "BECAUSE OF")))
    tell(counted(len(rows), "match", "matches"))


@app.command
def add(
    file: Annotated[
        str, Parameter(help="A file with the pattern as a JSON object; - is standard input", allow_leading_hyphen=True)
    ],
    /,
    *,
    agent: Annotated[str | None, Parameter(help="Who contributes it; default: its agent_id")] = None,
    store: Where = HERE,
) -> None:
    """Add a pattern."""
    data = sys.stdin.buffer.read() if file == "-" else file_at(Path(file)).read_bytes()
    try:
        pattern = _CODEC.structure(parse(data))
    except CodecError as error:
        raise Refused(f"{file}: {error}") from error
    with opened(store) as open_store:
        open_store.patterns.contribute_pattern(pattern.agent_id if agent is None else agent, pattern)
    tell(f"added {printable(pattern.id)}")
    if pattern.extra:
        unknown = ", ".join(map(_unknown, pattern.extra))
        tell(f"kept {counted(len(pattern.extra), 'field')} that patterns do not have: {unknown}")


@app.command
def remove(
    ids: Annotated[list[str], Parameter(negative="")],
    /,
    *,
    yes: Yes = False,
    dry_run: DryRun = False,
    store: Where = HERE,
) -> None:
    """Remove patterns, with their links."""
    with present(store) as open_store:
        known = open_store.patterns.patterns
        for pattern_id in ids:
            if pattern_id not in known:
                raise missing(pattern_id)
        if dry_run:
            tell(f"would remove {counted(len(set(ids)), 'pattern')}")
            return
        confirm(f"Remove {counted(len(set(ids)), 'pattern')}?", yes)
        tell(f"removed {counted(open_store.patterns.remove_patterns(ids), 'pattern')}")


@app.command
def repair(*, store: Where = HERE) -> None:
    """Find patterns again that are in the store, and that the library has lost with the list of them."""
    with present(store) as open_store:
        tell(f"found {counted(open_store.patterns.repair(), 'pattern')} again")


@app.command(name="import")
def import_(
    file: Path,
    /,
    *,
    existing: Annotated[
        Literal["refuse", "keep", "replace"] | None,
        Parameter(help="What to do about an id that is taken by another pattern; default: refuse", show_default=False),
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    store: Where = HERE,
) -> None:
    """Add the patterns of a library file, .json or SQLite (.db), with their links.

    What is there already, just so, is left alone: an import that was interrupted can be done again. A pattern that is
    replaced keeps its place, its links, and what was recorded of it.
    """
    library = _loaded(file_at(file))
    with opened(store) as open_store:
        target = open_store.patterns
        mine = library.patterns
        there = {pattern_id: target.get_pattern(pattern_id) for pattern_id in mine if pattern_id in target.patterns}
        other = [pattern_id for pattern_id, pattern in there.items() if pattern != mine[pattern_id]]
        if other and existing in (None, "refuse"):
            raise Refused(
                f"{counted(len(other), 'id')} taken by other patterns, as {other[0]!r}: say --existing keep or replace"
            )
        replaced = other if existing == "replace" else []
        contributions = [
            (agent, mine[pattern_id])
            for agent, ids in library.agent_contributions.items()
            for pattern_id in ids
            if pattern_id not in there
        ]
        order = {pattern_id: place for place, pattern_id in enumerate(mine)}
        contributions.sort(key=lambda item: order[item[1].id])
        told = f"{counted(len(contributions) + len(replaced), 'pattern')} ({len(replaced):,} in the place of others)"
        if dry_run:
            tell(f"would add {told}")
            return
        if replaced:
            confirm(f"Replace {counted(len(replaced), 'pattern')}?", yes)
        for pattern_id in replaced:
            target.update_pattern(mine[pattern_id])
        with progress("patterns") as done:
            for start in range(0, len(contributions), _PAGE):
                target.restore(contributions[start : start + _PAGE])
                done(min(start + _PAGE, len(contributions)), len(contributions))
        target.restore([], library.get_links())
    tell(f"added {told}")


_PAGE: Final = 5_000


@app.command
def export(file: Path, /, *, yes: Yes = False, dry_run: DryRun = False, store: Where = HERE) -> None:
    """Write the library to a file, .json (also .json.gz, .json.zst) or SQLite (.db), whole or not at all."""
    suited(file, ".json", ".json.gz", ".json.zst", *_SQLITE)
    with present(store) as open_store:
        library = open_store.patterns
        told = f"{counted(len(library.patterns), 'pattern')} to {file}"
        if not overwriting(file, told, yes=yes, dry_run=dry_run):
            return
        save = PatternPersistence.save_to_sqlite if file.suffix.lower() in _SQLITE else PatternPersistence.save_to_json
        with progress("patterns") as done:
            save(library, file, progress=done)
        tell(f"wrote {told}")


def _unknown(name: str) -> str:
    """Return the name of a field that patterns do not have, and which may be meant."""
    near = difflib.get_close_matches(name.lower(), [field.name for field in fields(Pattern)], 1)
    return printable(name) + (f" (did you mean {near[0]}?)" if near else "")


def _loaded(file: Path) -> PatternLibrary:
    if file.suffix.lower() in _SQLITE:
        return PatternPersistence.load_from_sqlite(file)
    return PatternPersistence.load_from_json(file)


def _pair(word: str) -> tuple[str, Any]:
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise Refused(f"the situation is KEY=VALUE, not {word!r}", 2)
    try:
        return key, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return key, value
