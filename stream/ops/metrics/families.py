"""Metric families with labels: counters, gauges and histograms, cheap enough to update per record.

The library's own metrics take a lock and walk all buckets on each observation. Here a child is a
plain object that only the reactor's thread adds to; the library only formats the page when it is
scraped. Adding from another thread can lose a count, so work in threads is counted where its
Deferred fires. Reading is thread-safe, so a page of many thousands of lines need not be rendered in
the reactor's thread.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

__all__ = ["DEFAULT_BUCKETS_MS", "Counter", "Family", "Gauge", "Histogram"]

DEFAULT_BUCKETS_MS = (0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000)


class Counter:
    """A number that only increases."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float = 1) -> None:
        """Add to the counter."""
        self.value += amount


class Gauge:
    """A number that goes up and down; it is set, or computed when the page is rendered."""

    __slots__ = ("_ask", "_value")

    def __init__(self, value: float = 0.0) -> None:
        self._value = value
        self._ask: Callable[[], float] | None = None

    def set(self, value: float) -> None:
        """Set the gauge."""
        self._value = value

    def add(self, amount: float = 1) -> None:
        """Add to the gauge."""
        self._value += amount

    def set_function(self, ask: Callable[[], float]) -> None:
        """Call *ask*, which must not block, each time the value is read.

        If it raises OSError (for example, if a volume was removed), the value is NaN.
        """
        self._ask = ask

    @property
    def value(self) -> float:
        """The current value; NaN if it can't be read."""
        if self._ask is None:
            return self._value
        try:
            return self._ask()
        except OSError:
            return math.nan


class Histogram:
    """A distribution: the number of observations up to each bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Add *times* observations of *value*."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Return each upper bound as text, with the number of observations up to it."""
        bounds = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))


C = TypeVar("C", Counter, Gauge, Histogram)


class Family(Generic[C]):
    """All metrics with one name, with a child for each set of label values.

    A collector for the library's registry.

    :param name: name as scraped, but without a counter's ``_total``.
    :param make: creates a child.
    """

    def __init__(
        self, name: str, help_text: str, labels: Sequence[str], make: Callable[[], C]
    ) -> None:
        self.name = name
        self.help_text = help_text
        self.label_names = tuple(labels)
        self._make: Callable[[], C] = make
        self._children: dict[tuple[str, ...], C] = {}

    def labels(self, values: Mapping[str, str]) -> C:
        """Return the child with these label values, made on first use; a missing label is empty.

        Raises ValueError: the family lacks a label. Callers should keep children that they use
        often.
        """
        key = tuple(values.get(name, "") for name in self.label_names)
        child = self._children.get(key)
        if child is None:
            excess = set(values) - set(self.label_names)
            if excess:
                raise ValueError(f"{self.name} has no label {', '.join(sorted(excess))}")
            child = self._children[key] = self._make()
        return child

    def forget(self, values: Mapping[str, str]) -> None:
        """Drop the children whose labels have these values."""
        if not set(values) <= set(self.label_names):
            return
        wanted = [(self.label_names.index(name), value) for name, value in values.items()]
        for key in list(self._children):
            if all(key[index] == value for index, value in wanted):
                del self._children[key]

    def replace(self, children: Mapping[tuple[str, ...], C]) -> None:
        """Replace all children. The keys are label values in the order of the label names."""
        self._children = dict(children)

    @property
    def kind(self) -> str:
        """The kind of the children: ``counter``, ``gauge`` or ``histogram``."""
        return type(self._make()).__name__.lower()

    def describe(self) -> Iterable[Metric]:
        """Return nothing, because the registry need not know the samples in advance."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Return the family with the samples of all children, for the registry."""
        children = list(self._children.items())
        sample = self._make()
        if isinstance(sample, Counter):
            counters = CounterMetricFamily(self.name, self.help_text, labels=self.label_names)
            for key, child in children:
                assert isinstance(child, Counter)
                counters.add_metric(key, child.value)
            yield counters
        elif isinstance(sample, Gauge):
            gauges = GaugeMetricFamily(self.name, self.help_text, labels=self.label_names)
            for key, child in children:
                assert isinstance(child, Gauge)
                gauges.add_metric(key, child.value)
            yield gauges
        else:
            histograms = HistogramMetricFamily(self.name, self.help_text, labels=self.label_names)
            for key, child in children:
                assert isinstance(child, Histogram)
                histograms.add_metric(key, child.buckets(), child.sum)
            yield histograms
