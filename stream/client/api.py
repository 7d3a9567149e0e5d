"""The HTTP client of the API."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

from stream.client.errors import ClientError, ServiceError, TaskFailed, Unreachable, service_error
from stream.client.events import Event, events_of
from stream.client.http import httpx, reason_of, user_agent
from stream.client.retry_after import retry_after_seconds
from stream.values.backoff import Backoff

__all__ = ["Api", "is_private"]

_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_WAIT_SECONDS = 10
"""Seconds that a change waits for its task; a service that doesn't support this answers at once."""
_TASK_SECONDS = 600.0
_ATTEMPTS = 4
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 2.0
_SILENCE_SECONDS = 60.0
"""Timeout of event streams, which send a comment at least every 15 s."""
_PAGE = 100
_MAX_PAGES = 1_000
_MAX_ANSWER_BYTES = 64 * 1024 * 1024


class Api:
    """Calls the API with a token.

    Calls raise Unreachable if there is no answer, ServiceError for an error answer, and ClientError
    if *url* is invalid.

    :param url: URL of the API, without ``/v1``.
    :param token: sent as ``X-StorageApi-Token`` to that URL only, because redirects are not
        followed.
    :param branch: number of the branch, or ``default``.
    :param wait: function that waits for the given number of seconds.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        branch: str = "default",
        wait: Callable[[float], Any] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if not _is_url(url):
            raise ClientError(
                f'"{url}" is not the URL of an API: it must begin with http:// or https://'
            )
        if not token.isascii() or not token.isprintable():
            raise ClientError("The token contains characters that aren't allowed in a token.")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.branch = branch
        self._wait = wait
        self._http = httpx.Client(
            timeout=_TIMEOUT,
            transport=transport,
            headers={"X-StorageApi-Token": token, "User-Agent": user_agent()},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def pause(self, seconds: float) -> None:
        """Wait before another call."""
        self._wait(seconds)

    def get(self, *path: str, **parameters: Any) -> Any:
        """Read *path* below the branch; retry if that may help."""
        return self._read(self._below_branch(path), parameters)

    def document(self) -> Any:
        """Return the OpenAPI document of the service."""
        return self._read("/v1/documentation/openapi3.json", {})

    def pages(self, member: str, *path: str) -> Iterator[dict[str, Any]]:
        """Iterate over the entries of the list at *path*, over all its pages.

        :param member: name of the member of the answer that contains the entries.
        """
        after = ""
        for _ in range(_MAX_PAGES):
            page = self.get(*path, limit=_PAGE, **({"afterId": after} if after else {}))
            if not isinstance(page, dict) or not isinstance(page.get(member, []), list):
                raise ClientError(f"{self.url} responds, but is not the API of a Stream service.")
            entries = page.get(member, [])
            yield from entries
            last = str(page.get("page", {}).get("lastId", ""))
            if len(entries) < _PAGE or not last or last == after:
                return
            after = last
        raise ClientError(f"The API's list has more than {_MAX_PAGES} pages.")

    def call(self, method: str, *path: str, body: Any = None, **parameters: Any) -> Any:
        """Call an operation that starts no task, without retries."""
        return self._call(method, self._below_branch(path), body, parameters)[1]

    def change(
        self, method: str, *path: str, body: Any = None, **parameters: Any
    ) -> dict[str, Any]:
        """Make a change and wait for its task.

        Returns the changed object if the service waited for the task; otherwise returns the task.

        Raises TaskFailed: the task ended with an error.
        """
        status, answer = self._call(
            method,
            self._below_branch(path),
            body,
            parameters,
            {"Prefer": f"wait={_WAIT_SECONDS}"},
        )
        if status == 202 and isinstance(answer, dict) and "taskId" in answer:
            return self._finished(answer)
        return answer if isinstance(answer, dict) else {}

    def events(self, *path: str, last_id: str = "", **parameters: Any) -> Iterator[Event]:
        """Iterate over the server-sent events at *path*, until the service ends the stream."""
        headers = {"Accept": "text/event-stream"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        timeout = httpx.Timeout(30.0, connect=10.0, read=_SILENCE_SECONDS)
        try:
            with self._http.stream(
                "GET",
                f"{self.url}{self._below_branch(path)}",
                params=parameters,
                headers=headers,
                timeout=timeout,
            ) as answer:
                if answer.status_code != 200:
                    raise _error(answer, _limited(answer))
                yield from events_of(answer.iter_bytes())
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise Unreachable(f"{self.url}: {reason_of(error)}.") from error

    def _below_branch(self, path: tuple[str, ...]) -> str:
        return "".join(map(_part, ("v1", "branches", self.branch, *path)))

    def _read(self, path: str, parameters: Mapping[str, Any]) -> Any:
        backoff = Backoff(_FIRST_DELAY, _LONGEST_DELAY, jitter=0.2)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._call("GET", path, None, parameters)[1]
            except (Unreachable, ServiceError) as error:
                asked = error.retry_after if isinstance(error, ServiceError) else None
                is_passing = not isinstance(error, ServiceError) or error.status in (429, 502, 503)
                if not is_passing or attempt == _ATTEMPTS:
                    raise
                self._wait(max(backoff.next(), min(asked or 0.0, 10.0)))
        raise AssertionError

    def _call(
        self,
        method: str,
        path: str,
        body: Any,
        parameters: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        try:
            with self._http.stream(
                method,
                f"{self.url}{path}",
                json=body,
                params=parameters,
                headers=dict(headers or {}),
            ) as answer:
                content = _limited(answer)
        except UnicodeEncodeError:
            raise ClientError("An argument is not UTF-8.") from None
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise Unreachable(
                f"The API at {self.url} does not answer: {reason_of(error)}. "
                "Is the service running, and is the URL correct?"
            ) from error
        if not answer.is_success:
            raise _error(answer, content)
        if not content:
            return answer.status_code, None
        try:
            return answer.status_code, json.loads(content)
        except (ValueError, RecursionError):
            raise service_error(
                answer.status_code, content[:500].decode(errors="replace")
            ) from None

    def _finished(self, task: dict[str, Any]) -> dict[str, Any]:
        # The task's own URL may lead to another host, which must not get the token.
        path = "/v1/tasks" + "".join(map(_part, str(task["taskId"]).split("/")))
        backoff = Backoff(_FIRST_DELAY, _LONGEST_DELAY)
        deadline = time.monotonic() + _TASK_SECONDS
        while not task.get("isFinished"):
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"The task {task['taskId']} has not ended within {_TASK_SECONDS:g} s."
                )
            self._wait(backoff.next())
            task = self._read(path, {})
        if task.get("status") != "success":
            raise TaskFailed(str(task["taskId"]), str(task.get("error") or "The task has failed."))
        return task


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        text.encode()
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def is_private(url: str) -> bool:
    """Return whether data sent to *url* is encrypted with TLS or doesn't leave this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in ("127.0.0.1", "::1", "localhost")


def _part(text: str) -> str:
    """Return *text* escaped as a part of a path.

    Raises ClientError: *text* would lead to another path. ``..`` means "one level up" even if its
    dots are escaped, so a call that deletes the sink ``..`` would delete its source.
    """
    try:
        quoted = quote(text, safe="")
    except UnicodeEncodeError:
        quoted = ""
    if quoted in ("", ".", ".."):
        raise ClientError(f'"{text}" is not a valid ID.')
    return f"/{quoted}"


def _limited(answer: httpx.Response) -> bytes:
    content = bytearray()
    for part in answer.iter_bytes():
        content += part
        if len(content) > _MAX_ANSWER_BYTES:
            raise ClientError("The API's response is too large.")
    return bytes(content)


def _error(answer: httpx.Response, content: bytes) -> ServiceError:
    after = retry_after_seconds(answer.headers.get("Retry-After"), datetime.now(UTC))
    if answer.is_redirect:
        return service_error(
            answer.status_code,
            f"The service redirects to another URL: {answer.headers.get('Location', '')}",
        )
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = content[:500].decode(errors="replace")
    return service_error(answer.status_code, document, after)
