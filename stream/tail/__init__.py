"""Live tails: streams of the newest records of a source."""
