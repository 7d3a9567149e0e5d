"""Definitions of users: branches, sources and sinks, with their versions and lifecycle."""
