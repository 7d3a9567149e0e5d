"""The records of one request, each with a JSON document as its body.

Shared data is stored once. Separate record objects are created only for code that needs them.
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

    :param shared: a record with the data that all records share; its body is ignored.
    :param bodies: source texts of the records; at least one.
    :param parsed: the document in each body, if known, or `stream.record.context.UNPARSED`.
    """

    __slots__ = ("_documents", "_is_read", "_parsed", "_records", "bodies", "shared")

    def __init__(
        self, shared: RecordContext, bodies: Sequence[bytes], parsed: Sequence[Any]
    ) -> None:
        self.shared = shared
        self.bodies = bodies
        self._parsed = parsed
        self._documents: list[Any] | None = None
        self._is_read = len(bodies) == 1 and len(bodies[0]) > LARGE_BYTES  # no large document here
        self._records: list[RecordContext] | None = None

    @property
    def documents(self) -> list[Any] | None:
        """Return the documents if all bodies are in canonical form, otherwise ``None``.

        If it is ``None``, each body has to be inspected. The documents are parsed on first use.
        """
        if not self._is_read:
            self._is_read = True
            self._documents = canonical_documents(self.bodies)
        return self._documents

    @property
    def records(self) -> list[RecordContext]:
        """Return the individual records.

        All callers get the same objects, so each body is parsed once.
        """
        if self._records is None:
            shared = self.shared
            time, client_ip, headers = shared.timestamp_ms, shared.client_ip, shared.headers
            documents = self._parsed if self._documents is None else self._documents
            canonical = None if self._documents is None else True
            self._records = [
                RecordContext(time, client_ip, headers, body, json=json, canonical=canonical)
                for body, json in zip(self.bodies, documents, strict=True)
            ]
        return self._records
