"""Imports files into Iceberg tables. Only for worker processes.

Note [Iceberg commits]: the rows of a file are written to data files whose names are derived from
the file's import ID, and one commit adds all of them. The summary of the commit's snapshot contains
the ID (`FILE_ID`). Before a commit, and after each conflict, the worker searches the table's
snapshots for the ID. If it finds the ID, the rows are already in the table, and it adds nothing. A
commit requires that the table's newest snapshot is the one that was checked. So two commits of one
file can't both succeed, even if one arrives late after its answer was lost. The files of a failed
commit belong to no snapshot, so no reader sees them; a retry writes them again.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    ForbiddenError,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    RESTError,
    TableAlreadyExistsError,
    UnauthorizedError,
    ValidationException,
)
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
    schema_to_pyarrow,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionKey, partition_record_value
from pyiceberg.schema import Schema, sanitize_column_names
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _FastAppendFiles
from pyiceberg.transforms import VoidTransform
from pyiceberg.typedef import Record
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from stream.errors import UserError
from stream.target.columns import ColumnRecord
from stream.target.iceberg.tables import differences, new_schema, new_spec
from stream.target.lake.frames import LakeUnusable
from stream.target.lake.partitions import TIME_TRANSFORMS, read_partitions
from stream.target.lake.rows import GROUP_BYTES, limit_memory, read_groups
from stream.target.lake.spool import Part, Spool, split
from stream.target.owners import check_project
from stream.values.redaction import hide_secrets

__all__ = ["FILE_ID", "TRANSFORMS", "work"]

FILE_ID = "stream.file-id"
"""Member of a snapshot's summary: the import ID of the file whose rows the snapshot adds."""
MADE_BY = "stream.made-by"
"""Property of tables that were created for a sink."""
TRANSFORMS = ("identity", *TIME_TRANSFORMS, "bucket", "truncate")

_FIRST_WAIT = 0.05
_MAX_WAIT = 5.0
_MAX_ROWS = 1024 * 1024
_CODECS = {"zstd": "zstd", "snappy": "snappy", "gzip": "gzip", "uncompressed": "none"}
_MAX_SHOWN = 300
_NO_UUID = "0" * 32
limit_memory()


def work(job: dict[str, Any], slices: Iterator[Iterator[bytes]]) -> dict[str, Any]:
    """Run *job*. Its ``do`` is one of `_DOES`, ``probe`` or ``nothing``."""
    if job["do"] == "nothing":
        return {}
    try:
        properties = {**job["properties"], "py-io-impl": f"{__package__}.files.DurableFileIO"}
        catalog = load_catalog(job["catalog"], **properties)
        if job["do"] == "probe":
            catalog.list_namespaces()
            return {}
        return _DOES[job["do"]](_Job(catalog, job), slices)
    except (UnauthorizedError, ForbiddenError, RESTError, RequestException) as error:
        raise LakeUnusable(_reason(job, error)) from None
    except (SQLAlchemyError, OSError) as error:
        raise LakeUnusable(_reason(job, error)) from None


def _reason(job: dict[str, Any], error: Exception) -> str:
    text = " ".join(str(error).partition("[SQL")[0].split())
    return f"{type(error).__name__}: {hide_secrets(text, job['secrets'])[:_MAX_SHOWN]}"


class _Job:
    """The table that a job is about, and the import if there is one.

    :ivar columns: columns of the rows.
    :ivar import_id: import ID of the file; ``""`` if the job imports no file.
    """

    def __init__(self, catalog: Catalog, job: dict[str, Any]) -> None:
        self.catalog = catalog
        self.identifier = (*job["namespace"].split("."), job["table"])
        self.columns = [
            ColumnRecord(each["name"], each["type"], each["isKey"], each["isNullable"])
            for each in job.get("columns", ())
        ]
        self.partition_by: str = job.get("partitionBy", "")
        self.owner: str = job["owner"]
        self.import_id: str = job.get("importId", "")
        self.compression: str = job.get("compression", "none")
        self.commit_retries: int = job.get("commitRetries", 0)

    @property
    def name(self) -> str:
        return ".".join(self.identifier)

    def table(self) -> Table:
        """Return the table; create it if it is missing.

        Raises UserError: the table was created for another project, which may have taken the name
        since the file was opened.
        """
        table = self._loaded_or_made()
        check_project(table.properties.get(MADE_BY, ""), self.name, self.owner)
        return table

    def _loaded_or_made(self) -> Table:
        try:
            return self.catalog.load_table(self.identifier)
        except (NoSuchTableError, NoSuchNamespaceError):
            pass
        for level in range(1, len(self.identifier)):
            try:
                self.catalog.create_namespace(self.identifier[:level])
            except NamespaceAlreadyExistsError:
                continue
        schema = new_schema(self.columns)
        partitions = read_partitions(self.partition_by, self.columns, TRANSFORMS)
        try:
            return self.catalog.create_table(
                self.identifier,
                schema=schema,
                partition_spec=new_spec(partitions, schema),
                properties={MADE_BY: self.owner, "format-version": "2"},
            )
        except TableAlreadyExistsError:
            return self.catalog.load_table(self.identifier)

    def check(self, table: Table, *, with_partitions: bool) -> None:
        """Check that the rows fit *table*. Raises UserError with all reasons."""
        partitions = None
        if with_partitions and self.partition_by:
            partitions = read_partitions(self.partition_by, self.columns, TRANSFORMS)
        problems = differences(table, self.columns, partitions)
        if problems:
            raise UserError(
                f'the table "{self.name}" doesn\'t fit the mapping: {"; ".join(problems)}; change '
                "the mapping or the table, or use another table",
                name="tableMisfit",
            )


def _ensure(job: _Job, slices: Iterator[Iterator[bytes]]) -> dict[str, Any]:
    """Create the table, or add missing columns."""
    for attempt in range(job.commit_retries + 1):
        table = job.table()
        job.check(table, with_partitions=True)
        there = {field.name for field in table.schema().fields}
        missing = [column for column in job.columns if column.name not in there]
        if not missing:
            return {}
        try:
            with table.update_schema() as update:
                wanted = {field.name: field for field in new_schema(job.columns).fields}
                for column in missing:
                    update.add_column((column.name,), wanted[column.name].field_type)
        except (CommitFailedException, ValidationException, CommitStateUnknownException):
            _wait(attempt)
        else:
            return {}
    raise _contended(job)


def _has(job: _Job, slices: Iterator[Iterator[bytes]]) -> dict[str, Any]:
    """Return whether the table contains the file; create a dropped table again."""
    return {"has": _is_in(job.table(), job.import_id)}


def _is_in(table: Table, import_id: str) -> bool:
    return any(
        snapshot.summary is not None
        and snapshot.summary.additional_properties.get(FILE_ID) == import_id
        for snapshot in table.metadata.snapshots
    )


def _drop(job: _Job, slices: Iterator[Iterator[bytes]]) -> dict[str, Any]:
    """Drop the table and its files if it was created for the sink."""
    try:
        table = job.catalog.load_table(job.identifier)
    except (NoSuchTableError, NoSuchNamespaceError):
        return {"isDropped": False}
    if table.properties.get(MADE_BY) != job.owner:
        return {"isDropped": False}
    job.catalog.purge_table(job.identifier)
    return {"isDropped": True}


def _import(job: _Job, slices: Iterator[Iterator[bytes]]) -> dict[str, Any]:
    """Import the rows; see Note [Iceberg commits]."""
    table = job.table()
    job.check(table, with_partitions=False)
    missing = {column.name for column in job.columns} - {f.name for f in table.schema().fields}
    if missing:
        raise UserError(
            f'the table "{job.name}" has no column "{min(missing)}": it was renamed or dropped '
            "after the file was opened; add it again",
            name="tableMisfit",
        )
    files = _DataFiles(table, job)
    spool = Spool(files.arrow_schema, files.codec, files.store)
    groups = read_groups(slices, job.columns, compression=job.compression, max_rows=_MAX_ROWS)
    for group in groups:
        rows = files.converted(group)
        for key, part in split(rows, files.partition_values(rows)):
            spool.write(key, part)
    spool.finish()
    if not files.added:
        return {"rows": 0, "retries": 0}
    retries = _commit(job, table, files)
    return {"rows": sum(file.record_count for file in files.added), "retries": retries}


class _DataFiles:
    """The data files that hold the rows of a file.

    :ivar added: data files that are already stored.
    """

    def __init__(self, table: Table, job: _Job) -> None:
        self._table = table
        self._spec = table.spec()
        self._import_id = job.import_id
        by_name = {field.name: field for field in table.schema().fields}
        self._fields = [by_name[column.name] for column in job.columns]
        self._schema = sanitize_column_names(Schema(*self._fields))
        self.arrow_schema: pa.Schema = schema_to_pyarrow(self._schema)
        codec = table.properties.get("write.parquet.compression-codec", "zstd")
        self.codec = _CODECS.get(codec.lower(), "zstd")
        # A name that a snapshot may refer to must never be used for different bytes, so everything
        # that determines the bytes is part of the name.
        deciding = f"{pa.__version__} {self.codec} {GROUP_BYTES} {self.arrow_schema} {self._spec}"
        self._variant = hashlib.sha256(deciding.encode()).hexdigest()[:8]
        self._columns = {field.field_id: place for place, field in enumerate(self._fields)}
        self.added: list[DataFile] = []

    def converted(self, group: pa.Table) -> pa.Table:
        """Convert rows from the types read from CSV to the types of the table."""
        columns = [
            _uuids(column) if field.type == pa.uuid() else column.cast(field.type)
            for field, column in zip(self.arrow_schema, group.columns, strict=True)
        ]
        return pa.Table.from_arrays(columns, schema=self.arrow_schema)

    def partition_values(self, rows: pa.Table) -> list[pa.Array]:
        """Return, for each partition field of the table, the value of each row."""
        values = []
        for field in self._spec.fields:
            place = self._columns.get(field.source_id)
            if place is None or isinstance(field.transform, VoidTransform):
                values.append(pa.nulls(rows.num_rows))
                continue
            column = rows.column(place).combine_chunks()
            source = self._schema.find_type(field.source_id)
            values.append(field.transform.pyarrow_transform(source)(column))
        return values

    def store(self, parts: Sequence[Part]) -> None:
        """Store complete parts in the warehouse."""
        places = self._table.location_provider()
        properties = self._table.properties
        for part in parts:
            name = f"{self._import_id}-{part.number:05}-{self._variant}.parquet"
            record = self._record(part.key)
            key = None
            if self._spec.fields:
                key = PartitionKey([], self._spec, self._table.schema())
                key.__dict__["partition"] = record  # as pyiceberg would derive it from values
            path = places.new_data_location(name, key)
            with self._table.io.new_output(path).create(overwrite=True) as stream:
                for chunk in part.chunks():
                    stream.write(chunk)
            statistics = data_file_statistics_from_parquet_metadata(
                part.metadata,
                compute_statistics_plan(self._schema, properties),
                parquet_path_to_id_mapping(self._schema),
            )
            self.added.append(
                DataFile.from_args(
                    content=DataFileContent.DATA,
                    file_path=path,
                    file_format=FileFormat.PARQUET,
                    partition=record,
                    file_size_in_bytes=part.size,
                    sort_order_id=None,
                    spec_id=self._spec.spec_id,
                    equality_ids=None,
                    key_metadata=None,
                    **statistics.to_serialized_dict(),
                )
            )

    def _record(self, key: Sequence[Any]) -> Record:
        schema = self._table.schema()
        return Record(
            *(
                None if value is None else partition_record_value(field, value, schema)
                for field, value in zip(self._spec.fields, key, strict=True)
            )
        )


def _uuids(column: pa.ChunkedArray) -> pa.Array:
    """Return UUIDs, given as text, as 16 bytes each."""
    texts = column.combine_chunks()
    digits = pc.replace_substring(pc.fill_null(texts, _NO_UUID), "-", "")
    places, data = digits.buffers()[1:]
    del places  # the UUIDs have the same length and are contiguous
    stored = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16),
        len(digits),
        [texts.is_valid().buffers()[1], pa.py_buffer(bytes.fromhex(data.to_pybytes().decode()))],
    )
    return pa.ExtensionArray.from_storage(pa.uuid(), stored)


class _Append(_FastAppendFiles):
    """An append that searches for the file again after each conflicting commit.

    pyiceberg itself retries a commit that conflicts, after a delay set by the table's properties.
    Before each retry it calls `_validate_concurrency`.

    :ivar conflicts: number of conflicts.
    """

    conflicts = 0

    def _validate_concurrency(self) -> None:
        self.conflicts += 1
        if _is_in(self._transaction._table, self.snapshot_properties[FILE_ID]):
            raise _AlreadyThere

    def _clean_all_uncommitted(self) -> None:
        """Remove the manifests of a failed commit, unless the table contains the commit.

        If an answer is lost and the commit is sent again, for example by a proxy, the commit is
        refused although it was applied. Without its manifests, the table would be unreadable.
        """
        try:
            table = self._transaction._table.refresh()
        except Exception:
            return  # a few small files may remain, since they may be needed
        if table.snapshot_by_id(self._snapshot_id) is None:
            super()._clean_all_uncommitted()


class _AlreadyThere(ValidationException):
    """The table already contains the file."""


def _commit(job: _Job, table: Table, files: _DataFiles) -> int:
    """Commit the file once; return the number of retries. See Note [Iceberg commits]."""
    conflicts = 0
    for attempt in range(job.commit_retries + 1):
        if attempt:
            _wait(attempt)
            table = job.catalog.load_table(job.identifier)
            if table.spec() != files._spec:
                raise UserError(
                    f'the partitions of the table "{job.name}" were changed during the import',
                    status=503,
                    name="commitConflict",
                )
        if _is_in(table, job.import_id):
            return conflicts
        append: _Append | None = None
        try:
            with table.transaction() as transaction:
                append = _Append(
                    operation=Operation.APPEND,
                    transaction=transaction,
                    io=table.io,
                    snapshot_properties={FILE_ID: job.import_id},
                )
                for file in files.added:
                    append.append_data_file(file)
                append.commit()
        except _AlreadyThere:
            return conflicts + 1
        except (CommitFailedException, CommitStateUnknownException):
            conflicts += 1
            continue
        finally:
            conflicts += append.conflicts if append is not None else 0
        return conflicts
    raise _contended(job)


def _wait(attempt: int) -> None:
    time.sleep(random.uniform(0, min(_MAX_WAIT, _FIRST_WAIT * 2**attempt)))


def _contended(job: _Job) -> UserError:
    return UserError(
        f'the commit to the table "{job.name}" conflicted with other commits '
        f"{job.commit_retries + 1} times",
        status=503,
        name="commitConflict",
        detail='it will be tried again; a higher "commitRetries" of the connection allows more '
        "attempts in a row",
    )


_DOES = {"ensure": _ensure, "has": _has, "import": _import, "drop": _drop}
