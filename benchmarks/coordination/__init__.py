"""Coordination as it can be seen from outside: in the logs, in etcd and in the sandbox.

``coordinators`` kills one of three coordinators again and again while they share many sinks,
``latency`` measures the way from a closed slice to its rows, ``faults`` lets everything behind the
service fail, ``triggers`` lets each condition of a rotation fire alone, and ``storm`` makes many
sinks due at once. Each is ``python -m benchmarks.coordination NAME``.
"""
