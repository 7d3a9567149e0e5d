"""Changes of definitions: the way of each, and what it means for the files of sinks."""
