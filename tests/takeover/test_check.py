"""Checks and conversions with a real etcd."""

from __future__ import annotations

import base64
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest
import pytest_twisted
from twisted.internet import reactor

from stream.encryption import Encryptor
from stream.encryption.aes import AesEncryptor
from stream.encryption.clear import ClearEncryptor
from stream.errors import UserError
from stream.etcd import EtcdClient, Session
from stream.mapping.columns import Mapping
from stream.mapping.stored import StoredMapping
from stream.storage.store.layout import LayoutGuard
from stream.takeover.check import check_give_back, check_takeover, read_all
from stream.takeover.give_back import LOCK, give_back
from stream.takeover.inventory import Inventory, take_inventory
from stream.takeover.report import Weight
from stream.target.keboola.original import token_from_go, upload_from_go
from stream.target.keboola.records import FileRecord, TokenRecord
from stream.values.codec import decode, encode, from_plain
from tests.takeover.dump import (
    FILE_PATH,
    KEY,
    MAPPING,
    SINK_PATH,
    cluster,
    directory,
    file_keys,
    file_record,
    sink_record,
    slice_keys,
    slice_record,
    staging_record,
)

ensure = pytest_twisted.ensureDeferred
ENCRYPTOR = AesEncryptor(KEY)
TOKEN = f"storage/keboola/secret/token/{SINK_PATH}"
STAGING = f"storage/keboola/file/{FILE_PATH}"


async def fill(client: EtcdClient, keys: dict[str, Any]) -> None:
    for key, value in keys.items():
        await client.put(key, orjson.dumps(value))


@pytest_twisted.async_yield_fixture()
async def session(etcd: EtcdClient) -> AsyncIterator[Session]:
    session = Session(etcd, ttl=10, reactor=reactor)
    await session.startService()
    yield session
    await session.stopService()


def found_problems(found: Inventory) -> dict[str, str]:
    return {finding.key: finding.what for finding in found.report.of(Weight.PROBLEM)}


@ensure
async def test_with_the_key_of_the_original(etcd: EtcdClient) -> None:
    """The check finds no problem, and nothing is written."""
    await fill(etcd, cluster())
    before = [(kv.key, kv.value, kv.mod_revision) for kv in await read_all(etcd)]
    assert (await check_takeover(etcd, ENCRYPTOR)).report.findings == []
    assert [(kv.key, kv.value, kv.mod_revision) for kv in await read_all(etcd)] == before


@pytest.mark.parametrize("encryptor", [AesEncryptor(b"x" * 32), ClearEncryptor()], ids=range(2))
@ensure
async def test_with_another_key(etcd: EtcdClient, encryptor: Encryptor) -> None:
    """Both secrets are reported; secrets of imported files are no longer needed."""
    await fill(etcd, cluster())
    problems = found_problems(await check_takeover(etcd, encryptor))
    assert set(problems) == {TOKEN, STAGING}
    assert "secret" not in str(problems).replace("secret/token", "")
    await fill(etcd, file_keys(file_record("imported", importedAt=FILE_PATH[-24:])))
    assert STAGING not in found_problems(await check_takeover(etcd, encryptor))


@ensure
async def test_secrets_of_a_key_service(etcd: EtcdClient) -> None:
    """The check reports the original's secrets of a key service, with a remedy that works."""
    token = decode(TokenRecord, orjson.dumps(cluster()[TOKEN]))
    blob = base64.b64encode(b"\x1f\x8b\x08 a gzipped gob").decode()
    foreign = attrs.evolve(token, encrypted_token=f"aws::aes::{blob}")
    await fill(etcd, {**cluster(), TOKEN: orjson.loads(encode(foreign))})
    (finding,) = (await check_takeover(etcd, ENCRYPTOR)).report.of(Weight.PROBLEM)
    assert finding.key == TOKEN and 'encryption.provider "aws"' in finding.what
    assert "set encryption.provider" not in finding.remedy and "enable the sink" in finding.remedy


@ensure
async def test_while_a_node_runs(etcd: EtcdClient) -> None:
    """The check names its keys, because two services would import each other's files."""
    running = {
        "runtime/closesync/source/node/node-1": 7,
        "storage/volume/writer/my-volume": {"volumeId": "my-volume"},
    }
    await fill(etcd, {**cluster(), **running})
    assert set(found_problems(await check_takeover(etcd, ENCRYPTOR))) == set(running)


@ensure
async def test_the_files_of_a_killed_node(etcd: EtcdClient, tmp_path: Path) -> None:
    """The check reports incomplete streams, missing files, and volumes on other nodes."""
    volume = tmp_path / "default" / "one"
    (volume / directory(FILE_PATH, "2026-01-02T03:04:05.000Z")).mkdir(parents=True)
    (volume / "volume-id").write_text("my-volume")
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    data = packer.compress(b'"1","a"\n') + packer.flush(zlib.Z_SYNC_FLUSH)
    path = volume / directory(FILE_PATH, "2026-01-02T03:04:05.000Z") / ".slice-node-1.csv.gz"
    path.write_bytes(data)
    elsewhere = slice_record("2026-01-02T03:04:45.000Z", volumeId="other")
    await fill(etcd, {**cluster(), **slice_keys(elsewhere)})
    found = await check_takeover(etcd, ENCRYPTOR, str(tmp_path))
    assert {finding.key for finding in found.report.of(Weight.NOTE)} == {str(path), "volume other"}
    ((missing, what),) = found_problems(found).items()
    assert missing.endswith("2026-01-02T03-04-15-000Z") and "5 records" in what
    assert path.read_bytes() == data
    (tmp_path / "default" / "two").mkdir()
    (tmp_path / "default" / "two" / "volume-id").write_text("")
    problems = found_problems(await check_takeover(etcd, ENCRYPTOR, str(tmp_path)))
    assert set(problems) == {missing, str(tmp_path / "default" / "two")}
    (volume / "volume-id").unlink()
    found = await check_takeover(etcd, ENCRYPTOR, str(tmp_path / "default" / "nothing"))
    assert "files are not checked" in str(found.report.of(Weight.NOTE))


def _large(keys: dict[str, Any]) -> dict[str, Any]:
    """Return the keys with a mapping that is stored separately, as this service does."""
    mapping = from_plain(Mapping, MAPPING)
    reference = {"hash": StoredMapping.of(mapping).hash}
    large: dict[str, Any] = {f"storage/mapping/{SINK_PATH}/{reference['hash']}": MAPPING}
    for key, value in keys.items():
        if isinstance(value, dict) and "mapping" in value:
            large[key] = {**value, "mapping": reference}
        elif isinstance(value, dict) and "table" in value:
            large[key] = {**value, "table": {**value["table"], "mapping": reference}}
        else:
            large[key] = value
    return large


async def _ours() -> dict[str, Any]:
    """Return the cluster as this service stores it: separate mappings, and secrets in its
    format.
    """
    keys = cluster()
    token = decode(TokenRecord, orjson.dumps(keys[TOKEN]))
    keys[TOKEN] = orjson.loads(
        encode(await TokenRecord.seal(token.key, await token.unseal(ENCRYPTOR), ENCRYPTOR))
    )
    staging = decode(FileRecord, orjson.dumps(keys[STAGING]))
    keys[STAGING] = orjson.loads(
        encode(
            await FileRecord.seal(
                staging.file_key,
                staging.table_id,
                staging.columns,
                await staging.unseal(ENCRYPTOR),
                ENCRYPTOR,
            )
        )
    )
    return {**_large(keys), "storage/layout": {"version": 1}, "definition/size/123": {"bytes": 7}}


@ensure
async def test_conversion_to_the_original(etcd: EtcdClient, session: Session) -> None:
    """Every record has the original's format, and this service can read it too.

    A second conversion changes nothing.
    """
    await fill(etcd, await _ours())
    before = take_inventory(await read_all(etcd))
    dry = await check_give_back(etcd, ENCRYPTOR)
    assert dry.report.is_clear and len(dry.report.of(Weight.CONVERTED)) == 12
    assert take_inventory(await read_all(etcd)).values == before.values
    for _ in range(2):
        assert (await give_back(etcd, session, ENCRYPTOR, 5)).report.is_clear
        assert (await check_give_back(etcd, ENCRYPTOR)).report.findings == []
        kvs = {
            kv.key: orjson.loads(kv.value) for kv in await read_all(etcd) if kv.value[:1] == b"{"
        }
        original = cluster()
        assert set(kvs) == set(original)
        for secret in (TOKEN, STAGING):
            kvs.pop(secret)
            original.pop(secret)
        assert kvs == original
    token = await etcd.get(TOKEN)
    staging = await etcd.get(STAGING)
    assert token is not None and staging is not None
    sealed = decode(TokenRecord, token.value)
    inner = await ENCRYPTOR.decrypt(sealed.encrypted_token, {"sink": SINK_PATH})
    assert token_from_go(inner)["token"] == "123-1001-secret"
    upload = await ENCRYPTOR.decrypt(
        decode(FileRecord, staging.value).encrypted_upload, {"file": FILE_PATH}
    )
    assert upload_from_go(upload)["uploadParams"]["bucket"] == "my-bucket"
    assert (await check_takeover(etcd, ENCRYPTOR)).report.is_clear


@ensure
async def test_an_interrupted_conversion(
    etcd: EtcdClient, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it ends, the records can be read, and the next conversion completes it."""
    await fill(etcd, await _ours())
    commit = etcd.commit
    left = 0

    async def failing(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return await commit(*arguments)

    for allowed in range(0, 30, 3):
        left = allowed
        with monkeypatch.context() as patch:
            patch.setattr(etcd, "commit", failing)
            try:
                await give_back(etcd, session, ENCRYPTOR, 5)
            except BaseException as problem:
                assert isinstance(problem, KeyboardInterrupt)
        assert (await check_takeover(etcd, ENCRYPTOR)).report.is_clear
    assert (await give_back(etcd, session, ENCRYPTOR, 5)).report.is_clear
    assert not (await etcd.range("storage/mapping/")).kvs


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {
                f"definition/sink/active/{SINK_PATH}": sink_record(
                    table={"type": "postgres", "options": {}, "mapping": MAPPING}
                )
            },
            'no tables of type "postgres"',
        ),
        (
            {STAGING: {**staging_record(), "ImportAsked": True}}
            | file_keys(file_record("importing"))
            | {
                key: None
                for key in cluster()
                if key.startswith(("storage/slice/", "storage/file/level/local"))
            },
            "could be started twice",
        ),
        ({STAGING: None}, "nothing is known about the staging file"),
        (
            {
                STAGING: {
                    **staging_record(),
                    "EncryptedCredentials": "",
                    "UploadCredentials": {
                        "id": 7,
                        "provider": "local",
                        "localUploadParams": {"directory": "/tmp", "key": "7/"},
                    },
                }
            },
            'stage to "local"',
        ),
    ],
    ids=["table", "import", "nothing", "local"],
)
@ensure
async def test_obstacles_to_a_conversion(
    etcd: EtcdClient, session: Session, changed: dict[str, Any], problem: str
) -> None:
    """The obstacle is named, and nothing is converted."""
    keys = {**_large(cluster()), **changed}
    await fill(etcd, {key: value for key, value in keys.items() if value is not None})
    before = take_inventory(await read_all(etcd)).values
    found = await give_back(etcd, session, ENCRYPTOR, 5)
    assert problem in str(found.report.of(Weight.PROBLEM))
    assert take_inventory(await read_all(etcd)).values == before


@ensure
async def test_one_conversion_at_a_time(etcd: EtcdClient, session: Session) -> None:
    """The second one waits, and then reports that another one is running."""
    async with await session.lock(LOCK, timeout=5):
        other = Session(etcd, ttl=10, reactor=reactor)
        await other.startService()
        try:
            with pytest.raises(Exception, match="held by another process"):
                await give_back(etcd, other, ENCRYPTOR, 0.2)
        finally:
            await other.stopService()


@ensure
async def test_a_newer_layout_prevents_the_start(etcd: EtcdClient) -> None:
    """The error names the solution."""
    await LayoutGuard(etcd).startService()
    await fill(etcd, {"storage/layout": {"version": 1}})
    await LayoutGuard(etcd).startService()
    values: list[Any] = [{"version": 2}, [], {"version": "x"}]
    for value in values:
        await fill(etcd, {"storage/layout": value})
        with pytest.raises(UserError) as caught:
            await LayoutGuard(etcd).startService()
        assert caught.value.name == "layoutTooNew"
        assert "newer one" in str(caught.value.detail)
