"""Rows refused by the target are quarantined and reported; all others are imported once."""

from __future__ import annotations

import base64
import gzip
import json
import math
import os
import random
import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st

from stream.etcd import EtcdClient
from stream.staging import StagingStore
from stream.storage.model.entity import File
from stream.storage.model.key import FileKey
from stream.storage.reconcile.operator import Requeue
from stream.target.keboola import JobFailed, quarantine
from stream.target.keboola.errors import is_about_rows
from stream.target.keboola.quarantine import (
    OBJECT,
    QuarantineRecord,
    RefusedRange,
    RowRange,
    after_refusal,
    first_ranges,
    read_quarantines,
)
from tests.storage.histories.world import SINK_KEY
from tests.target.keboola.bridge import TABLE_ID, Bridge, running_bridge

ROUNDS = int(os.environ.get("STREAM_CRASHES", "4"))
POISON = "poison"
MANY = 1_000_000


def rows(values: Iterable[object]) -> bytes:
    return b"".join(f'"{value}"\n'.encode() for value in values)


@attrs.frozen
class Setting:
    bridge: Bridge
    staging: Path

    async def refuse(self, text: str = POISON) -> None:
        """Make the target refuse rows that contain *text*."""
        await self.bridge.sandbox.fault("job", rowsWith=text, times=MANY)

    async def staged(self, *slices: Sequence[bytes]) -> File:
        """Return a file whose slices have these gzip members."""
        file = await self.bridge.importing_file(*(b"".join(members) for members in slices))
        (file_id,) = self.bridge.api.file_ids[-1:]
        objects = sorted(self.objects(file_id))
        for path, members in zip(objects, slices, strict=True):
            path.write_bytes(b"".join(gzip.compress(member) for member in members))
        return file

    def objects(self, file_id: int) -> list[Path]:
        return [p for p in (self.staging / str(file_id)).iterdir() if p.name != "manifest"]

    async def done(self, file: File) -> int:
        """Import until nothing remains, and return the rows in quarantine."""
        while True:
            try:
                return await self.bridge.importer.import_file(file)
            except Requeue:
                continue

    def table(self) -> list[str]:
        """Return the values in the table, in the order of their import."""
        with closing(sqlite3.connect(self.staging.parent / "data.sqlite")) as connection:
            found = connection.execute(f'SELECT body FROM "{TABLE_ID}" ORDER BY rowid')
            return [value for (value,) in found]

    async def jobs(self) -> int:
        """Return the import jobs that the target has run."""
        listed = (await self.bridge.sandbox.storage("GET", "jobs?limit=100")).json
        return sum(job["operationName"] == "tableImport" for job in listed)

    async def record(self, file: File) -> QuarantineRecord:
        return (await read_quarantines(self.bridge.storage.client, SINK_KEY))[file.key]

    async def kept(self, file: File) -> list[dict[str, Any]]:
        """Return the quarantined rows in the files that a user of the project can read."""
        record = await self.record(file)
        assert record.is_done and record.file_id is not None
        listed = (await self.bridge.sandbox.branch("GET", "files")).json
        (found,) = [f for f in listed if "stream.quarantine" in f["tags"]]
        assert (found["id"], found["maxAgeDays"]) == (record.file_id, None)
        text = (self.staging / str(record.file_id) / OBJECT).read_text()
        return [json.loads(line) for line in text.splitlines()]


@pytest_twisted.async_yield_fixture()
async def setting(etcd: EtcdClient, tmp_path: Path) -> AsyncIterator[Setting]:
    async with running_bridge(etcd, tmp_path) as running:
        yield Setting(running, tmp_path / "project-123" / "staging")


@pytest.mark.parametrize(
    "bad", [b'"x"y"\n', b'"one","two"\n', b'"never closed\n', b"bare,two\n", b'"odd""\n"\xff"x\n']
)
@pytest_twisted.ensureDeferred
async def test_malformed_rows(setting: Setting, bad: bytes) -> None:
    """One job imports all other rows, of several slices with several members each."""
    file = await setting.staged(
        [rows("ab"), rows("c") + bad + rows("d")], [rows("e")], [bad, rows("fg")]
    )
    assert await setting.done(file) == 2
    assert setting.table() == list("abcdefg")
    assert await setting.jobs() == 2
    kept = await setting.kept(file)
    assert [line.get("row", "").encode() or base64.b64decode(line["base64"]) for line in kept] == [
        bad,
        bad,
    ]
    for line in kept:
        assert line["file"] == str(file.key)
        assert "is not valid CSV" in line["reason"]
    assert await setting.done(file) == 2  # a later import has nothing to do
    assert setting.table() == list("abcdefg")


@pytest.mark.parametrize("bad", [{0}, {99}, {17, 18, 80}, set(), set(range(40, 44))])
@pytest_twisted.ensureDeferred
async def test_refused_values(setting: Setting, bad: set[int]) -> None:
    """Each refused row costs about 2·log2(n) jobs; the others are imported in order."""
    values = [f"{POISON}{i}" if i in bad else f"{i}" for i in range(100)]
    await setting.refuse()
    file = await setting.staged([rows(values[:30]), rows(values[30:60])], [rows(values[60:])])
    assert await setting.done(file) == len(bad)
    assert setting.table() == [value for value in values if POISON not in value]
    assert await setting.jobs() <= 1 + 2 * len(bad) * math.ceil(math.log2(100))
    if bad:
        kept = await setting.kept(file)
        assert [line["row"] for line in kept] == [f'"{POISON}{i}"\n' for i in sorted(bad)]
        assert all("has a value that is refused" in line["reason"] for line in kept)


@pytest_twisted.ensureDeferred
async def test_a_file_with_only_one_bad_row(setting: Setting) -> None:
    """Nothing is imported, and the row isn't lost."""
    await setting.refuse()
    file = await setting.staged([rows([POISON])])
    assert await setting.done(file) == 1
    assert setting.table() == []
    assert [line["row"] for line in await setting.kept(file)] == [f'"{POISON}"\n']


@pytest_twisted.ensureDeferred
async def test_damaged_data(setting: Setting) -> None:
    """The readable part of a damaged object is imported, and its damaged bytes are quarantined."""
    file = await setting.staged([rows("ab"), rows("cd"), rows("ef")], [rows("g")])
    first, _ = sorted(setting.objects(setting.bridge.api.file_ids[-1]))
    data = bytearray(first.read_bytes())
    start = data.index(b"\x1f\x8b", 1)
    end = data.index(b"\x1f\x8b", start + 1)
    data[start + 12] ^= 0xFF
    first.write_bytes(data)
    assert await setting.done(file) == 2
    assert setting.table() == list("abefg")
    (line,) = await setting.kept(file)
    assert (line["offset"], base64.b64decode(line["base64"])) == (start, bytes(data[start:end]))


@pytest.mark.parametrize(
    "code",
    ["storage.tables.notFound", "accessDenied", "storage.injectedFault", "storage.fileNotFound"],
)
@pytest_twisted.ensureDeferred
async def test_other_failures(setting: Setting, code: str) -> None:
    """After a missing table, a missing permission or a fault of the target, the file is retried as
    a whole.
    """
    await setting.bridge.sandbox.fault("job", status=400, code=code)
    file = await setting.staged([rows("ab")])
    with pytest.raises(JobFailed):
        await setting.bridge.importer.import_file(file)
    assert await read_quarantines(setting.bridge.storage.client, SINK_KEY) == {}
    assert await setting.done(file) == 0
    assert setting.table() == ["a", "b"]


@pytest_twisted.ensureDeferred
async def test_other_failures_during_the_search(setting: Setting) -> None:
    """Other failures don't count as refusals: the same rows are retried."""
    await setting.bridge.sandbox.fault("job", rowsWith=POISON, times=2)
    await setting.bridge.sandbox.fault("job", status=400, code="storage.internalError")
    await setting.refuse()
    file = await setting.staged([rows(["a", "b", "c", POISON])])
    with pytest.raises(JobFailed, match="Injected"):
        await setting.done(file)
    assert await setting.done(file) == 1
    assert setting.table() == ["a", "b", "c"]


@pytest_twisted.ensureDeferred
async def test_a_file_that_was_refused_by_an_older_release(setting: Setting) -> None:
    """A stored job that failed because of its rows isn't repeated as a whole."""
    await setting.refuse()
    file = await setting.staged([rows(["a", POISON])])

    async def old(*_: Any) -> Any:
        raise Requeue

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setting.bridge.importer._quarantine, "begin", old)
        with pytest.raises(Requeue):
            await setting.bridge.importer.import_file(file)
    assert await setting.done(file) == 1
    assert await setting.jobs() == 3
    assert setting.table() == ["a"]


@pytest_twisted.ensureDeferred
async def test_the_limit_of_jobs(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit, each remaining range is tried once and reported as a whole."""
    monkeypatch.setattr(quarantine, "MAX_JOBS", 4)
    await setting.refuse()
    values = [POISON if i in (1, 12, 13) else f"{i}" for i in range(16)]
    file = await setting.staged([rows(values)])
    refused = await setting.done(file)
    assert await setting.jobs() <= 1 + 4 + 4
    kept = [line["row"].strip().strip('"') for line in await setting.kept(file)]
    assert len(kept) == refused < 16
    assert sorted(setting.table() + kept) == sorted(values)
    assert any("were not checked one by one" in line["reason"] for line in await setting.kept(file))


class Crash(BaseException):
    """Simulated end of the process; handlers of exceptions must not continue."""


def arm(setting: Setting, patch: pytest.MonkeyPatch, chance: random.Random) -> None:
    """Let attempts end before or after any call of the Storage API, of etcd or of staging."""

    def dangerous(where: Any, name: str) -> None:
        call = getattr(where, name)

        async def maybe(*arguments: Any, **options: Any) -> Any:
            fate = chance.random()
            if fate < 0.06:
                raise Crash
            result = await call(*arguments, **options)
            if fate < 0.12:
                raise Crash
            return result

        patch.setattr(where, name, maybe)

    for name in (
        "prepare_file",
        "prepare_quarantine_file",
        "import_async",
        "wait_job",
        "get_job",
        "delete_file",
        "find_import",
    ):
        dangerous(setting.bridge.api, name)
    for name in ("_change", "load", "begin"):
        dangerous(setting.bridge.importer._quarantine, name)
    dangerous(setting.bridge.importer, "_store_job")
    dangerous(StagingStore, "_put")


@pytest_twisted.ensureDeferred
async def test_each_row_after_any_crash(setting: Setting) -> None:
    """Each row is imported or quarantined once, wherever and however often attempts end."""
    chance, crashes = random.Random(), 0
    await setting.refuse()
    expected: list[str] = []
    for number in range(ROUNDS):
        values = [
            f"{number}-{i}" + (POISON if chance.random() < 0.1 else "")
            for i in range(chance.randint(2, 40))
        ]
        middle = chance.randint(0, len(values))
        bad = chance.choice((b"", b'"malformed" "\n'))
        slices = [[rows(values[:middle]) + bad], [rows(values[middle:])]]
        if number:
            setting.bridge.storage.tick()
            await setting.bridge.do("disable_sink", SINK_KEY)
            setting.bridge.storage.tick()
            await setting.bridge.do("enable_sink", SINK_KEY)
            file = await setting.bridge.staged_file(*(b"".join(s) for s in slices))
        else:
            file = await setting.bridge.importing_file(*(b"".join(s) for s in slices))
        while True:
            with pytest.MonkeyPatch.context() as patch:
                arm(setting, patch, chance)
                try:
                    refused = await setting.done(file)
                    break
                except Crash:
                    crashes += 1
        good = [value for value in values if POISON not in value]
        assert refused == len(values) - len(good) + bool(bad)
        expected += good
        assert setting.table() == expected
        if refused:
            record = await setting.record(file)
            text = (setting.staging / str(record.file_id) / OBJECT).read_text()
            kept = [json.loads(line)["row"] for line in text.splitlines()]
            lost = [f'"{value}"\n' for value in values if POISON in value]
            assert sorted(kept) == sorted([*lost, *([bad.decode()] if bad else [])])
        await setting.bridge.storage.to_imported(file.key)
    print(f"{ROUNDS} files, {len(expected)} rows, {crashes} crashes")


KEY = FileKey.parse("1/2/source/sink/2026-01-02T03:04:05.000Z")


@given(st.integers(0, 3000), st.sets(st.integers(0, 2999), max_size=12), st.booleans())
def test_every_bad_row_is_found(count: int, bad: set[int], others_left_out: bool) -> None:
    """Exactly the bad rows are refused, in a number of jobs that depends on their number."""
    bad = {number for number in bad if number < count}
    ranges = first_ranges(count, others_left_out=others_left_out)
    record = QuarantineRecord(key=KEY, reason="refused", ranges=ranges)
    imported: list[int] = []
    while record.ranges:
        record = attrs.evolve(record, jobs=record.jobs + 1)
        *others, last = record.ranges
        here = range(last.start, last.end)
        if bad & set(here):
            record = after_refusal(record, "bad")
        else:
            imported += here
            record = attrs.evolve(record, ranges=tuple(others))
    assert imported == [number for number in range(count) if number not in bad]
    assert record.refused == tuple(RefusedRange(n, n + 1, "bad") for n in sorted(bad))
    assert record.jobs <= 2 + 2 * max(1, len(bad)) * math.ceil(math.log2(max(count, 2)))


@given(st.integers(1, 100_000), st.data())
def test_jobs_are_limited(count: int, data: st.DataObject) -> None:
    """Every row is imported or quarantined in a limited number of jobs."""
    record = QuarantineRecord(key=KEY, reason="r", ranges=first_ranges(count, others_left_out=True))
    decided = 0
    share = data.draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    chance = random.Random(data.draw(st.integers(0, 1000)))
    while record.ranges:
        *others, last = record.ranges
        record = attrs.evolve(record, jobs=record.jobs + 1)
        if chance.random() < share:
            record = after_refusal(record, "bad" * 1000)
        else:
            decided += last.end - last.start
            record = attrs.evolve(record, ranges=tuple(others))
    assert decided + record.records_count == count
    assert record.jobs <= quarantine.MAX_JOBS + 2 * math.ceil(math.log2(max(count, 2))) + 2
    assert len(record.refused) <= quarantine.MAX_REFUSED + 40


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("storage.csvImport.invalid", True),
        ("csvImport.invalidData", True),
        ("csvImport.rowTooLong", True),
        ("storage.tableImport.valueConversion", True),
        ("csvImport.columnsNotMatch", False),
        ("storage.tables.columnsNotMatch", False),
        ("storage.fileNotFound", False),
        ("csvImport.mandatoryFileNotFound", False),
        ("csvImport.unknownError", False),
        ("storage.tables.notFound", False),
        ("accessDenied", False),
        ("storage.internalError", False),
        ("", False),
    ],
)
def test_known_codes(code: str, expected: bool) -> None:
    """Other error codes don't refer to rows."""
    assert is_about_rows(code) is expected


def test_a_single_row_is_not_split() -> None:
    """A range of one row is tried once."""
    assert first_ranges(1, others_left_out=False) == (RowRange(0, 1),)
    assert first_ranges(0, others_left_out=True) == ()
