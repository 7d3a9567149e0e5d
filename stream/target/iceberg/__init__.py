"""Tables of Apache Iceberg as a target."""
