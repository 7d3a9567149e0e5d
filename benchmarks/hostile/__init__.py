"""``make hostile``: what bad clients do to the service, and to a good producer meanwhile.

Each attack runs against one deployment with everything in one process, on a source, an API and a
tail of its own, while a good producer pushes a few records a second to another source. Shown are
its latency against the same without anybody else, what became of its records, the memory of the
service, and whether the node has kept its lease.
"""
