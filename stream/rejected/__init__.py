"""Rejected records, which are kept on source nodes, shown, tested, replayed and deleted."""
