"""A takeover of the original's etcd and volumes: rows equal acknowledged records."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.request
import zlib
from pathlib import Path
from typing import Any

from stream.encryption.aes import AesEncryptor
from stream.target.keboola.original import token_to_go
from tests.e2e.processes import ALL, Deployment
from tests.takeover.dump import directory, slice_keys

KEY = b"e" * 32
NODE = "node-1"
SETTINGS = {
    "STREAM_ENCRYPTION_PROVIDER": "aes",
    "STREAM_ENCRYPTION_AES_SECRET_KEY": base64.b64encode(KEY).decode(),
}


class Etcd:
    """The keys of the deployment, accessed over the JSON gateway of etcd."""

    def __init__(self, deployed: Deployment) -> None:
        self._url = f"http://127.0.0.1:{deployed.ports['etcd']}/v3/kv"

    def _call(self, what: str, **members: str) -> Any:
        body = {name: base64.b64encode(text.encode()).decode() for name, text in members.items()}
        request = urllib.request.Request(f"{self._url}/{what}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def below(self, prefix: str) -> dict[str, Any]:
        answer = self._call("range", key=f"e2e/{prefix}", range_end=f"e2e/{prefix}\x7f")
        return {
            base64.b64decode(kv["key"]).decode().removeprefix("e2e/"): json.loads(
                base64.b64decode(kv["value"])
            )
            for kv in answer.get("kvs", ())
        }

    def put(self, key: str, value: Any) -> None:
        self._call("put", key=f"e2e/{key}", value=json.dumps(value))

    def delete(self, prefix: str) -> None:
        self._call("deleterange", key=f"e2e/{prefix}", range_end=f"e2e/{prefix}\x7f")


def row(record: str) -> bytes:
    """Return a row in the format of the original."""
    cells = ["u", "2026-01-02T03:04:05.000Z", "127.0.0.1", record, "{}", "{}"]
    return b",".join(b'"%s"' % cell.encode() for cell in cells) + b"\n"


def stream(records: list[str], *, is_finished: bool) -> bytes:
    """Return one gzip stream with a marker after every second record."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    data = b""
    for index, record in enumerate(records):
        data += packer.compress(row(record))
        if index % 2 or index == len(records) - 1:
            data += packer.flush(zlib.Z_SYNC_FLUSH)
    return data + packer.flush() if is_finished else data


def as_original(etcd: Etcd, volume: Path) -> set[str]:
    """Convert the stored data to the original's encryption, statistics and files. Return the ids of
    the records in the files.
    """
    (file_key,) = etcd.below("storage/file/all/")
    (opened,) = etcd.below("storage/slice/all/").values()
    file_path = file_key.removeprefix("storage/file/all/")
    sink_path = file_path.rpartition("/")[0]
    encryptor = AesEncryptor(KEY)
    ((token_key, token),) = etcd.below("storage/keboola/secret/token/").items()
    secret = json.loads(_opened(token["encryptedToken"], {"sink": sink_path}))
    token["encryptedToken"] = encryptor.encrypt_for_original(
        token_to_go(secret), {"sink": sink_path}
    )
    etcd.put(token_key, token)
    # Local folders don't exist in the original, so they have no form there.
    ((staging_key, staging),) = etcd.below("storage/keboola/file/").items()
    staging["UploadCredentials"] = json.loads(
        _opened(staging["EncryptedCredentials"], {"file": file_path})
    )
    staging["EncryptedCredentials"] = ""
    etcd.put(staging_key, staging)
    etcd.delete("storage/mapping/")
    etcd.delete("runtime/")

    at = opened["sliceOpenedAt"]
    acknowledged: set[str] = set()
    for earlier, state in ((0, "writing"), (1, "closing"), (2, "uploading")):
        moment = at if not earlier else f"2026-01-02T03:04:0{earlier}.000Z"
        slice_: dict[str, Any] = {**opened, "sliceOpenedAt": moment, "state": state}
        slice_["local"] = {**opened["local"], "dir": directory(file_path, moment)}
        slice_["staging"] = {
            **opened["staging"],
            "path": f"{moment}_{opened['volumeId']}.gz",
        }
        if state != "writing":
            slice_["closingAt"] = at
        if state == "uploading":
            slice_["uploadingAt"] = at
        for key, value in slice_keys(slice_).items():
            etcd.put(key, value)
        records = [f"{state}-{number}" for number in range(7)]
        below = f"storage/stats/local/{file_path}/{opened['volumeId']}/{moment}"
        etcd.put(f"{below}/_open", {"slicesCount": 1, "firstRecordAt": "", "lastRecordAt": ""})
        etcd.put(
            f"{below}/{NODE}",
            {"firstRecordAt": at, "lastRecordAt": at, "recordsCount": 7, "compressedSize": "1KB"},
        )
        path = volume / slice_["local"]["dir"] / f".slice-{NODE}.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = stream(records, is_finished=state == "closing")
        if state == "writing":  # its node was killed and restarted
            records += [f"again-{number}" for number in range(3)]
            data += stream(records[7:], is_finished=False)
        path.write_bytes(data)
        acknowledged |= set(records)
    return acknowledged


def _opened(text: str, metadata: dict[str, str]) -> bytes:
    """Return a secret that this service has encrypted, decrypted and parsed as JSON."""
    decrypted: list[Any] = []
    opening = AesEncryptor(KEY).decrypt(text, metadata)
    try:
        opening.send(None)
    except StopIteration as ended:
        decrypted.append(ended.value)
    return json.dumps(decrypted[0]).encode()


def command(deployed: Deployment, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "stream-service"
    return subprocess.run(
        [str(program), *arguments],
        env={**os.environ, **deployed.environment(), **SETTINGS},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_taken_over_with_open_files(deployed: Deployment) -> None:
    """Slices are taken over in every state, one of them from a node that was killed twice: each
    record is in the table once, and so are later ones.
    """
    deployed.settings |= SETTINGS
    deployed.start("etcd", "sandbox", node_id="others")
    making = deployed.start("api", "storage-writer")
    url = deployed.define()
    busy = command(deployed, "check-takeover")
    assert busy.returncode == 1 and "a node is running" in busy.stdout
    assert making.stop() == 0
    acknowledged = as_original(Etcd(deployed), deployed.root / "volumes" / "default" / "one")

    checked = command(deployed, "check-takeover")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "the gzip stream has no end" in checked.stdout
    assert checked.stdout.endswith("it reads all of this as it is.\n")
    other_key = base64.b64encode(b"x" * 32).decode()
    refused = command(deployed, "check-takeover", f"--encryption-aes-secret-key={other_key}")
    assert refused.returncode == 1 and "another key or for another record" in refused.stdout

    components = [name for name in ALL if name not in ("etcd", "sandbox")]
    running = deployed.start(*components)
    for number in range(5):
        assert deployed.push(url, {"id": f"after-{number}"})[0] == 200
        acknowledged.add(f"after-{number}")
    stored = deployed.wait_ids(acknowledged)
    assert sorted(stored) == sorted(acknowledged)
    assert running.stop() == 0
    back = command(deployed, "check-takeover", "--to-original")
    assert back.returncode == 1 and 'stage to "local"' in back.stdout
    assert (
        command(
            deployed, "check-takeover", "--etcd-endpoint=127.0.0.1:1", "--etcd-connect-timeout=1s"
        ).returncode
        == 2
    )
