"""A database, SQLite or PostgreSQL, as the rest of the store uses it."""
