"""docs/tutorial-postgres.md: its commands print what it shows, against `make run TARGET=postgres`.

Afterwards, no secret is in etcd or the log, and nothing is logged as an error.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.local_postgres import find_postgres
from tests.docs.blocks import ROOT, blocks
from tests.docs.product import Product, make_run

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(find_postgres() is None, reason="PostgreSQL is not installed"),
]


@pytest.fixture(scope="module")
def product() -> Iterator[Product]:
    """`make run TARGET=postgres` in a directory that an ordinary user can enter."""
    directory = Path(tempfile.mkdtemp(prefix="stream-tutorial-"))
    directory.chmod(0o711)
    (directory / ".venv").symlink_to(sys.prefix)
    try:
        with make_run(directory, "postgres") as product:
            yield product
    finally:
        shutil.rmtree(directory)


def test_page(product: Product) -> None:
    """Each command prints what the page shows; then etcd and the log are searched for the token and
    the password.
    """
    etcd = {
        "STREAM_ETCD_ENDPOINT": f"127.0.0.1:{product.deployed.ports['etcd']}",
        "STREAM_ETCD_NAMESPACE": "e2e",
    }
    shell = product.shell("tutorial-postgres", etcd)
    for block in blocks(ROOT / "docs" / "tutorial-postgres.md"):
        if block.text != "make run TARGET=postgres":
            shell.run(block)
    token = shell.value("TOKEN")
    assert token.startswith("stream_1_")
    password = (product.directory / "var/postgres/server/password").read_text().strip()
    kept = [product.log, *(product.directory / "var" / "etcd").rglob("*")]
    texts = [path.read_bytes() for path in kept if path.is_file()]
    for secret in (token.rpartition("_")[2], password):
        assert not any(secret.encode() in text for text in texts)
    assert b'"level":"error"' not in product.log.read_bytes()
    assert b"sandbox" not in product.log.read_bytes().partition(b"configuration: {")[0]
