"""Shared parts of data lake targets: partitions, and processes that convert rows to Parquet."""
