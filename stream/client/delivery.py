"""Sends batches of records to a source, with retries until each record is stored or refused.

Note [Keys of batches]: a batch is always sent under the same idempotency key, so records stored by
an earlier attempt are not stored again while the service remembers the key (10 minutes by default),
whichever source node receives the next attempt. When a batch is too large, it is split, and the
keys of its halves are derived from its key. So they are the same on the next attempt.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

import attrs

from stream.client.answers import Again, Final, Refusal, Split, Stored, answer_of
from stream.client.errors import DeliveryFailed, Unreachable
from stream.client.http import httpx, reason_of, user_agent
from stream.values.backoff import Backoff

__all__ = ["Delivered", "Delivery", "Stopped", "compresses_by_default"]

_TIMEOUT = httpx.Timeout(45.0, connect=10.0)
"""Timeout in seconds; a source answers within 30 s by default."""
_FIRST_DELAY = 0.2
_LONGEST_DELAY = 20.0
_JITTER = 0.3
_MAX_ANSWER_BYTES = 16 * 1024 * 1024
_GZIP_LEVEL = 1


class Stopped(Exception):
    """The caller requested a stop while the batch waited for its next attempt."""


@attrs.frozen
class Delivered:
    """The outcome of a batch.

    :ivar accepted: number of stored records.
    :ivar refusals: why the others were rejected; a line is the position in the batch, starting at
        0.
    """

    accepted: int
    refusals: tuple[Refusal, ...]
    rejected: int


class Delivery:
    """Sends batches to one source; thread-safe.

    Raises DeliveryFailed: *url* isn't the URL of a source.

    :param url: URL of the source, with its secret.
    :param wait: function that waits for the given number of seconds and returns whether to stop.
    :param patience: seconds after which the delivery of a batch fails; ``None`` to retry forever.
    :param compress: whether bodies are compressed; ``None`` means that they are unless the source
        is on this machine.
    :param notify: called with a message when an attempt has failed and will be repeated.
    :param connections: maximum number of open connections.
    :param has_fresh_keys: whether no batch was sent before under its key. If so, each request
        contains the number of its attempt, because the source need not wait for a writer on a first
        attempt.
    """

    def __init__(
        self,
        url: str,
        *,
        wait: Callable[[float], bool],
        patience: float | None = None,
        compress: bool | None = None,
        notify: Callable[[str], None] | None = None,
        connections: int = 4,
        has_fresh_keys: bool = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        host = _host(url)
        if not host:
            raise DeliveryFailed(
                "the URL of a source must begin with http:// or https://; "
                "`stream source url SOURCE` shows it"
            )
        self._url = url
        self._compress = compresses_by_default(host) if compress is None else compress
        self._wait = wait
        self._patience = patience
        self._has_fresh_keys = has_fresh_keys
        self._notify = notify
        self._http = httpx.Client(
            timeout=_TIMEOUT,
            transport=transport,
            headers={"User-Agent": user_agent()},
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, records: Sequence[bytes], key: str) -> Delivered:
        """Send *records*, JSON documents without line breaks, under *key*, until they are decided.

        Raises DeliveryFailed: the source refuses the batch for good. Raises Unreachable: *patience*
        is exceeded. Raises Stopped: the caller requested a stop.
        """
        answer = self._until_decided(records, key)
        if isinstance(answer, Stored):
            accepted = len(records) - answer.rejected
            if answer.accepted is not None:
                accepted = answer.accepted
            return Delivered(accepted, answer.refusals, answer.rejected)
        if len(records) == 1:
            return Delivered(0, (Refusal((0,), answer.name, answer.message),), 1)
        middle = len(records) // 2
        first = self.send(records[:middle], f"{key}.0")
        second = self.send(records[middle:], f"{key}.1")
        moved = tuple(
            attrs.evolve(refusal, lines=tuple(line + middle for line in refusal.lines))
            for refusal in second.refusals
        )
        return Delivered(
            first.accepted + second.accepted,
            (*first.refusals, *moved),
            first.rejected + second.rejected,
        )

    def _until_decided(self, records: Sequence[bytes], key: str) -> Stored | Split:
        headers = {
            "Content-Type": "application/x-ndjson" if len(records) > 1 else "application/json",
            "Idempotency-Key": key,
        }
        body = b"\n".join(records)
        if self._compress:
            body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
            headers["Content-Encoding"] = "gzip"
        backoff = Backoff(_FIRST_DELAY, _LONGEST_DELAY, jitter=_JITTER)
        began = time.monotonic()
        attempt = 0 if self._has_fresh_keys else 1
        while True:
            attempt += 1
            headers["Idempotency-Attempt"] = str(attempt)
            answer = self._attempt(body, headers, len(records))
            if isinstance(answer, Final):
                raise DeliveryFailed(_advice(answer))
            if not isinstance(answer, Again):
                return answer
            delay = max(backoff.next(), answer.delay or 0.0)
            if self._patience is not None and time.monotonic() + delay - began > self._patience:
                raise Unreachable(answer.message)
            if self._notify is not None:
                self._notify(f"{answer.message} Trying again in {delay:.1f} s.")
            if self._wait(delay):
                raise Stopped

    def _attempt(
        self, body: bytes, headers: dict[str, str], count: int
    ) -> Stored | Again | Split | Final:
        try:
            with self._http.stream("POST", self._url, content=body, headers=headers) as answer:
                content = bytearray()
                for part in answer.iter_bytes():
                    content += part
                    if len(content) > _MAX_ANSWER_BYTES:
                        return Final(answer.status_code, "The response is too large.")
        except httpx.TransportError as error:
            return Again(f"The source does not answer: {reason_of(error)}.")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Final(0, f"The request can't be sent: {reason_of(error)}.")
        return answer_of(answer.status_code, answer.headers, bytes(content), count, _now())


def _host(url: str) -> str:
    """Return the host of the URL of a source; empty if *url* isn't such a URL."""
    try:
        url.encode()
        parts = urlsplit(url)
        has_port = parts.port != 0
    except ValueError:
        return ""
    return (parts.hostname or "") if parts.scheme in ("http", "https") and has_port else ""


def _now() -> datetime:
    return datetime.now(UTC)


def _advice(answer: Final) -> str:
    if answer.status == 404:
        return (
            f"{answer.message} Is the source disabled or deleted, or was its secret changed? "
            "`stream source url SOURCE` shows the current URL."
        )
    return answer.message


def compresses_by_default(host: str) -> bool:
    """Return whether bodies to *host* are compressed; on this machine that only costs time."""
    return host not in ("127.0.0.1", "::1", "localhost")
