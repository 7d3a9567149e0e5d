"""``python -m tests.e2e.openapi``: checks the running API against its OpenAPI document.

schemathesis sends valid and invalid requests generated from the OpenAPI 3.0 document, follows its
links, and compares each answer with the document.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.e2e.openapi.run import run
from tests.e2e.processes import deployment


def main() -> int:
    """Start a deployment, check it, and print the faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.openapi", description=__doc__)
    parser.add_argument("--examples", type=int, default=50, help="requests for each operation")
    parser.add_argument("--seed", type=int, help="repeat an earlier run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root, deployment(Path(root)) as deployed:
        deployed.start("etcd", "sandbox", "api", "storage-writer")
        result = run(deployed, options.examples, options.seed)
    sys.stdout.write(result.output)
    return result.code


if __name__ == "__main__":
    sys.exit(main())
