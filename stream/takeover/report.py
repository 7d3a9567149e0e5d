"""The report about a cluster, and its printed form. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import Enum

import attrs

__all__ = ["Finding", "Report", "Weight"]

_SHOWN_OF_A_KIND = 20


class Weight(Enum):
    """The importance of a finding."""

    NOTE = "note"
    CONVERTED = "to be converted"
    PROBLEM = "problem"


@attrs.frozen
class Finding:
    """A finding about a key or a file.

    :ivar what: what was found: one sentence without a full stop.
    :ivar remedy: how to solve the problem.
    """

    weight: Weight
    key: str
    what: str
    remedy: str = ""


@attrs.define
class Report:
    """The findings of a check: the number of records, and the problems.

    :ivar counts: number of records by kind.
    """

    counts: Counter[str] = attrs.Factory(Counter)
    findings: list[Finding] = attrs.Factory(list)

    def add(self, weight: Weight, key: str, what: str, remedy: str = "") -> None:
        """Add a finding."""
        self.findings.append(Finding(weight, key, what, remedy))

    def problem(self, key: str, what: str, remedy: str) -> None:
        """Add a problem, which would prevent the service from starting."""
        self.add(Weight.PROBLEM, key, what, remedy)

    def of(self, weight: Weight) -> list[Finding]:
        """Return the findings of a given weight."""
        return [finding for finding in self.findings if finding.weight is weight]

    @property
    def is_clear(self) -> bool:
        """Whether there are no problems."""
        return not self.of(Weight.PROBLEM)

    def lines(self) -> Iterable[str]:
        """Return the report as text."""
        yield "Found:"
        width = max(map(len, self.counts), default=0)
        for kind in sorted(self.counts):
            yield f"  {kind:<{width}}  {self.counts[kind]}"
        if not self.counts:
            yield "  nothing"
        for weight, title in (
            (Weight.NOTE, "Notes"),
            (Weight.CONVERTED, "To be converted"),
            (Weight.PROBLEM, "Problems"),
        ):
            found = self.of(weight)
            if not found:
                continue
            yield ""
            yield f"{title} ({len(found)}):"
            yield from _grouped(found)


def _grouped(findings: Iterable[Finding]) -> Iterable[str]:
    """Return groups of findings with the same text, which are printed together."""
    by_text: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        by_text.setdefault((finding.what, finding.remedy), []).append(finding.key)
    for (what, remedy), keys in by_text.items():
        yield f"  {what}:" if any(keys) else f"  {what}"
        for key in keys[:_SHOWN_OF_A_KIND]:
            if key:
                yield f"    {key}"
        if len(keys) > _SHOWN_OF_A_KIND:
            yield f"    and {len(keys) - _SHOWN_OF_A_KIND} more"
        if remedy:
            yield f"    → {remedy}"
