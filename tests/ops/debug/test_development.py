"""Development mode reports calls that block the reactor."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from stream.ops.debug.development import BUSY_SECONDS, BusyReactorWatch, development_services


def test_a_blocked_reactor_is_logged() -> None:
    """A blocked reactor is logged once per block, with its stack."""
    clock, time = Clock(), Clock()
    watch = BusyReactorWatch(clock, now=time.seconds, has_thread=False)
    watch.startService()
    with capturedLogs() as logged:
        assert not watch.look()
        time.advance(BUSY_SECONDS)
        assert watch.look()
        assert not watch.look()
        clock.advance(1)
        assert not watch.look()
        time.advance(BUSY_SECONDS)
        assert watch.look()
    watch.stopService()
    assert clock.getDelayedCalls() == []
    assert [event["seconds"] for event in logged] == [BUSY_SECONDS, BUSY_SECONDS]
    assert "test_a_blocked_reactor_is_logged" in logged[0]["stack"]


def test_thread_ends_with_the_service() -> None:
    """The watching thread ends when the service has stopped."""
    watch = BusyReactorWatch(Clock())
    watch.startService()
    assert watch.name in {thread.name for thread in threading.enumerate()}
    watch.stopService()
    assert watch.name not in {thread.name for thread in threading.enumerate()}


@pytest.mark.skipif(sys.flags.dev_mode, reason="the tests themselves are in development mode")
def test_nothing_without_development_mode() -> None:
    """Without development mode there is no watching thread."""
    assert development_services(Clock()) == []


_PRINT = """
from twisted.internet import base, defer, reactor
from stream.ops.debug.development import development_services
assert [service.name for service in development_services(reactor)] == ["busy-reactor-watch"]
assert base.DelayedCall.debug and defer.getDebugging()
import faulthandler
assert faulthandler.is_enabled()
"""


def test_development_mode() -> None:
    """Python's development mode enables Twisted's debugging and the watch."""
    environment = {**os.environ, "PYTHONDEVMODE": "1"}
    subprocess.run([sys.executable, "-c", _PRINT], env=environment, check=True, timeout=60)
