"""Access tokens of Google Cloud, from `google-auth`, which the extra ``gcp`` installs. Blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["TokenUnavailable", "google_token"]

_CONNECT_SECONDS, _READ_SECONDS = 3.0, 10.0


class TokenUnavailable(Exception):
    """No token is available. The message contains no secret."""


def google_token(scope: str, key: Mapping[str, Any] | None = None) -> Callable[[], str]:
    """Return a thread-safe function that returns a valid token.

    Raises `TokenUnavailable`; the returned function raises it, too.

    :param scope: OAuth scope of the token.
    :param key: key of a service account; by default the application's default credentials are used.
    """
    try:
        auth = import_module("google.auth")
        transport = import_module("google.auth.transport.urllib3")
        accounts = import_module("google.oauth2.service_account")
    except ImportError:
        raise TokenUnavailable(
            "the library google-auth is not installed; install it on every node with: "
            "pip install 'stream-service[gcp]'"
        ) from None
    # Imported here, because most processes need no token.
    import urllib3

    timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
    request = transport.Request(urllib3.PoolManager(timeout=timeout))
    try:
        if key:
            credentials = accounts.Credentials.from_service_account_info(key, scopes=[scope])
        else:
            credentials, _ = auth.default(scopes=[scope])
    except auth.exceptions.GoogleAuthError as problem:
        raise TokenUnavailable(type(problem).__name__) from None
    except (ValueError, TypeError):
        raise TokenUnavailable("the key of the service account can't be used") from None

    def token() -> str:
        if not credentials.valid:
            try:
                credentials.refresh(request)
            except auth.exceptions.GoogleAuthError as problem:
                raise TokenUnavailable(type(problem).__name__) from None
        return str(credentials.token)

    return token
