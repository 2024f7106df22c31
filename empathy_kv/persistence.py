"""Pattern libraries in files, whole: `PatternPersistence`. Beside it the other two of the documented import path."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from empathy_kv.errors import ArgumentTypeError, CodecError
from empathy_kv.index import Index
from empathy_kv.metrics import MetricsCollector
from empathy_kv.pattern_library import LocalPatterns, PatternLibrary, Progress
from empathy_kv.states import StateManager

__all__ = ["MetricsCollector", "PatternPersistence", "StateManager"]


class PatternPersistence:
    """Save a library of patterns to a file, whole, and load it again: JSON to be read by people, or SQLite.

    A save is atomic and durable: the file is the old one or the new one, whatever happens meanwhile. All of it comes
    back: who contributed what, in which order, the links, and fields that `Pattern` does not know.
    """

    @staticmethod
    def save_to_json(
        library: PatternLibrary, filepath: str | os.PathLike[str], *, progress: Progress | None = None
    ) -> None:
        """Write a library to a JSON file, in the place of one that was there. Missing directories are made.

        It is compressed if its name ends in `.gz`, or in `.zst` (which needs the extra `zstd`). `progress` is called
        with how many patterns are written, and of how many.
        """
        from empathy_kv import library_json, streams
        from empathy_kv.export import destination

        _require_library(library)
        streams.write(destination(filepath), library_json.encode(library.snapshot(), _told(progress)))

    @staticmethod
    def load_from_json(filepath: str | os.PathLike[str], *, progress: Progress | None = None) -> PatternLibrary:
        """Return the library of a JSON file, compressed or not.

        `MissingFileError` (a FileNotFoundError) if there is none.
        `CodecError` (a ValueError) if it is not JSON, or not a library; its `path` says where, as
        `$.patterns[3].confidence`. `progress` is called with how many patterns are read, and of about how many.
        """
        from empathy_kv import library_json, streams
        from empathy_kv.export import destination

        path = destination(filepath)
        try:
            library = library_json.decode(functools.partial(streams.read, path), _told(progress))
        except CodecError as error:
            raise CodecError(f"{path}: {error}", path=error.path, argument="filepath") from error
        return PatternLibrary(LocalPatterns(Index.of(library)))

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


def _told(progress: Progress | None) -> Progress | None:
    if progress is not None and not callable(progress):
        raise ArgumentTypeError(f"progress must be callable, not {type(progress).__name__}", argument="progress")
    return progress


def _require_library(library: object) -> None:
    if not isinstance(library, PatternLibrary):
        raise ArgumentTypeError(f"library must be a PatternLibrary, not {type(library).__name__}", argument="library")


def _database(db_path: object) -> Path:
    from empathy_kv.export import destination

    return destination(db_path, "db_path")
