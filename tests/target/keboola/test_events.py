"""Events are sent concurrently, and failures have no effect."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from stream.errors import UserError
from stream.storage.model.statistics import Statistics
from stream.target.keboola import Event
from stream.target.keboola.events import EventSender
from stream.values.bytesize import ByteSize
from stream.values.token import Token
from tests.storage.histories.world import SINK_KEY
from tests.storage.samples import OPENED_AT
from tests.target.keboola.fakes import MASTER, FakeStorageApi, refused

COUNTED = Statistics(
    slices_count=2,
    first_record_at=OPENED_AT,
    last_record_at=OPENED_AT + timedelta(seconds=1),
    records_count=10,
    uncompressed_size=ByteSize(1000),
    compressed_size=ByteSize(100),
    staging_size=ByteSize(100),
)


def _send(api: FakeStorageApi, clock: Clock, **options: Any) -> None:
    EventSender(api, 30.0, clock).send(
        Token(MASTER),
        "fileImport",
        "File import",
        SINK_KEY,
        **{"seconds": 3.9, "error": None, **options},
    )


def _body(api: FakeStorageApi) -> dict[str, Any]:
    (event,) = api.events
    return event.to_json()


def test_the_event_of_a_success() -> None:
    """An event has the operation, its object, its duration and the amounts."""
    api = FakeStorageApi()
    _send(api, Clock(), statistics=COUNTED)
    body = _body(api)
    assert body["component"] == "keboola.stream.fileImport"
    assert body["message"] == "File import done."
    assert (body["type"], body["duration"], body["runId"]) == ("info", 3, "")
    assert orjson.loads(body["params"]) == {
        "branchId": 456,
        "projectId": 123,
        "sinkId": "my-sink",
        "sourceId": "my-source",
        "streamId": "123/456/my-source",
    }
    assert orjson.loads(body["results"]) == {
        "statistics": {
            "firstRecordAt": "2000-01-01T01:00:00.000Z",
            "lastRecordAt": "2000-01-01T01:00:01.000Z",
            "recordsCount": 10,
            "slicesCount": 2,
            "uncompressedSize": 1000,
            "compressedSize": 100,
            "stagingSize": 100,
        }
    }


@pytest.mark.parametrize("statistics", [None, Statistics(slices_count=1)])
def test_an_event_without_records(statistics: Statistics | None) -> None:
    """An event without records has no results."""
    api = FakeStorageApi()
    _send(api, Clock(), statistics=statistics)
    assert _body(api)["results"] == "null"


def test_the_event_of_a_failure() -> None:
    """A failure has its reason and no amounts."""
    api = FakeStorageApi()
    _send(api, Clock(), error=UserError("no way"), statistics=COUNTED)
    body = _body(api)
    assert (body["message"], body["type"]) == ("File import failed.", "error")
    assert orjson.loads(body["results"]) == {"error": "no way"}


def test_a_refused_event_is_only_logged() -> None:
    """The caller isn't affected."""
    api = FakeStorageApi()
    api.failures["send_event"] = [refused(500)]
    _send(api, Clock())
    assert api.events == []


def test_an_event_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """An API that doesn't respond blocks nothing forever."""
    given_up: list[object] = []

    async def hang(self: FakeStorageApi, token: Token | str, event: Event) -> str:
        answer: Deferred[str] = Deferred(given_up.append)
        return await answer

    monkeypatch.setattr(FakeStorageApi, "send_event", hang)
    clock = Clock()
    _send(FakeStorageApi(), clock)
    clock.advance(29)
    assert given_up == []
    clock.advance(1)
    assert len(given_up) == 1
