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
    common = {"numpy", "zlmdb", "treq", "txaioetcd", "yaml", "psycopg", "pyarrow"}
    of_api = {"difflib", "klein", "werkzeug", "stream.api", "stream.target.keboola"}
    of_others = {"urllib3", "sqlite3", "stream.sandbox", "stream.storage.reader"}
    start = "stream.plugin, stream.components, stream.process, stream.quickstart"
    assert not _imported(start) & (common | of_api | of_others | {"stream.source"})
    api = "stream.api.service, stream.target.keboola.target, stream.target.registry"
    assert not _imported(f"{start}, {api}") & (common | of_others)


def _imported(modules: str) -> set[str]:
    """Return the names of all modules after an import of *modules*."""
    program = f"import sys, {modules}\nprint(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(ran.stdout.split())
