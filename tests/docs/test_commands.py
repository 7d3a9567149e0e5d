"""The commands of the documentation do what the pages say, against `make run`.

The addresses that `make run` listens on by default are replaced by free ones. A block that begins
with a comment "a few seconds later" is repeated until it prints what the page shows. A command that
starts the service is run until the service is ready, and stopped. Other tasks of the Makefile than
`run` have tests of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.docs.blocks import ROOT, Block, blocks, matches, pages
from tests.e2e.processes import COLUMNS, TOKEN, Deployment, Running, wait_for

pytestmark = pytest.mark.e2e

PORTS = {8000: "api", 7000: "source", 8001: "sandbox", 2379: "etcd", 6000: "writer", 4000: "debug"}
DEFAULT_TOKEN = "sandbox-token"
LATER = "# a few seconds later"
LATER_SECONDS = 30.0
ELSEWHERE = {
    "docs/single-file.md": "tests/bundle/test_single_file.py",
    "docs/deployment.md": "tests/provisioning/test_pages.py",
}
"""Pages whose commands have a test of their own."""

_SERVER = re.compile(r"^(?P<command>(twistd -n stream|stream-service) .*)$")
_ANSWERS_AT_ONCE = ("--help", "--version", "--dump-config")
_REMEMBER = """
declare -p | grep -v '^declare -[a-zA-Z]*r' > {state}; declare -f >> {state}; pwd > {place}
"""


class Shell:
    """Runs one block after the other as one shell would."""

    def __init__(self, deployed: Deployment, directory: Path) -> None:
        self._deployed = deployed
        self._state = directory / ".state"
        self._place = directory / ".place"
        self._state.write_text("")
        self._place.write_text(str(directory))
        self._addresses = {
            f"127.0.0.1:{port}": f"127.0.0.1:{deployed.ports[name]}"
            for port, name in PORTS.items()
            if name in deployed.ports
        }

    def run(self, block: Block, values: Mapping[str, str]) -> None:
        """Run *block*; it must succeed, and print what the page shows."""
        text = block.text
        for address, real in self._addresses.items():
            text = text.replace(address, real)
        deadline = time.monotonic() + (LATER_SECONDS if text.startswith(LATER) else 0)
        while True:
            code, output = self._run(text, values)
            is_right = code == 0 and (block.printed is None or matches(block.printed, output))
            if is_right or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        assert is_right, f"{block}: exit code {code}\n{text}\n---\n{output}"

    def _run(self, text: str, values: Mapping[str, str]) -> tuple[int, str]:
        remember = _REMEMBER.format(state=self._state, place=self._place)
        script = f"set -euo pipefail\nset +u\n. {self._state}\n{text}\n{remember}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._place.read_text().strip(),
            env=_environment(values),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        output = done.stdout
        for address, real in self._addresses.items():
            output = output.replace(real, address)
        return done.returncode, output


def _environment(values: Mapping[str, str]) -> dict[str, str]:
    """The caller's without settings, with the commands of the installation."""
    outside = {k: v for k, v in os.environ.items() if not k.startswith("STREAM_")}
    path = f"{Path(sys.executable).parent}:{outside['PATH']}"
    return {**outside, "PATH": path, "PYTHONPATH": str(ROOT), **values}


@contextlib.contextmanager
def _make_run(directory: Path, token: str = DEFAULT_TOKEN) -> Iterator[Deployment]:
    """`make run` on free ports, with its data in *directory* where pages expect it."""
    debug = free_port()
    settings = {
        "STREAM_SANDBOX_TOKEN": token,
        "STREAM_SOURCE_DEAD_LETTER_PATH": str(directory / "var" / "dead-letters"),
        "STREAM_PPROF_ENABLED": "true",
        "STREAM_PPROF_LISTEN": f"127.0.0.1:{debug}",
    }
    deployed = Deployment(directory / "var", settings)
    deployed.ports["debug"] = debug
    installed = Path(sys.prefix) / ".installed"
    command = ["make", "--no-print-directory", "-o", str(installed), "run", f"VENV={sys.prefix}"]
    volume = deployed.root / "volumes" / "default" / "one"
    log = directory / "make-run.log"
    environment = deployed.environment()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, f"VOLUME={volume}"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deployed.wait_ready(Running(process, log, environment["STREAM_METRICS_LISTEN"]))
        yield deployed
    finally:
        # What a terminal does for Ctrl-C.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait(40)


def _define(deployed: Deployment, directory: Path) -> dict[str, str]:
    """For pages that begin where the tutorial ends."""
    columns = [*COLUMNS, {"type": "path", "name": "user", "path": "user.name"}]
    url = deployed.define(columns)
    sink = f"{deployed.api}/v1/branches/default/sources/my-source/sinks/my-sink"
    patch = {"settings": [{"key": "sink.deadLetter.enabled", "value": True}]}
    deployed.task("PATCH", f"{sink}/settings", patch)
    letters = directory / "var" / "dead-letters"

    def kept() -> bool:
        deployed.push(url, {"text": "a record without a user"})
        return any(path.stat().st_size for path in letters.rglob("*.ndjson"))

    wait_for(kept, "a dead letter")
    return {"API": deployed.api, "TOKEN": TOKEN, "URL": url, "DEAD_LETTERS": str(letters)}


COMPLETE_PAGES = ("README.md", "docs/tutorial.md")
"""They define what they use."""

OTHER_PAGES = ("docs/api.md", "docs/ingestion.md", "docs/operations.md", "docs/security.md")
PAGES = (*COMPLETE_PAGES, *OTHER_PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_page(page: str, tmp_path: Path) -> None:
    """Each command of the page succeeds and prints what the page shows."""
    is_complete = page in COMPLETE_PAGES
    with _make_run(tmp_path, DEFAULT_TOKEN if is_complete else TOKEN) as deployed:
        values = {} if is_complete else _define(deployed, tmp_path)
        shell = Shell(deployed, tmp_path)
        ran = 0
        for block in blocks(ROOT / page):
            if not _is_task(block) and not _servers(block):
                shell.run(block, values)
                ran += 1
    assert ran, "the page has no command"


def test_all_pages_are_run() -> None:
    """A page with commands is run here or has a test of its own."""
    with_commands = {str(x.relative_to(ROOT)) for x in pages() if blocks(x)}
    assert with_commands == {*PAGES, *ELSEWHERE}
    assert all((ROOT / test).is_file() for test in ELSEWHERE.values())


def _is_task(block: Block) -> bool:
    """Whether it only calls tasks of the Makefile."""
    return all(line.startswith(("make ", "#")) for line in block.text.split("\n") if line)


def _servers(block: Block) -> list[str]:
    found = (_SERVER.match(line) for line in block.text.replace("\\\n", "").split("\n"))
    commands = [re.sub(r"\s+#.*", "", match["command"]) for match in found if match]
    return [command for command in commands if not any(x in command for x in _ANSWERS_AT_ONCE)]


SERVERS = sorted({x for page in PAGES for block in blocks(ROOT / page) for x in _servers(block)})


@pytest.mark.parametrize("command", SERVERS)
def test_server(command: str, tmp_path: Path) -> None:
    """A command that starts the service does, beside what it needs of others."""
    deployed = Deployment(tmp_path)
    settings = deployed.environment("node-2")
    name, *words = shlex.split(command)
    words = [str(Path(sys.executable).parent / name), *words]
    try:
        deployed.start("etcd", "sandbox", "storage-writer")
        log = tmp_path / "server.log"
        environment = {
            **_environment(settings),
            "STREAM_STORAGE_LEVEL_LOCAL_WRITER_NETWORK_LISTEN": "127.0.0.1:0",
            "STREAM_STORAGE_VOLUMES_PATH": str(tmp_path / "more"),
        }
        (tmp_path / "more" / "default" / "two").mkdir(parents=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                words, cwd=tmp_path, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        running = Running(process, log, environment["STREAM_METRICS_LISTEN"])
        deployed.running.append(running)
        deployed.wait_ready(running)
        assert running.stop() == 0, log.read_text()
        assert "configuration: {" in log.read_text()
        assert TOKEN not in log.read_text()
    finally:
        deployed.stop_all()


def test_quick_start(tmp_path: Path) -> None:
    """What `make run` prints can be pasted."""
    with _make_run(tmp_path) as deployed:
        printed = (tmp_path / "make-run.log").read_text()
        start = printed.index("  API=http")
        first, _, second = printed[start:].partition("and a few seconds later")
        shell = Shell(deployed, tmp_path)
        shell.run(Block("make run", 1, "sh", first, "…OK"), {})
        later = f"{LATER}\n{second}".rstrip()
        shell.run(Block("make run", 2, "sh", later, "(…'Ada', …)"), {})
        assert json.loads(deployed.rows("in.c-demo.events")[0][-1]) == {"user": {"name": "Ada"}}
