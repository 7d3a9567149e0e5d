"""``python -m bundle.development FILE TARGET``: a copy of the single file in development mode.

It differs only in its last bytes, which the launcher reads, and unpacks to the same directory.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from bundle.pack import MAGIC

__all__ = ["DEVELOPMENT_MAGIC", "in_development_mode"]

DEVELOPMENT_MAGIC = b"STREAM-BUNDLE-D\n"


def in_development_mode(file: Path, target: Path) -> None:
    """Write *target*: a copy of the single *file* that runs Python in development mode."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.copy(file, partial)
    with partial.open("r+b") as opened:
        opened.seek(-len(MAGIC), 2)
        opened.write(DEVELOPMENT_MAGIC)
    partial.replace(target)


if __name__ == "__main__":
    in_development_mode(Path(sys.argv[1]), Path(sys.argv[2]))
