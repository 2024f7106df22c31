"""The documented tables: SQLite. The only room that knows SQL; it is imported when a database is opened."""
