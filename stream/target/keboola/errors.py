"""The errors of Storage API calls, for callers, users and the log."""

from __future__ import annotations

from http import HTTPStatus

from stream.errors import UserError, camel_case

__all__ = [
    "UNREACHABLE",
    "JobDeadlineExceeded",
    "JobFailed",
    "StorageApiError",
    "is_about_rows",
    "name_of_status",
]

UNREACHABLE = "storageApiUnreachable"
"""The name of the error if there was no answer."""


def name_of_status(status: int) -> str:
    """Return the error name of an HTTP *status* without a machine code: ``gatewayTimeout``."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        return "storageApiError"
    words = phrase.replace("'", "").replace("-", " ").title()
    return camel_case(words[0].lower() + words[1:])


class StorageApiError(UserError):
    """The Storage API refused a call, returned an unexpected answer, or is unavailable.

    ``message`` is the API's own text and ``name`` its machine code; ``str()`` adds details that
    identify the call. None of them contains the token.

    :param method: the HTTP method of the call.
    :param url: the complete URL; it contains no secret.
    :param status: the HTTP status of the answer; 502 or 504 if there was no usable answer.
    :param code: the API's machine code, ``""`` if it returned none.
    :param answered: whether the API answered at all.
    :param retried: whether the call was retried.
    :param maybe_applied: whether the call may have taken effect although it failed.
    :param request_id: the API's ID of the request, ``""`` if it returned none.
    """

    def __init__(
        self,
        message: str,
        *,
        method: str,
        url: str,
        status: int,
        code: str = "",
        name: str | None = None,
        exception_id: str | None = None,
        answered: bool = True,
        retried: bool = False,
        maybe_applied: bool = False,
        request_id: str = "",
    ) -> None:
        super().__init__(
            message,
            status=status,
            name=code or name or name_of_status(status),
            exception_id=exception_id,
        )
        self.method = method
        self.url = url
        self.code = code
        self.answered = answered
        self.unreachable = "" if answered else "the Storage API"
        self.retried = retried
        self.maybe_applied = maybe_applied
        self.request_id = request_id

    def __str__(self) -> str:
        parts = [f'{self.message}, method: "{self.method}", url: "{self.url}"']
        if self.answered:
            parts.append(f'httpCode: "{self.status}"')
        if self.code:
            parts.append(f'errCode: "{self.code}"')
        if self.exception_id:
            parts.append(f'exceptionId: "{self.exception_id}"')
        if self.request_id:
            parts.append(f'requestId: "{self.request_id}"')
        return ", ".join(parts)

    @property
    def error_type(self) -> str:
        """The kind of the failure in metrics; see `stream.ops.metrics.error_type`."""
        if self.answered:
            return f"storage_api_{self.status}"
        return "net" if self.name == UNREACHABLE else self.name

    def during(self, context: str) -> StorageApiError:
        """Return the same error with *context* before its message."""
        return self._with(f"{context}: {self.message}")

    def as_bad_gateway(self) -> StorageApiError:
        """Return this failure as a bad gateway error, for a call on behalf of another caller."""
        return self._with(self.message, 502)

    def _with(self, message: str, status: int = 0) -> StorageApiError:
        return StorageApiError(
            message,
            method=self.method,
            url=self.url,
            status=status or self.status,
            code=self.code,
            name=self.name,
            exception_id=self.exception_id,
            answered=self.answered,
            retried=self.retried,
            maybe_applied=self.maybe_applied,
            request_id=self.request_id,
        )

    def code_ends_with(self, ending: str) -> bool:
        """Return whether the machine code ends with *ending*, ignoring case."""
        return self.code.lower().endswith(ending.lower())

    @property
    def is_not_found(self) -> bool:
        """Return whether the API answered that the object does not exist."""
        return self.answered and self.status == 404


_ABOUT_DATA = ("csvimport.", "tableimport.")
_NOT_ABOUT_ROWS = (
    "columnsnotmatch",
    "filenotfound",
    "tablenotfound",
    "tablenotexists",
    "invalidcolumnnames",
    "duplicatecolumnnames",
    "nocolumns",
    "unknownerror",
)


def is_about_rows(code: str) -> bool:
    """Return whether *code* means that an import was refused because of its rows.

    If so, a retry doesn't help, and other rows of the file may be accepted. All other codes are
    treated as failures that aren't caused by rows, such as a missing table, a missing permission or
    an error of the target.
    """
    text = code.lower().removeprefix("storage.")
    return text.startswith(_ABOUT_DATA) and not text.endswith(_NOT_ABOUT_ROWS)


class JobFailed(UserError):
    """A storage job ended with an error.

    :param job_id: ID of the job.
    :param reason: the job's error message.
    :param code: the job's machine code, ``""`` if it has none.
    """

    def __init__(
        self, job_id: int, reason: str, *, code: str = "", exception_id: str | None = None
    ) -> None:
        suffix = f" (exception id: {exception_id})" if exception_id else ""
        super().__init__(
            f'job "{job_id}" failed: {reason}{suffix}',
            name=code or "storageJobFailed",
            exception_id=exception_id,
        )
        self.job_id = job_id
        self.reason = reason
        self.code = code

    @property
    def is_about_rows(self) -> bool:
        """Whether the import was refused because of its rows; see the function `is_about_rows`."""
        return is_about_rows(self.code)


class JobDeadlineExceeded(UserError):
    """A storage job was still running at the deadline; it may still succeed.

    :param job_id: ID of the job, so that waiting can be resumed.
    :param status: the last known status.
    """

    error_type = "deadline_exceeded"

    def __init__(self, job_id: int, status: str) -> None:
        super().__init__(
            f'job "{job_id}" is still {status}: deadline exceeded',
            status=504,
            name="storageJobDeadlineExceeded",
        )
        self.job_id = job_id
        self.job_status = status
