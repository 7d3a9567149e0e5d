"""Changes of definitions, and their effects on the files of sinks."""
