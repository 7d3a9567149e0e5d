"""The target for Apache Iceberg tables."""
