"""Records of one request, with a JSON document each.

Shared data is stored once. Separate records are made only for code that needs them one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stream.record.context import RecordContext
from stream.record.jsontree import canonical_documents
from stream.record.large import LARGE_BYTES

__all__ = ["RecordBlock"]


class RecordBlock:
    """The records of a batch, which share everything but their bodies.

    :param shared: has the data that all records share; its body doesn't matter.
    :param bodies: their source texts; at least one.
    :param parsed: the document in each, if known, or `stream.record.context.UNPARSED`.
    """

    __slots__ = ("_documents", "_is_read", "_parsed", "_records", "bodies", "shared")

    def __init__(
        self, shared: RecordContext, bodies: Sequence[bytes], parsed: Sequence[Any]
    ) -> None:
        self.shared = shared
        self.bodies = bodies
        self._parsed = parsed
        self._documents: list[Any] | None = None
        self._is_read = len(bodies) == 1 and len(bodies[0]) > LARGE_BYTES  # it isn't read here
        self._records: list[RecordContext] | None = None

    @property
    def documents(self) -> list[Any] | None:
        """Return the documents, if all bodies are in canonical form.

        ``None`` if each has to be inspected. They are parsed on demand.
        """
        if not self._is_read:
            self._is_read = True
            self._documents = canonical_documents(self.bodies)
        return self._documents

    @property
    def records(self) -> list[RecordContext]:
        """Return the records one by one.

        All callers get the same objects, so a body is parsed once.
        """
        if self._records is None:
            shared = self.shared
            time, client_ip, headers = shared.timestamp_ms, shared.client_ip, shared.headers
            documents = self._parsed if self.documents is None else self.documents
            canonical = None if self.documents is None else True
            self._records = [
                RecordContext(time, client_ip, headers, body, json=json, canonical=canonical)
                for body, json in zip(self.bodies, documents, strict=True)
            ]
        return self._records
