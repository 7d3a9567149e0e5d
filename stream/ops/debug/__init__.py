"""Ways to look into a running process: SSH console, debug listener, profiler, development mode."""
