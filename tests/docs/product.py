"""`make run` for the commands in the pages."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from tests.conftest import free_port
from tests.docs.blocks import ROOT
from tests.docs.shell import Shell
from tests.e2e.processes import Deployment, Running

__all__ = ["Product", "environment", "make_run"]

_PORTS = {
    8000: "api",
    7000: "source",
    8001: "sandbox",
    2379: "etcd",
    5433: "postgres",
    6000: "writer",
    4000: "debug",
    9000: "metrics",
}
_TOKEN = "sandbox-token"


@attrs.frozen
class Product:
    """The product started by `make run`.

    :ivar directory: the reader's checkout, with data in `var`.
    """

    deployed: Deployment
    directory: Path
    log: Path

    @property
    def addresses(self) -> dict[str, str]:
        """Return the addresses in the pages with those that the product listens on."""
        ports = self.deployed.ports
        return {f"127.0.0.1:{port}": f"127.0.0.1:{ports[name]}" for port, name in _PORTS.items()}

    def shell(self, name: str, values: Mapping[str, str] = {}) -> Shell:
        """Start a shell.

        :param values: its initial variables.
        """
        own = {"XDG_CONFIG_HOME": str(self.directory / "config")}
        return Shell(self.directory, environment({**own, **values}), self.addresses, name)


def environment(values: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's environment without settings, with the installed commands on its PATH."""
    outside = {k: v for k, v in os.environ.items() if not k.startswith("STREAM_")}
    path = f"{Path(sys.executable).parent}:{outside['PATH']}"
    return {**outside, "PATH": path, "PYTHONPATH": str(ROOT), **values}


@contextlib.contextmanager
def make_run(directory: Path, target: str = "") -> Iterator[Product]:
    """Run `make run` on free ports, with its data in *directory* where pages expect it.

    :param target: the target of its tables; empty for the sandbox.
    """
    debug, metrics = free_port(), free_port()
    settings = {
        "STREAM_SANDBOX_TOKEN": _TOKEN,
        "STREAM_SOURCE_QUARANTINE_PATH": str(directory / "var" / "rejected"),
        "STREAM_PPROF_ENABLED": "true",
        "STREAM_PPROF_LISTEN": f"127.0.0.1:{debug}",
        "STREAM_METRICS_LISTEN": f"127.0.0.1:{metrics}",
    }
    deployed = Deployment(directory / "var", settings)
    deployed.ports.update(debug=debug, metrics=metrics, postgres=free_port())
    if target:
        data = directory / "var" / target
        data.mkdir()
        settings |= {
            "STREAM_LOCAL_POSTGRES_LISTEN": f"127.0.0.1:{deployed.ports['postgres']}",
            "STREAM_LOCAL_POSTGRES_PATH": str(data / "server"),
            "STREAM_TARGET_STAGING_URL": (data / "staging").as_uri(),
        }
    if target == "iceberg":
        catalog = {
            "type": "sql",
            "uri": f"sqlite:///{data}/catalog.db?timeout=60",
            "warehouse": (data / "warehouse").as_uri(),
        }
        declared = {"lake": {"type": "iceberg", "catalog": catalog}}
        settings["STREAM_TARGET_CONNECTIONS"] = json.dumps(declared)
    (directory / "provisioning").symlink_to(ROOT / "provisioning")
    installed = Path(sys.prefix) / ".runtime"
    command = ["make", "--no-print-directory", "-o", str(installed), "run", f"VENV={sys.prefix}"]
    command += ["-o", str(installed.with_name(".lake"))]
    command += [f"TARGET={target}"] if target else []
    log = directory / "make-run.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=deployed.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deployed.wait_ready(Running(process, log, f"127.0.0.1:{metrics}"))
        yield Product(deployed, directory, log)
    finally:
        # as a terminal does for Ctrl-C
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait(40)
