"""Metrics: families, the registry, the list of all names, and their listener."""
