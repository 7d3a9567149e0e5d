"""The log of complete Storage API requests and answers, without secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from twisted.logger import Logger

from stream.target.keboola.transport import ExchangeFailed, Reply
from stream.values.redaction import hide_secrets, masked
from stream.values.token import Token, secrets_of

__all__ = ["WireLog"]

_log = Logger()
_MAX_CHARS = 10_000


class WireLog:
    """Logs each exchange of a call.

    :param enabled: whether exchanges are logged.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: Any, token: Token | None
    ) -> None:
        """Log a request that is about to be sent."""
        if self._enabled:
            _log.info(
                "request {method} {url} {headers} {body}",
                method=method,
                url=hide_secrets(url, secrets_of(token)),
                headers=_text(headers, token),
                body=_text(body, token),
            )

    def reply(self, method: str, url: str, reply: Reply, token: Token | None) -> None:
        """Log an answer."""
        if self._enabled:
            _log.info(
                "answer {status} to {method} {url} {headers} {body}",
                status=reply.status,
                method=method,
                url=hide_secrets(url, secrets_of(token)),
                headers=_text(reply.headers, token),
                body=_text(reply.json, token),
                received=reply.received,
            )

    def failure(self, method: str, url: str, failed: ExchangeFailed, token: Token | None) -> None:
        """Log a failure."""
        if self._enabled:
            _log.info(
                "no answer to {method} {url}: {reason}",
                method=method,
                url=hide_secrets(url, secrets_of(token)),
                reason=hide_secrets(failed.reason, secrets_of(token)),
            )


def _text(value: Any, token: Token | None) -> str:
    if value is None:
        return "-"
    text = orjson.dumps(masked(value, secrets_of(token)), option=orjson.OPT_NON_STR_KEYS).decode()
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}… ({len(text)} characters)"
