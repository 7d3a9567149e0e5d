"""The direction of imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_imports_only_go_down() -> None:
    """No import goes up a floor, no component imports another, decisions import no Twisted."""
    command = Path(sys.executable).parent / "lint-imports"
    checked = subprocess.run(
        [str(command), "--no-cache"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
