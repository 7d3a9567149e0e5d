"""Targets: the kinds of tables that files are imported into."""
