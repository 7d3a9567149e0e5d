"""The log: lines, levels, throttling, and the ids by which an entry is found."""
