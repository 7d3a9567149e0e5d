"""The command `stream`: manages sources, sinks and records from a terminal or a script."""
