"""Objects in Google Cloud Storage, stored by the resumable uploads of its JSON API.

A bearer token for one folder of a bucket may only allow creating objects. The resumable protocol
needs no other right, and its answer contains size and MD5 of the stored object, so every object is
verified without being read. A lost part is sent again from the first byte that the store doesn't
have. One part is in memory at a time. docs/decisions/0012 explains why the library that is used for
the other stores isn't used here.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlencode

import urllib3

from stream.staging.chunks import Chunks, SentBody
from stream.staging.errors import ObjectMismatch, StagingError
from stream.staging.store import StoredObject
from stream.staging.upload import FileUpload

__all__ = ["ENDPOINT", "GcsBackend", "gcs_backend"]

#: A multiple of 256 KiB, as the protocol requires.
PART_BYTES = 5 * 1024 * 1024
ENDPOINT = "https://storage.googleapis.com"
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_RETRIES = 4
_FIRST_DELAY_SECONDS = 0.1
_TIMEOUT = urllib3.Timeout(connect=5.0, read=120.0)
_MORE = 308
_MAX_REASON_CHARS = 300


class _Interrupted(Exception):
    """The connection broke; it is unknown how many bytes the store has received."""


class GcsBackend:
    """One bucket of Google Cloud Storage.

    :param endpoint: root URL of the API.
    :param authorization: returns the secret value of the ``Authorization`` header, ``""`` for none;
        called for each request, in a thread.
    """

    def __init__(self, bucket: str, endpoint: str, authorization: Callable[[], str]) -> None:
        self._url = f"{endpoint.rstrip('/')}/upload/storage/v1/b/{bucket}/o"
        self._objects = f"{endpoint.rstrip('/')}/storage/v1/b/{bucket}/o"
        self._authorization = authorization
        # Retries are made in this class, because they depend on the received bytes.
        self._http = urllib3.PoolManager(1, retries=False, timeout=_TIMEOUT)

    def put(self, key: str, chunks: Chunks, stopped: Callable[[], bool]) -> StoredObject:
        """Store an object; see `stream.staging.store.Backend`."""
        digest = hashlib.md5(usedforsecurity=False)
        sent = SentBody(chunks(), PART_BYTES, stopped, digested=False)

        def parts() -> Iterator[bytes]:
            for part in sent.parts():
                digest.update(part)
                yield part

        try:
            found = self._send(key, parts(), stopped)
        except InterruptedError as problem:
            raise StagingError(str(problem)) from None
        except FileNotFoundError as problem:
            raise StagingError(f'cannot store "{key}": {problem.strerror}') from None
        finally:
            self._http.clear()
        _check(key, found, sent.size, digest.digest())
        return StoredObject(
            url="", size=sent.size, etag=str(found.get("etag") or "").strip('"'), verified=True
        )

    def get(self, key: str) -> Iterator[bytes]:
        """Return the body of an object, without retries; see `stream.staging.store.Backend`."""
        url = f"{self._objects}/{quote(key, safe='')}?alt=media"
        try:
            answer = self._http.request(
                "GET",
                url,
                headers=self._authorized(),
                preload_content=False,
                redirect=False,
                retries=False,
            )
            try:
                if answer.status != 200:
                    raise StagingError(f'cannot read "{key}": {_refusal(answer)}')
                yield from answer.stream(PART_BYTES, decode_content=False)
            finally:
                answer.release_conn()
        except urllib3.exceptions.HTTPError as problem:
            raise StagingError(f'cannot read "{key}": {type(problem).__name__}') from None
        finally:
            self._http.clear()

    def _send(
        self, key: str, parts: Iterator[bytes], stopped: Callable[[], bool]
    ) -> Mapping[str, Any]:
        """Send all *parts*; return the resource that describes the object."""
        part, following = next(parts, b""), next(parts, None)
        if following is None:
            return self._send_whole(key, part, stopped)
        session, offset = self._begin(key, stopped), 0
        try:
            while following is not None:
                self._send_part(key, session, part, offset, None, stopped)
                offset += len(part)
                part, following = following, next(parts, None)
            return self._send_part(key, session, part, offset, offset + len(part), stopped)
        except BaseException:
            self._give_up(session)
            raise

    def _send_whole(self, key: str, body: bytes, stopped: Callable[[], bool]) -> Mapping[str, Any]:
        url = f"{self._url}?{urlencode({'uploadType': 'media', 'name': key})}"
        headers = {
            **self._authorized(),
            "Content-Type": "application/octet-stream",
            "Content-MD5": base64.b64encode(
                hashlib.md5(body, usedforsecurity=False).digest()
            ).decode(),
        }
        reason = ""
        for delay in _delays(stopped):
            try:
                answer = self._request("POST", url, headers, body)
            except _Interrupted as problem:
                reason = str(problem)
            else:
                if answer.status in (200, 201):
                    return _resource(key, answer)
                reason = _refusal(answer)
                if answer.status not in _TRANSIENT:
                    break
            if delay is None:
                break
        raise StagingError(f'cannot store "{key}": {reason}')

    def _begin(self, key: str, stopped: Callable[[], bool]) -> str:
        """Start an upload; return its URL, which needs no further authorization."""
        url = f"{self._url}?{urlencode({'uploadType': 'resumable', 'name': key})}"
        headers = {**self._authorized(), "X-Upload-Content-Type": "application/octet-stream"}
        reason = ""
        for delay in _delays(stopped):
            try:
                answer = self._request("POST", url, headers, b"")
            except _Interrupted as problem:
                reason = str(problem)
            else:
                session = answer.headers.get("Location")
                if answer.status in (200, 201) and session:
                    return session
                reason = _refusal(answer)
                if answer.status not in _TRANSIENT:
                    break
            if delay is None:
                break
        raise StagingError(f'cannot begin to store "{key}": {reason}')

    def _send_part(
        self,
        key: str,
        session: str,
        part: bytes,
        offset: int,
        total: int | None,
        stopped: Callable[[], bool],
    ) -> Mapping[str, Any]:
        """Send *part*, which begins at *offset* of the object.

        :param total: size of the object if this is the last part; the object's resource is then
            returned.
        """
        end, at, reason = offset + len(part), offset, ""
        for delay in _delays(stopped):
            answer: urllib3.BaseHTTPResponse | None
            try:
                answer = self._put_range(session, part[at - offset :], at, total)
                reason = _refusal(answer) if answer.status in _TRANSIENT else ""
            except _Interrupted as problem:
                reason = str(problem)
            if reason:
                answer = self._status(session, total)
            if answer is not None:
                if total is not None and answer.status in (200, 201):
                    return _resource(key, answer)
                if answer.status != _MORE:
                    raise StagingError(f'cannot store "{key}": {_refusal(answer)}')
                at = _arrived(answer)
                if not offset <= at <= end:
                    raise StagingError(f'cannot store "{key}": {at} of {offset} bytes arrived')
                if at == end and total is None:
                    return {}
                reason = f"{at} of {end} bytes arrived"
            if delay is None:
                break
        raise StagingError(f'cannot store "{key}": {reason}')

    def _authorized(self) -> dict[str, str]:
        value = self._authorization()
        return {"Authorization": value} if value else {}

    def _put_range(
        self, session: str, body: bytes, at: int, total: int | None
    ) -> urllib3.BaseHTTPResponse:
        size = "*" if total is None else str(total)
        span = f"{at}-{at + len(body) - 1}" if body else "*"
        return self._request("PUT", session, {"Content-Range": f"bytes {span}/{size}"}, body)

    def _status(self, session: str, total: int | None) -> urllib3.BaseHTTPResponse | None:
        """Return the state of an upload after a failure; None if it is still unknown."""
        try:
            answer = self._put_range(session, b"", 0, total)
        except _Interrupted:
            return None
        return None if answer.status in _TRANSIENT else answer

    def _give_up(self, session: str) -> None:
        with suppress(_Interrupted):  # the store removes the upload after a week
            self._request("DELETE", session, {}, b"")

    def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> urllib3.BaseHTTPResponse:
        try:
            return self._http.request(
                method, url, headers=dict(headers), body=body, redirect=False, retries=False
            )
        except urllib3.exceptions.HTTPError as problem:
            # Only the type, because the message may contain the URL, which is a secret here.
            raise _Interrupted(f"no answer ({type(problem).__name__})") from None


def _delays(stopped: Callable[[], bool]) -> Iterator[float | None]:
    """Iterate over the attempts, and sleep between them; the last item is None.

    Raises InterruptedError: the upload was cancelled.
    """
    for attempt in range(_RETRIES + 1):
        if stopped():
            raise InterruptedError("the upload was cancelled")
        delay = _FIRST_DELAY_SECONDS * 2**attempt if attempt < _RETRIES else None
        yield delay
        if delay is not None:
            time.sleep(delay)


def _arrived(answer: urllib3.BaseHTTPResponse) -> int:
    """Return the number of bytes that the store has, as its answer shows."""
    unit, _, last = answer.headers.get("Range", "").rpartition("-")
    return int(last) + 1 if unit and last.isdecimal() else 0


def _refusal(answer: urllib3.BaseHTTPResponse) -> str:
    text = " ".join(answer.data.decode("utf-8", "replace").split())[:_MAX_REASON_CHARS]
    return f"{answer.status} {answer.reason or ''} {text}".strip()


def _resource(key: str, answer: urllib3.BaseHTTPResponse) -> Mapping[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StagingError(f'cannot store "{key}": the response is not a JSON object')
    return found


def _check(key: str, found: Mapping[str, Any], size: int, digest: bytes) -> None:
    if str(found.get("size", "")) != str(size):
        raise ObjectMismatch(f'"{key}" is {found.get("size")} bytes, but {size} bytes were sent')
    returned = found.get("md5Hash")
    if returned is not None and returned != base64.b64encode(digest).decode():
        raise ObjectMismatch(f'the digest of "{key}" does not match the bytes that were sent')


def gcs_backend(upload: FileUpload) -> GcsBackend:
    """Return the GCS backend with a bearer token; the parameter ``endpoint`` sets its URL."""
    parameters = upload.credentials
    kind = str(parameters.get("token_type") or "Bearer")
    authorization = f"{kind} {parameters['access_token']}"
    return GcsBackend(
        str(parameters["bucket"]),
        str(parameters.get("endpoint") or ENDPOINT),
        lambda: authorization,
    )
