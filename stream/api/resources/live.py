"""The live stream of a branch: counters, files and slices."""

from __future__ import annotations

from stream.api.http.auth import check_right
from stream.api.http.call import Call, Handler, Identity, Send, StreamingResponse
from stream.api.live.counters import Known
from stream.api.live.hub import LiveHub
from stream.authority import ProjectAuthority
from stream.definition.key import BranchKey
from stream.definition.live import LiveDefinitions
from stream.definition.repository import MAX_SINKS, MAX_SOURCES
from stream.values.number import whole_number

__all__ = ["Live", "known_ids"]

_UNKNOWN_ID = -1


def known_ids(live: LiveDefinitions, branch: BranchKey) -> Known | None:
    """Return the ids of all sources and sinks of *branch*; ``None`` if they are uncertain."""
    sources = live.sources_page(branch, "", MAX_SOURCES)
    if sources is None:
        return None
    found: dict[str, list[str]] = {}
    for source in sources.items:
        key = source.value.key
        sinks = live.sinks_page(key, "", MAX_SINKS)
        found[key.source_id] = [sink.value.key.sink_id for sink in sinks.items] if sinks else []
    return found


class Live:
    """The operation that streams the changes in a branch."""

    def __init__(self, *, hub: LiveHub, authority: ProjectAuthority) -> None:
        self._hub = hub
        self._authority = authority

    def handlers(self) -> dict[str, Handler]:
        """The operations of this resource, by id."""
        return {"LiveBranch": self._live}

    async def _live(self, call: Call) -> StreamingResponse:
        await self._hub.prepare(call.branch)
        token, last_id = call.identity.token, None
        if call.last_event_id:
            given = whole_number(call.last_event_id)
            last_id = _UNKNOWN_ID if given is None else given

        async def verify() -> None:
            check_right(Identity(token, await self._authority.verify(token)), "read")

        async def write(send: Send) -> None:
            await self._hub.follow(call.branch, send, last_id=last_id, verify=verify)

        return StreamingResponse(content_type="text/event-stream", write=write)
