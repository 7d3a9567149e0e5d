"""Separate processes under load, taken down at random: is each acknowledged record in the table?

``python -m benchmarks.chaos`` starts the service as a cluster of processes, sends numbered records,
kills, stops and pauses processes all the while, heals the cluster, waits until everything is
imported, and compares what was answered with what is in the table.
"""
