"""What `stream push` is made of: inputs, records in them, the state, and the sending."""
