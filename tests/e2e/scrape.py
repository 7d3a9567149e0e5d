"""Metrics of processes, and the metrics used by dashboards and alerts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.processes import request

__all__ = ["MONITORING", "Page", "Query", "queries", "scrape"]

MONITORING = Path(__file__).parents[2] / "provisioning" / "monitoring"
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
_NAME = re.compile(r"\b(?:stream|keboola_go)_[a-zA-Z_]+")
_SELECTOR = re.compile(r"([a-z][a-zA-Z_]*)\{([^}]*)\}")
_MATCHER = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)")
_BY = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_OF_RULES = re.compile(r"\$labels\.([a-z_]+)")
_OF_LEGENDS = re.compile(r"\{\{\s*([a-z_]+)\s*\}\}")
_VALUES_OF = re.compile(r"label_values\((.*),\s*([a-z_]+)\)")
_FROM_SCRAPING = {"instance", "job", "le"}


@attrs.define
class Page:
    """The metrics of a scrape.

    :ivar labels: label names by metric.
    :ivar samples: values by name and labels.
    """

    labels: dict[str, set[str]] = attrs.Factory(dict)
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = attrs.Factory(dict)

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of all samples with the *name* and at least these *labels*."""
        wanted = set(labels.items())
        return sum(v for (n, found), v in self.samples.items() if n == name and wanted <= found)

    def told(self, name: str) -> bool:
        """Return whether there is a sample."""
        return any(found == name for found, _ in self.samples)

    def values(self, label: str) -> set[str]:
        """Return all values of a label."""
        return {value for _, labels in self.samples for found, value in labels if found == label}

    def values_of(self, name: str, label: str) -> set[str]:
        """Return all values of a label in samples with the *name*."""
        return {dict(labels)[label] for found, labels in self.samples if found == name}

    def add(self, other: Page) -> None:
        """Add the metrics of another process."""
        for name, labels in other.labels.items():
            self.labels.setdefault(name, set()).update(labels)
        for key, value in other.samples.items():
            self.samples[key] = self.samples.get(key, 0.0) + value


def scrape(*addresses: str) -> Page:
    """Return the metrics of all processes."""
    page = Page()
    for address in addresses:
        status, text = request("GET", f"http://{address}/metrics", None, {})
        assert status == 200
        page.add(_parsed(text.decode()))
    return page


def _parsed(text: str) -> Page:
    page = Page()
    for family in text_string_to_metric_families(text):
        for suffix in _SUFFIXES.get(family.type, ("",)):
            page.labels.setdefault(family.name + suffix, set())
        for sample in family.samples:
            page.labels.setdefault(sample.name, set()).update(sample.labels)
            page.samples[sample.name, frozenset(sample.labels.items())] = sample.value
    return page


@attrs.frozen
class Query:
    """A query to Prometheus, and the labels shown for it."""

    expression: str
    shown: frozenset[str] = frozenset()

    @property
    def names(self) -> set[str]:
        return set(_NAME.findall(self.expression))

    def unknown_labels(self, page: Page) -> set[str]:
        """Return used labels that the families on *page* don't have."""
        unknown = set()
        for name, matchers in _SELECTOR.findall(self.expression):
            unknown |= set(_MATCHER.findall(matchers)) - page.labels.get(name, set())
        grouped = {
            label.strip() for labels in _BY.findall(self.expression) for label in labels.split(",")
        }
        known: set[str] = set().union(*(page.labels.get(name, set()) for name in self.names))
        # A label can only be shown if the grouping keeps it.
        unknown |= self.shown - (grouped or known)
        return (unknown | (grouped - {""} - known)) - _FROM_SCRAPING


def queries() -> Iterator[Query]:
    """Return all queries of the dashboard and of the alert rules."""
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            shown = _OF_RULES.findall(" ".join(rule["annotations"].values()))
            yield Query(rule["expr"], frozenset(shown))
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    for variable in dashboard["templating"]["list"]:
        found = _VALUES_OF.fullmatch(variable["query"])
        if found is not None:
            yield Query(found[1], frozenset([found[2]]))
    for panel in _panels(dashboard["panels"]):
        for target in panel.get("targets", ()):
            yield Query(
                target["expr"], frozenset(_OF_LEGENDS.findall(target.get("legendFormat", "")))
            )


def _panels(panels: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in panels:
        yield panel
        yield from _panels(panel.get("panels", ()))
