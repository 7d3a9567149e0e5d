"""The bounded report of rejected records of a push. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from stream.cli.output import one_line

__all__ = ["Reason", "Report"]

MAX_REASONS = 100
MAX_PLACES = 20
OTHER = "Other reasons."


@attrs.define
class Reason:
    """A reason why records were rejected, with the first records to which it applies.

    :ivar places: line numbers, or indexes in an array, of the first records with this reason.
    """

    message: str
    name: str = ""
    count: int = 0
    places: list[int] = attrs.Factory(list)


class Report:
    """The number of rejections by reason, each with the first places.

    :ivar count: total number of rejections; a record that two sinks reject counts twice here.
    """

    def __init__(self) -> None:
        self._reasons: dict[tuple[str, str], Reason] = {}
        self.count = 0

    def add(self, message: str, name: str, places: Iterable[int]) -> None:
        """Add a rejection of the records at *places*."""
        key = (name, message)
        if key not in self._reasons and len(self._reasons) >= MAX_REASONS:
            key = ("", OTHER)
        reason = self._reasons.setdefault(key, Reason(key[1], key[0]))
        for place in places:
            reason.count += 1
            self.count += 1
            if len(reason.places) < MAX_PLACES:
                reason.places.append(place)

    @property
    def reasons(self) -> list[Reason]:
        """Return the reasons, the most frequent first."""
        return sorted(self._reasons.values(), key=lambda reason: -reason.count)

    def lines(self, place_name: str) -> list[str]:
        """Return the report as lines for people.

        :param place_name: ``line`` or ``element``.
        """
        texts = []
        for reason in self.reasons:
            records = "record" if reason.count == 1 else "records"
            more = ", …" if reason.count > len(reason.places) else ""
            places = ", ".join(map(str, reason.places))
            names = place_name if reason.count == 1 else f"{place_name}s"
            texts.append(f"{reason.count:,} {records}: {one_line(reason.message)}")
            texts.append(f"    {names} {places}{more}")
        return texts

    def plain(self) -> list[dict[str, Any]]:
        """Return the report as plain values for programs."""
        return [attrs.asdict(reason) for reason in self.reasons]
