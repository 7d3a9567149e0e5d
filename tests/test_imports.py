"""The layers of imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_layers() -> None:
    """No layer imports a higher one, no component another one, and pure logic no Twisted."""
    command = Path(sys.executable).parent / "lint-imports"
    checked = subprocess.run(
        [str(command), "--no-cache"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_a_component_imports_only_what_it_needs() -> None:
    """Each import costs time at the start of every process."""
    program = (
        "import sys, stream.plugin, stream.components\n"
        "others = ['numpy', 'zlmdb', 'klein', 'stream.api', 'stream.sandbox', 'stream.source',\n"
        "          'stream.storage.reader', 'stream.target.keboola']\n"
        "print(*[name for name in others if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == []
