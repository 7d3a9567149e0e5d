"""Targets: the systems with the tables that files are imported into."""
