"""Builds the compiled versions of the most frequent code (``native/``, Rust) into `stream/native`.

It needs cargo. If cargo is missing or too old, nothing is built, and the Python code does all the
work; the exit status is 0. Nothing is built if the module is up to date.

    python -m tools.compiled [--quiet]
    python -m tools.compiled --check     formatting, lints and unit tests instead
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "native"
BUILT = ROOT / "stream" / "native" / "_native.abi3.so"
STAMP = ROOT / "stream" / "native" / "_native.sha256"
WORK = ROOT / "target" / "native"
LOG = WORK / "log.txt"

_VERSION = re.compile(r'^rust-version = "(\d+)\.(\d+)"', re.MULTILINE)
_LIBRARIES = ("libstream_native.so", "libstream_native.dylib")


def why_not() -> str:
    """Return why the module can't be built here, or an empty text."""
    needed = tuple(map(int, _VERSION.findall((SOURCES / "Cargo.toml").read_text())[0]))
    cargo = shutil.which("cargo")
    if cargo is None:
        return "cargo isn't on the PATH"
    found = subprocess.run([cargo, "--version"], capture_output=True, text=True)
    version = re.search(r"(\d+)\.(\d+)", found.stdout)
    if found.returncode or version is None:
        return "cargo doesn't run"
    if (int(version[1]), int(version[2])) < needed:
        return f"cargo is older than {needed[0]}.{needed[1]}"
    return ""


def digest() -> str:
    """Return the hash of all sources of the build."""
    found = hashlib.sha256()
    for path in [SOURCES / "Cargo.toml", SOURCES / "Cargo.lock", *sorted(SOURCES.rglob("src/*"))]:
        found.update(str(path.relative_to(SOURCES)).encode() + b"\0")
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def is_current() -> bool:
    """Return whether the module was built from the current sources."""
    try:
        return BUILT.exists() and STAMP.read_text(encoding="utf-8") == digest()
    except FileNotFoundError:
        return False


def ensure_built(*, quiet: bool) -> bool:
    """Build the module unless it is current; return whether it exists afterwards.

    :param quiet: write the compiler's output only into the log file.
    """
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # `make run` and `make test` may build concurrently.
        if is_current():
            return True
        reason = why_not()
        if not reason:
            reason = _build()
        if reason:
            STAMP.unlink(missing_ok=True)
            BUILT.unlink(missing_ok=True)  # built from other sources
            if not quiet:
                print(f"The compiled code isn't built: {reason}. Python code does its work.")
            return False
        if not quiet:
            print(f"The compiled code is built into {BUILT.parent.relative_to(ROOT)}.")
        return True


def _build() -> str:
    """Build the module, and return the reason of a failure or an empty text."""
    current = digest()
    with LOG.open("w") as log:
        built = subprocess.run(
            ["cargo", "build", "--release", "--locked", "--lib", f"--target-dir={WORK}"],
            cwd=SOURCES,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    libraries = [WORK / "release" / name for name in _LIBRARIES]
    library = next((path for path in libraries if path.exists()), None)
    if built.returncode or library is None:
        return f"cargo failed, see {LOG.relative_to(ROOT)}"
    fresh = BUILT.with_suffix(".new")
    shutil.copy(library, fresh)
    fresh.replace(BUILT)  # a running process uses the old file
    STAMP.write_text(current, encoding="utf-8")
    return ""


def check() -> int:
    """Return the exit status of the compiler's own checks."""
    reason = why_not()
    if reason:
        print(f"{SOURCES.name}/ isn't checked: {reason}.")
        return 0
    about = subprocess.run(["rustc", "-vV"], capture_output=True, text=True).stdout
    host = re.findall(r"^host: (\S+)$", about, re.MULTILINE)
    fetch = ["cargo", "fetch", "--locked", *(f"--target={each}" for each in host)]
    if subprocess.run(fetch, cwd=SOURCES).returncode:
        print(f"{SOURCES.name}/ isn't checked: its libraries can't be fetched.")
        return 0
    target = f"--target-dir={WORK}"
    commands = [
        ["cargo", "fmt", "--check"],
        ["cargo", "clippy", "--locked", "--quiet", target, "--", "--deny=warnings"],
    ]
    return max(subprocess.run(command, cwd=SOURCES).returncode for command in commands)


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(check())
    ensure_built(quiet="--quiet" in sys.argv)
