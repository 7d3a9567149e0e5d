"""Deadlines and their errors."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.task import Clock
from twisted.python.failure import Failure

import stream
from stream.concurrency.deadline import within


def _outcome(deferred: Deferred[str]) -> list[str | Failure]:
    found: list[str | Failure] = []
    deferred.addBoth(found.append)
    return found


def test_says_what_took_too_long() -> None:
    """The error of an exceeded deadline names the work that took too long."""
    clock = Clock()
    found = _outcome(within(Deferred(), 10.0, clock, "the upload"))
    clock.advance(9.9)
    assert not found
    clock.advance(0.1)
    assert isinstance(found[0], Failure)
    assert found[0].check(TimeoutError) is not None
    assert str(found[0].value) == "the upload took longer than 10 s"


def test_other_results_pass() -> None:
    """Results, failures, and cancellations by others aren't changed."""
    clock = Clock()
    done: Deferred[str] = Deferred()
    found = _outcome(within(done, 1.0, clock, "it"))
    done.callback("done")
    assert found == ["done"]
    broken: Deferred[str] = Deferred()
    found = _outcome(within(broken, 1.0, clock, "it"))
    broken.errback(ValueError("x"))
    assert isinstance(found[0], Failure) and found[0].check(ValueError) is not None
    left: Deferred[str] = Deferred()
    found = _outcome(within(left, 1.0, clock, "it"))
    left.cancel()
    assert isinstance(found[0], Failure) and found[0].check(CancelledError) is not None
    assert not clock.getDelayedCalls()


def test_a_result_in_spite_of_the_cancellation() -> None:
    """A Deferred that answers its cancellation with a result has that result."""
    clock = Clock()
    stubborn: Deferred[str] = Deferred(lambda deferred: deferred.callback("late"))
    found = _outcome(within(stubborn, 1.0, clock, "it"))
    clock.advance(1)
    assert found == ["late"]


def test_every_deadline_names_its_work() -> None:
    """Only calls whose error is never read use ``addTimeout``, which has no text."""
    silent = {
        "api/http/app.py": "answered with a text of the API",
        "api/http/streaming.py": "caught on the spot",
        "api/service.py": "caught on the spot",
        "concurrency/child.py": "caught on the spot",
        "concurrency/deadline.py": "",
        "etcd/client.py": "caught on the spot",
        "etcd/mirror.py": "caught on the spot",
        "etcd/session.py": "caught on the spot",
        "target/keboola/transport.py": "has a text",
        "target/probes.py": "caught on the spot",
        "storage/network/connection.py": "ends the same way as any answer",
        "task/cleanup.py": "caught on the spot",
        "task/executor.py": "caught on the spot",
        "ops/process/ordered_services.py": "caught on the spot",
        "ops/process/thread_pool.py": "caught on the spot",
        "storage/coordinator/cleanup.py": "caught on the spot",
        "storage/writer/disk_thread.py": "caught on the spot",
        "storage/writer/service.py": "caught on the spot",
        "source/turns.py": "caught on the spot",
    }
    root = Path(stream.__file__).parent
    found = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if re.search(r"\.addTimeout\(", path.read_text())
    }
    assert found <= set(silent), "use stream.concurrency.deadline.within"
