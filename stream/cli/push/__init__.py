"""The parts of `stream push`: inputs, their records, the state, and the sending."""
