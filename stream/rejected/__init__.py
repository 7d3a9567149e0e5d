"""Rejected records: kept on the source node that took them, shown, tested, replayed, deleted."""
