"""The source node: the listeners, and the lookup of sources."""
