"""Chaos tests of targets: coordinators are killed under load, and each kind of table is compared.

``python -m benchmarks.chaos_targets`` sends numbered records to sources that each have three sinks:
a table of PostgreSQL, Parquet files in a folder, and an Iceberg table with a catalog in SQLite. All
sources share the three tables. During the load, three coordinators are killed, and paused for
longer than their leases. With ``--bad``, some records are rejected, and replayed while the API is
killed too. At the end the tables are read by psycopg, DuckDB and pyiceberg.
"""
