"""Interface and protocol for sending rows from source nodes to volumes of writer nodes.

Both ends import this package: the sink pipelines (`stream.sink`) use `interface.SliceOpener`, which
the writer component (`stream.storage.writer`) serves. If both ends are in one process, the
pipelines call the writer directly.
"""
