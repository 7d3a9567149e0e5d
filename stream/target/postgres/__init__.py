"""Tables of PostgreSQL as a target."""
