"""Metrics of the sizes of definitions."""

from __future__ import annotations

from stream.definition.size import DefinitionSize
from stream.etcd import Mirror
from stream.ops.metrics.registry import Metrics

__all__ = ["watch_sizes"]


def watch_sizes(metrics: Metrics, sizes: Mirror[DefinitionSize], limit: int) -> None:
    """Export the largest of *sizes*, and the limit, in bytes."""
    metrics.own("stream_definitions_limit_bytes").labels({}).set(limit)
    largest = metrics.own("stream_definitions_largest_project_bytes").labels({})
    metrics.on_collect(
        lambda: largest.set(max((size.bytes for size in sizes.items.values()), default=0))
    )
