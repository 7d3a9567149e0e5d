"""Access to a running process: the console over SSH, log levels, the log file."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.e2e.processes import ALL, TOKEN, Deployment, request, wait_for

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>cE]|\r")


def _key(path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)


def _type(port: int, key: Path, lines: list[str]) -> str:
    """Return the console's output when *lines* are typed."""
    command = [
        *("ssh", "-tt", "-F", "/dev/null", "-p", str(port), "-i", str(key)),
        *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
        *("-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "operator@127.0.0.1"),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ssh:
        try:
            typed = "".join(f"{line}\r" for line in lines).encode() + b"\x04"
            shown, _ = ssh.communicate(typed, timeout=60)
            assert ssh.returncode == 0, shown
        finally:
            ssh.kill()
    return _CONTROL.sub("", shown.decode())


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="there is no SSH client")
def test_operator_commands(deployed: Deployment, tmp_path: Path) -> None:
    """rotate() imports a record in seconds instead of an hour; every line is in the log, which
    SIGHUP reopens.
    """
    for name in ("host", "mine"):
        _key(tmp_path / name)
    console, debug = free_port(), free_port()
    log = tmp_path / "stream.log"
    running = deployed.spawn(
        *ALL,
        STREAM_MANHOLE_ENABLED="true",
        STREAM_MANHOLE_LISTEN=f"127.0.0.1:{console}",
        STREAM_MANHOLE_HOST_KEY=str(tmp_path / "host"),
        STREAM_MANHOLE_AUTHORIZED_KEYS=str(tmp_path / "mine.pub"),
        STREAM_PPROF_ENABLED="true",
        STREAM_PPROF_LISTEN=f"127.0.0.1:{debug}",
        STREAM_LOG_FILE=str(log),
        STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL="1h",
        STREAM_STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_INTERVAL="30m",
    )
    wait_for(lambda: log.exists() and "ready to serve" in log.read_text(), "readiness")
    url = deployed.define()
    assert deployed.push(url, {"id": "one"})[0] == 200
    shown = _type(
        console,
        tmp_path / "mine",
        [
            "help()",
            "slices()",
            "pipelines()",
            "mirror()",
            "mirror('definition', wide=True)",
            "mirror('storage', wide=True)",
            "metrics('acknowledged_records')",
            "loglevel('etcd', 'debug')",
            f"drain('{tmp_path}/volumes/default/one')",
            f"drain('{tmp_path}/volumes/default/one', on=False)",
            "rotate('123/456/my-source/my-sink')",
            "rotate('nonsense')",
        ],
    )
    (tmp_path / "session.txt").write_text(shown)
    assert "profile(seconds=10.0): Show where the process spends its time" in shown
    assert re.search(r"writing  123/456/my-source/my-sink/", shown)
    assert re.search(r"ready  0 B held  1 records  123/456/my-source/my-sink/", shown)
    assert "definition/source/active/" in shown
    assert re.search(r'stream_sink_acknowledged_records_total\{.*sink_id="my-sink"', shown)
    assert "etcd: debug" in shown
    assert "UserError: write the sink as" in shown
    assert TOKEN not in shown
    assert url.rpartition("/")[2] not in shown  # the source's secret
    assert "to be rotated: 123/456/my-source/my-sink/" in shown
    assert "project/branch/source/sink" in shown
    deployed.wait_ids({"one"}, 30)
    audited = [json.loads(line) for line in log.read_text().splitlines()]
    lines = [line["line"] for line in audited if "line" in line]
    assert lines[0] == "help()"
    assert "rotate('123/456/my-source/my-sink')" in lines
    url = f"http://127.0.0.1:{debug}/debug/log-level"
    status, body = request("PUT", f"{url}?namespace=etcd&level=info", None, {})
    assert (status, json.loads(body)["etcd"]) == (200, "info")
    log.rename(tmp_path / "old.log")
    running.process.send_signal(signal.SIGHUP)
    wait_for(lambda: log.exists() and "reopened the log file" in log.read_text(), "a new log")
    assert running.stop() == 0
    assert '"message":"exited"' in log.read_text()
