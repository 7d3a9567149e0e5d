"""Chaos tests: processes are killed at random under load, and no record may be lost.

``python -m benchmarks.chaos`` starts a cluster of processes, sends numbered records, meanwhile
kills, stops and pauses processes, heals the cluster, waits until everything is imported, and
compares the answers with the rows of the table.
"""
