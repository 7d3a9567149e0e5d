"""`make run-stream-service` in a scratch copy of the sources."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.conftest import free_port
from tests.docs.blocks import ROOT
from tests.e2e.processes import wait_for

_READY = "ready to serve"


def _copy(folder: Path) -> Path:
    """Copy the part of the checkout that the task needs."""
    for name in ("stream", "tools", "twisted"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", folder)
    return folder


def _commands_with(text: str) -> list[bytes]:
    """Return the command lines of running processes that have *text* in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # the process has ended meanwhile
            found.append(path.read_bytes())
    return [command for command in found if text.encode() in command]


def test_changed_file_restarts_the_service(tmp_path: Path) -> None:
    """The service starts with an empty volume; a changed module restarts it; Ctrl-C ends
    everything.
    """
    sources = _copy(tmp_path / "sources")
    volumes, log = tmp_path / "volumes", tmp_path / "log"
    old = volumes / "hdd" / "my-volume" / "slice"
    old.parent.mkdir(parents=True)
    old.touch()
    installed = Path(sys.prefix) / ".installed"
    command = ["make", "--no-print-directory", "-o", str(installed), "run-stream-service"]
    options = {
        "VENV": sys.prefix,
        "SERVICE_VOLUMES": str(volumes),
        "SERVICE_COMPONENTS": "sandbox",
        "RESTART_DELAY": "0.3",
    }
    environment = {
        **{name: value for name, value in os.environ.items() if "STREAM_" not in name},
        "PYTHONPATH": "",
        "STREAM_METRICS_LISTEN": f"127.0.0.1:{free_port()}",
        "STREAM_SANDBOX_LISTEN": f"127.0.0.1:{free_port()}",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *(f"{name}={value}" for name, value in options.items())],
            cwd=sources,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def said(text: str, times: int) -> None:
        wait_for(lambda: log.read_text().count(text) == times, f"{text}\n{log.read_text()}", 30)

    try:
        said(_READY, 1)
        assert not old.exists()
        assert old.parent.is_dir()
        assert "development mode" in log.read_text()
        module = sources / "stream" / "quickstart.py"
        module.write_text(f"{module.read_text()}\nprint('the new module')\n")
        said(_READY, 2)
        assert "rerun: stream/quickstart.py changed: starting again" in log.read_text()
        said("the new module", 1)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(40)
    assert log.read_text().count("exiting (interrupt)") == 2
    assert log.read_text().count('"exited"') == 2
    assert _commands_with(str(tmp_path)) == []
