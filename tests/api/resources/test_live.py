"""The live stream of a branch over HTTP."""

from __future__ import annotations

from typing import Any

import pytest_twisted
import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.web.client import Agent
from twisted.web.http_headers import Headers

from tests.api.conftest import BRANCH, SINK, SOURCE, TOKEN, Api
from tests.api.resources.test_statistics import count, open_file
from tests.waiting import until

ensure = pytest_twisted.ensureDeferred
LIVE = f"/v1/branches/{BRANCH}/live"


class Reader:
    """Collects the events that a caller receives."""

    def __init__(self, api: Api, **headers: str) -> None:
        self.text = ""
        self.response: Any = None
        sent = Headers({"X-StorageApi-Token": [TOKEN], **{k: [v] for k, v in headers.items()}})
        self.done = Deferred.fromCoroutine(self._read(f"{api.url}{LIVE}", sent))

    async def _read(self, url: str, headers: Headers) -> None:
        agent = Agent(reactor)
        self.response = await treq.get(url, headers=headers, agent=agent, unbuffered=True)
        await treq.collect(self.response, self._add)

    def _add(self, data: bytes) -> None:
        self.text += data.decode()

    async def hang_up(self) -> None:
        self.done.addErrback(lambda _: None)
        self.response.original._transport.loseConnection()
        await self.done


@ensure
async def test_a_sink_is_created_and_filled(api: Api) -> None:
    """The stream shows the counters and the file of a new sink as they change."""
    await api.create_source()
    reader = Reader(api)
    await until(lambda: '"full":true' in reader.text)
    content_type = reader.response.headers.getRawHeaders("Content-Type")
    assert content_type == ["text/event-stream"]
    assert '"sourceId":"my-source","sinks":[]' in reader.text
    await api.create_sink()
    await until(lambda: '"sinkId":"my-sink","records":0' in reader.text)
    await until(lambda: "event: file\n" in reader.text and "event: slice\n" in reader.text)
    file = await open_file(api)
    await count(api.etcd, "local", file.key.file_opened_at, 7)
    await until(lambda: '"sinkId":"my-sink","records":7' in reader.text)
    await api.run("PUT", f"{SINK}/disable")
    await until(lambda: '"state":"closing","previousState":"writing"' in reader.text)
    await api.run("DELETE", SOURCE)
    await until(lambda: '"full":true,"sources":[]' in reader.text)
    await reader.hang_up()


@ensure
async def test_reconnecting(api: Api) -> None:
    """An unknown event id is answered with a reset."""
    for header in ("12x", "5"):
        reader = Reader(api, **{"Last-Event-ID": header})
        await until(lambda reader=reader: '"full":true' in reader.text)
        assert reader.text.startswith("event: reset\n")
        await reader.hang_up()


@ensure
async def test_refused_callers(api: Api) -> None:
    """An unknown branch or token is refused."""
    assert (await api.call("GET", LIVE, token="123-456-unknown")).status == 401
    assert (await api.call("GET", "/v1/branches/999/live")).status == 404
