"""The one way to say that a connection can't be used: details in the log, a plain reason for users.

Users of a project see the errors of its files and connections. Hosts, users, paths and credentials
are the operator's, so they are in the log of the node alone, and there without secrets.
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
    """Return what *reason* means, without what it names, and whether a right is missing.

    :param what: fails: ``the store``.
    """
    if _FULL.search(reason):
        return f"{what} has no space left", False
    if _FORBIDDEN.search(reason):
        return f"{what} refuses the credentials, or they lack a right", True
    return f"{what} does not answer, or refuses the credentials", False


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

    :param shown: for users; names neither host nor user.
    :param reason: for the log.
    :param detail: what an operator has to do.
    :param known: secrets that *reason* may repeat.
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
