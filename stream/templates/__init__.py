"""Evaluation of templates: engine processes, and their scheduling."""
