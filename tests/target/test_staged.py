"""The staging storage is shared by all nodes, and is read in pieces of a maximum size."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor

from stream.errors import UserError
from stream.etcd import EtcdClient, Session
from stream.settings import TargetStagingSettings
from stream.staging import StagingError
from stream.target.staged import (
    MAX_PIECE_BYTES,
    PLACES,
    StagingArea,
    StagingCheck,
    decompressed,
    staging_address,
)

reactor: Any = _reactor
BOTH = ("api", "storage-reader", "storage-coordinator")

MEMBERS = st.lists(
    st.binary(max_size=50)
    | st.integers(0, 3 * MAX_PIECE_BYTES).map(lambda size: bytes(size))
    | st.just(random.Random(1).randbytes(2 * MAX_PIECE_BYTES)),
    max_size=4,
)


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@given(MEMBERS, st.sampled_from([1000, 64 * 1024, 1024 * 1024]))
def test_all_bytes_are_read_in_pieces(members: list[bytes], size: int) -> None:
    """Any number of gzip members with any content is supported."""
    packed = b"".join(gzip.compress(member, 1) for member in members)
    pieces = list(decompressed(_cut(packed, size), "gzip"))
    assert b"".join(pieces) == b"".join(members)
    assert all(0 < len(piece) <= MAX_PIECE_BYTES for piece in pieces)


def test_uncompressed_bytes_are_split() -> None:
    data = bytes(range(256)) * 5000
    pieces = list(decompressed([data, b"end"], "none"))
    assert b"".join(pieces) == data + b"end"
    assert max(map(len, pieces)) == MAX_PIECE_BYTES


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_missing_end_is_an_error(cut: int) -> None:
    packed = gzip.compress(b"a" * 1000) + gzip.compress(random.Random(1).randbytes(100))
    with pytest.raises(StagingError, match="its end is missing") as raised:
        list(decompressed([packed[:-cut]], "gzip"))
    assert not raised.value.retryable


def test_damage_is_an_error() -> None:
    packed = bytearray(gzip.compress(random.Random(1).randbytes(1000)))
    packed[500] ^= 255
    with pytest.raises(StagingError, match="is damaged"):
        list(decompressed([bytes(packed)], "gzip"))


def test_the_default_staging_of_one_process() -> None:
    """The default staging folder is next to the volumes."""
    address = staging_address(TargetStagingSettings(), BOTH, "/data/volumes")
    assert (address.scheme, address.prefix) == ("file", "/data/staging")


@pytest.mark.parametrize("components", [("storage-reader",), ("storage-coordinator", "api")])
def test_distributed_components_need_shared_staging(
    components: tuple[str, ...],
) -> None:
    with pytest.raises(UserError) as raised:
        staging_address(TargetStagingSettings(), components, "/data/volumes")
    assert '"target.staging.url" (STREAM_TARGET_STAGING_URL) must be set' in str(raised.value)
    set_ = TargetStagingSettings(url="s3://bucket/below", region="eu-1")
    address = staging_address(set_, components, "/data/volumes")
    assert (address.bucket, address.prefix, address.region) == ("bucket", "below", "eu-1")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://a/b", '"target.staging" needs "url", such as "s3://bucket/prefix"'),
        ("file://host/a", '"url" of a folder must be like'),
        ("s3:///a", "names no bucket"),
        ("az://container", '"account" is required for az://'),
        ("s3://key:secret@bucket", 'put credentials into "credentialFile"'),
    ],
)
def test_an_invalid_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        staging_address(TargetStagingSettings(url=url), BOTH, "/data/volumes")
    assert message in str(raised.value)
    assert "secret@" not in str(raised.value)


class _Node:
    """A node with a staging folder."""

    def __init__(self, etcd: EtcdClient, name: str, url: str) -> None:
        self.session = Session(etcd, ttl=30, reactor=reactor)
        address = staging_address(TargetStagingSettings(url=url), (), "")
        pool: Any = None
        area = StagingArea(address, reactor, pool)
        self.check = StagingCheck(area, etcd, self.session, name, reactor)

    async def start(self) -> None:
        await self.session.startService()
        await self.check.startService()

    async def stop(self) -> None:
        await self.check.stopService()
        await self.session.stopService()


@pytest_twisted.ensureDeferred
async def test_a_node_with_different_staging_does_not_start(
    etcd: EtcdClient, tmp_path: Path
) -> None:
    """Folders are identified by content, since equal paths on two machines are different
    folders.
    """
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "shared").symlink_to(tmp_path / "one")
    nodes = [
        _Node(etcd, "a", (tmp_path / "one" / "staging").as_uri()),
        _Node(etcd, "b", (tmp_path / "shared" / "staging").as_uri()),
    ]
    for node in nodes:
        await node.start()
    for url in ((tmp_path / "other" / "staging").as_uri(), "s3://bucket/prefix"):
        late = _Node(etcd, "c", url)
        with pytest.raises(UserError) as raised:
            await late.start()
        assert f'this node would stage slices in "{url}", but' in str(raised.value)
        await late.stop()
    assert len((await etcd.range(PLACES)).kvs) == 2
    for node in nodes:
        await node.stop()
    moved = _Node(etcd, "a", "s3://bucket/prefix")
    await moved.start()
    await moved.stop()
    assert not (await etcd.range(PLACES)).kvs


@pytest_twisted.ensureDeferred
async def test_a_folder_that_can_not_be_created_ends_the_start(
    etcd: EtcdClient, tmp_path: Path
) -> None:
    node = _Node(etcd, "a", (tmp_path / "not" / "mounted").as_uri())
    with pytest.raises(UserError, match="cannot create the folder"):
        await node.start()
    await node.stop()
