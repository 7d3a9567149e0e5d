"""Import of a staged file into a table: a plan, and then one transaction that applies it.

The transaction of `load` contains the deletions, the rows, the new count and the mark of the job.
So after a crash a job is either applied once as a whole, or not at all.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote

import attrs
import orjson
from isal import igzip, isal_zlib

from stream.sandbox import rows
from stream.sandbox.csvrows import CsvError, row_batches

__all__ = [
    "ImportInterrupted",
    "ImportPlan",
    "ImportRefused",
    "load",
    "manifest_names",
    "object_url",
    "plan_import",
]

MANIFEST = "manifest"
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
MAX_MANIFEST_ENTRIES = 20_000
_GZIP_MAGIC = b"\x1f\x8b"
_LISTED_COLUMNS = 20
_DAMAGED = (EOFError, igzip.BadGzipFile, cast(type[Exception], isal_zlib.error))


class ImportRefused(Exception):
    """The job can't be executed as requested; *message* and *code* become the job's error."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class ImportInterrupted(Exception):
    """The sandbox is stopping; nothing was changed."""


@attrs.frozen
class ImportPlan:
    """The parameters of a load.

    :param columns: names of the columns, in the order of the fields.
    :param objects: paths of the CSV objects, with or without gzip.
    :param warnings: additional warnings of the job's result.
    :param refused_text: rows with this text in a value are refused; empty to refuse none.
    """

    job_id: int
    table_id: str
    columns: tuple[str, ...]
    primary_key: tuple[str, ...]
    incremental: bool
    objects: tuple[Path, ...]
    delimiter: str = ","
    enclosure: str = '"'
    warnings: tuple[str, ...] = ()
    refused_text: str = ""


def object_url(path: Path) -> str:
    """Return the ``file://`` URL of a staged object."""
    return "file://" + quote(str(path), safe="/:")


def plan_import(
    plan: ImportPlan,
    table_columns: Sequence[str],
    folder: Path,
    sliced: bool,
    prefixes: Sequence[str] = (),
) -> ImportPlan:
    """Check the columns of *plan*, and add the objects in *folder*.

    Raises ImportRefused: the columns aren't those of the table, or something is missing or
    malformed.

    :param folder: folder of the file's objects; nothing outside it is read.
    :param sliced: whether a manifest lists the objects; otherwise the file itself is the only
        object.
    :param prefixes: prefixes of the manifest's URLs that are allowed in addition to the folder's
        URL.
    """
    _check_columns(plan.columns, table_columns)
    if not sliced:
        objects = [path for path in _listing(folder) if path.name != MANIFEST]
        if len(objects) != 1:
            raise _missing(f"expected one object in the file, found {len(objects)}")
        return attrs.evolve(plan, objects=tuple(objects))
    names = manifest_names(folder, prefixes)
    warnings: tuple[str, ...] = ()
    if len(set(names)) < len(names):
        warnings = ("the manifest lists some objects twice; they were loaded once",)
    paths = tuple(folder / name for name in dict.fromkeys(names))
    for path in paths:
        if not path.is_file():
            raise _missing(f'object "{path.name}" of the manifest does not exist')
    return attrs.evolve(plan, objects=paths, warnings=warnings)


def load(
    data: sqlite3.Connection, plan: ImportPlan, interrupted: Callable[[], bool]
) -> rows.Applied:
    """Apply *plan* inside the caller's transaction on ``data.sqlite``.

    A job that was already applied changes nothing and returns its earlier result.

    Raises ImportRefused, ImportInterrupted: the caller must roll back its transaction.

    :param interrupted: called after each batch; returns whether the load must stop.
    """
    applied = rows.find_applied(data, plan.job_id)
    if applied is not None:
        return applied
    try:
        if not plan.incremental:
            data.execute(f"DELETE FROM {rows.quoted(plan.table_id)}")
            rows.count_rows(data, plan.table_id, None)
        loaded = sum(_load_object(data, plan, path, interrupted) for path in plan.objects)
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            raise ImportRefused(
                f'table "{plan.table_id}" was deleted', "storage.tables.notFound"
            ) from error
        raise
    # With a primary key, some rows may have replaced others.
    count = rows.count_rows(data, plan.table_id, None if plan.primary_key else loaded)
    applied = rows.Applied(loaded, count)
    rows.mark_applied(data, plan.job_id, applied)
    return applied


def _load_object(
    data: sqlite3.Connection, plan: ImportPlan, path: Path, interrupted: Callable[[], bool]
) -> int:
    statement = rows.insert_statement(plan.table_id, plan.columns, plan.primary_key)
    loaded = 0
    try:
        with _open_object(path) as stream:
            for batch in row_batches(
                stream, len(plan.columns), delimiter=plan.delimiter, enclosure=plan.enclosure
            ):
                if interrupted():
                    raise ImportInterrupted
                if plan.refused_text:
                    _refuse_rows(plan.refused_text, batch, loaded)
                data.executemany(statement, batch)
                loaded += len(batch)
    except FileNotFoundError as error:
        raise _missing(f'object "{path.name}" does not exist') from error
    except CsvError as error:
        raise ImportRefused(
            f'object "{path.name}": {error}', "storage.csvImport.invalid"
        ) from error
    except _DAMAGED as error:
        raise ImportRefused(
            f'object "{path.name}" is not complete gzip data', "storage.csvImport.invalid"
        ) from error
    return loaded


def _refuse_rows(text: str, batch: Sequence[Sequence[str]], before: int) -> None:
    for number, row in enumerate(batch, start=before + 1):
        if any(text in value for value in row):
            raise CsvError(f"row {number} has a value that is refused")


@contextmanager
def _open_object(path: Path) -> Iterator[BinaryIO]:
    # Links aren't followed, because they could point outside the file's own folder.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as plain:
        packed = path.name.endswith(".gz") or plain.peek(2)[:2] == _GZIP_MAGIC
        if not packed or not plain.peek(1):
            yield plain
            return
        # IGzipFile reads all gzip members of a file in sequence.
        with igzip.IGzipFile(fileobj=plain, mode="rb") as unpacked:
            yield cast(BinaryIO, unpacked)


def _check_columns(columns: Sequence[str], expected: Sequence[str]) -> None:
    if len(set(columns)) != len(columns):
        raise _columns("a column is named twice")
    missing = [column for column in expected if column not in columns]
    unknown = [column for column in columns if column not in expected]
    if missing or unknown:
        parts = []
        if missing:
            parts.append(f"missing columns: {_some(missing)}")
        if unknown:
            parts.append(f"columns the table does not have: {_some(unknown)}")
        raise _columns("; ".join(parts))


def _columns(message: str) -> ImportRefused:
    return ImportRefused(message, "storage.tables.columnsNotMatch")


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(f'"{name}"' for name in names[:_LISTED_COLUMNS])
    return listed if len(names) <= _LISTED_COLUMNS else f"{listed}, …"


def _missing(message: str) -> ImportRefused:
    return ImportRefused(message, "storage.fileNotFound")


def _listing(folder: Path) -> list[Path]:
    # A writer's temporary files begin with a dot.
    return (
        [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
        if (folder.is_dir())
        else []
    )


def manifest_names(folder: Path, prefixes: Sequence[str] = ()) -> list[str]:
    """Return the plain names of the objects in the manifest in *folder*.

    Raises ImportRefused: the manifest is missing, malformed, or refers to objects outside the file.

    :param prefixes: prefixes of URLs that are allowed in addition to the folder's URL.
    """
    try:
        with (folder / MANIFEST).open("rb") as stream:
            text = stream.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError as error:
        raise _missing("the file has no manifest") from error
    if len(text) > MAX_MANIFEST_BYTES:
        raise _bad_manifest(f"is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        entries: Any = orjson.loads(text)["entries"]
        urls = [entry["url"] for entry in entries]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise _bad_manifest(
            'is not an object with a list of "entries" with a "url" each'
        ) from error
    if len(urls) > MAX_MANIFEST_ENTRIES:
        raise _bad_manifest(f"has more than {MAX_MANIFEST_ENTRIES} entries")
    return [_object_name(url, folder, prefixes) for url in urls]


def _object_name(url: Any, folder: Path, prefixes: Sequence[str]) -> str:
    """Return the name of the object at *url*, which must be directly in *folder* or a prefix."""
    if not isinstance(url, str):
        raise _bad_manifest("has a URL that is not a string")
    # Clients differ in what they escape, both in the folder's path and in the name.
    own = (f"file://{folder}/", object_url(folder) + "/", folder.as_uri() + "/")
    for prefix in (*own, *prefixes):
        if url.startswith(prefix):
            name = unquote(url[len(prefix) :])
            break
    else:
        raise _bad_manifest(f'has the URL "{url[:500]}", which does not belong to this file')
    if not name or "/" in name or "\0" in name or ".." in name or name == MANIFEST:
        raise _bad_manifest(f'has the URL "{url[:500]}", which does not name a slice')
    return name


def _bad_manifest(message: str) -> ImportRefused:
    return ImportRefused(f"the manifest {message}", "storage.manifestInvalid")
