"""Sending records in batches over a few connections, with stored progress.

Note [Progress]: several threads send batches, which end in any order. The state contains the
position up to which all records are decided. After a crash, batches beyond this position are sent
again, under the same keys. The keys are the same because the boundaries of batches depend only on
the records, and a key depends only on the run and the batch's number.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import attrs

from stream.cli.push import state as states
from stream.cli.push.records import Item
from stream.cli.push.report import Report
from stream.cli.push.state import State
from stream.client.batching import Batcher
from stream.client.delivery import Delivered
from stream.client.errors import ClientError

__all__ = ["Pushed", "Rejection", "Sends", "TooManyRejected", "push_records"]

_SAVE_SECONDS = 0.5
_GRACE_SECONDS = 5.0
"""How long a stopped push waits for batches in flight."""
_AHEAD = 32
"""Number of batches whose sending is recorded at once."""


class Sends(Protocol):
    """The delivery of a batch; see `Delivery`."""

    def send(self, records: Sequence[bytes], key: str) -> Delivered:
        """Send *records* under *key* until they are decided."""
        ...

    def close(self) -> None:
        """Abort the requests in flight."""
        ...


class TooManyRejected(ClientError):
    """More records were rejected than the caller allows."""


@attrs.frozen
class Rejection:
    """A record that was rejected.

    :ivar record: the record as sent; empty if it was unreadable.
    """

    place: int
    name: str
    message: str
    sink_id: str
    record: bytes


@attrs.define
class Pushed:
    """The progress of a push.

    :ivar state: the state of the push, including earlier runs.
    :ivar accepted, rejected: numbers of records accepted and rejected in this run.
    """

    state: State
    report: Report = attrs.Factory(Report)
    accepted: int = 0
    rejected: int = 0

    @property
    def sent(self) -> int:
        """The number of decided records of this run."""
        return self.accepted + self.rejected


@attrs.frozen
class _Batch:
    records: list[bytes]
    places: array[int]
    problems: list[Item]
    end: int
    after: int
    number: int


def push_records(
    items: Iterable[Item | None],
    delivery: Sends,
    pushed: Pushed,
    *,
    stop: threading.Event,
    state_path: Path | None = None,
    on_rejected: Callable[[Rejection], None] = lambda _: None,
    progress: Callable[[Pushed], None] = lambda _: None,
    parallel: int = 4,
    max_rejected: int = 0,
) -> None:
    """Send *items*, and keep *pushed* up to date.

    If reading, sending or writing the state fails, the batches in flight are decided and the state
    is written before the error is raised again.

    :param items: records; ``None`` means that the current batch is sent now.
    :param stop: set when *delivery* has to give up.
    :param state_path: path of the state file.
    :param max_rejected: stop when more records are rejected; 0 for no limit.
    """
    push = _Push(delivery, pushed, state_path, on_rejected, progress, max_rejected)
    if state_path is not None:
        # The state is written before the first batch, so that a run that is killed immediately is
        # repeated with the same keys.
        states.save(state_path, pushed.state)
    threads = ThreadPoolExecutor(parallel, thread_name_prefix="stream-push")
    try:
        for batch in _batches(items, pushed.state):
            push.start(threads, batch)
            push.settle(at_most=2 * parallel)
        push.settle(at_most=0)
        pushed.state = attrs.evolve(pushed.state, sent=pushed.state.batch)
        push.save()
    except BaseException:
        stop.set()
        push.drain()
        with suppress(states.StateFault):  # the earlier failure is reported
            push.save()
        raise
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


class _Push:
    def __init__(
        self,
        delivery: Sends,
        pushed: Pushed,
        state_path: Path | None,
        on_rejected: Callable[[Rejection], None],
        progress: Callable[[Pushed], None],
        max_rejected: int,
    ) -> None:
        self._delivery = delivery
        self._pushed = pushed
        self._state_path = state_path
        self._on_rejected = on_rejected
        self._progress = progress
        self._max_rejected = max_rejected
        self._running: deque[tuple[_Batch, Future[Delivered]]] = deque()
        self._saved = pushed.state
        self._saved_at = time.monotonic()

    def start(self, threads: ThreadPoolExecutor, batch: _Batch) -> None:
        state = self._pushed.state
        if self._state_path is not None and batch.number >= state.sent:
            # The number is written before the batch is sent, so that a later run knows which
            # batches may have been sent.
            self._pushed.state = attrs.evolve(state, sent=batch.number + _AHEAD)
            self.save()
        key = f"{state.run}-{batch.number}"
        send = partial(self._delivery.send, batch.records, key)
        future = threads.submit(send if batch.records else _nothing)
        self._running.append((batch, future))

    def settle(self, at_most: int) -> None:
        """Wait for batches, in order, until at most *at_most* of them are in flight."""
        while self._running and (len(self._running) > at_most or self._running[0][1].done()):
            batch, future = self._running[0]
            delivered = future.result()
            self._running.popleft()
            self._decided(batch, delivered)

    def drain(self) -> None:
        """Wait for batches that end soon, and cancel the others."""
        futures = [future for _, future in self._running]
        wait(futures, _GRACE_SECONDS)
        while self._running and _has_ended_well(self._running[0][1]):
            batch, future = self._running.popleft()
            self._note(batch, future.result())
        self._delivery.close()

    def _decided(self, batch: _Batch, delivered: Delivered) -> None:
        self._note(batch, delivered)
        self._progress(self._pushed)
        if time.monotonic() - self._saved_at > _SAVE_SECONDS:
            self.save()
        if self._max_rejected and self._pushed.rejected > self._max_rejected:
            raise TooManyRejected(
                f"More than {self._max_rejected} records were rejected. "
                "--max-rejected allows more of them."
            )

    def _note(self, batch: _Batch, delivered: Delivered) -> None:
        pushed = self._pushed
        for item in batch.problems:
            pushed.report.add(item.problem, "", [item.place])
            self._on_rejected(Rejection(item.place, "", item.problem, "", b""))
        for refusal in delivered.refusals:
            lines = [line for line in refusal.lines if line < len(batch.records)]
            places = [batch.places[line] for line in lines]
            pushed.report.add(refusal.message, refusal.name, places)
            for line, place in zip(lines, places, strict=True):
                self._on_rejected(
                    Rejection(
                        place, refusal.name, refusal.message, refusal.sink_id, batch.records[line]
                    )
                )
        rejected = delivered.rejected + len(batch.problems)
        pushed.accepted += delivered.accepted
        pushed.rejected += rejected
        pushed.state = attrs.evolve(
            pushed.state,
            batch=batch.number + 1,
            offset=batch.end,
            place=batch.after,
            accepted=pushed.state.accepted + delivered.accepted,
            rejected=pushed.state.rejected + rejected,
        )

    def save(self) -> None:
        """Write the state if it has changed. Raises StateFault if that fails."""
        self._saved_at = time.monotonic()
        if self._state_path is not None and self._pushed.state != self._saved:
            states.save(self._state_path, self._pushed.state)
            self._saved = self._pushed.state


def _nothing() -> Delivered:
    return Delivered(0, (), 0)


def _has_ended_well(future: Future[Delivered]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _batches(items: Iterable[Item | None], state: State) -> Iterable[_Batch]:
    """Iterate over batches of *items*, split by count and bytes, and where an item is ``None``."""
    batcher = Batcher(state.batch_records, state.batch_bytes)
    places = array("Q")
    problems: list[Item] = []
    last: Item | None = None
    number = state.batch

    def cut() -> _Batch:
        nonlocal places, problems, number
        assert last is not None
        batch = _Batch(batcher.take(), places, problems, last.end, last.after, number)
        places, problems, number = array("Q"), [], number + 1
        return batch

    for item in items:
        if item is None:
            if len(batcher) or problems:
                yield cut()
            continue
        if item.problem:
            problems.append(item)
            if len(problems) >= state.batch_records:
                last = item
                yield cut()
                continue
        else:
            if not batcher.fits(item.record):
                yield cut()
            batcher.add(item.record)
            places.append(item.place)
        last = item
    if len(batcher) or problems:
        yield cut()
