"""Rejected records: kept on their source node, shown, tested, replayed, deleted."""
