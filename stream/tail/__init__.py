"""Live tails, which are streams of the newest records of a source."""
