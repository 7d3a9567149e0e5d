"""Runs the blocks of a page one after the other in a shell."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.docs.blocks import Block, matches

__all__ = ["LATER", "Shell"]

LATER = "# a few seconds later"
_LATER_SECONDS = 30.0
_REMEMBER = """
declare -p | grep -v '^declare -[a-zA-Z]*r' > {state}; declare -f >> {state}; pwd > {place}
"""


class Shell:
    """A shell that keeps its variables, functions and directory from one block to the next.

    :param directory: its first working directory.
    :param environ: its whole environment.
    :param addresses: real addresses by those in the page.
    :param name: distinguishes it from other shells in that directory.
    """

    def __init__(
        self,
        directory: Path,
        environ: Mapping[str, str],
        addresses: Mapping[str, str] = {},
        name: str = "shell",
    ) -> None:
        self.environ = dict(environ)
        self._path = self.environ.get("PATH")
        self._addresses = addresses
        kept = directory / ".shells"
        kept.mkdir(exist_ok=True)
        self._state = kept / f"{name}.state"
        self._place = kept / f"{name}.place"
        self._state.write_text("")
        self._place.write_text(str(directory))

    def run(self, block: Block) -> str:
        """Run *block* and return its output. It must succeed and print what the page shows.

        A block in which a line begins with "a few seconds later" is repeated until it does.
        """
        text = self._real(block.text)
        if re.search(r"\bcurl\b", text) and shutil.which("curl", path=self._path) is None:
            pytest.skip("needs curl 7.82 or later")
        deadline = time.monotonic() + (_LATER_SECONDS if f"\n{LATER}" in f"\n{text}" else 0)
        while True:
            code, output = self._run(text)
            is_right = code == 0 and (block.printed is None or matches(block.printed, output))
            if is_right or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        assert is_right, f"{block}: exit code {code}\n{text}\n---\n{output}"
        return output

    def value(self, name: str) -> str:
        """Return the value of a variable."""
        code, output = self._run(f'printf %s "${name}"')
        assert code == 0, output
        return self._real(output)

    def _real(self, text: str) -> str:
        for address, real in self._addresses.items():
            text = text.replace(address, real)
        return text

    def _run(self, text: str) -> tuple[int, str]:
        remember = _REMEMBER.format(state=self._state, place=self._place)
        done = subprocess.run(
            ["bash", "-c", f"set -eo pipefail\n. {self._state}\n{text}\n{remember}"],
            cwd=self._place.read_text().strip(),
            env=self.environ,
            stdin=subprocess.DEVNULL,
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
