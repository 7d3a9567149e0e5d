"""Keeps the records that a sink can't render, if its settings ask for it, besides the answer.

Failures are noted on the reactor and written once a second by a thread. What is noted meanwhile is
bounded; beyond that, records are only counted: a producer that sends nothing but faults must not
slow down the others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from stream.definition.key import SinkKey
from stream.errors import UserError
from stream.ops.clock import wall_clock
from stream.record.context import RecordContext
from stream.settings import DeadLetterSettings
from stream.sink.dead_letter_files import DeadLetterFiles
from stream.sink.dead_letter_line import DeadRecord
from stream.storage.model.entity import DeadLetter

__all__ = ["DeadLetters"]

_log = Logger()

FLUSH_SECONDS = 1.0
CLEANUP_SECONDS = 60.0
LOG_SECONDS = 10.0
"""Between two log entries about records that were dropped."""

MAX_WAITING_RECORDS = 5_000
MAX_WAITING_BYTES = 16 * 1024 * 1024
"""Of bodies; what a thread is writing counts on top."""

Written = Callable[[int], None]
Batch = dict[SinkKey, tuple[DeadLetter, list[DeadRecord]]]


class DeadLetters(Service):
    """:param path: the directory of the files; empty: the node keeps none.
    :param defaults: the service's settings, for files of sinks that are not known any more.
    :param written: called with the number of records written.
    :param dropped: called with the number of records dropped.
    """

    def __init__(
        self,
        path: str,
        node_id: str,
        defaults: DeadLetterSettings,
        reactor: Any,
        pool: ThreadPool,
        *,
        written: Written,
        dropped: Written,
    ) -> None:
        self._files = DeadLetterFiles(Path(path), node_id) if path else None
        self._path = path
        self._defaults = defaults
        self._reactor = reactor
        self._wall_clock = wall_clock(reactor)
        self._pool = pool
        self._written = written
        self._dropped = dropped
        self._waiting: Batch = {}
        self._waiting_records = 0
        self._waiting_bytes = 0
        self._max_ages: dict[SinkKey, float] = {}
        self._dropped_since_log = 0
        self._next_log = 0.0
        self._next_cleanup = 0.0
        self._loop = LoopingCall(self._round)
        self._loop.clock = reactor
        self._looping: Deferred[Any] = succeed(None)

    async def startService(self) -> None:
        """Fires when the directory is there. Raises UserError if it can't be made."""
        super().startService()
        if self._files is None:
            return
        try:
            await deferToThreadPool(self._reactor, self._pool, self._files.prepare)
        except OSError as error:
            raise UserError(
                f'cannot use "{self._path}" for dead-letter files (source.deadLetterPath): {error}'
            ) from error
        self._looping = self._loop.start(FLUSH_SECONDS, now=False)
        self._looping.addErrback(lambda failure: _log.failure("dead-letter files stopped", failure))

    async def stopService(self) -> None:
        """Fires when everything noted is written."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
            await self._looping
        await self._write()

    def known(self, sink: SinkKey, limits: DeadLetter) -> None:
        """The sink keeps its files for so long, also while nothing fails."""
        self._max_ages[sink] = limits.max_age.seconds

    def offer(
        self, sink: SinkKey, limits: DeadLetter, record: RecordContext, error: UserError
    ) -> None:
        """Note that *record* couldn't be rendered. Never fails, never waits."""
        size = len(record.body)
        if self._files is None:
            self._drop(1, "source.deadLetterPath is not set")
        elif (
            self._waiting_records >= MAX_WAITING_RECORDS
            or self._waiting_bytes + size > MAX_WAITING_BYTES
        ):
            self._drop(1, "too many at once")
        else:
            self._waiting_records += 1
            self._waiting_bytes += size
            dead = DeadRecord.of(sink.sink_id, record, error)
            self._waiting.setdefault(sink, (limits, []))[1].append(dead)

    def _drop(self, count: int, reason: str) -> None:
        self._dropped(count)
        self._dropped_since_log += count
        now = self._reactor.seconds()
        if now >= self._next_log:
            self._next_log = now + LOG_SECONDS
            count, self._dropped_since_log = self._dropped_since_log, 0
            _log.warn(
                "{count} records were left out of the dead-letter files: {reason}",
                count=count,
                reason=reason,
            )

    def _round(self) -> Deferred[None]:
        return ensureDeferred(self._write_and_clean())

    async def _write_and_clean(self) -> None:
        try:
            await self._write()
            now = self._reactor.seconds()
            if now >= self._next_cleanup and self._files is not None:
                self._next_cleanup = now + CLEANUP_SECONDS
                await deferToThreadPool(
                    self._reactor,
                    self._pool,
                    self._files.remove_old,
                    self._wall_clock(),
                    self._max_age,
                )
        except Exception:
            _log.failure("cannot keep the dead-letter files in order")

    def _max_age(self, sink: SinkKey) -> float:
        return self._max_ages.get(sink, self._defaults.max_age.seconds)

    async def _write(self) -> None:
        if self._files is None or not self._waiting:
            return
        batch, self._waiting = self._waiting, {}
        count, self._waiting_records, self._waiting_bytes = self._waiting_records, 0, 0
        now = self._wall_clock()
        left_out, reason = await deferToThreadPool(
            self._reactor, self._pool, _write_batch, self._files, batch, now
        )
        self._written(count - left_out)
        if left_out:
            self._drop(left_out, reason)


def _write_batch(files: DeadLetterFiles, batch: Batch, now: float) -> tuple[int, str]:
    """Write the records of each sink; how many were left out, and why the last ones."""
    left_out, reason = 0, ""
    for sink, (limits, records) in batch.items():
        try:
            too_large = files.append(sink, limits, (record.line() for record in records), now)
        except OSError as error:
            left_out += len(records)
            reason = str(error)
        else:
            left_out += too_large
            reason = "larger than a file may be" if too_large else reason
    return left_out, reason
