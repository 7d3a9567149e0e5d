"""Observability: the log, the metrics and their listener, and the ids to find things by."""
