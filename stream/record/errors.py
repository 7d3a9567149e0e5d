"""Errors of bodies that can't be parsed by their content type."""

from __future__ import annotations

from stream.errors import NestedError, UserError
from stream.values.bytesize import ByteSize

__all__ = [
    "BatchTooLarge",
    "BodyTooLarge",
    "InvalidForm",
    "InvalidJson",
    "UnsupportedCharset",
    "UnsupportedEncoding",
    "UnsupportedMediaType",
]


class UnsupportedMediaType(UserError):
    """The body is neither JSON nor a form.

    :cvar verbatim: whether the message is shown unchanged, without a context or a full stop.
    """

    status = 415
    name = "unsupportedMediaType"
    verbatim = True

    def __init__(self, content_type: str) -> None:
        super().__init__(
            f'unsupported content type "{content_type}", supported types: '
            "application/json and application/x-www-form-urlencoded"
        )


class UnsupportedCharset(UserError):
    """The charset that a form declares is unknown.

    :cvar alone: the message is shown without a context.
    """

    status = 415
    name = "unsupportedMediaType"
    alone = True

    def __init__(self, label: str) -> None:
        super().__init__(f'unsupported charset "{label}" of the form, please send UTF-8')


class InvalidForm(UserError):
    """The form is malformed.

    :cvar alone: the message is shown without a context.
    """

    alone = True

    def __init__(self, reason: str, *, status: int | None = None, name: str | None = None) -> None:
        super().__init__(f"invalid form data: {reason}", status=status, name=name)


class InvalidJson(NestedError):
    """The body isn't valid JSON or exceeds a limit."""

    def __init__(self, reason: str, *, status: int | None = None, name: str | None = None) -> None:
        super().__init__("cannot parse request json", [reason], status=status, name=name)
        self.reason = reason


class BodyTooLarge(UserError):
    """The received or decoded body exceeds the limit."""

    status = 413
    name = "bodyTooLarge"

    def __init__(self, limit: int) -> None:
        super().__init__(f'request body size is over the maximum "{ByteSize(limit)}"')


class UnsupportedEncoding(UserError):
    """The ``Content-Encoding`` is unsupported; the response names the supported ones.

    :param encoding: the value that the client sent.
    """

    status = 415
    name = "unsupportedMediaType"
    supported = ("gzip", "zstd")

    def __init__(self, encoding: str) -> None:
        super().__init__(
            f'unsupported content encoding "{encoding}", '
            f"supported encodings: {' and '.join(self.supported)}"
        )


class BatchTooLarge(UserError):
    """The request has more records or more rows than allowed."""

    status = 413
    name = "batchTooLarge"
