"""The live stream of a branch: counters of its sinks, and changes of their files and slices."""
