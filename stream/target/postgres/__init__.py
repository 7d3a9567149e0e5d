"""The target for PostgreSQL tables."""
