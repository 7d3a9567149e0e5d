"""Interface and protocol for sending rows from source nodes to volumes of writer nodes.

Both ends import this package: the sink pipelines (`stream.sink`) use `interface.SliceOpener`, the
writer component (`stream.storage.writer`) serves it. In one process the writer is used directly.
"""
