"""docs/tutorial-lake.md: its commands print what it shows, against `make run TARGET=iceberg`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.docs.blocks import ROOT, blocks
from tests.docs.product import Product, make_run

pytest.importorskip("pyiceberg", reason="pyiceberg is not installed, see the extra `iceberg`")
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """`make run TARGET=iceberg`."""
    directory = tmp_path_factory.mktemp("checkout")
    (directory / ".venv").symlink_to(sys.prefix)
    with make_run(directory, "iceberg") as product:
        yield product


def test_page(product: Product) -> None:
    """Each command prints what the page shows; nothing is logged as an error, and Keboola isn't
    called.
    """
    etcd = {
        "STREAM_ETCD_ENDPOINT": f"127.0.0.1:{product.deployed.ports['etcd']}",
        "STREAM_ETCD_NAMESPACE": "e2e",
    }
    shell = product.shell("tutorial-lake", etcd)
    for block in blocks(ROOT / "docs" / "tutorial-lake.md"):
        if block.text != "make run TARGET=iceberg":
            shell.run(block)
    assert shell.value("TOKEN").startswith("stream_1_")
    log = product.log.read_bytes()
    assert b'"level":"error"' not in log
    assert b"sandbox" not in log.partition(b"configuration: {")[0]
