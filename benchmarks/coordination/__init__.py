"""Measurements of coordination, from logs, etcd and the sandbox.

``coordinators`` repeatedly kills one of three coordinators that share many sinks, ``latency``
measures the time from a closed slice to its rows, ``faults`` makes everything behind the service
fail, ``triggers`` tests each rotation trigger alone, and ``storm`` makes many sinks due at
the same time. Each is ``python -m benchmarks.coordination NAME``.
"""
