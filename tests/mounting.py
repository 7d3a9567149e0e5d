"""Small disks for tests, where they can be mounted."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

__all__ = ["full_disk", "read_only", "small_disk"]


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """Mount a file system in memory at *path*. Skips the test if that isn't possible.

    :param size: its size in the format of tmpfs, such as ``80m``.
    """
    if shutil.which("mount") is None:
        pytest.skip("needs the program mount")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a disk can't be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Replace the folder *path* by a full disk until the block ends; its content is discarded."""
    copy = path.with_name(f"{path.name}-copy")
    shutil.copytree(path, copy)
    with small_disk(path, "2m"):
        shutil.copytree(copy, path, dirs_exist_ok=True)
        with suppress(OSError), (path / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        yield
    shutil.rmtree(copy)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Make the folder *path* read-only, even for root. Skips the test if that isn't possible."""
    for options in (["--bind", str(path), str(path)], ["-o", "remount,ro,bind", str(path)]):
        if subprocess.run(["mount", *options], check=False, capture_output=True).returncode:
            pytest.skip("a folder can't be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
