"""How rows get from a source node to the volumes of writer nodes: the interface and the protocol.

Both ends import this package: the sink pipelines (`stream.sink`) use `interface.SliceOpener`, the
writer component (`stream.storage.writer`) serves it. In one process the writer is used directly.
"""
