"""A client of the Storage API over real HTTP, with manually staged files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import treq
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.web.client import Agent
from twisted.web.http_headers import Headers

MASTER = "1-1-master-token-for-tests"
BUCKET = "in.c-events"
TABLE = "in.c-events.clicks"


@attrs.frozen
class Answer:
    status: int
    text: str
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)


async def sleep(seconds: float) -> None:
    await deferLater(reactor, seconds)


@attrs.define
class Api:
    """The API's calls with one token. Each uses a separate connection, so none outlives a test."""

    url: str
    token: str = MASTER

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
    ) -> Answer:
        sent: dict[str, str] = {"X-StorageApi-Token": self.token, **(headers or {})}
        response = await treq.request(
            method,
            self.url + path,
            headers=Headers({name: [value] for name, value in sent.items()}),
            data=json.dumps(body).encode() if body is not None else data,
            agent=Agent(reactor),
        )
        text = await response.text("utf-8")
        names = {
            name.decode().lower(): values[-1].decode()
            for name, values in response.headers.getAllRawHeaders()
        }
        return Answer(response.code, text, names)

    async def storage(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        return await self.call(method, f"/v2/storage/{path}", body, **options)

    async def branch(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        return await self.storage(method, f"branch/456/{path}", body, **options)

    async def fault(self, route: str, **fault: Any) -> None:
        answer = await self.call("POST", "/_local/faults", {"route": route, **fault})
        assert answer.status == 201, answer.text

    async def done(self, answer: Answer) -> dict[str, Any]:
        """Wait for the end of the job that *answer* names, and return it."""
        assert answer.status == 202, answer.text
        for _ in range(600):
            job: dict[str, Any] = (await self.storage("GET", f"jobs/{answer.json['id']}")).json
            if job["status"] in ("success", "error"):
                return job
            await sleep(0.02)
        raise AssertionError(f"job did not end: {job}")

    async def sink_token(self, **members: Any) -> Api:
        """Return a client with a new token for `BUCKET`."""
        body = {"bucketPermissions": {BUCKET: "write"}, "canReadAllFileUploads": True, **members}
        answer = await self.storage("POST", "tokens", body)
        assert answer.status == 201, answer.text
        return Api(self.url, answer.json["token"])

    async def bucket(self) -> None:
        answer = await self.branch("POST", "buckets", {"stage": "in", "name": "events"})
        assert answer.status == 201, answer.text

    async def table(
        self, columns: Sequence[str] = ("id", "body"), key: Sequence[str] = (), name: str = "clicks"
    ) -> dict[str, Any]:
        body = {
            "name": name,
            "columns": [{"name": column, "basetype": "STRING"} for column in columns],
            "primaryKeysNames": list(key),
        }
        job = await self.done(
            await self.branch("POST", f"buckets/{BUCKET}/tables-definition", body)
        )
        assert job["status"] == "success", job
        return job

    async def prepare(self, **members: Any) -> dict[str, Any]:
        body = {"name": "source_sink_20260102030405", "isSliced": True, **members}
        answer = await self.branch("POST", "files/prepare", body)
        assert answer.status == 201, answer.text
        file: dict[str, Any] = answer.json
        return file

    async def stage(self, slices: dict[str, bytes]) -> int:
        """Return a file with *slices* (compressed according to their names) and their manifest."""
        file = await self.prepare()
        write_slices(file, slices)
        return int(file["id"])

    async def load(
        self,
        file_id: int,
        columns: Sequence[str] = ("id", "body"),
        incremental: int = 1,
        table: str = TABLE,
        **members: Any,
    ) -> Answer:
        body = {
            "dataFileId": file_id,
            "incremental": incremental,
            "withoutHeaders": 1,
            "columns": list(columns),
            **members,
        }
        return await self.branch("POST", f"tables/{table}/import-async", body)

    async def rows_count(self, table: str = TABLE) -> int:
        return int((await self.branch("GET", f"tables/{table}")).json["rowsCount"])


def folder_of(file: dict[str, Any]) -> Path:
    upload: dict[str, str] = file["localUploadParams"]
    return Path(upload["directory"]) / upload["key"]


def write_slices(file: dict[str, Any], slices: dict[str, bytes]) -> None:
    folder = folder_of(file)
    for name, data in slices.items():
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    write_manifest(file, [f"file://{folder}/{name}" for name in slices])


def write_manifest(file: dict[str, Any], urls: Sequence[str]) -> None:
    manifest = {"entries": [{"url": url} for url in urls]}
    (folder_of(file) / "manifest").write_text(json.dumps(manifest))


def csv_rows(*rows: Sequence[str]) -> bytes:
    """Return rows as a sink writes them, with every field quoted."""
    lines = (",".join('"' + field.replace('"', '""') + '"' for field in row) for row in rows)
    return "".join(line + "\n" for line in lines).encode()
