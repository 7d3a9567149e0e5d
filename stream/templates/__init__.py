"""Runs templates: engine processes, and who has his turn with them."""
