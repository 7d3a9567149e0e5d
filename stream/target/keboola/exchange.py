"""Exchanges programmatic tokens for Storage API tokens of the project that the program names.

A program authenticates to the platform, not to a project. Stream, which authenticates with the
token of its own service account, gets a short-lived token of the project from the platform. It then
uses this token as if the caller had sent it.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from stream.authority import ProjectToken
from stream.authority.remembered import CACHE_ENTRIES, RememberedAnswers
from stream.errors import UserError
from stream.ops.clock import wall_clock
from stream.target.keboola.client import StorageApi
from stream.target.keboola.errors import StorageApiError
from stream.target.keboola.program import ProgramToken
from stream.target.keboola.verifier import CACHE_SECONDS
from stream.values.utctime import from_timestamp

__all__ = ["TokenExchange"]

_log = Logger()

_MARGIN = timedelta(minutes=6)
"""Minimum remaining lifetime of a token for use by another request: a task may take five minutes.
"""
_MAX_FILE_BYTES = 64 * 1024
_PASSED_ON = frozenset({400, 401, 403})


class TokenExchange:
    """Exchanges programmatic tokens; see `RememberedAnswers`.

    :param reactor: provides the time.
    :param api: client that makes the exchange.
    :param path: path of the file with the service account's token. The file is read for each
        exchange, since the platform replaces the token.
    """

    def __init__(
        self,
        reactor: Any,
        api: StorageApi,
        path: str,
        *,
        entries: int = CACHE_ENTRIES,
    ) -> None:
        self._reactor = reactor
        self._wall_clock = wall_clock(reactor)
        self._api = api
        self._path = Path(path)
        self._answers: RememberedAnswers[ProjectToken] = RememberedAnswers(
            reactor, seconds=self._life, entries=entries
        )

    async def exchange(self, token: str, project_id: int) -> ProjectToken:
        """Exchange a program's *token* for a token of the project.

        Raises StorageApiError: 400, 401 or 403 if the platform has answered so, otherwise 502.
        Raises UserError: 401 if the text can't be a token, 500 if the service account has no token,
        503 if too many unknown tokens are being exchanged.
        """
        subject = ProgramToken(token)
        key = hashlib.sha256(b"%d/%b" % (project_id, subject.fingerprint())).digest()
        return await self._answers.get(key, lambda: self._ask(subject, project_id))

    def _life(self, token: ProjectToken) -> float:
        """Return the seconds for which *token* may be used for other requests."""
        if token.expires_at is None:
            return CACHE_SECONDS
        left = token.expires_at - self._now() - _MARGIN
        return max(0.0, min(CACHE_SECONDS, left.total_seconds()))

    def _now(self) -> datetime:
        return from_timestamp(self._wall_clock())

    async def _ask(self, subject: ProgramToken, project_id: int) -> ProjectToken:
        account = await self._service_account()
        try:
            token = await self._api.resolve_program_token(subject.on_behalf_of(account), project_id)
        except StorageApiError as error:
            if error.answered and error.status in _PASSED_ON:
                raise
            raise error.as_bad_gateway() from None
        if token.info.project_id != project_id:
            raise UserError(
                "the exchange has returned a token for a different project",
                status=502,
                name="programmaticTokenExchangeFailed",
            )
        return token

    async def _service_account(self) -> str:
        try:
            text: str = await deferToThreadPool(
                self._reactor, self._reactor.getThreadPool(), self._read
            )
        except (OSError, ValueError) as error:
            _log.error(
                "cannot read the token of the service account in {path}: {error}",
                path=str(self._path),
                error=type(error).__name__,
            )
            raise UserError(
                "the token of the service account can't be read",
                status=500,
                name="serviceAccountTokenUnreadable",
            ) from None
        return text

    def _read(self) -> str:
        """Read the service account's token; blocks.

        Raises OSError: the file can't be read. Raises ValueError: it contains no token.
        """
        with self._path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES).decode("ascii").strip()
        if not text or not text.isprintable():
            raise ValueError("the file has no token")
        return text
