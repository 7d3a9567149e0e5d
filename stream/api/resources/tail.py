"""Live tails over HTTP: the operation, and the listener for samples from source nodes."""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from stream.api.http.call import Answer, Call, Handler, Send, StreamingResponse, json_answer
from stream.api.http.server import put
from stream.api.http.site import ApiRequest, ApiSite
from stream.definition.reads import DefinitionReads
from stream.errors import UserError
from stream.tail.hub import TailHub, Take

__all__ = ["Tails", "sample_site"]


def sample_site(reactor: Any, take: Take) -> ApiSite:
    """Return the listener for samples from source nodes; it passes them to *take*."""
    return ApiSite(_Samples(take), reactor)


class _Samples(Resource):
    """Accepts samples from source nodes; answers which tails have ended."""

    isLeaf = True

    def __init__(self, take: Take) -> None:
        super().__init__()
        self._take = take

    def render_POST(self, request: ApiRequest) -> int:
        answering = Deferred.fromCoroutine(self._answer(request))
        gone = request.notifyFinish()
        gone.addErrback(lambda _: answering.cancel())
        answering.addCallback(partial(_put, request))
        answering.addErrback(lambda failure: failure.trap(CancelledError))
        return NOT_DONE_YET

    async def _answer(self, request: ApiRequest) -> Answer:
        try:
            return json_answer(orjson.dumps(self._take(orjson.loads(await request.body()))))
        except UserError as error:
            return json_answer(b"[]", error.status)
        except (ValueError, TypeError, KeyError, AttributeError):
            return json_answer(b"[]", 400)


def _put(request: ApiRequest, answer: Answer) -> None:
    request.write(put(request, answer))
    request.finish()


class Tails:
    """The operation that streams the records of a source."""

    def __init__(self, *, hub: TailHub, reads: DefinitionReads) -> None:
        self._hub = hub
        self._reads = reads

    def handlers(self) -> dict[str, Handler]:
        """The operations of this resource, by id."""
        return {"TailSource": self._tail}

    async def _tail(self, call: Call) -> StreamingResponse:
        self._hub.check(call.source_key)  # This check is cheap, so it precedes any reads.
        await self._reads.source(call.source_key)
        self._hub.check(call.source_key)

        async def write(send: Send) -> None:
            parameters = call.parameters
            await self._hub.watch(
                call.source_key,
                send,
                rate=parameters["rate"],
                seconds=parameters["duration"],
                limit=parameters["limit"],
            )

        return StreamingResponse(content_type="text/event-stream", write=write)
