"""The target for Parquet files in a folder or a bucket."""
