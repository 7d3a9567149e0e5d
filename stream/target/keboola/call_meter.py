"""Metrics of Storage API calls, for calls including their retries and for each request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from stream.ops.metrics.registry import CallLabels, Metrics
from stream.ops.tracing.spans import span
from stream.target.keboola.transport import Reply

__all__ = ["CallMeter", "MeasuredCall", "path_template", "result_type"]

_BEFORE_ID = frozenset({"tokens", "dev-branches", "branch", "buckets", "tables", "files", "jobs"})
_WORDS = frozenset({"verify", "prepare", "buckets", "tables", "files"})


def path_template(path: Sequence[str]) -> str:
    """Return *path* with placeholders instead of IDs, so that there are few different values."""
    parts = [
        "{id}" if before in _BEFORE_ID and part not in _WORDS else part
        for before, part in zip(("", *path), path, strict=False)
    ]
    return "/" + "/".join(parts)


_FAILED = 400
_RESULTS = {
    "": "Index",
    "verify": "TokenInfo",
    "tokens": "SinkToken",
    "dev-branches": "Branch",
    "buckets": "Bucket",
    "tables": "Table",
    "tables-definition": "Job",
    "import-async": "Job",
    "jobs": "Job",
    "prepare": "FileUpload",
    "files": "File",
    "events": "Event",
    "resolve-storage-token": "ProjectToken",
}


def result_type(method: str, template: str) -> str:
    """Return the name of the type of an answer's content.

    :param template: result of `path_template`.
    """
    if method == "DELETE":
        return "NoResult"
    kind = template.removesuffix("/{id}").rpartition("/")[2]
    return _RESULTS.get(kind, "Other")


@attrs.define
class MeasuredCall:
    """A call of the Storage API, from its first request to its last answer.

    :ivar status: HTTP status of the last answer, 0 if there was none.
    :ivar reply: answer to the current request.
    """

    method: str
    path: str
    status: int = 0
    reply: Reply | None = None

    @property
    def attributes(self) -> Mapping[str, str | int]:
        """Return the attributes of the call's spans."""
        return {"http.method": self.method, "http.route": self.path}

    def replied(self, reply: Reply) -> None:
        """Record the answer to the current request."""
        self.reply = reply
        self.status = reply.status


class CallMeter:
    """The metrics and spans of calls of the Storage API.

    :param reactor: provides the time.
    :param host: host of the API.
    """

    def __init__(self, metrics: Metrics, reactor: Any, host: str) -> None:
        self._metrics = metrics
        self._reactor = reactor
        self._host = host

    @contextmanager
    def call(self, method: str, path: Sequence[str]) -> Iterator[MeasuredCall]:
        """Measure a call including its retries."""
        measured = MeasuredCall(method, path_template(path))
        started = self._reactor.seconds()
        self._metrics.call_started("client_request", method, self._host)
        try:
            with (
                span("http.go.api.client.request", measured.attributes, "client"),
                span("http.go.client.request", measured.attributes, "client"),
            ):
                yield measured
        finally:
            self._finished("client_request", measured, self._reactor.seconds() - started)

    @contextmanager
    def request(self, measured: MeasuredCall) -> Iterator[None]:
        """Measure one request of a call."""
        measured.reply, measured.status = None, 0
        started = self._reactor.seconds()
        self._metrics.call_started("http_request", measured.method, self._host)
        try:
            with span("http.request", measured.attributes, "client") as attempt:
                yield
                attempt.set("http.status_code", measured.status)
                if measured.status >= _FAILED:
                    attempt.failed(f"status {measured.status}")
        finally:
            self._finished("http_request", measured, self._reactor.seconds() - started)
            if measured.reply is not None:
                self._replied(measured, measured.reply)

    def _replied(self, measured: MeasuredCall, reply: Reply) -> None:
        self._metrics.call_started("client_request_parse", measured.method, self._host)
        self._finished("client_request_parse", measured, reply.parse_seconds)
        self._metrics.bytes_transferred(self._labels(measured), reply.sent, reply.received)

    def _finished(self, call: Any, measured: MeasuredCall, seconds: float) -> None:
        self._metrics.call_finished(call, self._labels(measured), seconds * 1000)

    def _labels(self, measured: MeasuredCall) -> CallLabels:
        result = result_type(measured.method, measured.path)
        return CallLabels(measured.method, result, self._host, measured.path, measured.status)
