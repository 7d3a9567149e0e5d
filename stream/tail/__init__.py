"""Live tails: the newest records of a source, shown to whoever asks."""
