"""The in-memory counters of one source node for one slice; the publisher writes them to etcd."""

from __future__ import annotations

import attrs

from stream.storage.model.statistics import Statistics
from stream.values.bytesize import ByteSize
from stream.values.utctime import from_milliseconds

__all__ = ["SliceCounters"]


@attrs.define
class SliceCounters:
    """The counts of the rows that this node has written to a slice.

    :ivar first_at: receive time of the first record, milliseconds since the epoch; 0 if there is
        none.
    :ivar last_at: receive time of the last record.
    """

    records: int = 0
    uncompressed: int = 0
    compressed: int = 0
    first_at: int = 0
    last_at: int = 0

    def add(
        self, records: int, uncompressed: int, compressed: int, first_at: int, last_at: int
    ) -> None:
        """Count a stored group. Sizes are in bytes, times in milliseconds since the epoch."""
        self.records += records
        self.uncompressed += uncompressed
        self.compressed += compressed
        self.first_at = min(self.first_at, first_at) if self.first_at else first_at
        self.last_at = max(self.last_at, last_at)

    def statistics(self) -> Statistics:
        """Return the counts in the form that is stored in etcd."""
        if not self.records:
            return Statistics()
        return Statistics(
            first_record_at=from_milliseconds(self.first_at),
            last_record_at=from_milliseconds(self.last_at),
            records_count=self.records,
            uncompressed_size=ByteSize(self.uncompressed),
            compressed_size=ByteSize(self.compressed),
        )
