"""Rejected records of several nodes: listed, tested against a mapping, replayed despite a crash."""

from __future__ import annotations

from typing import Any

from tests.conftest import free_port
from tests.e2e.processes import ALL, Deployment, wait_for

_SHORT_LEASES = {"STREAM_DISTRIBUTION_TTL_SECONDS": "3"}
_TAKES_A = [{"type": "path", "name": "id", "path": "a", "rawString": True}]
_TAKES_B = [{"type": "path", "name": "id", "path": "b", "rawString": True}]


def _start(deployed: Deployment) -> None:
    """Start one process with all components, and a second source node."""
    deployed.start(*ALL, **_SHORT_LEASES)
    deployed.start(
        "http-source",
        node_id="node-2",
        STREAM_SOURCE_HTTP_LISTEN=f"127.0.0.1:{deployed.ports['second']}",
        STREAM_SOURCE_QUARANTINE_PATH=str(deployed.root / "rejected-2"),
        STREAM_METRICS_LISTEN="127.0.0.1:0",
        **_SHORT_LEASES,
    )


def test_a_replay_survives_a_kill_of_all_processes(
    deployed: Deployment,
) -> None:
    """After the restart the same call stores the missing records, and none again."""
    deployed.ports["second"] = free_port()
    _start(deployed)
    url = deployed.define(_TAKES_A)
    second = url.replace(f":{deployed.ports['source']}/", f":{deployed.ports['second']}/")
    sink = f"{deployed.api}/v1/branches/default/sources/my-source/sinks/my-sink"

    wait_for(lambda: deployed.push(url, {"a": "good"})[0] == 200, "an acknowledged record")
    wait_for(lambda: deployed.push(second, {"b": "first"})[0] == 400, "a record of the second node")
    bad = [f"{number}" for number in range(60)]
    for number in bad:
        assert deployed.push(url if int(number) % 2 else second, {"b": number})[0] == 400
    expected = {"good", "first", *bad}

    status, found = deployed.call("GET", f"{sink}/rejected?limit=1000")
    assert (status, found["total"], found["dropped"]) == (200, 61, 0)
    assert [node["available"] for node in found["nodes"]] == [True, True]
    assert {record["nodeId"] for record in found["records"]} == {"node-1", "node-2"}
    assert [record["id"] for record in found["records"]] == sorted(
        (record["id"] for record in found["records"]), reverse=True
    )

    def counted() -> bool:
        shown = deployed.call("GET", f"{sink}/statistics/total")[1].get("rejected", {})
        return bool(shown.get("count") == 61)

    # A second later: a crash now loses this second's entries, but not the records.
    wait_for(counted, "the count of rejected records")

    _, tested = deployed.call("POST", f"{sink}/rejected/test", {"mapping": {"columns": _TAKES_B}})
    assert (tested["tested"], tested["accepted"]) == (61, 61)
    deployed.task("PATCH", sink, {"table": {"mapping": {"columns": _TAKES_B}}})

    status, _ = deployed.call("POST", f"{sink}/rejected/replay", {})
    assert status == 202
    wait_for(lambda: _files(sink, deployed) > 1, "the file of the replay")
    for running in deployed.running:
        running.kill()
    deployed.running.clear()

    _start(deployed)

    def replayed() -> Any:
        # The lock of the killed task ends with its lease.
        status, answer = deployed.call("POST", f"{sink}/rejected/replay?wait=30s", {})
        return answer if status == 200 else None

    task = wait_for(replayed, "a replay", 90)
    assert task["status"] == "success"
    assert task["outputs"]["rejected"] == 0
    ids = deployed.wait_ids(expected)
    assert sorted(ids) == sorted(expected)

    def erased() -> bool:
        return bool(deployed.call("GET", f"{sink}/rejected")[1]["total"] == 0)

    wait_for(erased, "the end of the rejected records")
    _, statistics = deployed.call("GET", f"{sink}/statistics/total")
    assert statistics["rejected"]["count"] == 61
    assert statistics["rejected"]["lastError"]["column"] == "id"


def _files(sink: str, deployed: Deployment) -> int:
    return len(deployed.call("GET", f"{sink}/statistics/files")[1]["files"])
