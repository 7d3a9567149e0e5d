"""``python -m bundle.etcd target/etcd``: build a current etcd from the Go module proxy."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from bundle.go import go_build


def main() -> None:
    """Build the file that the command line names, and print its version."""
    target, began = Path(sys.argv[1]), time.monotonic()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        go_build(target, Path(__file__).parent)
    except (LookupError, subprocess.CalledProcessError) as error:
        sys.exit(f"Error: cannot build etcd: {error}")
    told = subprocess.run(
        [target.absolute(), "--version"], capture_output=True, text=True, check=True
    )
    print(f"{target}: {told.stdout.splitlines()[0]}, built in {time.monotonic() - began:.0f} s")


main()
