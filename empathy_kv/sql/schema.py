"""The tables, as data: the documented ones, and beside them ours for what those cannot hold.

::

    patterns, pattern_usage    documented
    pattern_contributions      who contributed a pattern if not its agent, in which place if not that of its row, and
                               the fields that `Pattern` does not know
    pattern_links              the links between patterns, each once
    pattern_feed               which library this is, and the number of its last change
    pattern_changes            the patterns that changed, each with the number of its last change

    states                     a row a user

    interactions               documented
    interaction_ids            the ids that callers gave, each with the content of its interaction
    interaction_carried        what interactions of a user come to of which there are no rows: a snapshot was restored
                               from a store that keeps only the newest one by one
    interaction_carried_ids    the ids that callers gave to such interactions
    interaction_imports        how far the table `metrics` of empathy-framework was taken over
    interaction_progress       up to which row the interactions were counted, and what they come to
    interaction_totals         the same of each user; `stale` if rows changed that were counted

    write_tokens               the last write of each writer, so that none is done twice

A user's own SELECT works on all of them. So do a user's own INSERT, UPDATE and DELETE on the documented ones: what ours
lack then has a default, and triggers note what changed that a figure or a copy of the library was made from. Tables are
made by the first write that needs them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from attrs import field, frozen

from empathy_kv.errors import DamagedError
from empathy_kv.records import utc

MAGIC: Final = 0x454B
VERSION: Final = 2
"""Of the schema. SQLite has it in PRAGMA user_version, below `MAGIC` ("EK"): a database that has something else in the
upper half is a user's own, who counts versions there too, and that number is left alone. PostgreSQL has it in a table
of its own, `empathy_kv_schema`."""
USER_VERSION: Final = MAGIC << 16 | VERSION

LOWEST: Final = -(2**63)
"""Below every number of a row."""
HIGHEST: Final = 2**63 - 1


def timestamp(at: datetime) -> str:
    """Return a time as it stands in a column: in UTC, in the form of CURRENT_TIMESTAMP, with microseconds.

    PostgreSQL reads that as a time in UTC, too, since every connection of ours is set to it.
    """
    return utc(at).replace(tzinfo=None).isoformat(" ", "microseconds")


@frozen(eq=False)
class Part:
    """What is used together, and made together: each table, index and trigger by its name, with what makes it."""

    tables: Mapping[str, str]
    indexes: Mapping[str, str] = field(factory=dict)
    derived: Mapping[str, str] = field(factory=dict)
    """Tables of what can be made again from the others. They are worth nothing without the triggers that say when."""
    derived_indexes: Mapping[str, str] = field(factory=dict)
    triggers: Mapping[str, tuple[str, str]] = field(factory=dict)
    """Each with its table; as SQLite has them."""
    seeds: tuple[str, ...] = ()
    """What has to stand in the derived tables when they are made."""
    functions: tuple[str, ...] = ()
    """Functions and triggers as PostgreSQL has them; every one of their names is that of a trigger."""
    upgrades: Mapping[int, tuple[str, ...]] = field(factory=dict)
    """What brings the tables of a version to the next, if they are there."""

    @functools.cached_property
    def all_tables(self) -> dict[str, str]:
        """Every table, with what makes it on SQLite."""
        return {**self.tables, **self.derived}

    def columns(self, table: str) -> set[str]:
        """Return the names of a table's columns: a line each, where a constraint begins with a capital."""
        words = [line.split()[0] for line in self.all_tables[table].splitlines()[1:-1]]
        return {word for word in words if word.islower()}

    def require_ordinary(self, objects: Iterable[tuple[Any, ...]], path: str) -> None:
        """Raise `DamagedError` if what has the name of one of our tables is something else, or does more than it says.

        A view may never end, a trigger may write elsewhere, another collation takes two ids for one.
        """
        for kind, name, table, root, sql in objects:
            if kind == "trigger" and table in self.all_tables:
                if self.triggers.get(name) == (table, sql) or TRIGGERS.get(name) == (table, sql):
                    continue
                reason = f"{table} has the trigger {name}"
            elif name not in self.all_tables:
                continue
            elif kind != "table" or not root:
                reason = f"{name} is no ordinary table"
            elif "collate" in sql.lower():
                reason = f"{name} has a collation of its own"
            else:
                continue
            raise DamagedError(f"{path} is not used: {reason}", path=path)


def postgres(sql: str) -> str:
    """Return a statement that makes a table, as PostgreSQL has it."""
    sql = re.sub(r" +--.*", "", sql)
    sql = sql.replace("INTEGER PRIMARY KEY AUTOINCREMENT", "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY")
    for word, theirs in _TYPES.items():
        sql = re.sub(rf"\b{word}\b", theirs, sql)
    return sql


_TYPES: Final = {"INTEGER": "BIGINT", "REAL": "DOUBLE PRECISION", "TIMESTAMP": "TIMESTAMP WITH TIME ZONE"}

NOTHING: Final = Part({})
"""No table: what asks whether there is one."""
SAVED: Final = "SELECT 1 FROM main.sqlite_master WHERE lower(name) = 'patterns'"
"""Whether there is something that has the name of the patterns."""

TOKENS: Final = Part(
    tables={
        "write_tokens": """CREATE TABLE write_tokens (
    session TEXT NOT NULL,
    slot INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    issued INTEGER NOT NULL,
    applied BOOLEAN NOT NULL,
    PRIMARY KEY (session, slot)
)""",
    },
)

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
    pattern_id TEXT PRIMARY KEY,
    position INTEGER,
    agent_id TEXT,
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
        "idx_pattern_contributions_position": """CREATE INDEX idx_pattern_contributions_position
    ON pattern_contributions(position)""",
    },
    upgrades={
        1: (  # Every pattern had a row there, with its place, also where that said nothing new.
            "ALTER TABLE pattern_contributions RENAME TO pattern_contributions_1",
            """CREATE TABLE pattern_contributions (
    pattern_id TEXT PRIMARY KEY,
    position INTEGER,
    agent_id TEXT,
    extra TEXT,  -- JSON object
    FOREIGN KEY (pattern_id) REFERENCES patterns(id) ON DELETE CASCADE
)""",
            """INSERT INTO pattern_contributions (pattern_id, position, agent_id, extra)
    SELECT pattern_id, position, agent_id, extra FROM pattern_contributions_1""",
            "DROP TABLE pattern_contributions_1",
        )
    },
)


# The feed of changes of patterns, for workers that have a copy of the library. Its number rises in the order in which
# changes are committed, because whoever raises it has the row of the feed locked until then.


AFRESH: Final = "empathy_kv.afresh"
"""The setting of a PostgreSQL transaction that makes the library another one, which the feed need not follow.

To raise one number for each of 100,000 patterns takes minutes there: each version of a row is found by those before.
"""
_PLACE: Final = """INSERT INTO pattern_contributions (pattern_id, position)
        SELECT NEW.id, coalesce(max(position), 0) + 1 FROM pattern_contributions WHERE NEW.id IS NOT NULL
        ON CONFLICT (pattern_id) DO UPDATE SET position = excluded.position
            WHERE pattern_contributions.position IS NULL"""
"""Gives a new pattern its place. Where the library is shared every pattern has one, because rows may be renumbered."""


def _changed(table: str, columns: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """Return the triggers that note in the feed the patterns that a row of a table is about."""
    triggers = {}
    for event, rows in (("inserted", ("NEW",)), ("updated", ("OLD", "NEW")), ("deleted", ("OLD",))):
        notes = [
            f"""    INSERT INTO pattern_changes (pattern_id, number)
        SELECT {row}.{column}, number FROM pattern_feed WHERE {row}.{column} IS NOT NULL
        ON CONFLICT (pattern_id) DO UPDATE SET number = excluded.number;"""
            for row in rows
            for column in columns
        ]
        name = f"{table}_{event}"
        verb = {"inserted": "INSERT", "updated": "UPDATE", "deleted": "DELETE"}[event]
        lines = [
            f"CREATE TRIGGER {name} AFTER {verb} ON {table} BEGIN",
            "    UPDATE pattern_feed SET number = number + 1;",
            *notes,
            *([f"    {_PLACE};"] if name == "patterns_inserted" else []),
            "END",
        ]
        triggers[name] = table, "\n".join(lines)
    return triggers


def _changed_on_postgres(table: str, columns: tuple[str, ...]) -> tuple[str, ...]:
    ids = ", ".join(f"{row}.{column}" for row in ("OLD", "NEW") for column in columns)
    name = f"{table}_changed"
    place = (
        f"""
    IF TG_OP = 'INSERT' THEN
        {_PLACE};
    END IF;"""
        if table == "patterns"
        else ""
    )
    return (
        f"""CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE latest BIGINT;
BEGIN
    IF coalesce(current_setting('{AFRESH}', true), '') <> 'on' THEN
        UPDATE pattern_feed SET number = number + 1 RETURNING number INTO latest;
        IF TG_OP = 'TRUNCATE' THEN
            UPDATE pattern_feed SET epoch = md5(random()::text);
        ELSE
            INSERT INTO pattern_changes (pattern_id, number)
                SELECT DISTINCT id, latest FROM unnest(ARRAY[{ids}]) AS ids (id) WHERE id IS NOT NULL
                ON CONFLICT (pattern_id) DO UPDATE SET number = excluded.number;
        END IF;
    END IF;{place}
    RETURN NULL;
END $$""",
        f"""CREATE OR REPLACE TRIGGER {table}_changed AFTER INSERT OR UPDATE OR DELETE ON {table}
    FOR EACH ROW EXECUTE FUNCTION {name}()""",
        f"""CREATE OR REPLACE TRIGGER {table}_truncated AFTER TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION {name}()""",
    )


_IDS: Final = {
    "patterns": ("id",),
    "pattern_contributions": ("pattern_id",),
    "pattern_links": ("pattern_id", "related_id"),
}

LIBRARY: Final = Part(
    tables=PATTERNS.tables,
    indexes=PATTERNS.indexes,
    derived={
        "pattern_feed": """CREATE TABLE pattern_feed (
    id INTEGER PRIMARY KEY,
    epoch TEXT NOT NULL,
    number INTEGER NOT NULL
)""",
        "pattern_changes": """CREATE TABLE pattern_changes (
    pattern_id TEXT PRIMARY KEY,
    number INTEGER NOT NULL
)""",
    },
    derived_indexes={
        "idx_pattern_changes_number": "CREATE INDEX idx_pattern_changes_number ON pattern_changes(number)",
    },
    seeds=(
        "INSERT INTO pattern_feed (id, epoch, number) VALUES (1, '{random}', 0)",
        """INSERT INTO pattern_contributions (pattern_id, position)
    SELECT p.id, (SELECT coalesce(max(position), 0) FROM pattern_contributions) + row_number() OVER (ORDER BY p.rowid)
    FROM patterns AS p WHERE p.id IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM pattern_contributions AS c WHERE c.pattern_id = p.id AND c.position IS NOT NULL
    )
    ON CONFLICT (pattern_id) DO UPDATE SET position = excluded.position""",
    ),
    triggers={name: made for table, columns in _IDS.items() for name, made in _changed(table, columns).items()},
    functions=tuple(sql for table, columns in _IDS.items() for sql in _changed_on_postgres(table, columns)),
    upgrades=PATTERNS.upgrades,
)
"""`PATTERNS`, and the feed: a library that workers share."""

STATES: Final = Part(
    tables={
        "states": """CREATE TABLE states (
    user_id TEXT PRIMARY KEY,
    trust_level REAL NOT NULL,
    current_level INTEGER NOT NULL,
    target_level INTEGER NOT NULL,
    interaction_count INTEGER NOT NULL DEFAULT 0,
    success_count INTEGER NOT NULL DEFAULT 0,
    failure_count INTEGER NOT NULL DEFAULT 0,
    last_interaction TIMESTAMP,
    created_at TIMESTAMP,
    version INTEGER NOT NULL DEFAULT 0,
    extra TEXT,  -- JSON object
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
)""",
        # Only for the numbers that it gives, none of them twice: it is empty.
        "state_versions": """CREATE TABLE state_versions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id TEXT
)""",
    },
)

# Interactions are counted when they have become many, each once, in the order of their numbers: up to `counted` all of
# them are. Of a user whose rows changed below that, by whomever, the rows are counted anew.

_STALE: Final = """ON CONFLICT (user_id) DO UPDATE SET stale = 1 WHERE interaction_totals.stale = 0;
END"""
_BELOW: Final = "NEW.id <= (SELECT counted FROM interaction_progress)"
# A row that is replaced (INSERT OR REPLACE) is deleted without a trigger being told.
_DISPLACED: Final = f"""    INSERT INTO interaction_totals (user_id, stale)
        SELECT user_id, 1 FROM interactions WHERE id = NEW.id
        {_STALE}"""

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
        "interaction_carried": """CREATE TABLE interaction_carried (
    user_id TEXT PRIMARY KEY,
    first_at INTEGER,
    last_at INTEGER,
    totals TEXT NOT NULL  -- JSON object
)""",
        "interaction_carried_ids": """CREATE TABLE interaction_carried_ids (
    user_id TEXT NOT NULL,
    interaction_id TEXT NOT NULL,
    PRIMARY KEY (user_id, interaction_id)
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
    derived={
        "interaction_progress": """CREATE TABLE interaction_progress (
    id INTEGER PRIMARY KEY,
    counted INTEGER NOT NULL,
    totals TEXT NOT NULL  -- JSON object
)""",
        "interaction_totals": """CREATE TABLE interaction_totals (
    user_id TEXT PRIMARY KEY,
    stale INTEGER NOT NULL DEFAULT 0,
    first_at INTEGER,
    last_at INTEGER,
    totals TEXT  -- JSON object
)""",
    },
    derived_indexes={
        "idx_interaction_totals_first": "CREATE INDEX idx_interaction_totals_first ON interaction_totals(first_at)",
        "idx_interaction_totals_last": "CREATE INDEX idx_interaction_totals_last ON interaction_totals(last_at)",
        "idx_interaction_totals_stale": """CREATE INDEX idx_interaction_totals_stale ON interaction_totals(user_id)
    WHERE stale = 1""",
    },
    seeds=(f"INSERT INTO interaction_progress (id, counted, totals) VALUES (1, {LOWEST}, '{{}}')",),
    triggers={
        "interactions_inserted": (
            "interactions",
            f"""CREATE TRIGGER interactions_inserted AFTER INSERT ON interactions WHEN {_BELOW} BEGIN
    INSERT INTO interaction_totals (user_id, stale) VALUES (NEW.user_id, 1)
        {_STALE}""",
        ),
        "interactions_replaced": (
            "interactions",
            f"""CREATE TRIGGER interactions_replaced BEFORE INSERT ON interactions WHEN {_BELOW} BEGIN
{_DISPLACED}""",
        ),
        "interactions_updated": (
            "interactions",
            f"""CREATE TRIGGER interactions_updated AFTER UPDATE ON interactions BEGIN
    INSERT INTO interaction_totals (user_id, stale) VALUES (OLD.user_id, 1), (NEW.user_id, 1)
        {_STALE}""",
        ),
        "interactions_moved": (
            "interactions",
            f"""CREATE TRIGGER interactions_moved BEFORE UPDATE OF id ON interactions BEGIN
{_DISPLACED}""",
        ),
        "interactions_deleted": (
            "interactions",
            f"""CREATE TRIGGER interactions_deleted AFTER DELETE ON interactions BEGIN
    INSERT INTO interaction_totals (user_id, stale) VALUES (OLD.user_id, 1)
        {_STALE}""",
        ),
    },
    functions=(
        """CREATE OR REPLACE FUNCTION interactions_changed() RETURNS trigger
    LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        UPDATE interaction_totals SET stale = 1 WHERE stale = 0;
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        IF NEW.id > (SELECT counted FROM interaction_progress) THEN
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO interaction_totals (user_id, stale)
        SELECT DISTINCT id, 1 FROM unnest(ARRAY[OLD.user_id, NEW.user_id]) AS ids (id) WHERE id IS NOT NULL
        ON CONFLICT (user_id) DO UPDATE SET stale = 1 WHERE interaction_totals.stale = 0;
    RETURN NULL;
END $$""",
        """CREATE OR REPLACE TRIGGER interactions_changed AFTER INSERT OR UPDATE OR DELETE ON interactions
    FOR EACH ROW EXECUTE FUNCTION interactions_changed()""",
        """CREATE OR REPLACE TRIGGER interactions_truncated AFTER TRUNCATE ON interactions
    FOR EACH STATEMENT EXECUTE FUNCTION interactions_changed()""",
    ),
)

EVERYTHING: Final = Part(
    tables={**LIBRARY.tables, **STATES.tables, **METRICS.tables},
    indexes={**LIBRARY.indexes, **METRICS.indexes},
    derived={**LIBRARY.derived, **METRICS.derived},
    derived_indexes={**LIBRARY.derived_indexes, **METRICS.derived_indexes},
    triggers={**LIBRARY.triggers, **METRICS.triggers},
    seeds=(*LIBRARY.seeds, *METRICS.seeds),
    functions=(*LIBRARY.functions, *METRICS.functions),
    upgrades=LIBRARY.upgrades,
)
"""A store as a whole, for what is about all of it."""

PARTS: Final = (TOKENS, LIBRARY, STATES, METRICS)
"""All of them; `PATTERNS` is in `LIBRARY`, and `EVERYTHING` is three of them."""
TRIGGERS: Final = {name: made for part in PARTS for name, made in part.triggers.items()}


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
