"""The command `stream`: sources, sinks and records from a terminal or a script."""
