"""The process: reactor, threads, garbage collection, startup, shutdown, child processes."""
