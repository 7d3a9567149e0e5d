"""What targets of data lakes share: partitions, and processes that turn rows into Parquet."""
