"""The whole product with staging in real object stores: each record is a row."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

import obstore
import pytest
from twisted.internet.defer import Deferred

from benchmarks.chaos.pending import read_range
from stream.encryption import encryptor_from
from stream.sandbox import ObjectStaging
from stream.target.keboola.records import decode_file, decode_token
from tests.e2e.processes import ALL, TOKEN, deployment
from tests.staging.servers import SERVERS, ObjectServer, running_server

RECORDS = 300
_KEY = b"k" * 32
_SECRECY = {
    "STREAM_ENCRYPTION_PROVIDER": "aes",
    "STREAM_ENCRYPTION_AES_SECRET_KEY": base64.b64encode(_KEY).decode(),
    "STREAM_DEBUG_HTTPCLIENT": "true",
}


def _settings(staging: ObjectStaging) -> dict[str, str]:
    told = {
        "PROVIDER": staging.provider,
        "ENDPOINT": staging.endpoint,
        "BUCKET": staging.bucket,
        "REGION": staging.region,
        "KEY_ID": staging.key_id,
        "SECRET": staging.secret,
    }
    return {f"STREAM_SANDBOX_STAGING_{name}": value for name, value in told.items() if value}


def _secrets(dump: Mapping[str, bytes], staging: ObjectStaging) -> list[str]:
    """Return all credentials, decrypted from the dump with the key."""
    found = [TOKEN, _SECRECY["STREAM_ENCRYPTION_AES_SECRET_KEY"]]
    if staging.secret != staging.key_id:  # one of the stores has equal ones
        found.append(staging.secret)
    for key, value in dump.items():
        opened = Deferred.fromCoroutine(_unsealed(key, value))
        found += getattr(opened, "result", [])
    return [secret for secret in dict.fromkeys(found) if secret]


async def _unsealed(key: str, value: bytes) -> list[str]:
    encryptor = encryptor_from("aes", _KEY)
    if "storage/keboola/secret/token/" in key:
        return [(await decode_token(value).unseal(encryptor)).token]
    if "storage/keboola/file/" in key:
        upload = await decode_file(value).unseal(encryptor)
        text = str(upload.credentials.get("absCredentials", ""))
        return [text.partition("sig=")[2].partition("'")[0]] if "sig=" in text else []
    return []


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_pushed_records_become_rows(tmp_path: Path, server: ObjectServer) -> None:
    """The slices are in the store, its manifests list them, and each record is in the table once.

    No token or other secret is in a dump of etcd or in a log, even with all requests logged.
    """
    with (
        running_server(server, tmp_path / server.name / "objects") as staging,
        deployment(tmp_path / "stream", **_settings(staging), **_SECRECY) as deployed,
    ):
        deployed.start(*ALL)
        url = deployed.define()
        expected = [f"r{i}" for i in range(RECORDS)]
        for id in expected:
            assert deployed.push(url, {"id": id})[0] == 200
        ids = deployed.wait_ids(set(expected))
        dump = read_range(f"127.0.0.1:{deployed.ports['etcd']}", "e2e/", "")
        secrets = _secrets(dump, staging)
        store = staging._open()
        sizes = {item["path"]: item["size"] for page in obstore.list(store) for item in page}
        manifests = [path for path in sizes if path.endswith("/manifest")]
        listed = [
            entry["url"].rpartition("/")[2]
            for path in manifests
            for entry in json.loads(bytes(obstore.get(store, path).bytes()))["entries"]
        ]
    assert sorted(ids) == sorted(expected)
    assert manifests
    slices = [path.rpartition("/")[2] for path in sizes if path not in manifests]
    assert sorted(listed) == sorted(slices)
    etcd = b"".join(key.encode() + value for key, value in dump.items())
    # The database files of etcd also contain replaced and deleted values.
    etcd += b"".join(f.read_bytes() for f in (tmp_path / "stream/etcd").rglob("*") if f.is_file())
    # Lines that aren't JSON are the greeting, which shows the token of the sandbox.
    logs = b"\n".join(
        line
        for log in (tmp_path / "stream").glob("*.log")
        for line in log.read_bytes().splitlines()
        if line.startswith(b"{")
    )
    assert b'"encryptedToken":"aes::' in etcd
    assert b"answer 201 to POST" in logs
    for secret in secrets:
        assert secret.encode() not in etcd
        assert secret.encode() not in logs
    print(
        f"{staging.provider}: {len(ids)} rows; objects {sizes}; manifests list {listed}; "
        f"{len(secrets)} secrets looked for in {len(dump)} keys and {len(etcd)} bytes of "
        f"etcd or {len(logs)} bytes of log: none"
    )
