"""The API while etcd or the Storage API is unavailable, and afterwards."""

from __future__ import annotations

import time
from typing import Any

from tests.e2e.processes import Deployment, Running, wait_for

_ANSWER_SECONDS = 15.0
"""Less than the time limit of a request: an outage is reported before the limit."""
_SINK = {
    "type": "table",
    "name": "Second",
    "table": {
        "type": "keboola",
        "tableId": "in.c-demo.second",
        "mapping": {"columns": [{"type": "body", "name": "body"}]},
    },
}


def _start(deployed: Deployment, victim: str) -> Running:
    """Start the component to kill in its own process, and everything else that the API needs."""
    running = deployed.start(victim, node_id=victim)
    others = [name for name in ("etcd", "sandbox", "storage-writer", "api") if name != victim]
    deployed.start(*others, node_id="others")
    return running


def _call(deployed: Deployment, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Send a request, which must be answered quickly with any status."""
    started = time.monotonic()
    answer = deployed.call(method, f"{deployed.api}/v1/branches/default{path}", body)
    assert time.monotonic() - started < _ANSWER_SECONDS
    return answer


def _is_outage(answer: tuple[int, Any], what: str) -> bool:
    status, body = answer
    if status != 503:
        return False
    assert body["statusCode"] == 503
    assert body["error"] == "stream.api.serviceUnavailable"
    assert what in body["message"]
    return True


def test_an_outage_of_etcd(deployed: Deployment) -> None:
    """Changes get 503 while etcd is unavailable, and work again afterwards."""
    running = _start(deployed, "etcd")
    deployed.define()
    source = {"type": "http", "name": "Second"}
    running.kill()
    for method, path, body in (
        ("POST", "/sources", source),
        ("GET", "/sources/deleted", None),
        ("PATCH", "/sources/my-source/sinks/my-sink", {"name": "Other"}),
        ("GET", "/sources/my-source/versions", None),
    ):
        answer = _call(deployed, method, path, body)
        assert _is_outage(answer, "database"), (method, path, answer)
    assert deployed.call("GET", f"{deployed.api}/health-check") == (200, "OK")
    deployed.start("etcd", node_id="etcd")
    wait_for(
        lambda: _call(deployed, "GET", "/sources/deleted")[0] == 200, "an answer after the outage"
    )
    wait_for(
        lambda: _call(deployed, "POST", "/sources", source)[0] in (202, 409),
        "a task after the outage",
    )
    sinks = f"{deployed.api}/v1/branches/default/sources/my-source/sinks/my-sink"
    deployed.task("PATCH", sinks, {"name": "Other"})
    assert _call(deployed, "GET", "/sources/my-source/sinks/my-sink")[1]["name"] == "Other"


def test_an_outage_of_the_storage_api(deployed: Deployment) -> None:
    """A request whose token must be verified gets 503, and a task that needs a table fails."""
    running = _start(deployed, "sandbox")
    deployed.define()
    sinks = f"{deployed.api}/v1/branches/default/sources/my-source/sinks"
    running.kill()
    assert _is_outage(deployed.call("GET", sinks, token="not-known-yet"), "Storage API")
    status, task = deployed.call("POST", sinks, _SINK)
    assert status == 202, "a token that was verified a moment ago is still valid"
    ended = wait_for(lambda: _ended(deployed, task["url"]), "the end of the task")
    assert ended["status"] == "error"
    assert "Storage API can't be reached" in ended["error"]
    deployed.start("sandbox", node_id="sandbox")
    assert deployed.call("GET", sinks, token="not-known-yet")[0] == 401
    deployed.task("POST", sinks, _SINK)
    assert [sink["sinkId"] for sink in deployed.call("GET", sinks)[1]["sinks"]] == [
        "my-sink",
        "second",
    ]


def _ended(deployed: Deployment, url: str) -> Any:
    task = deployed.call("GET", url)[1]
    return task if task["isFinished"] else None
