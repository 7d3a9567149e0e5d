"""Imports files into Parquet objects. Only for worker processes.

See `stream.target.lake.worker_process`.

Note [Parquet imports]: the name of an object consists of the import ID of its file and the number
of the part. Both depend only on the file's rows, so a retry replaces each object with an identical
one. Before objects are stored, their names are written to a list of pending objects. So another
version of this program, which may split parts differently, can remove the objects that it doesn't
write again, and the objects of an abandoned file can be removed. The manifest is written last: a
file with a manifest is complete, and importing it again does nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stream.staging.bucket import Bucket, BucketAddress, open_bucket
from stream.target.columns import ColumnRecord
from stream.target.lake.partitions import TIME_TRANSFORMS, Partition, read_partitions
from stream.target.lake.rows import arrow_type, limit_memory, read_groups
from stream.target.lake.spool import Part, Spool, split
from stream.target.parquet.layout import folder_of, manifest_name, pending_name

__all__ = ["work"]

limit_memory()


def work(job: dict[str, Any], slices: Iterator[Iterator[bytes]]) -> dict[str, Any]:
    """Import the file that *job* describes; ``isNew`` is false if it was already imported."""
    bucket = open_bucket(BucketAddress(**job["address"]), job["credentials"])
    columns = [ColumnRecord(each["name"], each["type"]) for each in job["columns"]]
    partitions = read_partitions(job["partitionBy"], columns, TIME_TRANSFORMS)
    objects = _Objects(bucket, job["path"], job["importId"], partitions, job["timeColumn"])
    schema = pa.schema([pa.field(column.name, arrow_type(column.type)) for column in columns])
    spool = Spool(schema, job["codec"], objects.store)
    groups = read_groups(
        slices, columns, compression=job["compression"], max_rows=job["rowGroupRows"]
    )
    for group in groups:
        keys = [_period(group[partition.column], partition) for partition in partitions]
        for key, rows in split(group, keys):
            objects.note(key, rows)
            spool.write(key, rows)
    spool.finish()
    rows = objects.finish({"file": job["file"], "columns": job["columns"]})
    return {"rows": rows}


def _period(values: pa.ChunkedArray, partition: Partition) -> pa.Array:
    """Return the start of each value's period, in UTC."""
    array = values.combine_chunks()
    if pa.types.is_timestamp(array.type):
        # Times without a zone need no time zone database.
        array = array.view(pa.timestamp("us"))
    return pc.floor_temporal(array, unit=partition.transform)


class _Objects:
    """Stores the objects of a file; see Note [Parquet imports]."""

    def __init__(
        self,
        bucket: Bucket,
        path: str,
        import_id: str,
        partitions: Sequence[Partition],
        time_column: str,
    ) -> None:
        self._bucket = bucket
        self._path = path
        self._import_id = import_id
        self._partitions = partitions
        self._time_column = time_column
        self._pending = pending_name(path, import_id)
        self._before = _listed(bucket.read(self._pending))
        self._stored: list[dict[str, Any]] = []
        self._names: list[str] = []
        self._times: dict[Any, tuple[Any, Any]] = {}

    def note(self, key: Any, rows: pa.Table) -> None:
        """Record the first and the last time in *rows*."""
        if self._time_column:
            found = pc.min_max(rows[self._time_column].combine_chunks().cast(pa.int64())).as_py()
            if found["min"] is not None:
                least, most = self._times.get(key, (found["min"], found["max"]))
                self._times[key] = min(least, found["min"]), max(most, found["max"])

    def store(self, parts: Sequence[Part]) -> None:
        """Store complete parts."""
        names = [
            f"{folder_of(self._path, self._partitions, part.key)}"
            f"/{self._import_id}-{part.number}.parquet"
            for part in parts
        ]
        self._names += names
        every = sorted({*self._before, *self._names})
        self._bucket.put_bytes(self._pending, json.dumps({"objects": every}).encode())
        for name, part in zip(names, parts, strict=True):
            self._bucket.put(name, part.chunks)
            self._stored.append(
                {
                    "path": name.removeprefix(f"{self._path}/"),
                    "rows": part.rows,
                    "bytes": part.size,
                    **self._shown_times(part.key),
                }
            )
            self._times.pop(part.key, None)

    def _shown_times(self, key: Any) -> dict[str, str]:
        if key not in self._times:
            return {}
        least, most = (
            pa.scalar(each, pa.timestamp("us")).cast(pa.string()).as_py()
            for each in self._times[key]
        )
        return {"minTime": f"{least.replace(' ', 'T')}Z", "maxTime": f"{most.replace(' ', 'T')}Z"}

    def finish(self, described: dict[str, Any]) -> int:
        """Write the manifest; return the number of rows that it lists."""
        self._bucket.remove(sorted(self._before - set(self._names)))
        times = [each for each in self._stored if "minTime" in each]
        body: dict[str, Any] = {
            **described,
            "importId": self._import_id,
            "rows": sum(each["rows"] for each in self._stored),
            "objects": self._stored,
        }
        if times:
            body["timeColumn"] = self._time_column
            body["minTime"] = min(each["minTime"] for each in times)
            body["maxTime"] = max(each["maxTime"] for each in times)
        text = json.dumps(body, indent=1).encode() + b"\n"
        self._bucket.put_bytes(manifest_name(self._path, self._import_id), text)
        self._bucket.remove([self._pending])
        rows: int = body["rows"]
        return rows


def _listed(body: bytes | None) -> set[str]:
    return set(json.loads(body)["objects"]) if body is not None else set()
