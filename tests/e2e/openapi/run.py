"""Runs schemathesis on a deployment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import attrs

from tests.e2e.processes import TOKEN, Deployment

__all__ = ["Result", "run"]

_ROOT = Path(__file__).parents[3]
_CONFIG = Path(__file__).with_name("schemathesis.toml")


@attrs.frozen
class Result:
    """The result of a run.

    :ivar code: 0 if no fault was found.
    :ivar calls: number of requests.
    """

    code: int
    calls: int
    output: str


def run(deployed: Deployment, examples: int, seed: int | None = None) -> Result:
    """Check the API of *deployed*.

    :param examples: number of requests for each operation, in each phase.
    """
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        f"--config-file={_CONFIG}",
        "run",
        f"{deployed.api}/v1/documentation/openapi3.json",
        f"--url={deployed.api}",
        f"--header=X-StorageApi-Token: {TOKEN}",
        f"--max-examples={examples}",
        "--generation-database=none",
        "--continue-on-failure",
        "--no-color",
        *([] if seed is None else [f"--seed={seed}"]),
    ]
    ended = subprocess.run(
        command,
        cwd=deployed.root,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    calls = re.search(r"(\d+) generated", ended.stdout)
    return Result(ended.returncode, int(calls[1]) if calls else 0, ended.stdout)
