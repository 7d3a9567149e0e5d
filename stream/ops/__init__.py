"""Observability: the log, the metrics and their listener, and ids for searching the log."""
