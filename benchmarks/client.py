"""A small JSON client over kept connections, for load from one process."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

__all__ = ["JsonClient"]

_END_OF_HEAD = b"\r\n\r\n"
_SECONDS = 60.0


class JsonClient:
    """A connection to one server, opened on demand; one call at a time.

    :param headers: sent with each request.
    """

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._head = f"Host: {parts.netloc}\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in headers.items()
        )
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return the status and the decoded body; 0 and ``None`` without an answer."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(data)}\r\n\r\n"
        if self._streams is not None and self._streams[0].at_eof():
            self.close()  # the server closes idle connections
        # The server may close it just when the next request is sent; safe requests are retried.
        for _ in range(2 if method == "GET" else 1):
            try:
                async with asyncio.timeout(_SECONDS):
                    return await self._exchange(head.encode() + data)
            except (OSError, EOFError, TimeoutError):
                self.close()
        return 0, None

    async def _exchange(self, request: bytes) -> tuple[int, Any]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(request)
        await writer.drain()
        head = await reader.readuntil(_END_OF_HEAD)
        fields = dict(_fields(head))
        answer = await reader.readexactly(int(fields.get(b"content-length", 0)))
        if fields.get(b"connection", b"").lower() == b"close":
            self.close()
        plain = json.loads(answer) if answer.startswith((b"{", b"[")) else None
        return int(head[9:12]), plain

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _fields(head: bytes) -> list[tuple[bytes, bytes]]:
    fields = []
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        fields.append((name.lower(), value.strip()))
    return fields
