"""A producer: records are collected, and sent in batches by a background thread.

Note [End of a program]: the thread is a daemon, and an exit handler waits until all records are
sent. Exit handlers run while daemon threads are still running. Python joins other threads before it
runs the handlers, without a time limit.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self
from uuid import uuid4

import attrs

from stream.client.batching import BATCH_BYTES, BATCH_RECORDS, Batcher, encoded
from stream.client.delivery import Delivered, Delivery, Stopped
from stream.client.errors import BufferFull, ClientError, DeliveryFailed

__all__ = ["Producer", "Rejected"]

_log = logging.getLogger("stream.client")

_OVERHEAD_BYTES = 100
"""Memory overhead of a record in bytes."""


@attrs.frozen
class Rejected:
    """A record that the source can't store, now or later.

    :ivar record: the record as sent.
    :ivar name: machine-readable reason, such as ``stream.in.badRequest``.
    :ivar sink_id: the sink that rejects the record; empty if the answer doesn't name it.
    """

    record: bytes
    name: str
    message: str
    sink_id: str = ""


class Producer:
    """Sends records to a source in batches. Thread-safe; not usable in forked children.

    `send` returns as soon as the record is in memory. A record is stored when a later call of
    `flush` or `close` returns. While the service is unavailable, batches are retried forever, and
    `send` waits or raises when *max_bytes* are buffered. Records that `close` can't send within
    *exit_timeout* are lost, and the loss is logged.

    :param url: URL of the source, with its secret.
    :param batch_records: maximum number of records in a batch.
    :param batch_bytes: maximum size of a batch in bytes.
    :param linger: maximum time in seconds that a record waits for others.
    :param max_bytes: maximum size of the buffered records.
    :param when_full: whether `send` waits (``block``) or raises BufferFull (``raise``).
    :param compress: whether batches are compressed with gzip; by default they are, unless the
        source is on this machine.
    :param on_rejected: called in the thread of the producer with each record that the source can't
        store; by default such records are logged.
    :param exit_timeout: seconds that the program, when it ends, waits for records to be sent.

    :ivar accepted: number of stored records.
    :ivar rejected: number of records that the source can't store.
    """

    def __init__(
        self,
        url: str,
        *,
        batch_records: int = BATCH_RECORDS,
        batch_bytes: int = BATCH_BYTES,
        linger: float = 0.2,
        max_bytes: int = 64 * 1024 * 1024,
        when_full: Literal["block", "raise"] = "block",
        compress: bool | None = None,
        on_rejected: Callable[[Rejected], None] | None = None,
        exit_timeout: float = 60.0,
    ) -> None:
        if when_full not in ("block", "raise"):
            raise ValueError('when_full must be "block" or "raise"')
        if batch_records < 1 or batch_bytes < 1 or max_bytes < 1:
            raise ValueError("batch_records, batch_bytes and max_bytes must be at least 1")
        self.accepted = 0
        self.rejected = 0
        self._batch_records = batch_records
        self._batch_bytes = batch_bytes
        self._linger = linger
        self._max_bytes = max_bytes
        self._when_full = when_full
        self._on_rejected = on_rejected
        self._exit_timeout = exit_timeout
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._oldest = 0.0
        self._held = 0
        self._taken = 0
        self._decided = 0
        self._flush_to = 0
        self._failed: ClientError | None = None
        self._closing = False
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._delivery = Delivery(
            url, wait=self._stop.wait, compress=compress, notify=self._notify, connections=1
        )
        self._notified = 0.0
        self._thread = threading.Thread(target=self._run, name="stream-producer", daemon=True)
        self._thread.start()
        atexit.register(self._close_at_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pending(self) -> int:
        """The number of records that are neither stored nor rejected yet."""
        return self._taken - self._decided

    def send(self, record: Any, *, timeout: float | None = None) -> None:
        """Queue *record*: bytes or text that is JSON, or any value that can be encoded as JSON.

        Raises BufferFull: there is no space. Raises DeliveryFailed: the source refuses all records.
        Raises RuntimeError: the producer is closed, or this is a forked child. Raises TypeError or
        ValueError: *record* can't be encoded as JSON.

        :param timeout: seconds to wait for space; ``None`` for no limit.
        """
        line = encoded(record)
        self._check_process()
        with self._changed:
            if self._when_full == "block":
                self._changed.wait_for(lambda: self._has_room(line) or self._is_over, timeout)
            if not self._take(line):
                raise BufferFull(
                    f"{self._held} bytes of records are waiting to be sent; the source is "
                    "unavailable "
                    "or too slow"
                )

    def try_send(self, line: bytes) -> bool:
        """Queue the encoded record *line* if there is space; return whether there was."""
        self._check_process()
        with self._changed:
            return self._take(line)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until every earlier record is stored or rejected.

        Raises TimeoutError: *timeout* seconds have passed. Raises DeliveryFailed: the source
        refuses all records.
        """
        self._check_process()
        with self._changed:
            until = self.begin_flush()
            if not self._changed.wait_for(lambda: self.is_flushed(until), timeout):
                raise TimeoutError(f"{self.pending} records have not been sent yet")
            self.check()

    def close(self, timeout: float | None = None) -> None:
        """Send the remaining records, then stop; further calls do nothing.

        Raises DeliveryFailed: records are lost, because the time is over or the source has refused
        them.

        :param timeout: maximum time in seconds; by default *exit_timeout*.
        """
        if os.getpid() != self._pid:
            return
        with self._changed:
            was_closing, self._closing = self._closing, True
            self._changed.notify_all()
        self._thread.join(self._exit_timeout if timeout is None else timeout)
        self._stop.set()
        atexit.unregister(self._close_at_exit)
        if was_closing:
            return
        if self._thread.is_alive():
            raise DeliveryFailed(f"{self.pending} records could not be sent in time and are lost")
        self._delivery.close()
        if self._failed is not None and self.pending:
            raise self._failed

    # For the asyncio producer.

    def begin_flush(self) -> int:
        """Send buffered records without lingering; return the number for `is_flushed`."""
        with self._changed:
            self._flush_to = self._taken
            self._changed.notify_all()
            return self._taken

    def is_flushed(self, until: int) -> bool:
        """Return whether the first *until* records are decided, or the producer has stopped."""
        return self._decided >= until or self._is_over

    def check(self) -> None:
        """Raise the error that `send` raises if the source refuses all records."""
        if self._failed is not None:
            raise self._failed

    def listen(self, listener: Callable[[], None]) -> None:
        """Call *listener*, in the thread of the producer, whenever records are decided."""
        self._listeners.append(listener)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(
                "the producer was created in another process: create one in each process, after "
                "the fork"
            )

    @property
    def _is_over(self) -> bool:
        return self._failed is not None or not self._thread.is_alive()

    def _has_room(self, line: bytes) -> bool:
        size = len(line) + _OVERHEAD_BYTES
        return not self._held or self._held + size <= self._max_bytes

    def _take(self, line: bytes) -> bool:
        self.check()
        if self._closing:
            raise RuntimeError("the producer is closed")
        if not self._has_room(line):
            return False
        was_complete = self._is_complete
        if not self._waiting:
            self._oldest = time.monotonic()
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        self._held += len(line) + _OVERHEAD_BYTES
        self._taken += 1
        if len(self._waiting) == 1 or (self._is_complete and not was_complete):
            self._changed.notify_all()
        return True

    @property
    def _is_complete(self) -> bool:
        """Return whether the queued records are enough for a batch."""
        return len(self._waiting) >= self._batch_records or self._waiting_bytes >= self._batch_bytes

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                delivered = self._delivery.send(batch, uuid4().hex)
                self._report(batch, delivered)
                with self._changed:
                    self.accepted += delivered.accepted
                    self.rejected += delivered.rejected
                    self._decided += len(batch)
                    self._held -= sum(map(len, batch)) + _OVERHEAD_BYTES * len(batch)
                self._announce()
        except Stopped:
            pass
        except ClientError as error:
            self._fail(error)
        except Exception as error:
            _log.exception("the producer has failed")
            self._fail(DeliveryFailed(f"the producer has failed: {error}"))
        finally:
            self._announce()

    def _next_batch(self) -> list[bytes]:
        """Wait for records; return an empty batch at the end."""
        with self._changed:
            while True:
                left = None
                if self._waiting:
                    left = self._oldest + self._linger - time.monotonic()
                    is_asked_for = self._closing or self._flush_to > self._decided
                    if left <= 0.0 or is_asked_for or self._is_complete:
                        return self._cut()
                elif self._closing:
                    return []
                self._changed.wait(left)

    def _cut(self) -> list[bytes]:
        batch = Batcher(self._batch_records, self._batch_bytes)
        while self._waiting and batch.fits(self._waiting[0]):
            line = self._waiting.popleft()
            self._waiting_bytes -= len(line)
            batch.add(line)
        self._oldest = time.monotonic()
        return batch.take()

    def _report(self, batch: list[bytes], delivered: Delivered) -> None:
        for refusal in delivered.refusals:
            if self._on_rejected is None:
                _log.warning("%d records were rejected: %s", len(refusal.lines), refusal.message)
                continue
            for line in refusal.lines:
                if line < len(batch):
                    found = Rejected(batch[line], refusal.name, refusal.message, refusal.sink_id)
                    try:
                        self._on_rejected(found)
                    except Exception:
                        _log.exception("the function for rejected records has failed")

    def _fail(self, error: ClientError) -> None:
        _log.error("records can't be sent: %s", error)
        with self._changed:
            self._failed = error
            self._waiting.clear()
            self._waiting_bytes = 0

    def _announce(self) -> None:
        with self._changed:
            self._changed.notify_all()
        for listener in self._listeners:
            listener()

    def _notify(self, text: str) -> None:
        now = time.monotonic()
        if now - self._notified > 60.0:
            self._notified = now
            _log.warning("%s", text)

    def _close_at_exit(self) -> None:
        try:
            self.close()
        except ClientError as error:
            _log.error("%s", error)
