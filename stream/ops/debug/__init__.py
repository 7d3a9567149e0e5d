"""Debugging of a running process: SSH console, debug listener, profiler, development mode."""
