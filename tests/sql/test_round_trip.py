"""A library goes from one form to the next, and is the same in the end."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import PostgresServer

from empathy_kv.codec import codec
from empathy_kv.errors import MissingFileError
from empathy_kv.pattern_library import PatternLibrary
from empathy_kv.persistence import PatternPersistence
from empathy_kv.records import Pattern
from empathy_kv.testing.hostile import HOSTILE, storable
from empathy_kv.testing.records import libraries


def everything(library: PatternLibrary) -> object:
    """Return all that a library is, to the byte."""
    encoded = [codec(Pattern).encode(pattern) for pattern in library.patterns.values()]
    return encoded, list(library.agent_contributions.items()), library.get_links()


@pytest.fixture(scope="module")
def postgres_url(postgres_server: PostgresServer) -> str:
    """One schema for all examples: each save makes the tables equal to its library, whatever was there."""
    return postgres_server.schema()


# A quarter of the examples: each of them is four saves and four loads.
@settings(max_examples=max(10, settings.default.max_examples // 4))
@given(libraries(), st.booleans())
def test_a_library_is_the_same_after_sqlite_postgresql_and_json(
    postgres_url: str, library: PatternLibrary, used: bool
) -> None:
    if used:
        for pattern_id in library.patterns:
            if library.patterns[pattern_id].usage_count < 2**62:
                library.record_pattern_outcome(pattern_id, len(pattern_id) % 2 == 0)
    with tempfile.TemporaryDirectory() as directory:
        database, text = Path(directory) / "patterns.db", Path(directory) / "patterns.json"
        PatternPersistence.save_to_sqlite(library, database)
        second = PatternPersistence.load_from_sqlite(database)
        PatternPersistence.save_to_postgres(second, postgres_url)
        third = PatternPersistence.load_from_postgres(postgres_url)
        PatternPersistence.save_to_json(third, text)
        assert everything(PatternPersistence.load_from_json(text)) == everything(library)


def test_every_hostile_text_goes_through_postgresql(postgres_url: str) -> None:
    library = PatternLibrary()
    for text in HOSTILE:
        if storable(text, 512) and text.strip():
            library.contribute_pattern(text, Pattern(text, text, text, text, text, {text: text}, text, tags=[text]))
    PatternPersistence.save_to_postgres(library, postgres_url)
    assert everything(PatternPersistence.load_from_postgres(postgres_url)) == everything(library)


def test_texts_that_look_escaped_are_kept_apart(postgres_url: str) -> None:
    ids = ["\0", "\x10", "\x100", "\x10\x10", "\x10\0", "0", "\x10\x100"]
    library = PatternLibrary()
    library.contribute_patterns("agent", [Pattern(text, "agent", "t", text) for text in ids])
    PatternPersistence.save_to_postgres(library, postgres_url)
    found = PatternPersistence.load_from_postgres(postgres_url)
    assert [(pattern.id, pattern.name) for pattern in found.patterns.values()] == [(text, text) for text in ids]


def test_nothing_was_saved_to_a_new_database_and_looking_creates_nothing(postgres_server: PostgresServer) -> None:
    url = postgres_server.schema()
    with pytest.raises(MissingFileError) as caught:
        PatternPersistence.load_from_postgres(url)
    assert "127.0.0.1" in str(caught.value)
    schema = url.rpartition("%3D")[2]
    assert postgres_server.execute(f"SELECT count(*) FROM pg_tables WHERE schemaname = '{schema}'") == [(0,)]


@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_progress_is_reported(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if where == "sqlite":
        save, load, place = PatternPersistence.save_to_sqlite, PatternPersistence.load_from_sqlite, tmp_path / "p.db"
    else:
        place = request.getfixturevalue("postgres_server").schema()
        save, load = PatternPersistence.save_to_postgres, PatternPersistence.load_from_postgres
    library = PatternLibrary()
    library.contribute_patterns("a", [Pattern(f"{n}", "a", "t", "n") for n in range(2500)])
    told: list[tuple[int, int]] = []
    save(library, place, progress=lambda *both: told.append(both))
    assert told == [(1000, 2500), (2000, 2500), (2500, 2500)]
    told.clear()
    load(place, progress=lambda *both: told.append(both))
    assert told == [(1000, 2500), (2000, 2500), (2500, 2500)]
