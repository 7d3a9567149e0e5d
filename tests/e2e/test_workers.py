"""Several processes that share an address for records."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.e2e.processes import ALL, Deployment, Running, load_of, wait_for

_TWO = {
    "STREAM_SOURCE_HTTP_WORKERS": "2",
    # Ports after a free one may be used by outgoing connections.
    "STREAM_METRICS_LISTEN": "127.0.0.1:0",
}


def _workers(running: Running) -> set[int]:
    """Return the ids of the worker processes below a running one."""
    below = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
    found = set()
    for pid in below.read_text().split():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue  # the process has ended meanwhile
        if b"--worker" in command.split(b"\0"):
            found.add(int(pid))
    return found


def _ready(running: Running) -> int:
    return running.log.read_bytes().count(b" is ready")


def test_workers_share_the_address(deployed: Deployment, tmp_path: Path) -> None:
    """A killed worker loses no acknowledged record and is restarted; a stop drains all of them."""
    running = deployed.start(*ALL, **_TWO)
    url = deployed.define()
    workers = _workers(running)
    assert len(workers) == 2

    first = tmp_path / "first"
    with load_of(url, 4000, first, "a") as load:
        wait_for(lambda: len(list(deployed.root.glob("volumes/**/slice-*-w*"))) >= 2, "two files")
        os.kill(min(workers), signal.SIGKILL)
        output, _ = load.communicate(timeout=120)
    assert json.loads(output)["statuses"]["200"] == len(first.read_text().split()) > 500
    wait_for(lambda: len(_workers(running)) == 2 and _ready(running) >= 3, "the worker's return")

    second = tmp_path / "second"
    before = deployed.written
    with load_of(url, 6000, second, "b") as load:
        wait_for(lambda: deployed.written > before + 20_000, "more rows on disk")
        last = _workers(running)
        assert running.stop() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in last)

        deployed.start(*ALL)
        load.communicate(timeout=120)
    acknowledged = {*first.read_text().split(), *second.read_text().split()}
    stored = deployed.wait_ids(acknowledged)
    assert len(stored) == len(set(stored)), "a record was stored twice"


def test_workers_that_can_not_start(deployed: Deployment) -> None:
    """A port in use is an error of the parent, and no child process remains."""
    deployed.start("etcd")
    taken = deployed.start("http-source", node_id="other")
    code, output = deployed.refused("http-source", **_TWO)
    assert code == 1
    assert "Address already in use" in output
    assert "did not start" in output
    assert taken.process.poll() is None


def test_workers_end_with_their_parent(deployed: Deployment) -> None:
    """The workers drain and end, however the parent ends."""
    deployed.start("etcd")
    running = deployed.start("http-source", **_TWO)
    workers = _workers(running)
    running.kill()
    wait_for(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the end of the workers"
    )


def test_stop_before_workers_are_ready(deployed: Deployment) -> None:
    """The process ends after its workers, even if it is stopped at the start."""
    deployed.start("etcd")
    running = deployed.spawn("http-source", node_id="other", **_TWO)
    wait_for(lambda: len(_workers(running)) == 2, "the start of the workers")
    workers = _workers(running)
    running.stop()
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
