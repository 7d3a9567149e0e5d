"""The path of a record through source nodes, writers, coordinator and reader in one thread.

The service's own code runs with a virtual clock and simulated network, etcd, disks and thread
pools. A seeded random generator makes all decisions: durations, the order of concurrent events,
faults and their times. So a seed with a violation always reproduces it: ``python -m
tests.simulation --seed N``.
"""
