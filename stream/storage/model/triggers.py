"""The decision to rotate a slice or a file. Pure; the first condition that is met decides."""

from __future__ import annotations

import math
from datetime import datetime

import attrs

from stream.storage.model.entity import ImportConfig, UploadConfig
from stream.storage.model.statistics import Statistics
from stream.values.duration import Duration
from stream.values.utctime import format_time, is_ahead

__all__ = ["Decision", "file_rotation", "slice_rotation"]


@attrs.frozen
class Decision:
    """The decision whether a file or slice is rotated now, and why.

    :ivar rotate: whether to rotate now.
    :ivar condition: name of the deciding condition, as in metrics.
    :ivar cause: readable description of the condition.
    :ivar wait: seconds after which time alone changes the decision; ``None`` if it never does.
    """

    rotate: bool
    condition: str
    cause: str
    wait: float | None = None


_UNKNOWN = Duration.of_seconds(100 * 365 * 86400)
"""An age that exceeds every possible setting."""


def _no(cause: str, wait: float | None = None) -> Decision:
    return Decision(False, "none", cause, wait)


def _elapsed(since: datetime, now: datetime) -> Duration:
    """Return the age in whole seconds; `_UNKNOWN` if the clock has been set back."""
    if is_ahead(since, now):
        return _UNKNOWN
    return Duration.of_seconds(int((now - since).total_seconds()))


def _until(since: datetime, interval: Duration, now: datetime) -> float:
    """Return the number of whole seconds until *interval* has elapsed."""
    return math.ceil(interval.seconds) - (now - since).total_seconds()


def slice_rotation(
    config: UploadConfig, opened_at: datetime, local: Statistics, now: datetime
) -> Decision:
    """Decide whether to close and upload a slice in state ``writing``.

    :param local: statistics of the slice at level local.
    """
    trigger = config.trigger
    elapsed = _elapsed(opened_at, now)
    if elapsed < config.min_interval:
        wait = _until(opened_at, config.min_interval, now)
        return _no("min interval between uploads is not met", wait)
    if local.records_count == 0:
        return _no("no record")
    wait = _until(opened_at, trigger.interval, now)
    return _volume_of_data(
        local, trigger.count, trigger.size, trigger.interval, opened_at, elapsed, wait
    )


def file_rotation(
    config: ImportConfig,
    opened_at: datetime,
    expiration: datetime | None,
    all_levels: Statistics,
    now: datetime,
) -> Decision:
    """Decide whether to close and import a file in state ``writing``.

    :param expiration: when the file's upload credentials expire.
    :param all_levels: statistics of the file, summed over all levels.
    """
    trigger = config.trigger
    slices = all_levels.slices_count
    if slices >= config.max_slices:
        return Decision(
            True,
            "maxSlices",
            f"max slices exceeded, slices count: {slices}, threshold: {config.max_slices}",
        )
    elapsed = _elapsed(opened_at, now)
    if elapsed < config.min_interval:
        wait = _until(opened_at, config.min_interval, now)
        return _no("min interval between imports is not met", wait)
    near_expiration = math.inf
    if expiration is not None:
        near_expiration = (expiration - now).total_seconds() - trigger.expiration.seconds
        remains = Duration.of_seconds(int((expiration - now).total_seconds()))
        if remains <= trigger.expiration:
            return Decision(
                True,
                "expiration",
                f"expiration threshold met, expiration: {format_time(expiration)}, "
                f"remains: {remains}, threshold: {trigger.expiration}",
            )
    if slices >= trigger.slices_count:
        return Decision(
            True,
            "sliceCount",
            f"slices count threshold met, slices count: {slices}, "
            f"threshold: {trigger.slices_count}",
        )
    if all_levels.records_count == 0:
        return _no("no record", near_expiration if expiration is not None else None)
    wait = min(near_expiration, _until(opened_at, trigger.interval, now))
    return _volume_of_data(
        all_levels, trigger.count, trigger.size, trigger.interval, opened_at, elapsed, wait
    )


def _volume_of_data(
    statistics: Statistics,
    count: int,
    size: int,
    interval: Duration,
    opened_at: datetime,
    elapsed: Duration,
    wait: float,
) -> Decision:
    """Check the conditions that apply to both slices and files: records, compressed bytes, age."""
    if statistics.records_count >= count:
        return Decision(
            True,
            "recordCount",
            f"count threshold met, records count: {statistics.records_count}, threshold: {count}",
        )
    if statistics.compressed_size >= size:
        return Decision(
            True,
            "size",
            f"size threshold met, compressed size: {statistics.compressed_size}, threshold: {size}",
        )
    if elapsed >= interval:
        return Decision(
            True,
            "time",
            f"time threshold met, opened at: {format_time(opened_at)}, passed: "
            f"{'unknown, the clock was set back,' if elapsed == _UNKNOWN else elapsed} "
            f"threshold: {interval}",
        )
    return _no("no condition met", wait)
