"""The interpreter of the build, copied with the part of the standard library for a service."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["PYTHON", "SITE", "copy_interpreter", "ignoring"]

_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
PYTHON = Path("bin") / _VERSION
"""The interpreter, in the tree."""

SITE = Path("lib") / _VERSION / "site-packages"
"""The installed libraries, in the tree."""

_LEFT_OUT = {
    *("__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter"),
    *("turtledemo", "turtle.py", "ensurepip", "lib2to3", "distutils", "venv", "pydoc_data"),
}
_LEFT_OUT_EXTENSIONS = (
    *("_test", "_ctypes_test", "_tkinter", "_curses", "_gdbm", "_dbm", "nis.", "readline."),
    *("xx", "_xxtest", "audioop", "ossaudiodev"),
)


def copy_interpreter(tree: Path) -> None:
    """Put the interpreter, its shared library and the standard library into *tree*."""
    executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    (tree / "bin").mkdir(parents=True)
    shutil.copy(executable, tree / PYTHON)
    library = sysconfig.get_config_var("INSTSONAME")
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        (tree / "lib").mkdir()
        shutil.copy(Path(sysconfig.get_config_var("LIBDIR")) / library, tree / "lib" / library)
    stdlib = Path(sysconfig.get_paths(vars=_base_prefix())["stdlib"])
    shutil.copytree(stdlib, tree / "lib" / _VERSION, ignore=ignoring(_is_left_out))
    (tree / SITE).mkdir()


def ignoring(is_left_out: Callable[[str], bool]) -> Callable[[str, list[str]], set[str]]:
    """Return an ``ignore`` of `shutil.copytree` that applies *is_left_out* to all names."""

    def ignore(_: str, names: Iterable[str]) -> set[str]:
        return {name for name in names if is_left_out(name)}

    return ignore


def _is_left_out(name: str) -> bool:
    return (
        name in _LEFT_OUT
        or name.startswith("config-")
        or (name.endswith(".so") and name.startswith(_LEFT_OUT_EXTENSIONS))
    )


def _base_prefix() -> dict[str, str]:
    """Return the base of a virtual environment, which has no standard library of its own."""
    return {"installed_base": sys.base_prefix, "base": sys.base_prefix}
