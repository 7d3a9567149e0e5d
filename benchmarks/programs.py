"""Programs that benchmarks need and that aren't part of the project.

Each is built or installed on first use, and kept in ``target/``, so that later measurements need
neither Go nor a registry.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bundle.go import go_build

__all__ = ["Missing", "collector_program", "open_loop_program", "rotel_program"]

_ROOT = Path(__file__).parents[1]
_TARGET = _ROOT / "target"
_SOURCES = Path(__file__).parent / "go"
_ROTEL = "rotel==0.0.1a15"


class Missing(Exception):
    """A program is missing and can't be installed here; the text contains the reason."""


def collector_program() -> Path:
    """Return the OpenTelemetry collector, with a receiver of OTLP and two exporters to a file.

    Raises Missing.
    """
    return _built("otel-collector", "collector")


def open_loop_program() -> Path:
    """Return the load generator that doesn't wait for answers. Raises Missing."""
    return _built("open-loop", "openloop")


def rotel_program() -> Path:
    """Return Rotel, a collector in Rust: the program in its Python package. Raises Missing."""
    folder = _TARGET / "rotel"
    program = folder / "rotel" / "rotel-agent"
    if not program.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--target", str(folder), _ROTEL]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if not program.exists():
            raise Missing(f"{_ROTEL} can't be installed: {_last_line(ended.stderr)}")
    return program


def _built(name: str, module: str) -> Path:
    """Return the program *name*, which is compiled if its Go module has changed. Raises Missing."""
    program, source = _TARGET / name, _SOURCES / module
    newest = max(path.stat().st_mtime for path in source.iterdir())
    if not program.exists() or program.stat().st_mtime < newest:
        _TARGET.mkdir(exist_ok=True)
        try:
            go_build(program, source)
        except LookupError as error:
            raise Missing(f"{name} can't be built: {error}") from None
        except subprocess.CalledProcessError as error:
            raise Missing(f"{name} can't be built: go ended with {error.returncode}") from None
    return program


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
