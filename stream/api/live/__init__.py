"""The live stream of a branch: counters of its sinks, and state changes of files and slices."""
