"""Start, readiness and stop of the process with all components."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from tests.e2e.processes import ALL, Deployment, Running, request


def _messages(log: Path) -> list[str]:
    lines = log.read_text().splitlines()
    return [json.loads(line)["message"] for line in lines if line.startswith("{")]


def _in_order(messages: list[str], *wanted: str) -> None:
    places = [next(i for i, m in enumerate(messages) if m.startswith(start)) for start in wanted]
    assert places == sorted(places), list(zip(wanted, places, strict=True))


def _is_json(log: Path) -> None:
    """Check that each line of the log is an object with time, level and message."""
    text = log.read_text().splitlines()
    lines = [json.loads(line) for line in text if line.startswith("{")]
    assert all(list(line)[:3] == ["time", "level", "message"] for line in lines)
    assert {line["level"] for line in lines} <= {"info", "warn"}


def _healthy(deployed: Deployment, running: Running) -> None:
    assert request("GET", f"http://{running.health}/ready", None, {})[0] == 200
    for address in (running.health, f"127.0.0.1:{deployed.ports['source']}"):
        assert request("GET", f"http://{address}/health-check", None, {})[0] == 200


def test_components_start_and_stop_in_order(deployed: Deployment) -> None:
    """Dependencies start first and stop last.

    A second signal changes nothing, and an idle process stops at once.
    """
    running = deployed.start(*ALL)
    _healthy(deployed, running)
    started = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(20) == 0
    assert time.monotonic() - started < 10
    assert running.log.read_bytes().startswith(b"{")  # no output of the runner
    messages = _messages(running.log)
    assert not [message for message in messages if "factory" in message]
    _in_order(
        messages,
        "enabled components: api,etcd,http-source,sandbox,storage-coordinator,",
        'starting HTTP server on "',
        'started HTTP server on "',
        "creating etcd session",
        "created etcd session",
        "searching for volumes in volumes path",
        "found volume",
        "opening volume",
        "opened volume",
        "found 1 volumes",
        "starting storage writer node",
        "disk writer listening on",
        "loading Storage API index without components",
        "starting storage coordinator node",
        "joining distribution group",
        'found a new node "node-1"',
        "starting storage reader node",
        'node ID "node-1"',
        "ready",
        "mounted HTTP endpoints",
        "starting HTTP source node",
        "started HTTP source on",
        "ready to serve",
        "exiting (",
        "shutting down HTTP source at",
        "HTTP source shutdown done",
        'shutting down HTTP server at "',
        "HTTP server shutdown finished",
        "stopping volumes registration",
        "stopped volumes registration",
        "closing volumes",
        "closed volumes",
        "exited",
    )
    assert messages.index("connecting to etcd") < messages.index("creating etcd session")
    assert any(message.startswith('connected to etcd cluster "') for message in messages)
    assert messages.count("closing etcd connection") == messages.count("closed etcd connection")
    assert messages.count("exiting (terminated)") + messages.count("exiting (interrupt)") == 1
    stopping = messages[messages.index("HTTP source shutdown done") :]
    assert stopping[-1] == "exited"
    _is_json(running.log)
    assert not [
        line
        for line in running.log.read_text().splitlines()
        if '"level":"error"' in line or "Traceback" in line
    ]
