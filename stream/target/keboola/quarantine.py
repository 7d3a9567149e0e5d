"""Quarantine: finds and stores the rows that a table refuses, and imports all other rows.

Note [Quarantine]. An import job accepts a file as a whole or not at all, so one bad row would block
all others of its file. When a job fails because of the rows
(`stream.target.keboola.errors.is_about_rows`), the rows are read back from staging storage.
Malformed rows are quarantined immediately. The others are imported by bisection: if a half is
refused, it is halved again, down to single rows. So each bad row costs about 2·log2(n) jobs, and
all acceptable rows are imported in their order.

The progress is stored in etcd, in one record per file. It contains the undecided ranges of rows
(the last one is next), the refused ranges, and the staging file and the job of the current range. A
range is removed in the transaction that records its outcome. Its job is started like an ordinary
import (Note [Once-only import] in `stream.target.keboola.imports`), and each range has its own
staging file. So a coordinator that continues after a crash imports no row twice and skips none. Row
numbers are stable, since staged objects never change.

Finally the refused rows are stored in a file in the project's file storage. This file doesn't
expire, and all users of the project can read it, independently of this service's disks. Only then
does the refused file count as imported.
"""

from __future__ import annotations

import base64
import tempfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, BinaryIO, Protocol

import attrs
import orjson
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from stream.definition.key import BranchKey, SinkKey
from stream.definition.stored import readable
from stream.encryption.interface import Encryptor
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient, atomic
from stream.staging import FileUpload, StagingStore, open_store
from stream.storage.model.entity import File
from stream.storage.model.key import FileKey
from stream.storage.model.state import SliceState
from stream.storage.reconcile.operator import Requeue
from stream.storage.store.records import read_slices
from stream.storage.store.statistics_reads import one_file_statistics
from stream.target.keboola.client import StorageApi
from stream.target.keboola.errors import JobFailed, StorageApiError
from stream.target.keboola.records import FileRecord
from stream.target.protocol import Quarantine
from stream.target.refused_rows import Damage, Row, RowSplitter, read_rows
from stream.values.codec import Record, decode, encode, field
from stream.values.token import Token

__all__ = [
    "MAX_JOBS",
    "MAX_REFUSED",
    "OBJECT",
    "QuarantineRecord",
    "RowQuarantine",
    "Save",
    "quarantine_record_key",
    "read_quarantines",
]

_log = Logger()

MAX_JOBS = 300
"""Maximum number of import jobs for one file before bisection ends.

Each remaining range is then tried once. Nine bad rows among 50,000 need about that many jobs.
"""

MAX_REFUSED = 100
"""Maximum number of refused ranges of one file before bisection ends.

So many refused ranges have a common cause, such as a table column that has become narrower.
"""

OBJECT = "rows.ndjson"
"""Name of the object with the refused rows."""

_PART_OBJECT = "rows.csv.gz"
_MAX_REASON_CHARS = 500
_DAMAGE_BYTES = 256 * 1024
_GZIP_CONTAINER = 31
_GZIP_LEVEL = 1
_IN_STAGING = {SliceState.UPLOADED, SliceState.IMPORTED}
_MALFORMED = "the row is not valid CSV of the table's columns"
_DAMAGED = "the staged object is damaged here; its compressed data can't be read"


class Save(Protocol):
    """A function that stores changes of a file's record in a transaction."""

    def __call__(self, txn: AtomicTxn, /, **changes: Any) -> Awaitable[None]:
        """Store the changes.

        :param changes: new values of members of `FileRecord`.
        """


Import = Callable[[Token, FileRecord, Save], Awaitable[None]]
"""Imports one staging file once. Raises `JobFailed`."""


@attrs.frozen
class RowRange(Record):
    """The rows of the file from *start* up to *end* (exclusive); malformed rows aren't numbered."""

    start: int
    end: int


@attrs.frozen
class RefusedRange(Record):
    """A range of refused rows and the reason."""

    start: int
    end: int
    reason: str = ""


@attrs.frozen
class Part(Record):
    """The staging file with the rows of the current range.

    :ivar storage_job_id: as in `FileRecord`, like *import_asked*.
    """

    file_id: int
    storage_job_id: int | None = None
    import_asked: bool = False


@attrs.frozen(kw_only=True)
class QuarantineRecord(Record):
    """The progress of a refused file; see Note [Quarantine].

    :ivar reason: why the target refused the file.
    :ivar ranges: ranges that aren't decided yet; the last one is next.
    :ivar part: staging file of the last range, once its rows are staged.
    :ivar jobs: number of parts staged so far.
    :ivar malformed: number of malformed rows, which belong to no range.
    :ivar missing: number of rows in damaged parts of objects, derived from the file's statistics.
    :ivar is_damaged: whether there are such parts.
    :ivar file_id: ID of the file with the refused rows.
    :ivar is_done: whether all rows are decided and the refused ones are stored.
    """

    key: FileKey = field(flatten=True)
    reason: str = ""
    ranges: tuple[RowRange, ...] = ()
    refused: tuple[RefusedRange, ...] = ()
    part: Part | None = None
    jobs: int = 0
    malformed: int = 0
    missing: int = 0
    is_damaged: bool = False
    file_id: int | None = None
    is_done: bool = False

    @property
    def records_count(self) -> int:
        """The number of rows that are or will be quarantined."""
        return self.malformed + self.missing + sum(r.end - r.start for r in self.refused)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to quarantine."""
        return not (self.refused or self.malformed or self.is_damaged)

    @property
    def shown(self) -> Quarantine:
        """Return the quarantine as it is shown to users."""
        return Quarantine(
            records_count=self.records_count,
            reason=self.refused[0].reason if self.refused else self.reason,
            is_finished=self.is_done,
            file_id=self.file_id if self.is_done else None,
        )


def quarantine_record_key(file: FileKey) -> str:
    """Return the etcd key of the quarantine of a file."""
    return f"storage/keboola/quarantine/{file}"


async def read_quarantines(
    client: EtcdClient, below: BranchKey | SinkKey
) -> dict[FileKey, QuarantineRecord]:
    """Return the quarantines of the files of a sink or a branch."""
    found = await client.range(f"storage/keboola/quarantine/{below}/")
    return {record.key: record for _, record in readable(QuarantineRecord, found.kvs)}


def first_ranges(rows: int, *, others_left_out: bool) -> tuple[RowRange, ...]:
    """Return the ranges of rows to try first.

    :param others_left_out: whether *rows* doesn't include all rows of the refused file.
    """
    if not rows:
        return ()
    whole = RowRange(0, rows)
    return (whole,) if others_left_out else halves(whole)


def halves(whole: RowRange) -> tuple[RowRange, ...]:
    """Return the two halves, the first one last; a single row is returned unchanged."""
    if whole.end - whole.start == 1:
        return (whole,)
    middle = (whole.start + whole.end) // 2
    return RowRange(middle, whole.end), RowRange(whole.start, middle)


def after_refusal(record: QuarantineRecord, reason: str) -> QuarantineRecord:
    """Return the record after its last range was refused: the range is halved or quarantined."""
    *others, refused = record.ranges
    may_halve = record.jobs < MAX_JOBS and len(record.refused) < MAX_REFUSED
    if refused.end - refused.start > 1 and may_halve:
        return attrs.evolve(record, part=None, ranges=(*others, *halves(refused)))
    found = RefusedRange(refused.start, refused.end, reason[:_MAX_REASON_CHARS])
    return attrs.evolve(record, part=None, ranges=tuple(others), refused=(*record.refused, found))


class RowQuarantine:
    """Quarantines rows that a table refuses.

    :param pool: a started thread pool, in which rows are read and parts are stored.
    """

    def __init__(
        self,
        client: EtcdClient,
        api: StorageApi,
        encryptor: Encryptor,
        pool: ThreadPool,
        reactor: Any,
    ) -> None:
        self._client = client
        self._api = api
        self._encryptor = encryptor
        self._pool = pool
        self._reactor = reactor

    async def load(self, key: FileKey) -> QuarantineRecord | None:
        """Return the record; ``None`` if no rows of the file were refused."""
        stored = await self._client.get(quarantine_record_key(key))
        return decode(QuarantineRecord, stored.value) if stored else None

    async def begin(
        self, token: Token, file: File, record: FileRecord, error: JobFailed
    ) -> QuarantineRecord:
        """Read the rows of a refused file, and create its record."""
        counted = (await one_file_statistics(self._client, file.key)).total.records_count
        async with self._staged(token, file, record) as staged:
            found = await self._in_thread(staged.look)
        begun = QuarantineRecord(
            key=file.key,
            reason=error.reason[:_MAX_REASON_CHARS],
            ranges=first_ranges(found.rows, others_left_out=found.is_anything_left_out),
            malformed=found.malformed,
            missing=max(0, counted - found.rows - found.malformed) if found.is_damaged else 0,
            is_damaged=found.is_damaged,
        )

        async def create(txn: AtomicTxn) -> QuarantineRecord:
            stored = await txn.get(quarantine_record_key(file.key))
            if stored is not None:
                return decode(QuarantineRecord, stored.value)
            txn.put(quarantine_record_key(file.key), encode(begun))
            return begun

        return await atomic(self._client, create)

    async def go_on(
        self,
        token: Token,
        file: File,
        record: FileRecord,
        split: QuarantineRecord,
        import_: Import,
        until: float,
    ) -> int:
        """Decide the remaining ranges; idempotent after any failure or crash.

        Raises Requeue: the time is over, or another node is working on the file.

        :param record: record of the whole file.
        :param until: time of the reactor's clock after which no further range is started.
        :returns: number of quarantined rows.
        """
        if split.is_done:
            return split.records_count
        async with self._staged(token, file, record) as staged:
            while split.ranges:
                split = await self._decide(token, record, staged, split, import_)
                if split.ranges and self._reactor.seconds() >= until:
                    raise Requeue(f"{len(split.ranges)} ranges of rows remain")
            split = await self._keep(token, record, staged, split)
        _log.error(
            "quarantined {count} rows of the file {file_id}: {reason}",
            count=split.records_count,
            file_id=str(file.key),
            reason=split.refused[0].reason if split.refused else split.reason,
            storage_file_id=split.file_id,
            jobs=split.jobs,
        )
        return split.records_count

    async def _decide(
        self,
        token: Token,
        record: FileRecord,
        staged: _StagedRows,
        split: QuarantineRecord,
        import_: Import,
    ) -> QuarantineRecord:
        """Import the rows of the last range, or record their refusal."""
        if split.part is None:
            split = await self._stage(token, record, staged, split)
        part = split.part
        assert part is not None
        as_file = attrs.evolve(
            record,
            file_id=part.file_id,
            storage_job_id=part.storage_job_id,
            import_asked=part.import_asked,
        )
        refusal: JobFailed | None = None
        try:
            await import_(token, as_file, partial(_save_part, record=split))
        except JobFailed as error:
            if not error.is_about_rows:
                raise
            refusal = error
        current = await self.load(split.key)
        if current is None or not _is_same_work(current, split):
            raise Requeue("another node is working on the file")
        if refusal is None:
            decided = attrs.evolve(current, part=None, ranges=current.ranges[:-1])
        else:
            decided = after_refusal(current, refusal.reason)
        decided = await self._change(current, decided)
        await self._delete(token, record, part.file_id)
        return decided

    async def _stage(
        self,
        token: Token,
        record: FileRecord,
        staged: _StagedRows,
        split: QuarantineRecord,
    ) -> QuarantineRecord:
        """Store the rows of the last range in a separate staging file."""
        upload = await self._api.prepare_file(token, **_prepared_for(split.key))
        store = self._open(upload, split.key)
        await store.put(_PART_OBJECT, partial(staged.part, split.ranges[-1]))
        await store.put_manifest([_PART_OBJECT])
        part = Part(upload.id)
        return await self._change(split, attrs.evolve(split, part=part, jobs=split.jobs + 1))

    async def _keep(
        self, token: Token, record: FileRecord, staged: _StagedRows, split: QuarantineRecord
    ) -> QuarantineRecord:
        """Store the refused rows, if any, in a file that doesn't expire."""
        if not split.is_empty:
            if split.file_id is not None:  # from an incomplete attempt
                await self._delete(token, record, split.file_id)
            upload = await self._api.prepare_quarantine_file(token, **_prepared_for(split.key))
            split = await self._change(split, attrs.evolve(split, file_id=upload.id))
            store = self._open(upload, split.key)
            await store.put(OBJECT, partial(staged.refused, split, record))
            await store.put_manifest([OBJECT])
        return await self._change(split, attrs.evolve(split, is_done=True))

    async def _change(self, old: QuarantineRecord, new: QuarantineRecord) -> QuarantineRecord:
        """Replace *old* with *new*. Raises `Requeue` if another node has changed the record."""

        async def body(txn: AtomicTxn) -> None:
            stored = await txn.get(quarantine_record_key(old.key))
            found = decode(QuarantineRecord, stored.value) if stored else None
            if found == new:
                return
            if found != old:
                raise Requeue("another process is working on the file")
            txn.put(quarantine_record_key(old.key), encode(new))

        await atomic(self._client, body)
        return new

    async def _delete(self, token: Token, record: FileRecord, file_id: int) -> None:
        """Delete a staging file that is no longer needed; if that fails, the file expires."""
        try:
            await self._api.delete_file(token, record.file_key.branch_id, file_id)
        except UserError as error:
            _log.warn("cannot delete the staging file {file}: {error}", file=file_id, error=error)

    def _open(self, upload: FileUpload, key: FileKey) -> StagingStore:
        return open_store(upload, file_key=str(key), reactor=self._reactor, pool=self._pool)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await deferToThreadPool(self._reactor, self._pool, work)

    @asynccontextmanager
    async def _staged(
        self, token: Token, file: File, record: FileRecord
    ) -> AsyncIterator[_StagedRows]:
        """Return the rows of the file, copied from staging storage to temporary files."""
        slices = await read_slices(self._client, file.key)
        names = sorted(
            slice_.staging.path
            for slice_ in slices
            if slice_.state in _IN_STAGING and not slice_.local.is_empty
        )
        store = self._open(await self._to_read(token, record), file.key)
        with ExitStack() as opened:
            objects: dict[str, BinaryIO] = {}
            for name in names:
                copy = opened.enter_context(tempfile.TemporaryFile(buffering=0))
                await store.fetch(name, copy)
                objects[name] = copy
            yield _StagedRows(objects, file.staging.compression.type, len(record.columns))

    async def _to_read(self, token: Token, record: FileRecord) -> FileUpload:
        """Return read credentials; if the API returns none, return the upload credentials."""
        found = None
        with suppress(StorageApiError):
            found = await self._api.file_to_read(token, record.file_key.branch_id, record.file_id)
        return found or await record.unseal(self._encryptor)


async def _save_part(txn: AtomicTxn, record: QuarantineRecord, **changes: Any) -> None:
    """Return a `Save` for the current part."""
    stored = await txn.get(quarantine_record_key(record.key))
    current = decode(QuarantineRecord, stored.value) if stored else None
    if current is None or current.part is None or not _is_same_work(current, record):
        raise Requeue("another process is working on the file")
    changed = attrs.evolve(current, part=attrs.evolve(current.part, **changes))
    txn.put(quarantine_record_key(record.key), encode(changed))


def _is_same_work(one: QuarantineRecord, other: QuarantineRecord) -> bool:
    """Return whether both records describe the same part of the same range."""
    if one.part is None or other.part is None:
        return False
    return one.part.file_id == other.part.file_id and one.ranges == other.ranges


def _prepared_for(key: FileKey) -> dict[str, Any]:
    return {
        "branch_id": key.branch_id,
        "source_id": key.source_id,
        "sink_id": key.sink_id,
        "opened_at": key.file_opened_at,
    }


@attrs.frozen
class _Found:
    """The result of reading all rows."""

    rows: int
    malformed: int
    is_damaged: bool

    @property
    def is_anything_left_out(self) -> bool:
        return self.malformed > 0 or self.is_damaged


class _StagedRows:
    """The rows of a file's objects, read again for each use. Blocks."""

    def __init__(self, objects: Mapping[str, BinaryIO], compression: str, columns: int) -> None:
        self._objects = objects
        self._compression = compression
        self._columns = columns

    def look(self) -> _Found:
        """Count the rows."""
        rows = malformed = damaged = 0
        for _, _, found in self._all():
            if isinstance(found, Damage):
                damaged += 1
            elif found.is_malformed:
                malformed += 1
            else:
                rows += 1
        return _Found(rows, malformed, damaged > 0)

    def _all(self) -> Iterator[tuple[str, int, Row | Damage]]:
        """Iterate over all rows, with their object's name and the number of the next good row."""
        number = 0
        for name, file in self._objects.items():
            splitter = RowSplitter(self._columns)
            for found in read_rows(file, self._compression, splitter):
                yield name, number, found
                if isinstance(found, Row) and not found.is_malformed:
                    number += 1

    def part(self, range_: RowRange) -> Iterator[bytes]:
        """Return a gzip file with the rows of *range_*."""
        packer = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_CONTAINER)
        for _, number, found in self._all():
            if number >= range_.end:
                break
            if isinstance(found, Row) and not found.is_malformed and number >= range_.start:
                packed = packer.compress(found.text)
                if packed:
                    yield packed
        yield packer.flush()

    def refused(self, split: QuarantineRecord, record: FileRecord) -> Iterator[bytes]:
        """Return one line of JSON for each quarantined row and for each range of damaged bytes."""
        ranges = sorted(split.refused, key=lambda each: each.start)
        shared = {"file": str(record.file_key), "table": record.table_id}
        for name, number, found in self._all():
            where = {**shared, "object": name}
            if isinstance(found, Damage):
                yield from self._damaged(found, where)
                continue
            if found.is_malformed:
                yield _line({**where, "reason": f"{_MALFORMED} ({split.reason})"}, found.text)
                continue
            while ranges and ranges[0].end <= number:
                ranges.pop(0)
            if ranges and ranges[0].start <= number:
                yield _line({**where, "reason": _reason(ranges[0])}, found.text)

    def _damaged(self, damage: Damage, where: Mapping[str, Any]) -> Iterator[bytes]:
        file = self._objects[where["object"]]
        position = damage.start
        while position < damage.end:
            file.seek(position)  # other readers may move the position between two lines
            data = file.read(min(_DAMAGE_BYTES, damage.end - position))
            if not data:
                return
            members = {**where, "reason": _DAMAGED, "offset": position}
            yield orjson.dumps(members | {"base64": base64.b64encode(data).decode()}) + b"\n"
            position += len(data)


def _reason(refused: RefusedRange) -> str:
    count = refused.end - refused.start
    if count == 1:
        return refused.reason
    return f"one of {count} rows that were not checked one by one: {refused.reason}"


def _line(members: Mapping[str, Any], text: bytes) -> bytes:
    """Return the line for a quarantined row, with the row as text if it is valid UTF-8."""
    try:
        content: dict[str, Any] = {"row": text.decode()}
    except UnicodeDecodeError:
        content = {"base64": base64.b64encode(text).decode()}
    return orjson.dumps({**members, **content}) + b"\n"
