"""The measured servers: the service, and others for comparison, each on one core."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from benchmarks.programs import Missing, collector_program, rotel_program
from benchmarks.wrk import SERVER_CPU, pinned
from tests.conftest import free_port
from tests.e2e.processes import ALL, Deployment

__all__ = [
    "COLUMNS",
    "RARE_IMPORTS",
    "Service",
    "baseline",
    "collector",
    "influxdb",
    "rotel",
    "service",
]

ROOT = Path(__file__).parents[1]
COLUMNS: list[dict[str, Any]] = [
    {"type": "uuid", "name": "id"},
    {"type": "datetime", "name": "at"},
    {"type": "path", "name": "user", "path": "user.name"},
]
RARE_IMPORTS = {
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_COUNT": "10000000",
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_SIZE": "500MB",
}
"""Settings for sections that compare rates: the sandbox's database would use the same core."""

_DEFAULT_TIMING = {
    "STREAM_STORAGE_LEVEL_STAGING_OPERATOR_SLICE_ROTATION_CHECK_INTERVAL": "1s",
    "STREAM_STORAGE_LEVEL_STAGING_OPERATOR_SLICE_UPLOAD_CHECK_INTERVAL": "2s",
    "STREAM_STORAGE_LEVEL_STAGING_UPLOAD_MIN_INTERVAL": "10s",
    "STREAM_STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_INTERVAL": "30s",
    "STREAM_STORAGE_LEVEL_TARGET_OPERATOR_FILE_ROTATION_CHECK_INTERVAL": "1s",
    "STREAM_STORAGE_LEVEL_TARGET_OPERATOR_FILE_IMPORT_CHECK_INTERVAL": "1s",
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_MIN_INTERVAL": "60s",
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL": "60s",
}
_INFLUX_CONFIG = """\
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
dir = "{folder}/meta"
[data]
dir = "{folder}/data"
wal-dir = "{folder}/wal"
wal-fsync-delay = "0s"
query-log-enabled = false
[http]
bind-address = "127.0.0.1:{port}"
log-enabled = false
[monitor]
store-enabled = false
"""
_COLLECTOR_CONFIG = """\
receivers:
  otlp:
    protocols:
      http:
        endpoint: 127.0.0.1:{port}
exporters:
  {exporter}:
    path: {folder}/logs
    format: proto
    # Without a rotation, the exporter would buffer what it writes; this one never comes.
    rotation:
      max_megabytes: 1000000
service:
  telemetry:
    logs:
      level: warn
    metrics:
      level: none
  pipelines:
    logs:
      receivers: [otlp]
      exporters: [{exporter}]
"""


class _Pinned(Deployment):
    """The service on one core."""

    def command(self, components: Sequence[str]) -> list[str]:
        return pinned(SERVER_CPU, super().command(components))


@attrs.define(eq=False)
class Service:
    """A running service.

    :ivar url: URL of a source with a sink of `COLUMNS`.
    """

    deployed: Deployment
    url: str

    @property
    def syncs(self) -> int:
        """Return the number of fdatasyncs of its writer."""
        metrics = f"http://{self.deployed.running[0].health}/metrics"
        with urllib.request.urlopen(metrics, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        counts = (
            line for line in lines if line.startswith("stream_writer_sync_milliseconds_count")
        )
        return sum(int(float(line.rpartition(" ")[2])) for line in counts)

    def source(
        self, name: str, sinks: Sequence[Sequence[dict[str, Any]]], type: str = "http"
    ) -> str:
        """Return the URL of a further source with a sink for each list of columns."""
        deployed = self.deployed
        created = deployed.task(
            "POST",
            f"{deployed.api}/v1/branches/default/sources",
            {"type": type, "name": name, "sourceId": name},
        )
        for number, columns in enumerate(sinks):
            table = {
                "type": "keboola",
                "tableId": f"in.c-bench.{name}-{number}",
                "mapping": {"columns": list(columns)},
            }
            sink = {"type": "table", "name": f"Sink {number}", "table": table}
            deployed.task("POST", f"{created['url']}/sinks", sink)
        _, answer = deployed.call("GET", created["url"])
        url: str = answer[type]["url"]
        return url


@contextmanager
def service(folder: Path, *, bound: bool = True, **settings: str) -> Iterator[Service]:
    """Run the service with all components in one process.

    :param bound: whether it is bound to one core.
    """
    deployed = (_Pinned if bound else Deployment)(folder, _DEFAULT_TIMING | settings)
    try:
        deployed.start(*ALL)
        yield Service(deployed, deployed.define(COLUMNS))
    finally:
        deployed.stop_all()


@contextmanager
def baseline(name: str) -> Iterator[str]:
    """Run a baseline; yield its URL."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.baselines", name, str(port)]
    with _running(command, f"http://127.0.0.1:{port}/", b"{}") as url:
        yield url


@contextmanager
def rotel() -> Iterator[str]:
    """Run Rotel, which discards logs; yield the URL for exports. Raises Missing."""
    port = free_port()
    command = [
        *(str(rotel_program()), "start", "--exporter", "blackhole"),
        *("--otlp-http-endpoint", f"127.0.0.1:{port}"),
        *("--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}"),
    ]
    with _running(command, f"http://127.0.0.1:{port}/v1/logs", None) as url:
        yield url


@contextmanager
def collector(folder: Path, *, is_synced: bool) -> Iterator[str]:
    """Run an OpenTelemetry collector that writes logs to a file; yield the URL for exports.

    :param is_synced: it answers after fdatasync.

    Raises Missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "collector.yaml"
    exporter = "synced_file" if is_synced else "file"
    config.write_text(_COLLECTOR_CONFIG.format(folder=folder, port=port, exporter=exporter))
    command = [str(collector_program()), "--config", f"file:{config}"]
    with _running(command, f"http://127.0.0.1:{port}/v1/logs", None) as url:
        yield url


@contextmanager
def influxdb(folder: Path) -> Iterator[str]:
    """Run InfluxDB 1.x with a log synced at each write; yield the URL for writes.

    Raises Missing.
    """
    if shutil.which("influxd") is None:
        raise Missing("the program influxd isn't installed")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "influxdb.conf"
    config.write_text(_INFLUX_CONFIG.format(folder=folder, port=port, rpc=free_port()))
    base = f"http://127.0.0.1:{port}"
    with _running(["influxd", "-config", str(config)], f"{base}/ping", None):
        create = urllib.request.Request(f"{base}/query?q=CREATE+DATABASE+bench", data=b"")
        urllib.request.urlopen(create, timeout=10).close()
        yield f"{base}/write?db=bench"


@contextmanager
def _running(command: Sequence[str], url: str, body: bytes | None) -> Iterator[str]:
    environment = {**os.environ, "GOMAXPROCS": "1"}
    process = subprocess.Popen(
        pinned(SERVER_CPU, command),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(url, body)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _wait(url: str, body: bytes | None) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=1).close()
        except urllib.error.HTTPError:
            return  # it serves requests, even if it refuses this one
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{url} does not answer")
