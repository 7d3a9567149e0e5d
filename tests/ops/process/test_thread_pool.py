"""Threads that are abandoned if they don't end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Queue
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.threads import deferToThreadPool
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from stream.ops.metrics.registry import Metrics
from stream.ops.process import thread_pool as pool
from stream.ops.process.thread_pool import (
    AbandonableThreadPool,
    NoThread,
    ThreadPoolService,
    in_own_thread,
)
from stream.telemetry import watch_threads

reactor: Any = _reactor


@pytest_twisted.ensureDeferred
async def test_a_thread_that_does_not_end_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop waits for the thread for a short time, and the exit of the process doesn't."""
    monkeypatch.setattr(pool, "LEAVE_SECONDS", 0.1)
    service = ThreadPoolService(reactor, "work", 2)
    service.startService()
    without_frames = threading.Event()
    stuck = deferToThreadPool(reactor, service.pool, without_frames.wait)
    began = reactor.seconds()
    await service.stopService()
    assert reactor.seconds() - began < 2
    assert not stuck.called
    assert all(thread.daemon for thread in service.pool.threads)
    without_frames.set()
    await stuck


@pytest_twisted.ensureDeferred
async def test_a_stop_waits_for_running_jobs() -> None:
    """Running jobs are finished."""
    service = ThreadPoolService(reactor, "work", 2)
    service.startService()
    without_frames = threading.Event()
    working = deferToThreadPool(reactor, service.pool, without_frames.wait)
    reactor.callLater(0.05, without_frames.set)
    await service.stopService()
    assert await working


def _gated(pool: AbandonableThreadPool, count: int) -> tuple[threading.Event, Queue[str]]:
    """Start *count* jobs that return the name of their thread when the gate is opened."""
    gate, names = threading.Event(), Queue[str]()

    def job() -> None:
        names.put(threading.current_thread().name)
        gate.wait(10)

    for _ in range(count):
        pool.callInThread(job)
    return gate, names


def test_the_limit_of_threads() -> None:
    """Every job is done, also one queued before the start or at the stop."""
    pool = AbandonableThreadPool(0, 2, name="few")
    gate, names = _gated(pool, 3)
    assert not pool.threads
    pool.start()
    begun = {names.get(timeout=10), names.get(timeout=10)}
    assert len(begun) == len(pool.threads) == 2
    more, more_names = _gated(pool, 3)
    assert more_names.empty()
    gate.set()
    more.set()
    pool.stop()
    assert {*names.queue, *more_names.queue} <= begun
    assert (names.qsize(), more_names.qsize()) == (1, 3)
    pool.callInThread(gate.clear)
    assert gate.is_set(), "a stopped pool accepts no job"


def test_an_idle_thread_is_reused() -> None:
    """The reused thread is the one with the shortest idle time."""
    pool = AbandonableThreadPool(0, 3, name="idle")
    pool.start()
    gate, names = _gated(pool, 3)
    last = {names.get(timeout=10) for _ in range(3)}
    gate.set()
    results: Queue[tuple[bool, object]] = Queue()
    pool.callInThreadWithCallback(lambda *result: results.put(result), int, "7")
    pool.callInThreadWithCallback(lambda *result: results.put(result), int, "x")
    answers = [results.get(timeout=10), results.get(timeout=10)]
    assert (True, 7) in answers
    assert [type(value) for success, value in answers if not success] == [Failure]
    assert {thread.name for thread in pool.threads} == last
    pool.stop()


def test_a_failed_job_is_logged() -> None:
    """The thread continues with the next job."""
    pool = AbandonableThreadPool(0, 1, name="fails")
    pool.start()
    done = threading.Event()
    with capturedLogs() as entries:
        pool.callInThread(int, "x")
        pool.callInThread(done.set)
        assert done.wait(10)
    assert [entry["log_failure"].type for entry in entries] == [ValueError]
    pool.stop()


@pytest.fixture
def exhausted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Let the host start threads, or not; at first it doesn't."""
    start = threading.Thread.start
    allows: list[bool] = [False]

    def start_or_fail(thread: threading.Thread) -> None:
        if not allows[-1]:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_fail)
    yield allows.append
    monkeypatch.undo()


@pytest_twisted.ensureDeferred
async def test_a_job_without_a_thread_fails(exhausted: Callable[[bool], None]) -> None:
    """The pool works as soon as the host starts threads again."""
    pool = AbandonableThreadPool(0, 2, name="none")
    pool.start()
    with pytest.raises(NoThread, match="no thread can be started: can't start new thread"):
        await deferToThreadPool(reactor, pool, int, "7")
    with capturedLogs() as entries:
        pool.callInThread(int, "7")
    assert [entry["log_failure"].type for entry in entries] == [NoThread]
    assert (pool.threads, pool.backlog) == ([], 0)
    exhausted(True)
    assert await deferToThreadPool(reactor, pool, int, "7") == 7
    pool.stop()


@pytest_twisted.ensureDeferred
async def test_a_job_waits_for_the_threads_that_exist(exhausted: Callable[[bool], None]) -> None:
    """It doesn't need one of its own."""
    pool = AbandonableThreadPool(0, 2, name="one")
    pool.start()
    exhausted(True)
    gate = threading.Event()
    first = deferToThreadPool(reactor, pool, gate.wait, 10)
    exhausted(False)
    second = deferToThreadPool(reactor, pool, int, "7")
    assert (len(pool.threads), pool.backlog) == (1, 1)
    gate.set()
    assert (await first, await second) == (True, 7)
    pool.stop()


@pytest_twisted.ensureDeferred
async def test_a_start_and_a_stop_without_threads(exhausted: Callable[[bool], None]) -> None:
    """A pool with waiting jobs doesn't start; a stop doesn't wait for a thread of its own."""
    service = ThreadPoolService(reactor, "none", 2)
    working = deferToThreadPool(reactor, service.pool, int, "7")
    with pytest.raises(NoThread):
        service.startService()
    exhausted(True)
    service.startService()
    assert await working == 7
    exhausted(False)
    with capturedLogs() as entries:
        await service.stopService()
    assert ["cannot wait" in entry["log_format"] for entry in entries] == [True]
    with pytest.raises(NoThread):
        await in_own_thread(reactor, int, "7")
    exhausted(True)
    service.pool.stop()


def test_waiting_jobs_are_counted() -> None:
    """Jobs of both kinds of pools are counted, also before their pool is started."""
    metrics, pools = Metrics(), {"ours": AbandonableThreadPool(0, 1), "other": ThreadPool(0, 1)}
    for each in pools.values():
        each.callInThread(lambda: None)
    watch_threads(metrics, pools)
    with capturedLogs() as logs:
        metrics.collect()
    assert logs == []
    family = metrics.own("stream_threads_waiting")
    assert [family.labels({"pool": name}).value for name in pools] == [1, 1]
    for each in pools.values():
        each.start()
        each.stop()
