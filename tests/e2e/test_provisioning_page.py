"""The calls in the README of provisioning, with an etcd that needs a password."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.etcd.embedded import etcd_binary
from tests.conftest import free_port
from tests.docs.blocks import ROOT, Block, blocks, section_of
from tests.docs.shell import Shell
from tests.e2e.processes import Deployment, wait_for

_PAGE = ROOT / "provisioning" / "stream" / "README.md"
_BLOCKS = {block: section_of(_PAGE, block) for block in blocks(_PAGE)}
_PASSWORD = "the password of root"
_TOKEN = "sandbox-token"
_COMPONENTS = "sandbox api http-source storage-writer storage-reader storage-coordinator"


def _blocks(section: str) -> list[Block]:
    found = [block for block, name in _BLOCKS.items() if name == section]
    assert found
    return found


def _client(address: str, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run etcdctl with an endpoint and the environment of the page."""
    program = Path(sys.executable).with_name("etcdctl")
    return subprocess.run(
        [str(program), *words],
        env={"PATH": os.environ["PATH"], "ETCDCTL_ENDPOINTS": address, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def etcd_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an etcd that needs a password."""
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            *(etcd_binary(), f"--data-dir={tmp_path_factory.mktemp('etcd')}", "--unsafe-no-fsync"),
            *(
                f"--listen-client-urls=http://{address}",
                f"--advertise-client-urls=http://{address}",
            ),
            f"--listen-peer-urls=http://127.0.0.1:{free_port()}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: _client(address, "endpoint", "health").returncode == 0, "etcd", 30)
        for words in (
            ("user", "add", f"root:{_PASSWORD}"),
            ("user", "grant-role", "root", "root"),
            ("auth", "enable"),
        ):
            done = _client(address, *words)
            assert done.returncode == 0, done.stderr
        yield address
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def deployed(
    etcd_address: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Deployment, Shell]]:
    """The product with the etcd of the page's calls, and a shell for them."""
    deployed = Deployment(
        tmp_path_factory.mktemp("deployed"),
        {
            "STREAM_ETCD_ENDPOINT": etcd_address,
            "STREAM_ETCD_NAMESPACE": "stream",
            "STREAM_ETCD_USERNAME": "root",
            "STREAM_ETCD_PASSWORD": _PASSWORD,
            "STREAM_SANDBOX_TOKEN": _TOKEN,
        },
    )
    addresses = {
        "localhost:8001": f"127.0.0.1:{deployed.ports['api']}",
        "localhost:8010": f"127.0.0.1:{deployed.ports['source']}",
    }
    try:
        deployed.start(*_COMPONENTS.split())
        yield deployed, Shell(deployed.root, {"PATH": os.environ["PATH"]}, addresses)
    finally:
        deployed.stop_all()


def test_calls(deployed: tuple[Deployment, Shell]) -> None:
    """Every call succeeds and prints what the page shows; the row is in the table."""
    product, shell = deployed
    for block in _blocks("The API"):
        shell.run(block)
    assert [row[1:] for row in product.rows("in.c-bucket.table")] == [('"Example data body"',)]
    assert _PASSWORD not in product.running[0].log.read_text()


def test_client_of_etcd(
    deployed: tuple[Deployment, Shell], etcd_address: str, tmp_path: Path
) -> None:
    """The pod of the etcd client has all it needs, and lists only Stream's keys."""
    run, *client = _blocks("etcd")
    words = shlex.split(run.text)
    assert words[:2] == ["kubectl", "run"]
    assert words[words.index("--labels") + 1] == "stream-etcd-client=true"
    container = json.loads(words[words.index("--overrides") + 1])["spec"]["containers"][0]
    assert container["name"] == "stream-etcd-client"
    environ = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for variable in container["env"]:
        if "value" in variable:
            environ[variable["name"]] = variable["value"]
        else:
            assert variable["valueFrom"] == {
                "secretKeyRef": {"name": "stream-etcd", "key": "etcd-root-password"}
            }
            environ[variable["name"]] = _PASSWORD
    assert environ["ETCDCTL_ENDPOINTS"] == "stream-etcd:2379"
    environ["ETCDCTL_ENDPOINTS"] = etcd_address
    shell = Shell(tmp_path, environ)
    printed = "".join(shell.run(block) for block in client)
    assert "\nstream/" in printed
    user = ("--user", f"root:{_PASSWORD}")
    assert _client(etcd_address, *user, "put", "/message", "Hello").stdout == "OK\n"
    assert _client(etcd_address, *user, "get", "/message").stdout == "/message\nHello\n"
    for refused in ((), ("--user", "root:another")):
        done = _client(etcd_address, *refused, "get", "/message")
        assert done.returncode != 0
        assert done.stdout == ""
