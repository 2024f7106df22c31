"""Pattern libraries in files, whole: `PatternPersistence`. Beside it the other two of the documented import path.

The JSON form::

    patterns              an array of patterns, in the order of contribution
    agent_contributions   an object: by agent, the ids of the patterns that it contributed
    links                 an array of pairs of ids, if there are any
    metadata              saved_at, pattern_count, version
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import msgspec

from empathy_kv.codec import codec, parse
from empathy_kv.errors import ArgumentError, ArgumentTypeError, CodecError, MissingFileError
from empathy_kv.kv.operations import text
from empathy_kv.metrics import MetricsCollector
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.records import MAX_ID, Pattern, now
from empathy_kv.states import StateManager

__all__ = ["MetricsCollector", "PatternPersistence", "StateManager"]

VERSION: Final = "1.0"
"""Of the JSON form."""
_CODEC: Final = codec(Pattern)


class PatternPersistence:
    """Save a library of patterns to a file, whole, and load it again: JSON to be read by people, or SQLite.

    A save is atomic and durable: the file is the old one or the new one, whatever happens meanwhile. All of it comes
    back: who contributed what, in which order, the links, and fields that `Pattern` does not know.
    """

    @staticmethod
    def save_to_json(library: PatternLibrary, filepath: str | os.PathLike[str]) -> None:
        """Write a library to a JSON file, in the place of one that was there. Missing directories are made."""
        from empathy_kv.export import destination, write

        _require_library(library)
        write(destination(filepath), _encode(library))

    @staticmethod
    def load_from_json(filepath: str | os.PathLike[str]) -> PatternLibrary:
        """Return the library of a JSON file. `MissingFileError` (a FileNotFoundError) if there is none.

        `CodecError` (a ValueError) if it is not JSON, or not a library; its `path` says where, as
        `$.patterns[3].confidence`.
        """
        from empathy_kv.export import destination
        from empathy_kv.kv.files.disk import translated

        path = destination(filepath)
        with translated(path):
            try:
                data = path.read_bytes()
            except FileNotFoundError as error:
                raise MissingFileError(f"there is no file {path}", path=str(path)) from error
        try:
            return _decode(data)
        except CodecError as error:
            raise CodecError(f"{path}: {error}", path=error.path, argument="filepath") from error

    @staticmethod
    def save_to_sqlite(library: PatternLibrary, db_path: str | os.PathLike[str]) -> None:
        """Make the tables of a SQLite database equal to a library, in one transaction. Missing directories are made.

        A pattern that the library does not have is removed, with the rows of its usage. Other tables are left alone.
        """
        from empathy_kv.sql.patterns import save

        _require_library(library)
        save(library, _database(db_path))

    @staticmethod
    def load_from_sqlite(db_path: str | os.PathLike[str]) -> PatternLibrary:
        """Return the library of a SQLite database. `MissingFileError` (a FileNotFoundError) if none was saved there.

        `CodecError` (a ValueError) if a row is no pattern; its `path` says where, as `$.patterns['pat_1'].confidence`.
        `DamagedError` (a ValueError) if the file is no database, or cannot be trusted.
        """
        from empathy_kv.sql.patterns import load

        return load(_database(db_path))


def _require_library(library: object) -> None:
    if not isinstance(library, PatternLibrary):
        raise ArgumentTypeError(f"library must be a PatternLibrary, not {type(library).__name__}", argument="library")


def _database(db_path: object) -> Path:
    from empathy_kv.export import destination

    return destination(db_path, "db_path")


def _encode(library: PatternLibrary) -> bytes:
    view = library.patterns
    # With `get`: another thread may remove one meanwhile. What is listed further down is what was saved.
    patterns = [pattern for pattern_id in view if (pattern := view.get(pattern_id)) is not None]
    saved = {pattern.id for pattern in patterns}
    contributions = {
        agent: [pattern_id for pattern_id in pattern_ids if pattern_id in saved]
        for agent, pattern_ids in library.agent_contributions.items()
    }
    document: dict[str, Any] = {
        "patterns": [_pattern(pattern, f"$.patterns[{i}]") for i, pattern in enumerate(patterns)],
        "agent_contributions": contributions,
    }
    links = [pair for pair in library.get_links() if saved.issuperset(pair)]
    if links:
        document["links"] = links
    document["metadata"] = {
        "saved_at": now().replace(tzinfo=None).isoformat(),
        "pattern_count": len(patterns),
        "version": VERSION,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _pattern(pattern: Pattern, place: str) -> msgspec.Raw:
    try:
        return msgspec.Raw(_CODEC.encode(pattern))
    except CodecError as error:
        place += error.path.removeprefix("$")
        raise CodecError(f"{str(error).rpartition(' @ ')[0]} @ {place}", path=place) from error


def _decode(data: bytes) -> PatternLibrary:
    document = _expect(parse(data), dict, "$")
    items = _expect(_member(document, "patterns"), list, "$.patterns")
    patterns: dict[str, Pattern] = {}
    for i, item in enumerate(items):
        place = f"$.patterns[{i}]"
        pattern = _CODEC.structure(item, place)
        _require_id(pattern.id, f"{place}.id")
        _require_id(pattern.agent_id, f"{place}.agent_id")
        if pattern.id in patterns:
            raise CodecError(f"expected every id once, not {pattern.id!r} again @ {place}.id", path=f"{place}.id")
        patterns[pattern.id] = pattern
    contributors: dict[str, str] = {}
    for agent, ids in _expect(document.get("agent_contributions", {}), dict, "$.agent_contributions").items():
        place = f"$.agent_contributions[{agent!r}]"
        _require_id(agent, place)
        for pattern_id in _texts(ids, place):
            contributors.setdefault(pattern_id, agent)
    links = []
    for i, pair in enumerate(_expect(document.get("links", []), list, "$.links")):
        place = f"$.links[{i}]"
        if len(set(_texts(pair, place))) != 2 or len(pair) != 2:
            raise CodecError(f"expected two ids @ {place}", path=place)
        # As with a contribution, a pattern that was taken out of the file by hand takes its links with it.
        if patterns.keys() >= set(pair):
            links.append((pair[0], pair[1]))
    library = PatternLibrary()
    library.restore([(contributors.get(p.id, p.agent_id), p) for p in patterns.values()], links)
    return library


def _member(document: dict[str, Any], name: str) -> Any:
    if name not in document:
        raise CodecError(f"missing @ $.{name}", path=f"$.{name}")
    return document[name]


def _expect(value: Any, kind: type, place: str) -> Any:
    if type(value) is not kind:
        raise CodecError(f"expected {'object' if kind is dict else 'array'} @ {place}", path=place)
    return value


def _texts(value: Any, place: str) -> list[str]:
    for i, item in enumerate(_expect(value, list, place)):
        if type(item) is not str:
            raise CodecError(f"expected str @ {place}[{i}]", path=f"{place}[{i}]")
    return value  # type: ignore[no-any-return]


def _require_id(value: str, place: str) -> None:
    try:
        text(value, "an id", MAX_ID)
    except ArgumentError as error:
        raise CodecError(f"{error} @ {place}", path=place) from error
