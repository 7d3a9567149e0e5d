"""Observability: the log, the metrics and their listener, and IDs for searching the log."""
