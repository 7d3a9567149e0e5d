"""Evaluates templates in engine processes, and schedules the engines."""
