"""``make hostile``: the effect of hostile clients on the service and on a well-behaved producer.

Each attack runs against one deployment with all components in one process, on a separate source,
API and tail, while a well-behaved producer pushes a few records a second to another source. The
report has its latency with and without the attack, the outcome of its records, the memory of the
service, and whether the node has kept its lease.
"""
