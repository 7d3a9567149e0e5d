"""Runs the blocks of a page one after the other, as one shell would."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from tests.docs.blocks import Block, matches

__all__ = ["Shell", "section_of"]

_LATER = "# a few seconds later"
_LATER_SECONDS = 30.0


class Shell:
    """A shell whose variables stay from one block to the next.

    :param environ: all of its environment.
    :param addresses: those in the page, and the real ones.
    """

    def __init__(
        self, folder: Path, environ: Mapping[str, str], addresses: Mapping[str, str] = {}
    ) -> None:
        self.environ = dict(environ)
        self._folder = folder
        self._addresses = addresses
        self._state = folder / ".shell"
        self._state.touch()

    def run(self, block: Block) -> str:
        """Run *block*; it must succeed, and print what the page shows. Returns what it prints.

        A block that begins with "a few seconds later" is repeated until it does.
        """
        deadline = time.monotonic() + (_LATER_SECONDS if block.text.startswith(_LATER) else 0)
        while True:
            code, output = self._run(block.text)
            is_right = code == 0 and (block.printed is None or matches(block.printed, output))
            if is_right or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        assert is_right, f"{block}: exit code {code}\n{block.text}\n---\n{output}"
        return output

    def _run(self, text: str) -> tuple[int, str]:
        for address, real in self._addresses.items():
            text = text.replace(address, real)
        remember = f"declare -p | grep -v '^declare -[a-zA-Z]*r' > {self._state}"
        done = subprocess.run(
            ["bash", "-c", f"set -eo pipefail\n. {self._state}\n{text}\n{remember}\n"],
            cwd=self._folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout


def section_of(page: Path, block: Block) -> str:
    """The heading above *block*."""
    heading, is_fenced = "", False
    for line in page.read_text(encoding="utf-8").split("\n")[: block.line - 2]:
        if line.startswith("```"):
            is_fenced = not is_fenced
        elif line.startswith("#") and not is_fenced:
            heading = line.lstrip("# ")
    return heading
