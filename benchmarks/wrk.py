"""Load from ``wrk``, which is bound to a separate core, and its measurements."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

__all__ = ["LOAD_CPU", "SERVER_CPU", "Figure", "bound", "load", "pinned", "write_script"]

SERVER_CPU, LOAD_CPU = "0", "1"


@attrs.frozen
class Figure:
    """The figures of one run of wrk.

    Requests answered per second, latencies in milliseconds, and answers other than 2xx.
    """

    rate: float
    p50: float
    p99: float
    errors: int


def pinned(cpu: str, command: Sequence[str]) -> list[str]:
    """Return *command* bound to one core, if the machine has two."""
    if (os.cpu_count() or 1) < 2 or not shutil.which("taskset"):
        return list(command)
    return ["taskset", "-c", cpu, *command]


@contextmanager
def bound(cpu: str) -> Iterator[None]:
    """Bind this thread to one core, if the machine has two."""
    if (os.cpu_count() or 1) < 2 or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {int(cpu)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def write_script(
    path: Path, content_type: str, body: str | bytes, delay_ms: float | None = None
) -> Path:
    """Write the script of wrk, and the body that it sends.

    :param delay_ms: average pause of a connection before its next request.
    """
    rest = ""
    if delay_ms is not None:
        rest = f"function delay() return math.random() * {2 * delay_ms:.3f} end\n"
    content = path.with_suffix(".body")  # a file, because Lua strings can't contain arbitrary bytes
    content.write_bytes(body.encode() if isinstance(body, str) else body)
    path.write_text(
        f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "{content_type}"\n'
        f'local file = io.open("{content}", "rb")\nwrk.body = file:read("*a")\nfile:close()\n{rest}'
    )
    return path


def load(url: str, connections: int, seconds: int, script: Path, *, bound: bool = True) -> Figure:
    """Run wrk once.

    :param bound: whether it is bound to its core.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    command += ["--latency", "-s", str(script), url]
    output = subprocess.run(
        pinned(LOAD_CPU, command) if bound else command,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", output)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    broken = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    if found is None:
        raise RuntimeError(f"wrk says:\n{output}")
    errors = int(refused[1]) if refused else 0
    errors += sum(int(number) for number in broken.groups()) if broken else 0
    return Figure(float(found[1]), _latency(output, "50%"), _latency(output, "99%"), errors)


def _latency(output: str, share: str) -> float:
    found = re.search(rf"\s{share}\s+([\d.]+)(us|ms|s)", output)
    if found is None:
        return 0.0
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]
