"""The documented tables, on SQLite and PostgreSQL. The only room that knows SQL; it is imported when one is opened."""
