"""Retried requests with an idempotency key, to real processes that are killed meanwhile."""

from __future__ import annotations

import signal

from tests.conftest import free_port
from tests.e2e.processes import Deployment, Running, request, wait_for

_KEYED = {"Content-Type": "application/x-ndjson", "Idempotency-Key": "one"}
_BODY = b'{"id": "a"}\n{"id": "b"}\n'


class _Sources:
    """Two source nodes that share a writer."""

    def __init__(self, deployed: Deployment) -> None:
        self.deployed = deployed
        self.ports = [free_port(), free_port()]
        self.running = [self.start(number) for number in range(2)]

    def start(self, number: int) -> Running:
        return self.deployed.start(
            "http-source",
            node_id=f"source-{number}",
            STREAM_SOURCE_HTTP_LISTEN=f"127.0.0.1:{self.ports[number]}",
            STREAM_METRICS_LISTEN=f"127.0.0.1:{free_port()}",
        )

    def push(self, number: int, path: str, body: bytes = _BODY) -> int:
        url = f"http://127.0.0.1:{self.ports[number]}{path}"
        return request("POST", url, body, _KEYED)[0]


def test_a_retry_is_stored_once_despite_kills(deployed: Deployment) -> None:
    """A retry is recognised by another source node, and after a kill of the source node or the
    writer.
    """
    deployed.start("etcd", "sandbox", "api", "storage-coordinator", node_id="all")
    writer = deployed.start("storage-writer", node_id="writer")
    deployed.start("storage-reader", node_id="reader")
    sources = _Sources(deployed)
    url = deployed.define()
    path = "/" + url.split("/", 3)[3]
    wait_for(lambda: sources.push(0, path) == 200, "an answer")
    written = deployed.written
    assert written > 0
    assert sources.push(1, path) == 200
    sources.running[0].process.send_signal(signal.SIGKILL)
    sources.running[0].process.wait(10)
    sources.start(0)
    wait_for(lambda: sources.push(0, path) == 200, "an answer of the next life")
    writer.process.send_signal(signal.SIGKILL)
    writer.process.wait(10)
    deployed.start("storage-writer", node_id="writer")
    sources.running[1].process.send_signal(signal.SIGKILL)
    sources.running[1].process.wait(10)
    sources.start(1)
    wait_for(lambda: sources.push(1, path) == 200, "an answer after the writer has started")
    assert sources.push(1, path, b'{"id": "c"}\n') == 422
    deployed.wait_ids({"a", "b"})
    assert sorted(deployed.ids()) == ["a", "b"]


def test_slices_with_marks_can_be_imported(deployed: Deployment) -> None:
    """Rows of many requests with keys, in groups of several, are in the table once."""
    deployed.start("etcd", "sandbox", "api", "storage-coordinator", node_id="all")
    deployed.start("storage-writer", "storage-reader", node_id="writer")
    sources = _Sources(deployed)
    path = "/" + deployed.define().split("/", 3)[3]
    wait_for(lambda: sources.push(0, path) == 200, "an answer")
    for number in range(20):
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"key-{number}"}
        for source in (0, 1, 0):
            url = f"http://127.0.0.1:{sources.ports[source]}{path}"
            body = b'{"id": "%d"}' % number
            assert request("POST", url, body, headers)[0] == 200
    expected = {"a", "b", *map(str, range(20))}
    deployed.wait_ids(expected)
    assert sorted(deployed.ids()) == sorted(expected)
