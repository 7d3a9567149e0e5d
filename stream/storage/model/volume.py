"""A registered volume: a local disk attached to a writer node."""

from __future__ import annotations

import attrs

from stream.values.codec import Record, field

__all__ = ["Volume"]


@attrs.frozen
class Volume(Record):
    """The registration of a volume by its writer node, under a lease.

    :ivar node_address: ``host:port`` of the writer's listener.
    :ivar type: name of the first directory below the volumes path, in lower case; sinks prefer
        certain types.
    :ivar label: name of the second directory below the volumes path.
    :ivar drained: whether the volume accepts no new slices; its slices are uploaded as usual.
    """

    volume_id: str
    node_id: str
    node_address: str
    path: str = ""
    type: str = ""
    label: str = ""
    drained: bool = field(default=False, omit_empty=True)
