"""Subscriptions of tails, stored in etcd for source nodes.

An API node puts a subscription under its lease, and every source node mirrors all subscriptions. A
subscription ends when its key is removed, at the latest when the API node's lease ends.
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
    :ivar host: name of the API node's machine; a loopback address is valid only on that machine.
    :ivar token: token that proves that records come from a source node that was asked for them.
    :ivar rate: maximum number of records per second from each source node.
    :ivar max_body_bytes: maximum size of a sent body.
    :ivar expires_at: time at which source nodes drop the subscription even if its key still exists.
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
        """The key of the subscription in etcd."""
        return f"{TAIL}{self.source}/{self.id}"
