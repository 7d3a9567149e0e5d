"""The way of a record through source nodes, writers, coordinator and reader in one thread.

The service's own code runs under a virtual clock, with a network, an etcd, disks and thread pools
made of plain objects. One generator of random numbers, seeded, decides everything that is left open
in reality: how long each thing takes, which of several things comes first, what breaks and when. So
a seed that breaks the promise breaks it again: ``python -m tests.simulation --seed N``.
"""
