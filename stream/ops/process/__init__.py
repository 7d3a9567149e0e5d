"""The process: reactor, threads, garbage collection, ordered start and stop, child processes."""
