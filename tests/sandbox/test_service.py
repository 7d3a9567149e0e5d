from __future__ import annotations

import socket
import sqlite3
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.error import CannotListenError

from stream.errors import UserError
from stream.sandbox import SandboxService
from stream.sandbox.database import SchemaError
from stream.sandbox.files import KEPT_AFTER_IMPORT_SECONDS, KEPT_SECONDS
from tests.sandbox.api import MASTER, TABLE, Api, csv_rows, folder_of, sleep
from tests.sandbox.conftest import make_service


@pytest_twisted.ensureDeferred
async def test_everything_survives_a_restart(tmp_path: Path) -> None:
    """Tables, rows, files, jobs, events and sink tokens exist after a restart."""
    service = make_service(tmp_path)
    await service.startService()
    api = Api(service.url)
    await api.bucket()
    await api.table()
    sink = await api.sink_token()
    file_id = await api.stage({"a": csv_rows(["1", "a"])})
    job = await api.done(await sink.load(file_id))
    await api.storage("POST", "events", {"component": "a", "message": "b"})
    await service.stopService()
    # Open readers would prevent the removal of the log files.
    names = {path.name for path in (tmp_path / "project-123").iterdir()}
    assert names == {"meta.sqlite", "data.sqlite", "staging", "lock"}

    await service.startService()
    try:
        api.url = sink.url = service.url
        assert await sink.rows_count() == 1
        again = (await sink.storage("GET", f"jobs/{job['id']}")).json
        assert again["status"] == "success" and again["results"] == job["results"]
        assert (await api.branch("GET", f"files/{file_id}")).status == 200
        assert len((await api.storage("GET", "events")).json) == 1
    finally:
        await service.stopService()


@pytest_twisted.ensureDeferred
async def test_stopping_interrupts_a_load(tmp_path: Path) -> None:
    """An interrupted load is rolled back, and repeated after the next start."""
    service = make_service(tmp_path)
    await service.startService()
    api = Api(service.url)
    await api.bucket()
    await api.table()
    file_id = await api.stage({"a": csv_rows(["1", "x" * 200]) * 200_000})
    answer = await api.load(file_id)
    while (await api.storage("GET", f"jobs/{answer.json['id']}")).json["status"] == "waiting":
        await sleep(0.001)
    await service.stopService()
    data = sqlite3.connect(service.data_path)
    assert data.execute(f'SELECT count(*) FROM "{TABLE}"').fetchone() == (0,)
    data.close()
    await service.startService()
    try:
        api.url = service.url
        assert (await api.done(answer))["status"] == "success"
        assert await api.rows_count() == 200_000
    finally:
        await service.stopService()


@pytest_twisted.ensureDeferred
async def test_stopping_does_not_wait_for_a_delay(tmp_path: Path) -> None:
    """Delayed calls and jobs are released."""
    service = make_service(tmp_path)
    await service.startService()
    api = Api(service.url)
    await api.bucket()
    await api.table()
    await api.fault("job", delay=300)
    await api.fault("verifyToken", delay=300)
    await api.load(await api.stage({"a": b""}))
    call = api.storage("GET", "tokens/verify")
    waiting = ensureDeferred(call)
    await sleep(0.1)
    await service.stopService()
    assert (await waiting).status == 503


@pytest_twisted.ensureDeferred
async def test_one_sandbox_per_directory(service: SandboxService, tmp_path: Path) -> None:
    """A second sandbox for the same directory doesn't start, and the first one continues."""
    with pytest.raises(UserError, match="is used by another running sandbox"):
        await make_service(tmp_path).startService()
    assert (await Api(service.url).storage("GET", "tokens/verify")).status == 200


@pytest_twisted.ensureDeferred
async def test_a_port_in_use(service: SandboxService, tmp_path: Path) -> None:
    """A failed start releases everything, so that the next one succeeds."""
    port = service.url.rsplit(":", 1)[1]
    other = make_service(tmp_path / "other", f"127.0.0.1:{port}")
    with pytest.raises(CannotListenError):
        await other.startService()
    await other.stopService()
    free = make_service(tmp_path / "other")
    await free.startService()
    await free.stopService()


@pytest_twisted.ensureDeferred
async def test_databases_that_do_not_match(tmp_path: Path) -> None:
    """Without one of the two files the sandbox refuses to start, since it would drop tables."""
    service = make_service(tmp_path)
    await service.startService()
    api = Api(service.url)
    await api.bucket()
    await api.table()
    await service.stopService()
    (tmp_path / "project-123" / "meta.sqlite").unlink()
    with pytest.raises(UserError, match="does not belong"):
        await service.startService()


@pytest_twisted.ensureDeferred
async def test_files_of_a_newer_release(tmp_path: Path) -> None:
    """Files with an unknown version of the schema are not changed."""
    service = make_service(tmp_path)
    await service.startService()
    await service.stopService()
    data = sqlite3.connect(service.data_path)
    data.execute("PRAGMA user_version = 99")
    data.close()
    with pytest.raises(SchemaError, match="99"):
        await service.startService()


@pytest.mark.parametrize(
    "listen", ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "h:65536", "h:-1"]
)
def test_invalid_addresses(tmp_path: Path, listen: str) -> None:
    """A listening address consists of a host and a port."""
    with pytest.raises(UserError, match='expected "host:port"'):
        make_service(tmp_path, listen)


@pytest.mark.parametrize(
    ("listen", "prefix"),
    [
        ("localhost:0", "http://127.0.0.1:"),
        ("[::1]:0", "http://[::1]:"),
        (":0", "http://127.0.0.1:"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_url(tmp_path: Path, listen: str, prefix: str) -> None:
    """The URL has the actual port and an address that works on this machine."""
    service = make_service(tmp_path, listen)
    await service.startService()
    try:
        assert service.url.startswith(prefix) and not service.url.endswith(":0")
        parts = urlsplit(service.url)
        with socket.create_connection((parts.hostname, parts.port), timeout=5):
            pass  # the system accepts it for the listening port
    finally:
        await service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_public_url(tmp_path: Path) -> None:
    """Links in answers start with the public URL, and browsers may use its host."""
    service = SandboxService(
        reactor,
        listen="127.0.0.1:0",
        path=str(tmp_path),
        token=MASTER,
        project_id=1,
        branch_id=456,
        public_url="http://sandbox.test:8001/",
    )
    await service.startService()
    try:
        api = Api(service.url)
        await api.bucket()
        job = (await api.branch("DELETE", "buckets/in.c-events")).json
        assert job["url"] == f"http://sandbox.test:8001/v2/storage/jobs/{job['id']}"
        page = await api.call("GET", "/", headers={"Host": "sandbox.test:8001"})
        assert page.status == 200
    finally:
        await service.stopService()


@pytest.mark.parametrize("imported", [True, False])
@pytest_twisted.ensureDeferred
async def test_old_files_are_deleted(tmp_path: Path, imported: bool) -> None:
    """Files are deleted some days after they were prepared, or a day after their import."""
    service = make_service(tmp_path)
    await service.startService()
    api = Api(service.url)
    await api.bucket()
    await api.table()
    old, new = await api.prepare(), await api.prepare()
    await service.stopService()
    meta = sqlite3.connect(tmp_path / "project-123" / "meta.sqlite")
    now = time.time()
    for file, slack in ((old, -1), (new, 60)):
        if imported:
            change = ("imported_at", now - KEPT_AFTER_IMPORT_SECONDS + slack, file["id"])
        else:
            change = ("created_at", now - KEPT_SECONDS + slack, file["id"])
        meta.execute(f"UPDATE files SET {change[0]} = ? WHERE id = ?", change[1:])
    meta.commit()
    meta.close()
    await service.startService()
    try:
        api.url = service.url
        for _ in range(100):
            if not folder_of(old).exists():
                break
            await sleep(0.02)
        assert not folder_of(old).exists() and folder_of(new).exists()
        listed = (await api.branch("GET", "files")).json
        assert [file["id"] for file in listed] == [new["id"]]
    finally:
        await service.stopService()
