"""The progress of open files and slices towards the conditions that close them. Pure.

`stream.storage.model.triggers` makes the decision; this module shows how close it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import attrs

from stream.storage.model.entity import ImportConfig, UploadConfig
from stream.storage.model.statistics import Statistics

__all__ = ["Condition", "file_progress", "slice_progress"]


@attrs.frozen
class Condition:
    """A condition that closes a file or a slice; it is enough that one condition is met.

    :ivar name: as in metrics: ``recordCount``, ``size``, ``time``, ``sliceCount``, ``expiration``.
    :ivar value: number of records, bytes, seconds or slices so far.
    :ivar limit: the value at which the condition is met.
    :ivar at: when the condition is met without further records; ``None`` if it needs records.
    """

    name: str
    value: float
    limit: float
    at: datetime | None = None

    @property
    def progress(self) -> float:
        """Progress from 0 to 1."""
        return min(1.0, max(0.0, self.value / self.limit)) if self.limit > 0 else 1.0


def slice_progress(
    config: UploadConfig, opened_at: datetime, local: Statistics, now: datetime
) -> Sequence[Condition]:
    """Return the conditions that close a slice in state ``writing``, the nearest first.

    :param local: statistics of the slice at level local.
    """
    trigger = config.trigger
    found = [
        Condition("recordCount", local.records_count, trigger.count),
        Condition("size", int(local.compressed_size), int(trigger.size)),
    ]
    if local.records_count:
        found.append(_age(opened_at, trigger.interval.seconds, now))
    return _nearest_first(found)


def file_progress(
    config: ImportConfig,
    opened_at: datetime,
    expiration: datetime | None,
    all_levels: Statistics,
    now: datetime,
) -> Sequence[Condition]:
    """Return the conditions that close a file in state ``writing``, the nearest first.

    :param expiration: when the file's upload credentials expire.
    :param all_levels: statistics of the file, summed over all levels.
    """
    trigger = config.trigger
    found = [
        Condition("recordCount", all_levels.records_count, trigger.count),
        Condition("size", int(all_levels.compressed_size), int(trigger.size)),
        Condition("sliceCount", all_levels.slices_count, trigger.slices_count),
    ]
    if all_levels.records_count:
        found.append(_age(opened_at, trigger.interval.seconds, now))
    if expiration is not None:
        end = expiration - timedelta(seconds=trigger.expiration.seconds)
        life = (end - opened_at).total_seconds()
        found.append(Condition("expiration", _seconds(opened_at, now), life, end))
    return _nearest_first(found)


def _age(opened_at: datetime, limit: float, now: datetime) -> Condition:
    return Condition("time", _seconds(opened_at, now), limit, opened_at + timedelta(seconds=limit))


def _seconds(since: datetime, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds())


def _nearest_first(found: list[Condition]) -> Sequence[Condition]:
    return sorted(found, key=lambda condition: -condition.progress)
