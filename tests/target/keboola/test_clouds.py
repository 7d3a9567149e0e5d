"""Slices and rows with third-party object stores: two of S3, Azure Blob, Google Cloud."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import obstore
import orjson
import pytest
import pytest_twisted
from twisted.internet import protocol
from twisted.internet import reactor as _reactor
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.protocols import portforward

from stream.etcd import EtcdClient
from stream.sandbox import ObjectStaging
from stream.staging import CredentialsExpired, StagingError, bytes_chunks, open_store
from stream.storage.model.entity import File
from stream.target.keboola.provider import load_file_record
from tests.sandbox.api import MASTER, csv_rows
from tests.staging.servers import SERVERS, ObjectServer, running_server
from tests.target.keboola.bridge import TABLE_ID, Bridge, running_bridge

reactor: Any = _reactor
PART = 5 * 1024 * 1024
MARK = b"a-mark-that-a-bad-network-changes"


@pytest.fixture(scope="module", params=SERVERS, ids=lambda server: server.name)
def staging(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ObjectStaging]:
    """Each of the stores, with an empty bucket."""
    server: ObjectServer = request.param
    with running_server(server, tmp_path_factory.mktemp(server.name) / "objects") as started:
        yield started


@pytest_twisted.async_yield_fixture()
async def bridge(etcd: EtcdClient, tmp_path: Path, staging: ObjectStaging) -> AsyncIterator[Bridge]:
    """A sandbox that stages files in the store, and a bridge to it."""
    async with running_bridge(etcd, tmp_path / "sandbox", staging) as running:
        yield running


def rows_in(path: Path) -> list[str]:
    with sqlite3.connect(path / "sandbox" / "project-123" / "data.sqlite") as data:
        return [row[0] for row in data.execute(f'SELECT body FROM "{TABLE_ID}"')]


def content(staging: ObjectStaging, file_id: int, name: str) -> bytes:
    return bytes(obstore.get(staging._open(), f"sandbox/{file_id}/{name}").bytes())


@pytest_twisted.ensureDeferred
async def test_rows_equal_records(bridge: Bridge, staging: ObjectStaging, tmp_path: Path) -> None:
    """Small slices and one of several parts are stored, listed and imported; each row is there
    once.
    """
    noise = random.Random(1)
    big = [noise.randbytes(100_000).hex() for _ in range(PART * 2 // 100_000 + 1)]
    slices = [["a", 'b "quoted"', "c\nd"], big, ["", "ž"]]
    file = await bridge.importing_file(*(csv_rows(*([v] for v in part)) for part in slices))
    record = await load_file_record(bridge.storage.client, file.key)
    manifest = orjson.loads(content(staging, record.file_id, "manifest"))
    urls = [entry["url"] for entry in manifest["entries"]]
    assert len(urls) == len(set(urls)) == len(slices)
    stored = {}
    for url in urls:
        assert url.startswith(staging.url_prefix(record.file_id)), url
        name = url.rpartition("/")[2]
        stored[name] = len(content(staging, record.file_id, name))
    assert max(stored.values()) > 2 * PART
    await bridge.importer.import_file(file)
    expected = [value for part in slices for value in part]
    assert sorted(rows_in(tmp_path)) == sorted(expected)
    print(f"{staging.provider}: {len(expected)} rows; {urls[0]} …; sizes {stored}")


@pytest_twisted.ensureDeferred
async def test_expired_credentials(bridge: Bridge) -> None:
    """Nothing is read or sent, and the error isn't retryable."""
    await bridge.sandbox.fault("prepareFile", expiresIn=-5)
    upload = await _upload(bridge, await bridge.create_sink())

    def untouched() -> Iterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    with pytest.raises(CredentialsExpired) as caught:
        await upload.put("slice", untouched)
    assert not caught.value.retryable


@pytest_twisted.ensureDeferred
async def test_credentials_that_expire_during_an_upload(
    bridge: Bridge, staging: ObjectStaging
) -> None:
    """If the store refuses a part because of the time, the error says that the credentials
    expired.
    """
    if staging.provider != "azure":
        pytest.skip("credentials of this store never expire")
    await bridge.sandbox.fault("prepareFile", expiresIn=2)
    file = await bridge.create_sink()
    upload = await _upload(bridge, file)

    def slow() -> Iterator[bytes]:
        yield bytes(2 * PART)
        time.sleep(3.0)  # in a thread of the pool
        yield bytes(2 * PART)

    with pytest.raises(CredentialsExpired):
        await upload.put("slice", slow)
    record = await load_file_record(bridge.storage.client, file.key)
    with pytest.raises(FileNotFoundError):
        content(staging, record.file_id, "slice")


@pytest_twisted.ensureDeferred
async def test_an_interrupted_upload_is_repeated(bridge: Bridge, staging: ObjectStaging) -> None:
    """An interrupted upload creates no object, and a repeated one is complete."""
    file = await bridge.create_sink()
    upload = await _upload(bridge, file)
    body = random.Random(2).randbytes(3 * PART)

    def broken() -> Iterator[bytes]:
        yield body[: 2 * PART]
        raise StagingError("the disk is gone")

    with pytest.raises(StagingError):  # some stores refuse to abort the upload, which is logged
        await upload.put("slice", broken)
    record = await load_file_record(bridge.storage.client, file.key)
    with pytest.raises(FileNotFoundError):
        content(staging, record.file_id, "slice")
    stored = await upload.put("slice", bytes_chunks(body))
    assert (stored.size, stored.verified) == (len(body), True)
    assert content(staging, record.file_id, "slice") == body


@pytest.mark.parametrize("parts", [1, 3])
@pytest_twisted.ensureDeferred
async def test_bytes_changed_in_transit(bridge: Bridge, staging: ObjectStaging, parts: int) -> None:
    """An object changed by the network is never reported as stored."""
    host, _, port = staging.endpoint.partition("//")[2].partition("/")[0].partition(":")
    listening: Any = reactor.listenTCP(0, _BadNetwork(host, int(port)), interface="127.0.0.1")
    file = await bridge.create_sink()
    upload = await (await load_file_record(bridge.storage.client, file.key)).unseal(
        bridge.uploader._encryptor
    )
    text = orjson.dumps(upload.credentials).replace(
        f":{port}".encode(), f":{listening.getHost().port}".encode()
    )
    upload.credentials.clear()
    upload.credentials.update(orjson.loads(text))
    body = MARK * (PART * parts // len(MARK) - 10)
    store = open_store(upload, file_key="f", reactor=reactor, pool=bridge.uploader._pool)
    try:
        with pytest.raises(StagingError) as caught:
            await store.put("slice", bytes_chunks(body))
    finally:
        await listening.stopListening()
    assert caught.value.retryable
    again = await _upload(bridge, file)
    assert (await again.put("slice", bytes_chunks(body))).verified


@pytest_twisted.ensureDeferred
async def test_no_secret_is_stored_or_logged(bridge: Bridge, staging: ObjectStaging) -> None:
    """etcd and all log events contain none of the secrets in use."""
    told: list[str] = []

    def note(event: LogEvent) -> None:
        told.append(f"{event!r} {formatEvent(event)}")

    listen: Any = note
    globalLogPublisher.addObserver(listen)
    try:
        await bridge.sandbox.fault("createToken", status=429, message=MASTER)
        await bridge.sandbox.fault("importTable", status=429)
        await bridge.sandbox.fault("createEvent", status=403)
        file = await bridge.importing_file(b'"a"\n')
        await bridge.importer.import_file(file)
    finally:
        globalLogPublisher.removeObserver(listen)
    record = await load_file_record(bridge.storage.client, file.key)
    credentials = (await record.unseal(bridge.uploader._encryptor)).credentials
    secrets = [MASTER, *(token.token for token in bridge.api.tokens), staging.secret]
    if "absCredentials" in credentials:
        secrets.append(credentials["absCredentials"]["SASConnectionString"].rpartition("sig=")[2])
    dump = b"".join(
        kv.key.encode() + kv.value for kv in (await bridge.storage.client.range("")).kvs
    )
    assert str(record.file_id).encode() in dump
    for secret in secrets:
        assert len(secret) > 5
        assert secret.encode() not in dump
        assert not [line for line in told if secret in line]


async def _upload(bridge: Bridge, file: File) -> Any:
    record = await load_file_record(bridge.storage.client, file.key)
    upload = await record.unseal(bridge.uploader._encryptor)
    return open_store(upload, file_key=str(file.key), reactor=reactor, pool=bridge.uploader._pool)


class _Changing(portforward.ProxyServer):
    """Changes one byte of the first body with the marker, in each connection."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data.replace(MARK, MARK.replace(b"bad", b"bat"), 1))


class _BadNetwork(portforward.ProxyFactory):
    protocol: Any = _Changing

    def buildProtocol(self, addr: Any) -> protocol.Protocol | None:
        return super().buildProtocol(addr)
