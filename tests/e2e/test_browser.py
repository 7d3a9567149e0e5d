"""Records sent from pages in a real Chromium: `fetch`, `sendBeacon` and OpenTelemetry's
exporter.
"""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import ALL, Deployment, wait_for

_PAGE = Path(__file__).parent / "browser"
_HTML = b'<!doctype html><title>page</title><script type="module" src="/page.js"></script>'
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)
_SECONDS = 120
COLUMNS: list[dict[str, Any]] = [
    {"type": "path", "name": "id", "path": "id", "rawString": True},
    {"type": "headers", "name": "headers"},
]
SPANS: list[dict[str, Any]] = [{"type": "path", "name": "name", "path": "name", "rawString": True}]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The page's script with its libraries."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: the page of the browser test can't be built")
    folder = tmp_path_factory.mktemp("browser")
    shutil.copytree(_PAGE, folder, dirs_exist_ok=True)
    install = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    installed = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False)
    if installed.returncode:
        reason = installed.stderr.strip().splitlines()[:1]
        pytest.skip(f"npm can't install the libraries of the page of the browser test: {reason}")
    esbuild = folder / "node_modules" / ".bin" / "esbuild"
    command = [str(esbuild), "page.js", "--bundle", "--format=esm", "--outfile=bundle.js"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return (folder / "bundle.js").read_bytes()


class _Site(ThreadingHTTPServer):
    """Serves the page from another origin, and receives the page's report."""

    def __init__(self, script: bytes, sources: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {
            "/": ("text/html", _HTML),
            "/page.js": ("text/javascript", script),
            "/sources": ("application/json", json.dumps(sources).encode()),
        }
        self.seen: queue.Queue[dict[str, Any]] = queue.Queue()


class _Handler(BaseHTTPRequestHandler):
    server: _Site

    def do_GET(self) -> None:
        kind, body = self.server.files.get(self.path, ("text/plain", b""))
        self._answer(kind, body)

    def do_POST(self) -> None:
        self.server.seen.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer("text/plain", b"")

    def _answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def _site(script: bytes, sources: dict[str, str]) -> Iterator[_Site]:
    with _Site(script, sources) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        try:
            yield site
        finally:
            site.shutdown()


@contextmanager
def _opened(chromium: str, url: str, profile: Path, console: Path) -> Iterator[None]:
    command = [chromium, *_FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", url]
    with console.open("wb") as output:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=output)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def _define(deployed: Deployment) -> dict[str, str]:
    url = deployed.define(COLUMNS)
    sources = f"{deployed.api}/v1/branches/default/sources"
    source = deployed.task("POST", sources, {"type": "otlp", "name": "Spans"})["url"]
    table = {"type": "keboola", "tableId": "in.c-demo.spans", "mapping": {"columns": SPANS}}
    deployed.task("POST", f"{source}/sinks", {"type": "table", "name": "Spans", "table": table})
    _, answer = deployed.call("GET", source)
    otlp = answer["otlp"]
    return {"url": url, "otlp": otlp["baseUrl"], "token": otlp["url"].rpartition("/")[2]}


def test_pages_of_another_origin(
    deployed: Deployment, chromium: str, script: bytes, tmp_path: Path
) -> None:
    """Pages of another origin can send records and read each answer, also one that refuses."""
    deployed.start(*ALL)
    sources = _define(deployed)
    wait_for(lambda: deployed.push(sources["url"], {"id": "first"})[0] == 200, "the first record")
    console = tmp_path / "console"
    with _site(script, sources) as site:
        url = f"http://127.0.0.1:{site.server_port}/"
        with _opened(chromium, url, tmp_path / "profile", console):
            try:
                seen = site.seen.get(timeout=_SECONDS)
            except queue.Empty:
                pytest.fail(f"the page reported nothing: {console.read_text()}")
            deployed.wait_ids({"first", "fetch", "credentials", "form", "key", "beacon"})
    lines = [line for line in console.read_text(errors="replace").splitlines() if "CONSOLE" in line]
    answers = {name: each for name, each in seen.items() if isinstance(each, dict)}
    errors = {name: each["error"] for name, each in answers.items() if "error" in each}
    assert not errors, lines
    for name in ("fetch", "credentials", "form", "key", "replayed"):
        assert (seen[name]["status"], seen[name]["body"]) == (200, "OK"), name
    assert seen["beacon"] is True
    assert seen["replayed"]["headers"]["idempotency-replayed"] == "true"
    for name, status in (("wrong", 404), ("method", 405), ("encoding", 415), ("large", 413)):
        assert seen[name]["status"] == status == json.loads(seen[name]["body"])["statusCode"], name
    assert seen["encoding"]["headers"]["accept-encoding"] == "gzip, zstd"
    assert seen["method"]["headers"]["allow"] == "OPTIONS, POST"
    assert seen["export"]["status"] == 404
    assert seen["exporter"] == {"code": 0}
    assert deployed.ids().count("key") == 1
    wait_for(lambda: deployed.rows("in.c-demo.spans") == [("opened",)], "the span")
    assert not [line for line in lines if "CORS" in line], lines
