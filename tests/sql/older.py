"""Databases as older programs left them, as SQL for SQLite."""

from __future__ import annotations

from empathy_kv.sql.schema import METRICS, PATTERNS, USER_VERSION, VERSION

OLDER = """CREATE TABLE metrics (
    id INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL, empathy_level INTEGER NOT NULL,
    success BOOLEAN NOT NULL, response_time_ms REAL, timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP, metadata TEXT);
CREATE INDEX idx_user_level ON metrics(user_id, empathy_level);
CREATE INDEX idx_timestamp ON metrics(timestamp);
INSERT INTO metrics (user_id, empathy_level, success, response_time_ms, timestamp, metadata) VALUES
    ('ann', 4, 1, 250.5, '2025-01-20 10:00:00', '{"bottlenecks_predicted": 3}'),
    ('ann', 2, 0, 100.0, '2025-01-19 10:00:00', NULL),
    ('bob', 3, 1, 50.25, '2025-01-21 10:00:00', NULL);"""
"""What empathy-framework 3.9.3 leaves."""

FIRST = f"""PRAGMA user_version = {USER_VERSION - VERSION + 1};
{PATTERNS.tables["patterns"]};
{PATTERNS.tables["pattern_usage"]};
CREATE TABLE pattern_contributions (
    position INTEGER PRIMARY KEY,
    pattern_id TEXT NOT NULL UNIQUE,
    agent_id TEXT NOT NULL,
    extra TEXT,  -- JSON object
    FOREIGN KEY (pattern_id) REFERENCES patterns(id) ON DELETE CASCADE
);
{PATTERNS.tables["pattern_links"]};
{METRICS.tables["interactions"]};
{METRICS.tables["interaction_ids"]};
{METRICS.tables["interaction_imports"]};
INSERT INTO patterns (id, agent_id, pattern_type, name) VALUES ('b', 'x', 't', 'n'), ('a', 'x', 't', 'n');
INSERT INTO pattern_contributions VALUES (1, 'a', 'ann', NULL), (2, 'b', 'bob', '{{"more": 1}}');
INSERT INTO pattern_links VALUES ('a', 'b');
INSERT INTO interactions (user_id, empathy_level, success, response_time_ms) VALUES ('ann', 3, 1, 2.5);
INSERT INTO interaction_ids VALUES (1, 'ann', 'x', 3, 1, 2.5);"""
"""What version 1 left."""
