from __future__ import annotations

import csv
import gzip
import io
import sqlite3
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.task import LoopingCall

from stream.sandbox import SandboxService
from tests.sandbox.api import TABLE, Api, csv_rows, folder_of, write_manifest, write_slices

SLICE = "2000-01-01T01:00:00.000Z_hdd-1.gz"


def stored(service: SandboxService, table: str = TABLE) -> list[tuple[str, ...]]:
    """Return the rows as another reader sees them while the sandbox runs."""
    data = sqlite3.connect(f"file:{service.data_path}?mode=ro", uri=True)
    try:
        return data.execute(f'SELECT * FROM "{table}" ORDER BY rowid').fetchall()
    finally:
        data.close()


@pytest_twisted.ensureDeferred
async def test_a_prepared_file(api: Api, tmp_path: Path) -> None:
    """The folder of a prepared file exists, is unique, and is valid for twelve hours."""
    file = await api.prepare(tags=["stream.sourceID=a"], federationToken=True, isEncrypted=True)
    assert file["id"] == 1001 and file["provider"] == "local" and file["region"]
    assert file["name"] == "source_sink_20260102030405"
    assert file["tags"] == ["stream.sourceID=a"]
    upload = file["localUploadParams"]
    assert upload["key"] == "1001/"
    assert Path(upload["directory"]).is_relative_to(tmp_path)
    assert folder_of(file).is_dir()
    created, expires = file["created"], upload["expiration"]
    assert created.endswith("+0000") and expires.endswith("+0000")
    hours = (int(expires[11:13]) - int(created[11:13])) % 24
    assert hours == 12 and expires[13:] == created[13:]


@pytest_twisted.ensureDeferred
async def test_files_are_listed_and_deleted(api: Api) -> None:
    """Files are listed newest first; a deleted file takes its objects with it."""
    first, second = await api.prepare(), await api.prepare()
    listed = (await api.branch("GET", "files?limit=200")).json
    assert [file["id"] for file in listed] == [second["id"], first["id"]]
    write_slices(first, {"a": b"x"})
    found = (await api.branch("GET", f"files/{first['id']}?federationToken=1")).json
    assert found["url"] == f"file://{folder_of(first)}/manifest"
    assert (await api.branch("DELETE", f"files/{first['id']}")).status == 204
    assert not folder_of(first).exists() and folder_of(second).exists()
    assert (await api.branch("DELETE", f"files/{first['id']}")).status == 404
    assert (await api.branch("GET", f"files/{first['id']}")).status == 404


@pytest_twisted.ensureDeferred
async def test_a_second_load_appends(api: Api, service: SandboxService) -> None:
    """Slices, compressed or not, are appended in order, and a second load is appended to
    the first.
    """
    await api.bucket()
    await api.table()
    sink = await api.sink_token()
    slices = {SLICE: csv_rows(["1", "a\nb"], ["2", 'say "x"']), "plain": csv_rows(["3", ""])}
    answer = await sink.load(await sink.stage(slices))
    assert answer.json["status"] == "waiting" and answer.json["operationName"] == "tableImport"
    assert answer.json["url"] == f"{api.url}/v2/storage/jobs/{answer.json['id']}"
    job = await sink.done(answer)
    assert job["status"] == "success" and "error" not in job
    assert job["results"] == {
        "importedColumns": ["id", "body"],
        "totalRowsCount": 3,
        "warnings": [],
    }
    assert job["createdTime"] and job["startTime"] and job["endTime"]
    assert stored(service) == [("1", "a\nb"), ("2", 'say "x"'), ("3", "")]
    await sink.done(await sink.load(await sink.stage(slices)))
    assert await sink.rows_count() == 6 and len(stored(service)) == 6
    assert (await sink.branch("GET", f"tables/{TABLE}")).json["lastImportDate"]


@pytest_twisted.ensureDeferred
async def test_a_slice_of_several_gzip_members(api: Api, service: SandboxService) -> None:
    """All members count, also if a row spans two, and without the suffix of the name."""
    await api.bucket()
    await api.table()
    rows = csv_rows(*([str(n), "x" * 50] for n in range(1000)))
    file = await api.prepare()
    write_slices(file, {"slice": b""})
    cuts = [0, 7, 7, 1000, len(rows)]
    members = [gzip.compress(rows[a:b]) for a, b in pairwise(cuts)]
    (folder_of(file) / "slice").write_bytes(b"".join(members))
    await api.done(await api.load(file["id"]))
    assert [row[0] for row in stored(service)] == [str(n) for n in range(1000)]


@pytest_twisted.ensureDeferred
async def test_a_full_load_replaces_the_rows(api: Api, service: SandboxService) -> None:
    """Without ``incremental`` the table has only the rows of the load."""
    await api.bucket()
    await api.table()
    for body in ("old", "new"):
        file_id = await api.stage({"a": csv_rows(["1", body], ["2", body])})
        await api.done(await api.load(file_id, incremental=0))
    assert stored(service) == [("1", "new"), ("2", "new")]
    assert await api.rows_count() == 2


@pytest_twisted.ensureDeferred
async def test_upsert_by_primary_key(api: Api, service: SandboxService) -> None:
    """The last row with a key replaces earlier ones of the load and of the table."""
    await api.bucket()
    await api.table(key=["id"])
    await api.done(await api.load(await api.stage({"a": csv_rows(["1", "a"], ["2", "b"])})))
    again = {"a": csv_rows(["2", "c"], ["3", "d"]), "b": csv_rows(["2", "e"])}
    job = await api.done(await api.load(await api.stage(again)))
    assert job["results"]["totalRowsCount"] == 3
    assert sorted(stored(service)) == [("1", "a"), ("2", "e"), ("3", "d")]
    assert await api.rows_count() == 3


@pytest_twisted.ensureDeferred
async def test_a_table_whose_columns_are_all_key(api: Api, service: SandboxService) -> None:
    """A row that already exists is unchanged."""
    await api.bucket()
    await api.table(key=["id", "body"])
    for _ in range(2):
        await api.done(await api.load(await api.stage({"a": csv_rows(["1", "a"], ["1", "b"])})))
    assert stored(service) == [("1", "a"), ("1", "b")]
    assert await api.rows_count() == 2


@pytest_twisted.ensureDeferred
async def test_columns_in_another_order(api: Api, service: SandboxService) -> None:
    """The request specifies the order of the columns."""
    await api.bucket()
    await api.table()
    await api.done(await api.load(await api.stage({"a": csv_rows(["b", "i"])}), ["body", "id"]))
    assert stored(service) == [("i", "b")]


@pytest_twisted.ensureDeferred
async def test_other_delimiter_and_enclosure(api: Api, service: SandboxService) -> None:
    """A load can specify the two characters."""
    await api.bucket()
    await api.table()
    file_id = await api.stage({"a": b"'1;2';x\n"})
    await api.done(await api.load(file_id, delimiter=";", enclosure="'"))
    assert stored(service) == [("1;2", "x")]


@pytest_twisted.ensureDeferred
async def test_an_empty_slice(api: Api) -> None:
    """An empty object, compressed or not, has no rows."""
    await api.bucket()
    await api.table()
    file = await api.prepare()
    write_slices(file, {"a": b"", "b.gz": b"", "c.gz": b""})
    (folder_of(file) / "c.gz").write_bytes(b"")
    job = await api.done(await api.load(file["id"]))
    assert job["status"] == "success" and job["results"]["totalRowsCount"] == 0


@pytest_twisted.ensureDeferred
async def test_a_file_that_is_not_sliced(api: Api, service: SandboxService) -> None:
    """The key of the file is that of its only object, and no manifest is needed."""
    await api.bucket()
    await api.table()
    file = await api.prepare(isSliced=False)
    folder_of(file).write_bytes(csv_rows(["1", "a"]))
    job = await api.done(await api.load(file["id"]))
    assert job["status"] == "success", job
    assert stored(service) == [("1", "a")]


@pytest_twisted.ensureDeferred
async def test_a_slice_that_is_listed_twice_is_loaded_once(
    api: Api, service: SandboxService
) -> None:
    """The job succeeds with a warning."""
    await api.bucket()
    await api.table()
    file = await api.prepare()
    write_slices(file, {"a:1": csv_rows(["1", "a"])})
    folder = folder_of(file)
    write_manifest(file, [f"file://{folder}/a:1", f"file://{folder}/a%3A1"])
    job = await api.done(await api.load(file["id"]))
    assert len(job["results"]["warnings"]) == 1
    assert stored(service) == [("1", "a")]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["id"], 'missing columns: "body"'),
        (["id", "body", "x"], 'columns the table does not have: "x"'),
        (["id", "id"], "a column is named twice"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_columns_must_match_the_table(api: Api, columns: list[str], message: str) -> None:
    """The job ends with an error that names the different columns."""
    await api.bucket()
    await api.table()
    job = await api.done(await api.load(await api.stage({"a": b""}), columns))
    assert job["status"] == "error" and job["error"]["message"] == message
    assert job["error"]["code"] and job["error"]["exceptionId"]


@pytest_twisted.ensureDeferred
async def test_an_invalid_row_rolls_back_the_load(api: Api, service: SandboxService) -> None:
    """A row of the wrong width after many valid ones leaves the table unchanged."""
    await api.bucket()
    await api.table()
    await api.done(await api.load(await api.stage({"a": csv_rows(["0", "kept"])})))
    good = csv_rows(*([str(n), "x"] for n in range(12_000)))
    for incremental in (0, 1):
        file_id = await api.stage({"a": good, "b.gz": csv_rows(["1", "a"], ["2"])})
        job = await api.done(await api.load(file_id, incremental=incremental))
        assert job["status"] == "error"
        assert job["error"]["message"] == 'object "b.gz": row 2 has 1 fields, expected 2'
        assert stored(service) == [("0", "kept")]
        assert await api.rows_count() == 1


@pytest.mark.parametrize(
    "damage", [b"not gzip", gzip.compress(b'"1","a"\n')[:-3]], ids=["not gzip", "cut off"]
)
@pytest_twisted.ensureDeferred
async def test_damaged_gzip_is_an_error_of_the_job(api: Api, damage: bytes) -> None:
    """A slice that isn't gzip or is truncated is not loaded."""
    await api.bucket()
    await api.table()
    file = await api.prepare()
    write_slices(file, {"a.gz": b""})
    (folder_of(file) / "a.gz").write_bytes(damage)
    job = await api.done(await api.load(file["id"]))
    assert job["error"]["message"] == 'object "a.gz" is not complete gzip data'
    assert await api.rows_count() == 0


@pytest_twisted.ensureDeferred
async def test_missing_objects(api: Api) -> None:
    """Without a manifest or one of its objects, the job ends with an error."""
    await api.bucket()
    await api.table()
    file = await api.prepare()
    job = await api.done(await api.load(file["id"]))
    assert job["error"]["code"] == "storage.fileNotFound"
    write_manifest(file, [f"file://{folder_of(file)}/gone"])
    job = await api.done(await api.load(file["id"]))
    assert job["error"]["message"] == 'object "gone" of the manifest does not exist'


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "s3://bucket/1001/a",
        "{folder}/../1002/a",
        "{folder}/%2e%2e/a",
        "{folder}/sub/a",
        "{folder}/sub%2Fa",
        "{folder}/a%00",
        "{folder}/",
        "{folder}/manifest",
        "{folder}x/a",
        5,
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_manifest_is_limited_to_its_own_file(api: Api, url: str | int) -> None:
    """A URL outside the file is refused before anything is read."""
    await api.bucket()
    await api.table()
    file = await api.prepare()
    folder = str(folder_of(file)).rstrip("/")
    text = url.replace("{folder}", f"file://{folder}") if isinstance(url, str) else url
    write_manifest(file, [text])  # type: ignore[list-item]
    job = await api.done(await api.load(file["id"]))
    assert job["error"]["code"] == "storage.manifestInvalid"


@pytest_twisted.ensureDeferred
async def test_a_symbolic_link_is_not_followed(api: Api, tmp_path: Path) -> None:
    """An object that is a symbolic link is not loaded into a table."""
    await api.bucket()
    await api.table()
    (tmp_path / "secret").write_bytes(b"1,2\n")
    file = await api.prepare()
    write_manifest(file, [f"file://{folder_of(file)}/a"])
    (folder_of(file) / "a").symlink_to(tmp_path / "secret")
    job = await api.done(await api.load(file["id"]))
    assert job["status"] == "error" and await api.rows_count() == 0


@pytest.mark.parametrize("manifest", [b"", b"[]", b'{"entries":{}}', b'{"entries":[1]}', b"{"])
@pytest_twisted.ensureDeferred
async def test_an_invalid_manifest(api: Api, manifest: bytes) -> None:
    """The job ends with an error or loads nothing."""
    await api.bucket()
    await api.table()
    file = await api.prepare()
    (folder_of(file) / "manifest").write_bytes(manifest)
    job = await api.done(await api.load(file["id"]))
    if manifest == b'{"entries":{}}':
        assert job["results"]["totalRowsCount"] == 0
    else:
        assert job["error"]["code"] == "storage.manifestInvalid"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"dataFileId": 99}, 404),
        ({"dataFileId": "1001"}, 400),
        ({"dataFileId": 2**63}, 400),
        ({"withoutHeaders": 0}, 400),
        ({"columns": []}, 400),
        ({"delimiter": ",,"}, 400),
        ({"delimiter": "\n"}, 400),
        ({"delimiter": '"'}, 400),
        ({"escapedBy": "\\"}, 400),
        ({"incremental": "yes"}, 400),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_bad_request_starts_no_job(
    api: Api, change: dict[str, object], status: int
) -> None:
    """An invalid request is refused immediately."""
    await api.bucket()
    await api.table()
    file = await api.prepare()
    body = {"dataFileId": file["id"], "withoutHeaders": 1, "columns": ["id", "body"], **change}
    assert (await api.branch("POST", f"tables/{TABLE}/import-async", body)).status == status
    assert (await api.branch("POST", "tables/in.c-events.x/import-async", body)).status >= 400


@pytest_twisted.ensureDeferred
async def test_a_preview(api: Api) -> None:
    """The preview is CSV with a header and the requested number of rows."""
    await api.bucket()
    await api.table()
    rows = [[str(n), f'"{n}",\n'] for n in range(5)]
    await api.done(await api.load(await api.stage({"a": csv_rows(*rows)})))
    answer = await api.branch("GET", f"tables/{TABLE}/data-preview?limit=3")
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/csv")
    assert list(csv.reader(io.StringIO(answer.text))) == [["id", "body"], *rows[:3]]
    for limit in ("0", "1001", "x", "-1", ""):
        answer = await api.branch("GET", f"tables/{TABLE}/data-preview?limit={limit}")
        assert answer.status == 400
    assert (await api.branch("GET", "tables/in.c-events.x/data-preview")).status == 404


@pytest_twisted.ensureDeferred
async def test_loads_of_one_table_are_sequential(api: Api, service: SandboxService) -> None:
    """Concurrent loads are applied in order, so the last one determines the upsert's result."""
    await api.bucket()
    await api.table(key=["id"])
    answers = []
    for n in range(8):
        file_id = await api.stage({"a": csv_rows(["1", str(n)], [f"own-{n}", ""])})
        answers.append(await api.load(file_id))
    for answer in answers:
        assert (await api.done(answer))["status"] == "success"
    assert {row[0]: row[1] for row in stored(service)}["1"] == "7"
    assert await api.rows_count() == 9


@pytest_twisted.ensureDeferred
async def test_a_large_load_does_not_block_the_reactor(api: Api, service: SandboxService) -> None:
    """While tens of thousands of rows are loaded, calls are answered and timers fire."""
    await api.bucket()
    await api.table()
    row = csv_rows(["1", "x" * 1024])
    file_id = await api.stage({SLICE: row * 30_000})
    turns: list[None] = []
    clock = LoopingCall(turns.append, None)
    clock.start(0.01)
    answer = await api.load(file_id)
    job = await api.done(answer)
    clock.stop()
    assert job["status"] == "success" and len(stored(service)) == 30_000
    assert len(turns) > 10  # If the load held the interpreter, only one or two timers would fire.
