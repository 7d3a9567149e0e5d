"""Native libraries: the host's libraries, including the C library, are copied into the tree.

Two paths in the interpreter have to be absolute: the loader's, and that of the libraries, since the
loader finds a program's location only with a /proc. They are unknown here, so they are long
placeholders that the launcher replaces when it unpacks the tree.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "LIBRARIES_PLACEHOLDER",
    "LOADER_PLACEHOLDER",
    "bring_libraries",
    "elf_files",
    "relocate_interpreter",
]

LOADER_PLACEHOLDER = "/" + "loader-of-the-bundle/" * 12
LIBRARIES_PLACEHOLDER = "/" + "libraries-of-the-bundle/" * 12
"""Placeholder of the maximum length of the paths."""

_MAGIC = b"\x7fELF"
_RESOLVED = re.compile(r"^\s*(?:(\S+) => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_MISSING = re.compile(r"^\s*(\S+) => not found$", re.MULTILINE)
_OPENED_BY_NAME = ("libgcc_s.so.1",)
"""The C library opens it when a thread is cancelled."""


def elf_files(tree: Path) -> Iterator[Path]:
    """Return executables and shared objects in *tree*."""
    for path in sorted(tree.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == _MAGIC:
                    yield path


def bring_libraries(tree: Path) -> Path:
    """Copy what the tree links to into its ``lib``, and make every object search there.

    :returns: the dynamic loader, in the tree. Raises LookupError for a library that isn't here.
    """
    library = tree / "lib"
    linked = {path: _linked(path) for path in elf_files(tree)}
    found = {
        name: place
        for places in linked.values()
        for name, place in places.items()
        if not place.is_relative_to(tree)
    }
    for name in _OPENED_BY_NAME:
        found.setdefault(name, found["libc.so.6"].parent / name)
    loader = next(name for name in found if name.startswith("ld-linux"))
    for name, place in found.items():
        target = library / name
        if not target.exists():
            shutil.copy(place.resolve(), target)
            target.chmod(0o755)
    for path, places in linked.items():
        if places:
            _look_in(path, library)
    return library / loader


def relocate_interpreter(python: Path) -> None:
    """Put the placeholders into *python*, which can't be run here any more."""
    _patchelf("--set-interpreter", LOADER_PLACEHOLDER, str(python))
    _patchelf("--force-rpath", "--set-rpath", LIBRARIES_PLACEHOLDER, str(python))


def _linked(path: Path) -> dict[str, Path]:
    """Return paths of the libraries that *path* needs, by their names; none if it is static."""
    listed = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False).stdout
    missing = _MISSING.findall(listed)
    if missing:
        raise LookupError(f"{path} needs {', '.join(missing)}, not found on this machine")
    return {
        name or Path(place).name: Path(place)
        for name, place in _RESOLVED.findall(listed)
        if "linux-vdso" not in place
    }


def _look_in(path: Path, library: Path) -> None:
    """Add a search path for libraries to *path*; absolute search paths are dropped."""
    here = f"$ORIGIN/{os.path.relpath(library, path.parent)}"
    before = [part for part in _patchelf("--print-rpath", str(path)).split(":") if part]
    kept = [part for part in before if part.startswith("$ORIGIN")]
    if kept == before and path.parent.name not in {"bin", "lib", "lib-dynload"}:
        if not before:
            return  # the interpreter's own path is used
        if here in before:
            return
    _patchelf("--force-rpath", "--set-rpath", ":".join([*kept, here]), str(path))


def _patchelf(*arguments: str) -> str:
    command = Path(sys.executable).parent / "patchelf"
    done = subprocess.run([command, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
