"""Statistics of the records of a slice, file or sink: values and arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import attrs

from stream.storage.model.state import Level
from stream.values.bytesize import ByteSize
from stream.values.codec import Record, field

__all__ = ["EMPTY", "Aggregated", "Statistics", "total"]

_ZERO = ByteSize(0)


@attrs.frozen
class Statistics(Record):
    """The counters of one key under ``storage/stats/``, or the sum of several.

    :ivar slices_count: counted only in the ``_open`` key, so a slice that many nodes write to
        counts once.
    :ivar uncompressed_size: bytes before local compression.
    :ivar compressed_size: bytes after local compression.
    :ivar staging_size: bytes in staging storage, known once the slice is uploaded.
    :ivar reset_at: time of a reset by the user. A value with this time holds the counts up to the
        reset, which are subtracted.

    The counts of a source node always have times. A value without the time of the first record is
    an estimate, see `stream.storage.writer.uncounted`.

    A sum takes unknown members from its last summand.
    """

    slices_count: int = field(default=0, omit_empty=True)
    first_record_at: datetime | None = field(default=None, empty_text=True)
    last_record_at: datetime | None = field(default=None, empty_text=True)
    records_count: int = field(default=0, omit_empty=True)
    uncompressed_size: ByteSize = field(default=_ZERO, omit_empty=True)
    compressed_size: ByteSize = field(default=_ZERO, omit_empty=True)
    staging_size: ByteSize = field(default=_ZERO, omit_empty=True)
    reset_at: datetime | None = None

    @property
    def is_estimate(self) -> bool:
        """Whether a writer has stored the value for a source node that has stored none."""
        return self.records_count > 0 and self.first_record_at is None

    @property
    def oldest_record_at(self) -> datetime | None:
        """When the oldest record was received; for an estimate, the latest time it may be."""
        return self.first_record_at or self.last_record_at

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            slices_count=self.slices_count + other.slices_count,
            first_record_at=_earliest(self.first_record_at, other.first_record_at),
            last_record_at=_latest(self.last_record_at, other.last_record_at),
            records_count=self.records_count + other.records_count,
            uncompressed_size=ByteSize(self.uncompressed_size + other.uncompressed_size),
            compressed_size=ByteSize(self.compressed_size + other.compressed_size),
            staging_size=ByteSize(self.staging_size + other.staging_size),
            unknown={**self.unknown, **other.unknown} if other.unknown else self.unknown,
        )

    def __sub__(self, other: Statistics) -> Statistics:
        """Return the counters minus those of *other*, at least zero; the times are unchanged."""
        return attrs.evolve(
            self,
            slices_count=max(0, self.slices_count - other.slices_count),
            records_count=max(0, self.records_count - other.records_count),
            uncompressed_size=ByteSize(max(0, self.uncompressed_size - other.uncompressed_size)),
            compressed_size=ByteSize(max(0, self.compressed_size - other.compressed_size)),
            staging_size=ByteSize(max(0, self.staging_size - other.staging_size)),
        )


EMPTY = Statistics()


def _earliest(a: datetime | None, b: datetime | None) -> datetime | None:
    return min((moment for moment in (a, b) if moment is not None), default=None)


def _latest(a: datetime | None, b: datetime | None) -> datetime | None:
    return max((moment for moment in (a, b) if moment is not None), default=None)


def total(values: Iterable[Statistics]) -> Statistics:
    """Return the sum; values with `Statistics.reset_at` are subtracted."""
    counted = EMPTY
    resets = []
    for value in values:
        if value.reset_at is None:
            counted += value
        else:
            resets.append(value)
    for value in resets:
        counted -= value
    return counted


@attrs.frozen
class Aggregated:
    """The statistics of a file, slice or sink by level."""

    local: Statistics = EMPTY
    staging: Statistics = EMPTY
    target: Statistics = EMPTY

    @property
    def total(self) -> Statistics:
        """The sum over all levels."""
        return self.local + self.staging + self.target

    @classmethod
    def of(cls, values: Iterable[tuple[Level, Statistics]]) -> Aggregated:
        """Sum *values* for each level."""
        by_level: dict[Level, list[Statistics]] = {level: [] for level in Level}
        for level, value in values:
            by_level[level].append(value)
        return cls(*(total(by_level[level]) for level in Level))
