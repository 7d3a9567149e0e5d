"""Metrics: families, the registry, the list of all names, and the listener that serves them."""
