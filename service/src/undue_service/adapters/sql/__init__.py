"""Jobs, registrations and uploads in SQL: SQLite (WAL) by default."""
