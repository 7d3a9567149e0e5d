"""The parts of `stream push`: inputs, records, state, and sending."""
