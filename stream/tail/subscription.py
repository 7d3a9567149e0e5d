"""Tails: that somebody wants to see the newest records of a source, as source nodes learn it.

A node of the API puts a subscription under its lease, every source node mirrors all of them. So a
subscription ends with its key, at the latest when the node that asked for it is gone.
"""

from __future__ import annotations

from datetime import datetime

import attrs

from stream.definition.key import SourceKey
from stream.values.codec import Record, field

__all__ = ["TAIL", "TailSubscription"]

TAIL = "runtime/tail/"


@attrs.frozen(kw_only=True)
class TailSubscription(Record):
    """A request for the records of a source, stored in etcd while a tail runs.

    :ivar address: host and port to which records are sent.
    :ivar host: name of the machine of the API node: only there an address on loopback is its own.
    :ivar token: shows that records come from a node that was asked for them.
    :ivar rate: records a second that each source node may send.
    :ivar max_body_bytes: of a body that is sent.
    :ivar expires_at: when source nodes forget it even if the key is still there.
    """

    source: SourceKey = field(flatten=True)
    id: str
    address: str
    host: str
    token: str = attrs.field(repr=False)
    rate: int
    max_body_bytes: int
    expires_at: datetime

    @property
    def key(self) -> str:
        """In etcd."""
        return f"{TAIL}{self.source}/{self.id}"
