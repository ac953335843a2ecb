"""Use cases over ports: no transport, no database, no model libraries."""
