"""Pattern libraries in files, whole: `PatternPersistence`. Beside it the other two of the documented import path."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from empathy_kv.errors import ArgumentTypeError, CodecError
from empathy_kv.index import Index
from empathy_kv.metrics import MetricsCollector
from empathy_kv.paths import destination
from empathy_kv.pattern_library import LocalPatterns, PatternLibrary, Progress
from empathy_kv.states import StateManager

if TYPE_CHECKING:
    from empathy_kv.sql.database import Database

__all__ = ["MetricsCollector", "PatternPersistence", "StateManager"]


class PatternPersistence:
    """Save a library of patterns, whole, and load it again: JSON to be read by people, SQLite, PostgreSQL.

    A save is atomic and durable: there is the old library or the new one, whatever happens meanwhile. All of it comes
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

        path = destination(filepath)
        try:
            library = library_json.decode(functools.partial(streams.read, path), _told(progress))
        except CodecError as error:
            raise CodecError(f"{path}: {error}", path=error.path, argument="filepath") from error
        return PatternLibrary(LocalPatterns(Index.of(library)))

    @staticmethod
    def save_to_sqlite(
        library: PatternLibrary, db_path: str | os.PathLike[str], *, progress: Progress | None = None
    ) -> None:
        """Make the tables of a SQLite database equal to a library, in one transaction. Missing directories are made.

        A pattern that the library does not have is removed, with the rows of its usage. Other tables are left alone.
        `progress` is called with how many patterns are written, and of how many have to be.
        """
        _require_library(library)
        _save(library, _sqlite(db_path), progress)

    @staticmethod
    def load_from_sqlite(db_path: str | os.PathLike[str], *, progress: Progress | None = None) -> PatternLibrary:
        """Return the library of a SQLite database. `MissingFileError` (a FileNotFoundError) if none was saved there.

        `CodecError` (a ValueError) if a row is no pattern; its `path` says where, as `$.patterns['pat_1'].confidence`.
        `DamagedError` (a ValueError) if the file is no database, or cannot be trusted. `progress` is called with how
        many patterns are read, and of how many.
        """
        return _load(_sqlite(db_path), progress)

    @staticmethod
    def save_to_postgres(
        library: PatternLibrary, url: str, *, timeout: float = 60.0, progress: Progress | None = None
    ) -> None:
        """Make the tables of a PostgreSQL database equal to a library, in one transaction; as `save_to_sqlite`.

        `url` is `postgresql://user:password@host:port/database`, or what else libpq takes. `timeout`: seconds that the
        server may take for a statement, or to be reached.
        """
        _require_library(library)
        _save(library, _postgres(url, timeout), progress)

    @staticmethod
    def load_from_postgres(url: str, *, timeout: float = 60.0, progress: Progress | None = None) -> PatternLibrary:
        """Return the library of a PostgreSQL database; as `load_from_sqlite`.

        `MissingFileError` (a FileNotFoundError) if none was saved there; nothing is created.
        """
        return _load(_postgres(url, timeout), progress)


def _save(library: PatternLibrary, database: Database, progress: Progress | None) -> None:
    from empathy_kv.sql.patterns import save

    with database:
        database.run(save(library.snapshot(), database.keeps_arrival, _told(progress)))


def _load(database: Database, progress: Progress | None) -> PatternLibrary:
    from empathy_kv.sql.patterns import load

    with database:
        return PatternLibrary(LocalPatterns(Index.of(database.run(load(database.name, _told(progress))))))


def _sqlite(db_path: object) -> Database:
    from empathy_kv.sql.sqlite import SQLite

    # No write-ahead log: a library is one file, to be copied, and to be read where nothing can be written.
    return SQLite(destination(db_path, "db_path"), wal=False)


def _postgres(url: str, timeout: float) -> Database:
    from empathy_kv.sql.database import postgres

    return postgres(url, timeout=timeout)


def _told(progress: Progress | None) -> Progress | None:
    if progress is not None and not callable(progress):
        raise ArgumentTypeError(f"progress must be callable, not {type(progress).__name__}", argument="progress")
    return progress


def _require_library(library: object) -> None:
    if not isinstance(library, PatternLibrary):
        raise ArgumentTypeError(f"library must be a PatternLibrary, not {type(library).__name__}", argument="library")
