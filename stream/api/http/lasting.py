"""Streaming answers end when their token is revoked or expires.

Only tokens made by this service are checked: the Storage API isn't polled.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from stream.api.http.call import Call, Send, StreamingResponse
from stream.authority import ProjectAuthority
from stream.errors import UserError
from stream.etcd import EtcdError

__all__ = ["RECHECK_SECONDS", "while_valid"]

_log = Logger(namespace="stream.api")

RECHECK_SECONDS = 0.4
"""Interval of checking a token; a stream ends within a second after its token is revoked."""


def while_valid(
    reactor: Any, authority: ProjectAuthority, call: Call, answer: StreamingResponse
) -> StreamingResponse:
    """Return *answer*, wrapped so that it ends when the token of *call* is no longer accepted."""
    if authority.tokens is None:
        return answer

    async def write(send: Send) -> None:
        ended_here = False

        async def check() -> None:
            nonlocal ended_here
            try:
                await authority.verify(call.identity.token)
            except Exception as error:
                if isinstance(error, UserError | EtcdError):
                    text = str(error)
                    _log.info(
                        "closing a streaming response: {error}",
                        error=text,
                        request_id=call.request_id,
                    )
                else:
                    _log.failure("cannot verify the token of a streaming response")
                ended_here = True
                writing.cancel()

        writing = Deferred.fromCoroutine(_written(answer, send))
        checking = LoopingCall(lambda: Deferred.fromCoroutine(check()))
        checking.clock = reactor
        checking.start(RECHECK_SECONDS, now=False).addErrback(
            lambda failure: _log.failure("token verification stopped", failure)
        )
        try:
            await writing
        except CancelledError:
            if not ended_here:
                raise
        finally:
            checking.stop()

    return attrs.evolve(answer, write=write)


async def _written(answer: StreamingResponse, send: Send) -> None:
    await answer.write(send)
