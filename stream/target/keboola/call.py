"""Makes a call: attempts, delays, time budget, and the final error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from hyperlink import DecodedURL
from twisted.internet.task import deferLater
from twisted.logger import Logger

from stream.ops.metrics.registry import Metrics
from stream.ops.tracing.spans import outgoing_headers
from stream.target.keboola.call_meter import CallMeter, MeasuredCall
from stream.target.keboola.errors import UNREACHABLE, StorageApiError
from stream.target.keboola.retry import CALL_BUDGET, MAX_RETRIES, Outcome, call_backoff, may_retry
from stream.target.keboola.transport import ExchangeFailed, Reply, Transport
from stream.target.keboola.wire_log import WireLog
from stream.values.redaction import hide_secrets
from stream.values.token import Token, secrets_of

__all__ = ["Answer", "Call", "Caller", "base_url"]

_log = Logger()
_USER_AGENT = "keboola-stream"
_STORAGE = ("v2", "storage")


def base_url(host_or_url: str) -> DecodedURL:
    """Return the root URL of the API; if *host_or_url* has no scheme, ``https://`` is assumed.

    Raises ValueError: the scheme is neither ``http`` nor ``https``, or the host is missing.
    """
    text = host_or_url if "://" in host_or_url else f"https://{host_or_url}"
    url = DecodedURL.from_text(text.rstrip("/"))
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f'invalid Storage API address "{host_or_url}"')
    return url.child(*_STORAGE)


@attrs.frozen
class Call:
    """A request to the API.

    :param method: the HTTP method.
    :param path: segments under ``/v2/storage/``; `Caller` escapes them.
    :param is_of_platform: whether the path belongs to another API on the same host.
    :param token: token of the call; ``None`` for the only call that needs no authentication.
    :param query: query parameters in order.
    :param body: sent as JSON; ``None`` for no body.
    :param idempotent: whether the call may be repeated after its answer was lost.
    """

    method: str
    path: tuple[str, ...]
    token: Token | None = None
    query: tuple[tuple[str, str], ...] = ()
    body: Any = attrs.field(default=None, repr=False)
    idempotent: bool = True
    is_of_platform: bool = False


@attrs.frozen
class Answer:
    """A successful reply, with the data for errors about its content."""

    call: Call
    url: str
    reply: Reply
    retried: bool

    @property
    def json(self) -> Any:
        """Return the parsed body of the answer."""
        return self.reply.json

    def unexpected(self, what: str) -> StorageApiError:
        """Return the error for unexpected content of the answer."""
        return StorageApiError(
            f"unexpected reply: {what}",
            method=self.call.method,
            url=self.url,
            status=502,
            name="storageApiUnexpectedReply",
            answered=False,
            retried=self.retried,
            maybe_applied=True,
            request_id=_shown(self.call, self.reply.request_id),
        )


class Caller:
    """Makes calls against one API root.

    :param reactor: provides the time.
    :param root: the root URL; see `base_url`.
    :param transport: sends the requests.
    :param budget: time limit of a call in seconds, including retries.
    :param metrics: metrics of calls.
    :param wire_log: called with each exchange.
    """

    def __init__(
        self,
        reactor: Any,
        root: DecodedURL,
        transport: Transport,
        budget: float = CALL_BUDGET,
        metrics: Metrics | None = None,
        wire_log: WireLog | None = None,
    ) -> None:
        self._wire = wire_log or WireLog(False)
        self._meter = CallMeter(metrics or Metrics(), reactor, root.host)
        self._reactor = reactor
        self._root = root
        self._platform = root.replace(path=root.path[: -len(_STORAGE)])
        self._transport = transport
        self._budget = budget

    async def make(self, call: Call, *, budget: float | None = None) -> Answer:
        """Make *call*, with retries as far as its idempotency and the time budget allow.

        Raises StorageApiError: the last failure.

        :param budget: time limit in seconds, if lower than that of the caller.
        """
        with self._meter.call(call.method, call.path) as measured:
            try:
                answer = await self._make(call, budget, measured)
            except StorageApiError as problem:
                _log.debug("{problem}", problem=str(problem), **_ids(problem))
                raise
            measured.status = answer.reply.status
            return answer

    async def _make(self, call: Call, budget: float | None, measured: MeasuredCall) -> Answer:
        limit = self._budget if budget is None else min(budget, self._budget)
        deadline = self._reactor.seconds() + limit
        root = self._platform if call.is_of_platform else self._root
        url = root.child(*call.path).replace(query=call.query).to_uri().to_text()
        headers = {"User-Agent": _USER_AGENT, "Accept": "application/json"}
        if call.token is not None:
            headers |= call.token.headers()
        retries, backoff = 0, call_backoff()
        while True:
            outcome: Outcome | int
            try:
                with self._meter.request(measured):
                    reply = await self._exchange(
                        call, url, {**headers, **outgoing_headers()}, deadline
                    )
                    measured.replied(reply)
            except ExchangeFailed as failed:
                outcome = failed.outcome
                problem = _no_answer(call, url, failed, retries > 0)
            else:
                if reply.status < 300:
                    return Answer(call, url, reply, retries > 0)
                outcome = reply.status
                problem = _refusal(call, url, reply, retries > 0)
            retries += 1
            delay = backoff.next()
            if (
                retries > MAX_RETRIES
                or not may_retry(outcome, idempotent=call.idempotent)
                or self._reactor.seconds() + delay >= deadline
            ):
                raise problem from None  # tracebacks would show the context, and with it the reason
            _log.debug(
                "repeating {method} {url} in {delay} s: {problem}",
                method=call.method,
                url=url,
                delay=delay,
                problem=problem.message,
                **_ids(problem),
            )
            await deferLater(self._reactor, delay)

    async def _exchange(
        self, call: Call, url: str, headers: Mapping[str, str], deadline: float
    ) -> Reply:
        self._wire.request(call.method, url, headers, call.body, call.token)
        try:
            reply = await self._transport.exchange(
                call.method,
                url,
                headers,
                call.body,
                timeout=max(deadline - self._reactor.seconds(), 0.001),
                fresh=not call.idempotent,
            )
        except ExchangeFailed as failed:
            self._wire.failure(call.method, url, failed, call.token)
            raise
        self._wire.reply(call.method, url, reply, call.token)
        return reply


def _ids(problem: StorageApiError) -> dict[str, str]:
    """Return the IDs that the API gave to a failure, for the log."""
    ids = {"exception_id": problem.exception_id or "", "request_id": problem.request_id}
    return {name: id for name, id in ids.items() if id}


def _shown(call: Call, text: str) -> str:
    """Return a text of the API with the call's token removed."""
    return hide_secrets(text, secrets_of(call.token))


def _no_answer(call: Call, url: str, failed: ExchangeFailed, retried: bool) -> StorageApiError:
    unusable = failed.outcome is Outcome.UNUSABLE
    # The reason quotes an answer that isn't HTTP, and that answer may quote the request.
    return StorageApiError(
        f'request {call.method} "{url}" failed: {_shown(call, failed.reason)}',
        method=call.method,
        url=url,
        status=502,
        name="storageApiUnexpectedReply" if unusable else UNREACHABLE,
        answered=False,
        retried=retried,
        maybe_applied=failed.outcome in (Outcome.LOST, Outcome.UNUSABLE),
    )


def _refusal(call: Call, url: str, reply: Reply, retried: bool) -> StorageApiError:
    body = reply.json if isinstance(reply.json, dict) else {}

    def text(key: str) -> str:
        value = body.get(key)
        return _shown(call, str(value)) if value not in (None, "") else ""

    message = text("error") or f'request {call.method} "{url}" failed: {reply.status} ' + (
        _shown(call, reply.phrase)
    )
    return StorageApiError(
        message,
        method=call.method,
        url=url,
        # A redirect isn't passed on; our own caller gets a bad gateway error.
        status=reply.status if reply.status >= 400 else 502,
        code=text("code"),
        exception_id=text("exceptionId") or None,
        retried=retried,
        maybe_applied=reply.status >= 500,
        request_id=_shown(call, reply.request_id),
    )
