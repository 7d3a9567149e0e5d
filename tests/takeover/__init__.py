"""Takeover of a cluster from the original service, and its return."""
