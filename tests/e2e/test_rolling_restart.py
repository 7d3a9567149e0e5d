"""All components are restarted one after another, while producers send records."""

from __future__ import annotations

import json
from pathlib import Path

import attrs

from tests.conftest import free_port
from tests.e2e.processes import Deployment, Running, load_of, wait_for


@attrs.frozen
class _Node:
    """A process that is restarted with the same settings."""

    component: str
    name: str
    settings: dict[str, str]

    def start(self, deployed: Deployment) -> Running:
        running = deployed.spawn(self.component, node_id=self.name, **self.settings)
        wait_for(lambda: b'"message":"ready to serve"' in running.log.read_bytes(), self.name)
        return running


def _nodes(deployed: Deployment) -> list[_Node]:
    """Return two nodes of each component, but one API, in the order of the restart."""
    nodes = [_Node("storage-coordinator", f"coordinator-{i}", {}) for i in (1, 2)]
    for i in (1, 2):
        volumes = deployed.root / f"volumes-{i}"
        (volumes / "default" / "one").mkdir(parents=True)
        path = {"STREAM_STORAGE_VOLUMES_PATH": str(volumes)}
        listen = "STREAM_STORAGE_LEVEL_LOCAL_WRITER_NETWORK_LISTEN"
        writer = {**path, listen: f"127.0.0.1:{free_port()}"}
        nodes.append(_Node("storage-writer", f"writer-{i}", writer))
        nodes.append(_Node("storage-reader", f"reader-{i}", path))
    nodes.append(_Node("api", "api", {}))
    shared = {"STREAM_SOURCE_HTTP_SHARE_PORT": "true"}
    nodes += [_Node("http-source", f"source-{i}", shared) for i in (1, 2)]
    return nodes


def test_clients_see_no_error_during_a_rolling_restart(
    deployed: Deployment, tmp_path: Path
) -> None:
    """Producers that never retry get only 200 while every process restarts, and each record is in
    the table once.
    """
    deployed.settings["STREAM_STORAGE_LEVEL_LOCAL_VOLUME_ASSIGNMENT_COUNT"] = "2"
    deployed.start("etcd")
    deployed.start("sandbox")
    nodes = _nodes(deployed)
    running = {node.name: node.start(deployed) for node in nodes}
    url = deployed.define()
    wait_for(lambda: deployed.push(url, {"id": "first"})[0] == 200, "an open slice")
    acknowledged, until = tmp_path / "acknowledged", tmp_path / "until"
    options = ["--pause=0.05", f"--until={until}"]
    with load_of(url, 1_000_000, acknowledged, options=options) as load:
        for node in nodes:
            assert running[node.name].stop() == 0, node
            running[node.name] = node.start(deployed)
        until.touch()
        output, _ = load.communicate(timeout=60)
    result = json.loads(output)
    ids = {*acknowledged.read_text().split(), "first"}
    assert result["statuses"] == {"200": len(ids) - 1}
    assert len(ids) > 1000
    stored = deployed.wait_ids(ids)
    assert len(stored) == len(ids)
