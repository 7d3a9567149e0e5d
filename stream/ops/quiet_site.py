"""The site of the listeners for operators: metrics and debugging."""

from __future__ import annotations

from typing import Any

from twisted.web.http import HTTPChannel
from twisted.web.server import Request, Site

__all__ = ["QuietChannel", "QuietSite"]

_MAX_LENGTH_DIGITS = 18


class QuietRequest(Request):
    """A request whose body is dropped, and whose answer has a certain content type.

    No client can fill the memory or the disk with bodies, which these listeners don't need.
    """

    def gotLength(self, length: int | None) -> None:
        """Prepare for no body, because the base class keeps large ones in a file."""
        super().gotLength(0)

    def handleContentChunk(self, data: bytes) -> None:
        """Do nothing."""

    def process(self) -> None:
        """Forbid browsers to guess the content type, before any resource can answer."""
        self.setHeader(b"X-Content-Type-Options", b"nosniff")
        super().process()


class QuietChannel(HTTPChannel):
    """A connection that refuses lengths which Python can't convert, and logs no error for them."""

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        # The base class would convert any number of digits.
        if header == b"Content-Length" and data.isdigit() and len(data) > _MAX_LENGTH_DIGITS:
            refused: bool = self._failChooseTransferDecoder()
            return refused
        chosen: bool = super()._maybeChooseTransferDecoder(header, data)
        return chosen


class QuietSite(Site):
    """A site without an access log, because its frequent requests would fill the log."""

    noisy = False
    displayTracebacks = False
    protocol = QuietChannel  # type: ignore[assignment]
    requestFactory = QuietRequest

    def log(self, request: Any) -> None:
        """Do nothing."""
