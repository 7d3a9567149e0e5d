"""Metric families: counters, gauges and histograms with labels, cheap enough for each record.

The library's own metrics take a lock and walk all buckets on each observation. Here a child is a
plain object that one thread, the reactor's, adds to; the library is used for what it is good at,
the text format, when the page is asked for. Adding from another thread can lose a count, so work
that is done in threads is counted where its Deferred fires. Reading is safe from any thread, so
that a page of many thousands of lines need not be made in the reactor's.
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
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float = 1) -> None:
        """Add to the counter."""
        self.value += amount


class Gauge:
    """A number that goes up and down, set or asked for when the page is made."""

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
        """Call *ask*, which must not block, whenever the value is wanted.

        If it raises OSError (a volume may be gone), the value is not a number.
        """
        self._ask = ask

    @property
    def value(self) -> float:
        """The present value; NaN if it can't be read."""
        if self._ask is None:
            return self._value
        try:
            return self._ask()
        except OSError:
            return math.nan


class Histogram:
    """A distribution: how many observations are not above each bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Add *value*, *times* times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds as text with the number of observations not above them."""
        bounds = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))


C = TypeVar("C", Counter, Gauge, Histogram)


class Family(Generic[C]):
    """All metrics of one name; each set of label values has a child of its own.

    A collector for the library's registry.

    :param name: as scraped, a counter's without ``_total``.
    :param make: makes a child.
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
        """The child with these label values, made if need be; a label not given is empty.

        Keep the child where it is used often. Raises ValueError for a label the family lacks.
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
        """Drop the children whose labels have these values: what they count is gone for good."""
        if not set(values) <= set(self.label_names):
            return
        wanted = [(self.label_names.index(name), value) for name, value in values.items()]
        for key in list(self._children):
            if all(key[index] == value for index, value in wanted):
                del self._children[key]

    def replace(self, children: Mapping[tuple[str, ...], C]) -> None:
        """Have these children alone, by their label values in the order of the names."""
        self._children = dict(children)

    @property
    def kind(self) -> str:
        """``counter``, ``gauge`` or ``histogram``."""
        return type(self._make()).__name__.lower()

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry need not know the samples in advance."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The family with the samples of all children, for the registry."""
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
