"""The log: lines, levels, throttling, and IDs for finding a message."""
