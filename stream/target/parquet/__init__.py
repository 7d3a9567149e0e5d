"""Parquet files in a folder or a bucket as a target."""
