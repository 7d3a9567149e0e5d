"""A tail of a source whose records arrive at another process."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from tests.e2e.processes import TOKEN, Deployment, request


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    """Yield names and data of events as they arrive."""
    name = ""
    for line in answer:
        key, _, value = line.decode().rstrip("\n").partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            yield name, json.loads(value)


def _push_until(stopped: Event, url: str, pushed: list[str]) -> None:
    """Push one record after another, every tenth as a batch of two."""
    while not stopped.is_set():
        first, second = f"r{len(pushed)}", f"r{len(pushed) + 1}"
        body, kind = json.dumps({"id": first}), "application/json"
        if len(pushed) % 10 == 0:
            body, kind = f'{body}\n{{"id": "{second}"}}\n', "application/x-ndjson"
            pushed.append(first)
            first = second
        status, answer = request("POST", url, body.encode(), {"Content-Type": kind})
        assert status == 200, answer
        pushed.append(first)


def test_records_are_seen_as_they_arrive(deployed: Deployment) -> None:
    """Records are shown in order, without the secret of the source, up to the caller's limit."""
    deployed.start("etcd", "sandbox", "storage-writer", "storage-reader", "storage-coordinator")
    deployed.start("api", node_id="api")
    deployed.start("http-source", node_id="source")
    url = deployed.define()
    stopped, pushed = Event(), list[str]()
    with (
        ThreadPoolExecutor(1) as pool,
        closing(http.client.HTTPConnection(urlsplit(deployed.api).netloc, timeout=30)) as client,
    ):
        path = "/v1/branches/default/sources/my-source/tail?limit=60&rate=50"
        client.request("GET", path, headers={"X-StorageApi-Token": TOKEN})
        answer = client.getresponse()
        pushing = pool.submit(_push_until, stopped, url, pushed)
        try:
            events = list(_events(answer))
        finally:
            stopped.set()
        pushing.result()
    assert answer.getheader("Content-Type") == "text/event-stream"
    assert events[0] == ("start", {"source": "my-source"})
    assert events[-1] == ("end", {"reason": "limit", "records": 60})
    seen = [json.loads(data["body"])["id"] for name, data in events if name == "record"]
    places = [pushed.index(id) for id in seen]
    assert places == sorted(set(places))
    assert url.rsplit("/", 1)[-1] not in json.dumps(events)
    assert sorted(deployed.wait_ids(set(pushed))) == sorted(pushed)
