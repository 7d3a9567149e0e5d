"""The sandbox's directory: two databases, the staging folder, and a lock.

::

    <path>/project-<id>/lock          held while a sandbox uses the directory
    <path>/project-<id>/meta.sqlite   buckets, tables, files, jobs, tokens, events
    <path>/project-<id>/data.sqlite   the rows, with one table per storage table
    <path>/project-<id>/staging/      objects of staged files: <fileId>/<name>
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool

from stream.errors import UserError
from stream.ops.clock import wall_clock
from stream.ops.process.thread_pool import AbandonableThreadPool
from stream.sandbox.database import Database

__all__ = [
    "Reactor",
    "Store",
    "iso_time",
    "project_folder",
    "remove_objects",
    "tables_file",
]

P = ParamSpec("P")
T = TypeVar("T")


class Reactor(IReactorTime, IReactorFromThreads):
    """The part of a reactor that the store uses: time, and calls from threads."""


def iso_time(seconds: float) -> str:
    """Return *seconds* since the epoch in the form ``2006-01-02T15:04:05+0000``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S+0000")


def project_folder(path: Path, project_id: int) -> Path:
    """Return the folder of a project."""
    return path.absolute() / f"project-{project_id}"


def tables_file(path: Path, project_id: int) -> Path:
    """Return the SQLite file with the project's tables."""
    return project_folder(path, project_id) / "data.sqlite"


class Store:
    """Both databases and the staging folder, which are opened and closed together."""

    def __init__(self, reactor: Reactor, path: Path, project_id: int) -> None:
        self.folder = project_folder(path, project_id)
        self.staging = self.folder / "staging"
        self.meta = Database(reactor, self.folder / "meta.sqlite", "meta", readers=4)
        self.data = Database(reactor, tables_file(path, project_id), "data")
        self._reactor = reactor
        self._wall_clock = wall_clock(reactor)
        self._files_pool: AbandonableThreadPool | None = None
        self._lock: int | None = None

    def now(self) -> float:
        """Return the current time in seconds since the epoch."""
        return self._wall_clock()

    def now_iso(self) -> str:
        """Return the current time in ISO 8601."""
        return iso_time(self.now())

    async def in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *work* in a thread."""
        assert self._files_pool is not None, "the store is open"
        return await deferToThreadPool(self._reactor, self._files_pool, work, *args, **kwargs)

    async def open(self) -> None:
        """Lock the directory and open its files, creating missing ones.

        Raises UserError: another process uses it, or the databases don't belong together.
        """
        self._files_pool = AbandonableThreadPool(0, 2, name="sandbox-files")
        self._files_pool.start()
        try:
            self._lock = await self.in_thread(_lock_folder, self.folder)
            await self.in_thread(self.staging.mkdir, exist_ok=True)
            await self.meta.open()
            await self.data.open()
            store_id = await self.meta.write(_store_id, self.now_iso())
            await self.data.write(_belong_to, store_id)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the files and unlock the directory. A second call does nothing."""
        await self.data.close()
        await self.meta.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        pool, self._files_pool = self._files_pool, None
        if pool is not None:
            pool.stop()


def _lock_folder(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise UserError(
            f'directory "{folder}" is used by another running sandbox', name="sandbox.locked"
        ) from error
    return handle


def _store_id(meta: sqlite3.Connection, now: str) -> str:
    row = meta.execute("SELECT id FROM store").fetchone()
    if row is None:
        row = (uuid.uuid4().hex,)
        meta.execute("INSERT INTO store (id, created) VALUES (?, ?)", (row[0], now))
    return str(row[0])


def _belong_to(data: sqlite3.Connection, store_id: str) -> None:
    # With another meta.sqlite, the tables with the rows would look like leftovers. Job IDs would
    # restart, so new jobs would be mistaken for applied ones.
    row = data.execute("SELECT id FROM _store").fetchone()
    if row is None:
        data.execute("INSERT INTO _store (id) VALUES (?)", (store_id,))
    elif row[0] != store_id:
        raise UserError(
            "data.sqlite does not belong to the meta.sqlite in the same directory: move both away, "
            "or restore"
            " the one that is missing",
            name="sandbox.mixedFiles",
        )


def remove_objects(staging: Path, file_ids: list[int] | None = None) -> None:
    """Remove the staged objects of *file_ids*, or of all files."""
    folders = (
        list(staging.iterdir()) if file_ids is None else [staging / str(id) for id in file_ids]
    )
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
