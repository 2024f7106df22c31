"""The tables, as data: the documented ones, and beside them ours for what those cannot hold.

::

    patterns, pattern_usage    documented
    pattern_contributions      who contributed a pattern, in which order, and the fields that `Pattern` does not know
    pattern_links              the links between patterns, each once

    interactions               documented
    interaction_ids            the ids that callers gave, each with the content of its interaction
    interaction_imports        how far the table `metrics` of empathy-framework was taken over

A user's own SELECT works on the documented tables, and so does a user's own INSERT: what ours lack then has a default.
They are made by the first write that needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from attrs import frozen

from empathy_kv.errors import DamagedError
from empathy_kv.records import utc

VERSION: Final = 0x454B_0001
"""What PRAGMA user_version says: "EK", and the version of the schema. A database that has another one in its upper half
is a user's own, who counts versions there too: that number is left alone."""

OBJECTS: Final = "SELECT type, lower(name), lower(tbl_name), rootpage, sql FROM main.sqlite_master"
"""Asks for what `Part.require_ordinary` and `Part.missing` take. No object of a file can stand in for this table."""


def timestamp(at: datetime) -> str:
    """Return a time as it stands in a column: in UTC, in the form of CURRENT_TIMESTAMP, with microseconds."""
    return utc(at).replace(tzinfo=None).isoformat(" ", "microseconds")


@frozen(eq=False)
class Part:
    """Tables that are used together, and made together: each by its name, with the statement that makes it."""

    tables: Mapping[str, str]
    indexes: Mapping[str, str]

    def columns(self, table: str) -> set[str]:
        """Return the names of a table's columns: a line each, where a constraint begins with a capital."""
        words = [line.split()[0] for line in self.tables[table].splitlines()[1:-1]]
        return {word for word in words if word.islower()}

    def require_ordinary(self, objects: Iterable[tuple[Any, ...]], path: str) -> None:
        """Raise `DamagedError` if what has the name of one of our tables is something else, or does more than it says.

        A view may never end, a trigger may write elsewhere, another collation takes two ids for one.
        """
        for kind, name, table, root, sql in objects:
            if kind == "trigger" and table in self.tables:
                reason = f"{table} has the trigger {name}"
            elif name not in self.tables:
                continue
            elif kind != "table" or not root:
                reason = f"{name} is no ordinary table"
            elif "collate" in sql.lower():
                reason = f"{name} has a collation of its own"
            else:
                continue
            raise DamagedError(f"{path} is not used: {reason}", path=path)

    def missing(self, objects: Iterable[tuple[Any, ...]]) -> dict[str, str]:
        """Return what is not there, as the statements that make it, tables first."""
        there = {name for _, name, _, _, _ in objects}
        return {name: sql for name, sql in (*self.tables.items(), *self.indexes.items()) if name not in there}


PATTERNS: Final = Part(
    tables={
        "patterns": """CREATE TABLE patterns (
    id TEXT PRIMARY KEY,
    agent_id TEXT NOT NULL,
    pattern_type TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    context TEXT,  -- JSON
    code TEXT,
    confidence REAL DEFAULT 0.5,
    usage_count INTEGER DEFAULT 0,
    success_count INTEGER DEFAULT 0,
    failure_count INTEGER DEFAULT 0,
    tags TEXT,  -- JSON array
    discovered_at TIMESTAMP,
    last_used TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
)""",
        "pattern_usage": """CREATE TABLE pattern_usage (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pattern_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    success BOOLEAN NOT NULL,
    used_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    FOREIGN KEY (pattern_id) REFERENCES patterns(id)
)""",
        # A user who removes a pattern, and has foreign keys enforced, shall not be hindered by tables of ours.
        "pattern_contributions": """CREATE TABLE pattern_contributions (
    position INTEGER PRIMARY KEY,
    pattern_id TEXT NOT NULL UNIQUE,
    agent_id TEXT NOT NULL,
    extra TEXT,  -- JSON object
    FOREIGN KEY (pattern_id) REFERENCES patterns(id) ON DELETE CASCADE
)""",
        "pattern_links": """CREATE TABLE pattern_links (
    pattern_id TEXT NOT NULL,
    related_id TEXT NOT NULL,
    PRIMARY KEY (pattern_id, related_id),
    FOREIGN KEY (pattern_id) REFERENCES patterns(id) ON DELETE CASCADE,
    FOREIGN KEY (related_id) REFERENCES patterns(id) ON DELETE CASCADE
)""",
    },
    indexes={
        "idx_patterns_agent": "CREATE INDEX idx_patterns_agent ON patterns(agent_id)",
        "idx_patterns_type": "CREATE INDEX idx_patterns_type ON patterns(pattern_type)",
        "idx_patterns_confidence": "CREATE INDEX idx_patterns_confidence ON patterns(confidence)",
    },
)

METRICS: Final = Part(
    tables={
        "interactions": """CREATE TABLE interactions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id TEXT NOT NULL,
    empathy_level INTEGER NOT NULL,
    success BOOLEAN NOT NULL,
    response_time_ms REAL,
    timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP
)""",
        # With the content, and not only the number of the row: it outlives a row that the user deletes.
        "interaction_ids": """CREATE TABLE interaction_ids (
    row_id INTEGER PRIMARY KEY,
    user_id TEXT NOT NULL,
    interaction_id TEXT NOT NULL,
    empathy_level INTEGER NOT NULL,
    success BOOLEAN NOT NULL,
    response_time_ms REAL NOT NULL,
    UNIQUE (user_id, interaction_id)
)""",
        "interaction_imports": """CREATE TABLE interaction_imports (
    source TEXT PRIMARY KEY,
    last_id INTEGER NOT NULL
)""",
    },
    indexes={
        "idx_interactions_user": "CREATE INDEX idx_interactions_user ON interactions(user_id)",
        "idx_interactions_timestamp": "CREATE INDEX idx_interactions_timestamp ON interactions(timestamp)",
    },
)


# The table of empathy-framework 3.9.3: `metrics`. It stays as it is, and its rows are copied: it has a column more
# (metadata), and the older program may still be at work and add to it. Its numbers only ever rise (AUTOINCREMENT), so
# the last one that was copied, kept in the same transaction, says what is new: nothing is lost, or counted twice.

OLDER_COLUMNS: Final = frozenset({"id", "user_id", "empathy_level", "success", "response_time_ms", "timestamp"})
"""By these a table `metrics` is known to be that one."""

OLDER_VIEW: Final = """CREATE TEMP VIEW interactions AS
SELECT id, user_id, empathy_level, success, response_time_ms, timestamp FROM main.metrics"""
"""What stands for the interactions as long as none was copied: reading writes nothing."""

OLDER_NEWS: Final = """SELECT EXISTS (
    SELECT 1 FROM main.metrics
    WHERE id > coalesce((SELECT last_id FROM interaction_imports WHERE source = 'metrics'), 0)
)"""
"""Whether there is something to be copied."""

OLDER_IMPORT: Final = (
    # Interactions that are there before the first copy are the work of somebody else, who may have copied by hand.
    """INSERT OR IGNORE INTO interaction_imports (source, last_id)
    SELECT 'metrics', CASE WHEN EXISTS (SELECT 1 FROM interactions) THEN coalesce(max(id), 0) ELSE 0 END
    FROM metrics""",
    """INSERT INTO interactions (user_id, empathy_level, success, response_time_ms, timestamp)
    SELECT user_id, empathy_level, success, response_time_ms, timestamp FROM metrics
    WHERE id > (SELECT last_id FROM interaction_imports WHERE source = 'metrics') ORDER BY id""",
    """UPDATE interaction_imports SET last_id = (SELECT max(id) FROM metrics)
    WHERE source = 'metrics' AND last_id < (SELECT max(id) FROM metrics)""",
)
"""The copy."""
