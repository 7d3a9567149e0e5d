"""Headers that a mapping reads, but whose values were masked in a rejected record. Pure.

Secrets are masked before a record is kept, so a row that is rendered from it contains the mask
instead of the secrets. The row alone doesn't show that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import attrs

from stream.mapping.columns import Column, HeadersColumn, TemplateColumn
from stream.record.headers import RecordHeaders
from stream.values.redaction import MASK

__all__ = ["HeaderReads", "notes_of"]

_CALL = re.compile(
    r"\bHeader\s*\(\s*(?:(?:header\s*=\s*)?(?P<quote>['\"])(?P<name>[^'\"]*)(?P=quote))?"
)
_ALL = re.compile(r"\bHeaderStr\s*\(")


@attrs.frozen
class HeaderReads:
    """The headers that the columns of a mapping read.

    :ivar names: lower-case header names by column; ``None`` if the column reads all headers.
    """

    names: Mapping[str, frozenset[str] | None]

    @classmethod
    def of(cls, columns: Iterable[Column]) -> HeaderReads:
        """Return the headers that *columns* read, as far as their definitions show it."""
        found = {column.name: _names(column) for column in columns}
        return cls({name: names for name, names in found.items() if names is None or names})

    def masked(self, headers: RecordHeaders) -> frozenset[tuple[str, str]]:
        """Return pairs of a column and a masked header of the record that the column reads."""
        if not self.names:
            return frozenset()
        lost = [name.decode("latin-1").lower() for name, value in headers.raw if _MASK in value]
        return frozenset(
            (column, name)
            for column, names in self.names.items()
            for name in lost
            if names is None or name in names
        )


_MASK = MASK.encode()


def _names(column: Column) -> frozenset[str] | None:
    if isinstance(column, HeadersColumn):
        return None
    if not isinstance(column, TemplateColumn):
        return frozenset()
    content = column.template.content
    names = [call["name"] for call in _CALL.finditer(content)]
    if _ALL.search(content) is not None or not all(names):
        return None
    return frozenset(name.lower() for name in names)


def notes_of(masked: Iterable[tuple[str, str]]) -> list[str]:
    """Return a sentence for each column that reads masked headers."""
    headers: dict[str, set[str]] = {}
    for column, name in masked:
        headers.setdefault(column, set()).add(name)
    return [
        f'The column "{column}" reads {_listed(sorted(names))}, which rejected records contain as '
        f'"{MASK}": their rows contain "{MASK}" instead of the value.'
        for column, names in sorted(headers.items())
    ]


def _listed(names: list[str]) -> str:
    shown = ", ".join(f'"{name}"' for name in names)
    return f"the header {shown}" if len(names) == 1 else f"the headers {shown}"
