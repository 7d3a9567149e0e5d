"""Chaos: processes under load are killed at random, then the table is compared with the answers.

``python -m benchmarks.chaos`` starts the service as a cluster of processes, sends numbered records,
kills, stops and pauses processes all the while, heals the cluster, waits until everything is
imported, and compares what was answered with what is in the table.
"""
