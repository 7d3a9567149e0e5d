"""Start and stop of services in order."""

from __future__ import annotations

import errno
import os

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from stream import process as process_module
from stream.ops.process.ordered_services import SLOW_STOP_SECONDS, START_SECONDS, OrderedServices
from stream.process import raise_file_limit


class _Member(Service):
    def __init__(self, name: str, log: list[str]) -> None:
        self.log = log
        self.label = name
        self.started: Deferred[None] = Deferred()
        self.stopped: Deferred[None] = Deferred()

    def startService(self) -> Deferred[None]:
        self.log.append(f"start {self.label}")
        return self.started

    def stopService(self) -> Deferred[None]:
        self.log.append(f"stop {self.label}")
        return self.stopped


class ChainTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.log: list[str] = []
        self.members = [_Member(name, self.log) for name in "abc"]
        self.clock = Clock()
        self.chain = OrderedServices(self.members, self.clock)

    def test_services_start_in_order(self) -> None:
        """The next service starts when the previous one is ready, and the chain is ready with the
        last.
        """
        started = ensureDeferred(self.chain.startService())
        assert self.log == ["start a"]
        self.members[0].started.callback(None)
        self.members[1].started.callback(None)
        self.assertNoResult(started)
        assert not self.chain.is_ready
        self.members[2].started.callback(None)
        self.successResultOf(started)
        assert self.chain.is_ready
        self.log.clear()
        stopped = ensureDeferred(self.chain.stopService())
        assert not self.chain.is_ready
        assert self.log == ["stop c"]
        for member in reversed(self.members):
            member.stopped.callback(None)
        self.successResultOf(stopped)
        assert self.log == ["stop c", "stop b", "stop a"]

    def test_a_failure_stops_running_services(self) -> None:
        """If a service can't start, the earlier ones are stopped and the failure is passed on."""
        started = ensureDeferred(self.chain.startService())
        self.members[0].started.callback(None)
        self.members[0].stopped.callback(None)
        self.members[1].started.errback(RuntimeError("no"))
        self.failureResultOf(started, RuntimeError)
        assert self.log == ["start a", "start b", "stop a"]

    def test_a_stop_during_the_start(self) -> None:
        """The service being started becomes ready and is stopped; no other one is started."""
        started = ensureDeferred(self.chain.startService())
        self.members[0].started.callback(None)
        for member in self.members:
            member.stopped.callback(None)
        stopped = ensureDeferred(self.chain.stopService())
        self.assertNoResult(stopped)
        self.members[1].started.callback(None)
        self.successResultOf(stopped)
        self.successResultOf(started)
        assert self.log == ["start a", "start b", "stop b", "stop a"]

    def test_a_stop_does_not_wait_long_for_a_start(self) -> None:
        """The stop doesn't wait for a service that isn't ready; it is stopped once ready."""
        ensureDeferred(self.chain.startService())
        self.members[0].started.callback(None)
        for member in self.members:
            member.stopped.callback(None)
        stopped = ensureDeferred(self.chain.stopService())
        self.clock.advance(START_SECONDS)
        self.successResultOf(stopped)
        self.members[1].started.callback(None)
        assert self.log == ["start a", "start b", "stop a", "stop b"]

    def test_a_failing_start_does_not_block_a_stop(self) -> None:
        """The failure of the start is passed on, and the stop completes."""
        started = ensureDeferred(self.chain.startService())
        self.members[0].started.callback(None)
        self.members[0].stopped.callback(None)
        stopped = ensureDeferred(self.chain.stopService())
        self.members[1].started.errback(RuntimeError("no"))
        self.failureResultOf(started, RuntimeError)
        self.successResultOf(stopped)
        assert self.log == ["start a", "start b", "stop a"]

    def test_a_second_stop_waits_for_the_first(self) -> None:
        """The second call returns when all services are stopped."""
        started = ensureDeferred(self.chain.startService())
        self.members[0].started.callback(None)
        self.members[1].started.errback(RuntimeError("no"))  # this stops the first service
        stopped = ensureDeferred(self.chain.stopService())
        self.assertNoResult(stopped)
        self.members[0].stopped.callback(None)
        self.successResultOf(stopped)
        self.failureResultOf(started, RuntimeError)
        assert self.log == ["start a", "start b", "stop a"]

    def test_a_slow_stop_is_logged(self) -> None:
        """The log repeats which services the stop waits for."""
        for member in self.members:
            member.started.callback(None)
        self.successResultOf(ensureDeferred(self.chain.startService()))
        with capturedLogs() as log:
            stopped = ensureDeferred(self.chain.stopService())
            self.clock.pump([SLOW_STOP_SECONDS] * 2)
            for member in self.members:
                member.stopped.callback(None)
            self.successResultOf(stopped)
            self.clock.advance(SLOW_STOP_SECONDS)
        told = [event["service"] for event in log if "still waiting" in event["log_format"]]
        assert told == ["_Member"] * 2

    def test_a_failing_stop_does_not_block_others(self) -> None:
        """The failure is logged."""
        for member in self.members:
            member.started.callback(None)
        self.successResultOf(ensureDeferred(self.chain.startService()))
        self.members[2].stopped.errback(RuntimeError("no"))
        self.members[1].stopped.callback(None)
        self.members[0].stopped.callback(None)
        self.successResultOf(ensureDeferred(self.chain.stopService()))
        assert self.log[-1] == "stop a"
        assert self.chain.is_unclean
        assert len(self.flushLoggedErrors(RuntimeError)) == 1


@pytest.mark.parametrize("count", [0, 1])
def test_an_empty_chain(count: int) -> None:
    """An empty chain starts and stops at once."""
    log: list[str] = []
    members = [_Member("a", log) for _ in range(count)]
    for member in members:
        member.started.callback(None)
        member.stopped.callback(None)
    chain = OrderedServices(members, Clock())
    assert ensureDeferred(chain.startService()).called
    assert ensureDeferred(chain.stopService()).called


@pytest.mark.parametrize(
    ("hard", "told"),
    [(4096, ("warn", 4096)), (10_000, ("info", 10_000)), (-1, ("info", "unlimited"))],
)
def test_the_limit_of_open_files(
    monkeypatch: pytest.MonkeyPatch, hard: int, told: tuple[str, object]
) -> None:
    """The limit is raised as far as possible, and the new limit is logged.

    The message is a warning if the limit is too low for many clients. -1 means no limit.
    """
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, hard))
    monkeypatch.setattr("resource.setrlimit", lambda _, limits: raised.append(limits))
    with capturedLogs() as log:
        raise_file_limit()
    assert raised == [(hard, hard)]
    assert [(event["log_level"].name, event["limit"]) for event in log] == [told]


def test_a_limit_that_can_not_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start continues with the existing limit."""

    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, -1))
    monkeypatch.setattr("resource.setrlimit", refuse)
    with capturedLogs() as log:
        raise_file_limit()
    assert [(event["log_level"].name, event["limit"]) for event in log] == [("warn", 1024)]


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.EADDRINUSE, "--port-offset=100"), (errno.EACCES, "")]
)
def test_a_port_that_can_not_be_used(number: int, advice: str) -> None:
    """The error names the address, the reason and, for a port in use, a solution."""
    error = CannotListenError("127.0.0.1", 9000, OSError(number, os.strerror(number)))
    text = process_module._taken(error)
    assert text.startswith(f'cannot listen on "127.0.0.1:9000": {os.strerror(number)}')
    assert ("--port-offset" in text) == bool(advice)
