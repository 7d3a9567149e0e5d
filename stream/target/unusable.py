"""Reports that a connection can't be used: details in the log, a simple reason for users.

Users of a project see the errors of its files and connections. Hosts, user names and paths are only
for the operator, so they appear only in the node's log. Secrets appear nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from twisted.logger import Logger

from stream.errors import UserError
from stream.values.redaction import hide_secrets

__all__ = ["refuses", "unusable"]

_FULL = re.compile(r"(?i)no space left|disk quota|quota exceeded|InsufficientStorage|\b507\b")
_FORBIDDEN = re.compile(
    r"(?i)permission|denied|forbidden|unauthori[sz]ed|read-?only (?:file system|database)"
    r"|InvalidAccessKeyId|SignatureDoesNotMatch|invalid_client|\b40[13]\b"
)


def refuses(reason: str, what: str) -> tuple[str, bool]:
    """Return the meaning of *reason* without the names in it, and whether a right is missing.

    :param what: subject of the sentence, such as ``the store``.
    """
    if _FULL.search(reason):
        return f"{what} has no space left", False
    if _FORBIDDEN.search(reason):
        return f"{what} rejects the credentials, or they lack a permission", True
    return f"{what} does not answer, or rejects the credentials", False


def unusable(
    log: Logger,
    connection: str,
    shown: str,
    reason: str,
    *,
    is_forbidden: bool = False,
    detail: str,
    known: Iterable[str] = (),
) -> UserError:
    """Log why the *connection* can't be used, and return the error for its users.

    :param shown: reason for users; contains neither host nor user.
    :param reason: reason for the log.
    :param detail: what an operator has to do.
    :param known: secrets that *reason* may contain.
    """
    log.warn(
        'the connection "{connection}" can\'t be used: {reason}',
        connection=connection,
        reason=hide_secrets(" ".join(reason.split()), known),
    )
    return UserError(
        f'the connection "{connection}" can\'t be used: {shown}',
        status=400 if is_forbidden else 503,
        name="connectionForbidden" if is_forbidden else "connectionFailed",
        detail=detail,
    )
