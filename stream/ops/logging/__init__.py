"""The log: lines, levels, throttling, and ids for finding an entry."""
