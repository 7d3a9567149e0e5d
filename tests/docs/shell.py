"""A shell for the commands of one page, and `make run`, which they are for."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from tests.conftest import free_port
from tests.docs.blocks import ROOT, Block, matches
from tests.e2e.processes import Deployment, Running

__all__ = ["LATER", "Product", "Shell", "environment", "make_run"]

LATER = "# a few seconds later"
_LATER_SECONDS = 30.0
_PORTS = {
    8000: "api",
    7000: "source",
    8001: "sandbox",
    2379: "etcd",
    6000: "writer",
    4000: "debug",
    9000: "metrics",
}
_TOKEN = "sandbox-token"
_REMEMBER = """
declare -p | grep -v '^declare -[a-zA-Z]*r' > {state}; declare -f >> {state}; pwd > {place}
"""


@attrs.frozen
class Product:
    """What `make run` has started.

    :ivar directory: where a reader would have the checkout; his data are in `var` there.
    """

    deployed: Deployment
    directory: Path
    log: Path

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses in the pages, and those that are listened on."""
        ports = self.deployed.ports
        return {f"127.0.0.1:{port}": f"127.0.0.1:{ports[name]}" for port, name in _PORTS.items()}


class Shell:
    """Runs one block after the other as one shell would.

    :param values: variables that it begins with.
    """

    def __init__(self, product: Product, name: str, values: Mapping[str, str] = {}) -> None:
        place = product.directory / ".shells"
        place.mkdir(exist_ok=True)
        self._state = place / f"{name}.state"
        self._place = place / f"{name}.place"
        self._state.write_text("")
        self._place.write_text(str(product.directory))
        self._addresses = product.addresses
        self._values = values

    def run(self, block: Block) -> None:
        """Run *block*; it must succeed, and print what the page shows."""
        text = self._real(block.text)
        deadline = time.monotonic() + (_LATER_SECONDS if text.startswith(LATER) else 0)
        while True:
            code, output = self._run(text)
            is_right = code == 0 and (block.printed is None or matches(block.printed, output))
            if is_right or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        assert is_right, f"{block}: exit code {code}\n{text}\n---\n{output}"

    def value(self, name: str) -> str:
        """A variable."""
        code, output = self._run(f'printf %s "${name}"')
        assert code == 0, output
        return self._real(output)

    def _real(self, text: str) -> str:
        for address, real in self._addresses.items():
            text = text.replace(address, real)
        return text

    def _run(self, text: str) -> tuple[int, str]:
        remember = _REMEMBER.format(state=self._state, place=self._place)
        script = f"set -euo pipefail\nset +u\n. {self._state}\n{text}\n{remember}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._place.read_text().strip(),
            env=environment(self._values),
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


def environment(values: Mapping[str, str]) -> dict[str, str]:
    """The caller's without settings, with the commands of the installation."""
    outside = {k: v for k, v in os.environ.items() if not k.startswith("STREAM_")}
    path = f"{Path(sys.executable).parent}:{outside['PATH']}"
    return {**outside, "PATH": path, "PYTHONPATH": str(ROOT), **values}


@contextlib.contextmanager
def make_run(directory: Path) -> Iterator[Product]:
    """`make run` on free ports, with its data in *directory* where pages expect it."""
    debug, metrics = free_port(), free_port()
    settings = {
        "STREAM_SANDBOX_TOKEN": _TOKEN,
        "STREAM_SOURCE_DEAD_LETTER_PATH": str(directory / "var" / "dead-letters"),
        "STREAM_PPROF_ENABLED": "true",
        "STREAM_PPROF_LISTEN": f"127.0.0.1:{debug}",
        "STREAM_METRICS_LISTEN": f"127.0.0.1:{metrics}",
    }
    deployed = Deployment(directory / "var", settings)
    deployed.ports.update(debug=debug, metrics=metrics)
    (directory / "provisioning").symlink_to(ROOT / "provisioning")
    installed = Path(sys.prefix) / ".installed"
    command = ["make", "--no-print-directory", "-o", str(installed), "run", f"VENV={sys.prefix}"]
    log = directory / "make-run.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, f"VOLUME={deployed.root / 'volumes' / 'default' / 'one'}"],
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
        # What a terminal does for Ctrl-C.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait(40)
