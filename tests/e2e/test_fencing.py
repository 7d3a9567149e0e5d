"""Two real processes with one name: one of them is replaced or refused."""

from __future__ import annotations

import base64
import json
import signal
from pathlib import Path

from benchmarks.fencing import run
from tests.conftest import free_port
from tests.e2e.processes import Deployment, request, wait_for


def test_acknowledged_records_survive_a_replaced_source(tmp_path: Path) -> None:
    """The source is paused for longer than its lease, and resumes concurrently with its
    successor.
    """
    report = run(tmp_path, rounds=2, seed=7)
    assert report.is_good, str(report)
    assert report.acknowledged > 30
    assert report.rows >= report.acknowledged


def test_a_second_source_with_the_same_name_does_not_start(deployed: Deployment) -> None:
    """The second source reports the holder of the name, and the first one continues."""
    deployed.settings["STREAM_DISTRIBUTION_TTL_SECONDS"] = "2"
    first = deployed.start("etcd", "sandbox", "api", "http-source", "storage-writer")
    url = deployed.define()
    code, output = deployed.refused(
        "http-source",
        STREAM_SOURCE_HTTP_LISTEN=f"127.0.0.1:{free_port()}",
        STREAM_METRICS_LISTEN=f"127.0.0.1:{free_port()}",
    )
    assert code == 1
    assert f'The name "node-1" of the source node is held by process {first.process.pid}' in output
    assert "STREAM_NODE_ID" in output
    assert deployed.push(url, {"id": "a"})[0] == 200


def test_a_source_recovers_from_an_ended_lease(deployed: Deployment) -> None:
    """The source was paused, and no process has taken its name meanwhile."""
    deployed.settings["STREAM_DISTRIBUTION_TTL_SECONDS"] = "2"
    deployed.start("etcd", "sandbox", "api", "storage-writer", node_id="others")
    source = deployed.start("http-source", node_id="source")
    url = deployed.define()
    wait_for(lambda: deployed.push(url, {"id": "a"})[0] == 200, "an answer")
    source.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: _ended(deployed), "the end of the lease", 30)
    source.process.send_signal(signal.SIGCONT)
    wait_for(lambda: deployed.push(url, {"id": "b"})[0] == 200, "another answer")
    assert source.process.poll() is None
    assert b"the lease has ended" in source.log.read_bytes()


def _ended(deployed: Deployment) -> bool:
    """Return whether etcd no longer holds a name of a source node."""
    start = b"e2e/runtime/life/source/node/"
    end = start[:-1] + b"0"
    body = {
        "key": base64.b64encode(start).decode(),
        "range_end": base64.b64encode(end).decode(),
        "count_only": True,
    }
    url = f"http://127.0.0.1:{deployed.ports['etcd']}/v3/kv/range"
    _, answer = request("POST", url, json.dumps(body).encode(), {})
    return int(json.loads(answer).get("count", 0)) == 0
