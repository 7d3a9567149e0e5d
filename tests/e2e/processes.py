"""Real processes of the service on free ports, and the HTTP requests of a user."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from tests.conftest import free_port

__all__ = ["ALL", "Deployment", "load_of", "wait_for"]

ALL = (
    "etcd",
    "sandbox",
    "api",
    "http-source",
    "storage-writer",
    "storage-reader",
    "storage-coordinator",
)
TOKEN = "e2e-token"
TABLE = "in.c-demo.events"
COLUMNS: list[dict[str, Any]] = [
    {"type": "uuid", "name": "uuid"},
    {"type": "datetime", "name": "at"},
    {"type": "ip", "name": "ip"},
    {"type": "path", "name": "id", "path": "id", "rawString": True, "defaultValue": "none"},
    {"type": "headers", "name": "headers"},
    {"type": "body", "name": "body"},
]

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 60.0
_STOP_SECONDS = 40.0
_POLL_SECONDS = 0.05
_PORTS = ("etcd", "sandbox", "api", "source", "writer")


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Poll *condition* until its value is true, and return the value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(_POLL_SECONDS)
    raise AssertionError(f"{what} did not happen within {seconds} s")


@attrs.define(eq=False)
class Running:
    """One process and its output."""

    process: subprocess.Popen[bytes]
    log: Path
    health: str

    def kill(self) -> None:
        """Send SIGKILL, so that the process can't clean up."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_SECONDS)


@attrs.define(eq=False)
class Deployment:
    """Directories, ports and settings of one deployment, and its processes."""

    root: Path
    settings: dict[str, str] = attrs.Factory(dict)
    ports: dict[str, int] = attrs.Factory(lambda: {name: free_port() for name in _PORTS})
    running: list[Running] = attrs.Factory(list)

    def __attrs_post_init__(self) -> None:
        (self.root / "volumes" / "default" / "one").mkdir(parents=True, exist_ok=True)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ports['api']}"

    def environment(self, node_id: str = "node-1") -> dict[str, str]:
        """Return settings as environment variables, without other STREAM_ variables."""
        ports = self.ports
        outside = {k: v for k, v in os.environ.items() if not k.startswith("STREAM_")}
        return {
            **outside,
            "STREAM_NODE_ID": node_id,
            "STREAM_HOSTNAME": "127.0.0.1",
            "STREAM_ETCD_ENDPOINT": f"127.0.0.1:{ports['etcd']}",
            "STREAM_ETCD_NAMESPACE": "e2e",
            "STREAM_ETCD_DATA_DIR": str(self.root / "etcd"),
            "STREAM_SANDBOX_LISTEN": f"127.0.0.1:{ports['sandbox']}",
            "STREAM_SANDBOX_PATH": str(self.root / "sandbox"),
            "STREAM_SANDBOX_TOKEN": TOKEN,
            "STREAM_STORAGE_API_HOST": f"http://127.0.0.1:{ports['sandbox']}",
            "STREAM_API_LISTEN": f"127.0.0.1:{ports['api']}",
            "STREAM_API_PUBLIC_URL": self.api,
            "STREAM_SOURCE_HTTP_LISTEN": f"127.0.0.1:{ports['source']}",
            "STREAM_SOURCE_HTTP_PUBLIC_URL": f"http://127.0.0.1:{ports['source']}",
            "STREAM_METRICS_LISTEN": f"127.0.0.1:{free_port()}",
            "STREAM_STORAGE_VOLUMES_PATH": str(self.root / "volumes"),
            "STREAM_STORAGE_LEVEL_LOCAL_WRITER_NETWORK_LISTEN": f"127.0.0.1:{ports['writer']}",
            "STREAM_STORAGE_LEVEL_LOCAL_WRITER_ALLOCATION_STATIC": "1MB",
            "STREAM_STORAGE_LEVEL_STAGING_OPERATOR_SLICE_ROTATION_CHECK_INTERVAL": "100ms",
            "STREAM_STORAGE_LEVEL_STAGING_OPERATOR_SLICE_UPLOAD_CHECK_INTERVAL": "500ms",
            "STREAM_STORAGE_LEVEL_STAGING_UPLOAD_MIN_INTERVAL": "1s",
            "STREAM_STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_INTERVAL": "1s",
            "STREAM_STORAGE_LEVEL_TARGET_OPERATOR_FILE_ROTATION_CHECK_INTERVAL": "100ms",
            "STREAM_STORAGE_LEVEL_TARGET_OPERATOR_FILE_IMPORT_CHECK_INTERVAL": "500ms",
            "STREAM_STORAGE_LEVEL_TARGET_IMPORT_MIN_INTERVAL": "1s",
            "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL": "1s",
            **self.settings,
        }

    def command(self, components: Sequence[str]) -> list[str]:
        twistd = Path(sys.executable).parent / "twistd"
        return [str(twistd), "-n", "--pidfile=", "stream", f"--components={','.join(components)}"]

    def start(self, *components: str, node_id: str = "node-1", **settings: str) -> Running:
        """Start a process with *components*, and wait until it is ready."""
        running = self.spawn(*components, node_id=node_id, **settings)
        self.wait_ready(running)
        return running

    def spawn(self, *components: str, node_id: str = "node-1", **settings: str) -> Running:
        environment = {**self.environment(node_id), **settings}
        log = self.root / f"{len(self.running):02d}-{components[0]}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(components),
                env=environment,
                cwd=self.root,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        running = Running(process, log, environment["STREAM_METRICS_LISTEN"])
        self.running.append(running)
        return running

    def wait_ready(self, running: Running) -> None:
        def ready() -> bool:
            if running.process.poll() is not None:
                raise AssertionError(f"the process ended:\n{running.log.read_text()}")
            # A worker's line also contains its node: its parent isn't ready yet.
            return b'"message":"ready to serve","component":"process"}' in running.log.read_bytes()

        wait_for(ready, "readiness", _START_SECONDS)

    def refused(self, *components: str, **settings: str) -> tuple[int, str]:
        """Return the exit code and output of a process that can't start."""
        ended = subprocess.run(
            self.command(components),
            env={**self.environment(), **settings},
            cwd=self.root,
            capture_output=True,
            timeout=_START_SECONDS,
            check=False,
        )
        return ended.returncode, (ended.stdout + ended.stderr).decode()

    def stop_all(self) -> None:
        """Stop all running processes, the latest first."""
        for running in reversed(self.running):
            if running.process.poll() is None:
                running.process.terminate()
                try:
                    running.process.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    running.kill()

    # requests of a user

    def call(
        self, method: str, url: str, body: Any = None, *, token: str | None = TOKEN
    ) -> tuple[int, Any]:
        """Send a JSON request; return the status and the decoded body."""
        headers = {"X-StorageApi-Token": token} if token else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = None if body is None else json.dumps(body).encode()
        status, answer = request(method, url, data, headers)
        return status, json.loads(answer) if answer.startswith((b"{", b"[")) else answer.decode()

    def task(
        self, method: str, url: str, body: Any = None, *, seconds: float = 60.0
    ) -> dict[str, Any]:
        """Run a task, wait for its success, and return its outputs."""
        status, task = self.call(method, url, body)
        assert status == 202, (status, task)

        def finished() -> Any:
            _, latest = self.call("GET", task["url"])
            return latest if latest["isFinished"] else None

        ended = wait_for(finished, f"the end of the task {task['taskId']}", seconds)
        assert ended["status"] == "success", ended
        outputs: dict[str, Any] = ended["outputs"]
        return outputs

    def define(self, columns: Sequence[dict[str, Any]] = COLUMNS) -> str:
        """Create a source with a table sink; return the URL to push records to."""
        sources = f"{self.api}/v1/branches/default/sources"
        source = self.task("POST", sources, {"type": "http", "name": "My Source"})["url"]
        mapping = {"columns": list(columns)}
        self.task(
            "POST",
            f"{source}/sinks",
            {
                "type": "table",
                "name": "My Sink",
                "table": {"type": "keboola", "tableId": TABLE, "mapping": mapping},
            },
        )
        _, answer = self.call("GET", source)
        url: str = answer["http"]["url"]
        return url

    def push(self, url: str, body: Any) -> tuple[int, bytes]:
        """Push one record."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return request("POST", url, data, {"Content-Type": "application/json"})

    @property
    def written(self) -> int:
        """Return the number of bytes in slice files."""
        return sum(path.stat().st_size for path in self.root.glob("volumes/**/slice-*"))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Query the sandbox's database, as any SQL tool can."""
        path = self.root / "sandbox" / "project-123" / "data.sqlite"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return connection.execute(sql).fetchall()

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """Return the rows of a table of the sandbox, none if there is no table yet."""
        try:
            return self.query(f'SELECT * FROM "{table}"')
        except sqlite3.OperationalError:
            return []

    def ids(self) -> list[str]:
        """Return the ids of the records in the table."""
        try:
            return [row[0] for row in self.query(f'SELECT id FROM "{TABLE}"')]
        except sqlite3.OperationalError:
            return []

    def wait_ids(self, expected: set[str], seconds: float = 90.0) -> list[str]:
        """Wait until all *expected* ids are in the table, and return all its ids."""
        wait_for(lambda: expected <= set(self.ids()), f"{len(expected)} records", seconds)
        return self.ids()


@contextmanager
def load_of(
    url: str, records: int, acknowledged: Path, prefix: str = "r", options: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Push records in the background; the process prints the results.

    The process retries while there is no listener, so it is always stopped.

    :param acknowledged: file for the ids of records answered with 200.
    :param options: further options; see `benchmarks.load`.
    """
    command = [
        *(sys.executable, "-m", "benchmarks.load", url),
        f"--records={records}",
        "--connections=32",
        f"--acknowledged={acknowledged}",
        f"--prefix={prefix}",
        *options,
    ]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def request(
    method: str, url: str, body: bytes | None, headers: dict[str, str]
) -> tuple[int, bytes]:
    """Send one HTTP request on a separate connection."""
    parts = urlsplit(url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    with closing(http.client.HTTPConnection(parts.netloc, timeout=60)) as connection:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


@contextmanager
def deployment(root: Path, **settings: str) -> Iterator[Deployment]:
    """A deployment whose processes are stopped at the end."""
    deployed = Deployment(root, settings)
    try:
        yield deployed
    finally:
        deployed.stop_all()
