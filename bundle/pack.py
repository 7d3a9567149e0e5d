"""Packing of a tree into the single file: launcher, packed tree, trailer."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tarfile
from pathlib import Path

from bundle.go import go_build
from bundle.native import LIBRARIES_PLACEHOLDER, LOADER_PLACEHOLDER

__all__ = ["MAGIC", "TRAILER_BYTES", "build_launcher", "pack", "trailer"]

MAGIC = b"STREAM-BUNDLE-1\n"
TRAILER_BYTES = 8 + 32 + len(MAGIC)
_SOURCE = Path(__file__).parent / "launcher" / "main.go"
_LEVEL = 9


def build_launcher(target: Path, *, python: Path, loader: Path) -> None:
    """Compile the launcher, statically. Raises LookupError if there is no Go.

    :param python: the interpreter, below the root of the tree.
    :param loader: the dynamic loader, likewise.
    """
    values = {
        "python": python,
        "loader": loader,
        "loaderPlaceholder": LOADER_PLACEHOLDER,
        "librariesPlaceholder": LIBRARIES_PLACEHOLDER,
    }
    go_build(target, _SOURCE, [f"-X=main.{name}={value}" for name, value in values.items()])


def pack(launcher: Path, tree: Path, target: Path) -> None:
    """Write *target*: *launcher*, the files below *tree*, and the trailer; deterministic."""
    packed = target.with_suffix(".tar.gz")
    with (
        packed.open("wb") as file,
        gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for path in [tree, *sorted(tree.rglob("*"))]:
            archive.add(path, str(path.relative_to(tree)), recursive=False, filter=_plain)
    partial = target.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(launcher.read_bytes())
        with packed.open("rb") as content:
            shutil.copyfileobj(content, file)
        with packed.open("rb") as content:
            file.write(trailer(packed.stat().st_size, hashlib.file_digest(content, "sha256")))
    packed.unlink()
    partial.chmod(0o755)
    partial.replace(target)


def trailer(length: int, digest: hashlib._Hash) -> bytes:
    """Return the trailer at the end of the file, which the launcher reads first."""
    return length.to_bytes(8, "big") + digest.digest() + MAGIC


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return the entry without the machine's details."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry
