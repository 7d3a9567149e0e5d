"""Interpretation of the answer to a batch. Pure.

Note [Answers of batches]: a batch is sent as NDJSON under an idempotency key. The source answers
that everything is stored (200, 202); that some records can't be stored, with their lines (207, or
4xx with ``errors``); that the batch is too large or unreadable (400, 413), so smaller batches may
be accepted; or that there is a temporary failure (408, 429, 5xx), after which the same batch is
sent again under the same key. Every other answer is final.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from stream.client.retry_after import retry_after_seconds

__all__ = ["Again", "Answer", "Final", "Refusal", "Split", "Stored", "answer_of"]

_SHOWN = 500
_STORED = re.compile(r"([0-9]+)/[0-9]+")


@attrs.frozen
class Refusal:
    """Why records of a batch were rejected.

    :ivar lines: positions of the records, starting at 0.
    :ivar name: machine-readable reason.
    :ivar sink_id: the sink that rejects the records, if the answer names it.
    """

    lines: tuple[int, ...]
    name: str
    message: str
    sink_id: str = ""


@attrs.frozen
class Stored:
    """All records are stored except the refused ones.

    :ivar accepted: the number of stored records; ``None`` if the answer doesn't contain it.
    :ivar replayed: whether an earlier attempt had stored the records.
    """

    accepted: int | None
    refusals: tuple[Refusal, ...] = ()
    replayed: bool = False

    @property
    def rejected(self) -> int:
        """The number of records that at least one sink rejects."""
        return len({line for refusal in self.refusals for line in refusal.lines})


@attrs.frozen
class Again:
    """The same batch may be accepted later, under the same key.

    :ivar delay: the delay in seconds that the service requests, if any.
    """

    message: str
    delay: float | None = None


@attrs.frozen
class Split:
    """Nothing is stored; smaller batches may be accepted."""

    name: str
    message: str


@attrs.frozen
class Final:
    """The batch is refused for good; a retry doesn't help."""

    status: int
    message: str


Answer = Stored | Again | Split | Final


def answer_of(
    status: int, headers: Mapping[str, str], content: bytes, count: int, now: datetime
) -> Answer:
    """Return the meaning of an answer for a batch of *count* records.

    :param headers: headers with lower-case names, or a case-insensitive mapping.
    """
    document = _document(content)
    message = _message(document, content, status)
    if status in (200, 202, 207):
        return _stored(document, headers, message, count)
    if status in (408, 429) or status >= 500:
        return Again(message, retry_after_seconds(headers.get("retry-after"), now))
    if status in (400, 413, 415) and document is not None:
        refusals = _refusals(document)
        if refusals and not document.get("failed"):
            return Stored(_count(document, "accepted"), refusals)
    if status in (400, 413):
        stored = _STORED.match(headers.get("stream-stored") or "")
        if count > 1 and stored is not None and stored[1].strip("0"):
            return Final(
                status,
                f"{message} Some sinks have stored the batch, so it can't be split: send smaller "
                "batches.",
            )
        return Split(str((document or {}).get("error", "")), message)
    return Final(status, message)


def _stored(
    document: dict[str, Any] | None, headers: Mapping[str, str], message: str, count: int
) -> Answer:
    if headers.get("stream-sinks") == "0" or message == "No enabled sink found.":
        return Final(
            200, "The source has no enabled sink, so nothing is stored. Create or enable a sink."
        )
    replayed = headers.get("idempotency-replayed") == "true"
    if document is None or "accepted" not in document:
        if count > 1 and not replayed:
            return Final(
                200,
                "The service has stored a batch as one record because it doesn't support batches. "
                "Send one record in each request.",
            )
        # The service doesn't store long answers with an idempotency key.
        return Stored(count if count == 1 else None, replayed=replayed)
    return Stored(_count(document, "accepted"), _refusals(document), replayed)


def _document(content: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _message(document: dict[str, Any] | None, content: bytes, status: int) -> str:
    if document is not None and document.get("message"):
        hint = f" {document['hint']}" if document.get("hint") else ""
        return f"{document['message']}{hint}"
    text = content[:_SHOWN].decode(errors="replace").strip()
    return text if text and text[:1] not in "<{" else f"HTTP status {status}."


def _count(document: Mapping[str, Any], name: str) -> int | None:
    value = document.get(name)
    return value if isinstance(value, int) else None


def _refusals(document: Mapping[str, Any]) -> tuple[Refusal, ...]:
    found = []
    errors = document.get("errors")
    for error in errors if isinstance(errors, list) else ():
        lines = error.get("lines") if isinstance(error, dict) else None
        if isinstance(lines, list):
            hint = f" {error['hint']}" if error.get("hint") else ""
            found.append(
                Refusal(
                    tuple(line - 1 for line in lines if isinstance(line, int) and line > 0),
                    str(error.get("error", "")),
                    f"{error.get('message', '')}{hint}",
                    str(error.get("sinkId", "")),
                )
            )
    return tuple(found)
