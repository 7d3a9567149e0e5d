"""The lookup of sources: an index of the active sources of all projects.

Other code updates the index, which doesn't depend on where changes come from.

Note [Found before]: the result of looking up a secret is cached until a source changes, so most
lookups are a single dictionary access. Its duration doesn't reveal whether a secret is nearly
right, because dictionaries use a keyed hash of the whole text, and texts are compared only if their
whole hashes are equal. Wrong secrets aren't cached, so there are at most as many entries as
secrets.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Literal

import attrs

from stream.definition.key import SourceKey
from stream.errors import UserError

__all__ = ["Dispatcher", "SourceEntry"]


@attrs.frozen
class SourceEntry:
    """A source in one branch.

    :ivar secret: secret in the URL of the source.
    :ivar reads_text_as_json: whether the source parses plain text as JSON.
    :ivar refuses_without_sink: whether the source refuses records while it has no enabled sink.
    """

    key: SourceKey
    type: Literal["http", "otlp"]
    enabled: bool
    secret: str = attrs.field(repr=False)
    reads_text_as_json: bool = False
    refuses_without_sink: bool = False


class Dispatcher:
    """Finds sources by project, ID and secret.

    :param type: type of the sources; a secret never gives access to a source of another type.
    """

    def __init__(self, type: Literal["http", "otlp"]) -> None:
        self._type = type
        self._sources: dict[tuple[int, str], tuple[tuple[bytes, SourceEntry], ...]] = {}
        self._found: dict[tuple[int, str, str], tuple[SourceKey, ...]] = {}
        self._closed = False

    def put(self, entry: SourceEntry) -> None:
        """Add or replace a source. Takes effect immediately."""
        self.remove(entry.key)
        if entry.type == self._type:
            place = (entry.key.project_id, entry.key.source_id)
            entries = [*self._sources.get(place, ()), (entry.secret.encode(), entry)]
            entries.sort(key=lambda item: str(item[1].key.branch_id))
            self._sources[place] = tuple(entries)

    def remove(self, key: SourceKey) -> None:
        """Remove the source from its branch; do nothing if it is unknown."""
        self._found.clear()
        place = (key.project_id, key.source_id)
        rest = tuple(item for item in self._sources.get(place, ()) if item[1].key != key)
        if rest:
            self._sources[place] = rest
        else:
            self._sources.pop(place, None)

    def clear(self) -> None:
        """Remove all sources before a full reload."""
        self._found.clear()
        self._sources.clear()

    def close(self) -> None:
        """Refuse every lookup from now on."""
        self._found.clear()
        self._closed = True

    def lookup(self, project_id: int, source_id: str, secret: str) -> tuple[SourceKey, ...]:
        """Return the sources; see `stream.source.interfaces.SourceLookup`.

        A wrong secret can't be distinguished from an unknown source, not even by timing.
        """
        found = self._found.get((project_id, source_id, secret))
        if found is not None:
            return found
        if self._closed:
            raise UserError("node is shutting down", status=503, name="shutdown")
        given = secret.encode("utf-8", "surrogateescape")
        matched = [
            entry
            for expected, entry in self._sources.get((project_id, source_id), ())
            if hmac.compare_digest(expected, given)
        ]
        enabled = tuple([entry.key for entry in matched if entry.enabled])
        if enabled:
            self._found[project_id, source_id, secret] = enabled
            return enabled
        if matched:
            raise UserError(
                "the specified source is disabled in all branches",
                status=404,
                name="disabledSource",
            )
        raise UserError(
            "the specified combination of projectID, sourceID and secret was not found",
            status=404,
            name="noSourceFound",
        )

    def refuses_without_sink(self, sources: Sequence[SourceKey]) -> bool:
        """Return whether one of *sources* refuses records while it has no enabled sink."""
        first = sources[0]
        entries = self._sources.get((first.project_id, first.source_id), ())
        return any(entry.refuses_without_sink for _, entry in entries if entry.key in sources)

    def reads_text_as_json(self, sources: Sequence[SourceKey]) -> bool:
        """Return whether a source reads text as JSON; see `SourceLookup`."""
        first = sources[0]
        entries = self._sources.get((first.project_id, first.source_id), ())
        return any(entry.reads_text_as_json for _, entry in entries if entry.key in sources)
