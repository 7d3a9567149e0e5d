"""A takeover of the original's etcd and volumes: rows equal acknowledged records."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.request
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stream.encryption.aes import AesEncryptor
from stream.target.keboola.original import token_to_go
from stream.values.utctime import format_time
from tests.e2e.processes import ALL, COLUMNS, Deployment, wait_for
from tests.encryption.test_gob import VALUES
from tests.takeover.dump import directory, slice_keys

KEY = b"e" * 32
OTHER = AesEncryptor(b"f" * 32)
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


def as_original(
    etcd: Etcd, volume: Path, sink: str = "my-sink", encryptor: AesEncryptor | None = None
) -> set[str]:
    """Convert a sink's stored data to the original's encryption, statistics and files. Return the
    ids of the records in the files."""
    (file_path,) = (
        key.removeprefix("storage/file/all/")
        for key, file in etcd.below("storage/file/all/").items()
        if file["sinkId"] == sink
    )
    sink_path = file_path.rpartition("/")[0]
    (opened,) = etcd.below(f"storage/slice/all/{file_path}/").values()
    encryptor = encryptor or AesEncryptor(KEY)
    ((token_key, token),) = etcd.below(f"storage/keboola/secret/token/{sink_path}").items()
    secret = json.loads(_opened(token["encryptedToken"], {"sink": sink_path}))
    token["encryptedToken"] = encryptor.encrypt_for_original(
        token_to_go(secret), {"sink": sink_path}
    )
    etcd.put(token_key, token)
    # Local folders don't exist in the original, so they have no form there.
    ((staging_key, staging),) = etcd.below(f"storage/keboola/file/{file_path}").items()
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
        records = [f"{sink}-{state}-{number}" for number in range(7)]
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


def _add_sink(deployed: Deployment, name: str) -> None:
    deployed.task(
        "POST",
        f"{deployed.api}/v1/branches/default/sources/my-source/sinks",
        {
            "type": "table",
            "name": name,
            "table": {
                "type": "keboola",
                "tableId": f"in.c-demo.{name}",
                "mapping": {"columns": COLUMNS},
            },
        },
    )


def _seal_for_another_key(etcd: Etcd, sink: str, seconds: float) -> None:
    """Encrypt the upload credentials of a sink's file with an unknown key.

    :param seconds: life of the credentials.
    """
    ((key, staging),) = (
        item for item in etcd.below("storage/keboola/file/").items() if f"/{sink}/" in item[0]
    )
    path = key.removeprefix("storage/keboola/file/")
    staging["UploadCredentials"] = None
    staging["EncryptedCredentials"] = OTHER.encrypt_for_original(VALUES["aws"], {"file": path})
    etcd.put(key, staging)
    end = format_time(datetime.now(UTC) + timedelta(seconds=seconds))
    for key, file in etcd.below("storage/file/").items():
        if key.endswith(path):
            file["staging"]["expiration"] = end
            etcd.put(key, file)


def _ids(deployed: Deployment, sink: str) -> list[str]:
    return sorted(row[3] for row in deployed.rows(f"in.c-demo.{sink}"))


def _wait_for_all(deployed: Deployment, sink: str, expected: set[str]) -> None:
    """Wait until the sink's table has all records, and check that it has each of them once."""
    wait_for(lambda: expected <= set(_ids(deployed, sink)), f"the records of {sink}", 120)
    assert _ids(deployed, sink) == sorted(expected)


def test_unreadable_data_affects_its_sink_alone(deployed: Deployment) -> None:
    """One sink is encrypted with an unknown key, the last chunk of another one's file is cut off,
    and a record of the layout and unknown keys are there: `check-takeover` names them. All other
    records are imported. The first sink gets a new token and its rows after it was disabled and
    enabled.
    """
    deployed.settings |= SETTINGS
    deployed.start("etcd", "sandbox", node_id="others")
    making = deployed.start("api", "storage-writer")
    url = deployed.define()
    for name in ("foreign", "cut"):
        _add_sink(deployed, name)
    assert making.stop() == 0
    etcd, volume = Etcd(deployed), deployed.root / "volumes" / "default" / "one"
    expected = {
        "events": as_original(etcd, volume),
        "foreign": as_original(etcd, volume, "foreign", OTHER),
        "cut": as_original(etcd, volume, "cut"),
    }
    _seal_for_another_key(etcd, "foreign", 20)
    (path,) = volume.glob(f"**/cut/*/2026-01-02T03-04-01-000Z/.slice-{NODE}.csv.gz")
    path.write_bytes(path.read_bytes()[:-12])
    expected["cut"].remove("cut-closing-6")
    etcd.put("other/key", {})
    etcd.put("storage/layout", {"version": 2, "writtenBy": "9.0.0"})

    checked = command(deployed, "check-takeover")
    assert checked.returncode == 1
    assert checked.stdout.count("encrypted with a different key") == 2
    assert "Problems (3)" in checked.stdout and "written by 9.0.0" in checked.stdout
    assert "other/key" in checked.stdout and str(path) in checked.stdout
    components = [name for name in ALL if name not in ("etcd", "sandbox")]
    code, refusal = deployed.refused(*components)
    assert code == 1 and "has version 2, written by 9.0.0" in refusal
    etcd.delete("storage/layout")

    running = deployed.start(*components)
    for number in range(5):
        assert deployed.push(url, {"id": f"after-{number}"})[0] == 200
        for ids in expected.values():
            ids.add(f"after-{number}")
    for name in ("events", "cut"):
        _wait_for_all(deployed, name, expected[name])
    assert _ids(deployed, "foreign") == []
    sink = f"{deployed.api}/v1/branches/default/sources/my-source/sinks/foreign"
    deployed.task("PUT", f"{sink}/disable")
    deployed.task("PUT", f"{sink}/enable")
    _wait_for_all(deployed, "foreign", expected["foreign"])
    log = running.log.read_text()
    assert "upload credentials of the file" in log and "encrypted with a different key" in log
    assert running.stop() == 0
    etcd.delete("other/")
    assert "unknown keys" not in command(deployed, "check-takeover", "--to-original").stdout


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
    assert checked.stdout.endswith("it reads all of this unchanged.\n")
    other_key = base64.b64encode(b"x" * 32).decode()
    refused = command(deployed, "check-takeover", f"--encryption-aes-secret-key={other_key}")
    assert refused.returncode == 1 and "a different key or for a different record" in refused.stdout

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
