"""Stops that don't complete."""

from __future__ import annotations

import signal
import subprocess
import sys

_PROCESS = """
import sys, threading, time
from twisted.application.service import MultiService, Service
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from stream.errors import UserError
from stream.ops.process.ordered_services import OrderedServices
from stream.process import Process

class Main(Service):
    def stopService(self):
        {stop}

class Broken(Service):
    def startService(self):
        raise UserError("it is broken")

def ready():
    print("ready", flush=True)
    {after}

root = MultiService()
Process(lambda: {main}, reactor=reactor, stop_seconds={seconds}, ready=ready).setServiceParent(root)
root.startService()
reactor.addSystemEventTrigger("before", "shutdown", root.stopService)
reactor.run()
"""


def _hanging(
    *, stop: str = "pass", after: str = "pass", main: str = "Main()", seconds: float = 0.2
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROCESS.format(stop=stop, after=after, main=main, seconds=seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_later_signals_are_ignored() -> None:
    """Further signals during the stop and the exit of Python are ignored."""
    slow = (
        "import os\n"
        "    class Slow:\n"
        "        def __del__(self, write=os.write, sleep=time.sleep):\n"
        "            write(1, b'ends\\n')\n"
        "            sleep(0.5)\n"
        "    sys.slow = Slow()"
    )
    process = _hanging(after=slow, seconds=30)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
    assert process.stdout.readline() == "ends\n"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process.send_signal(number)
    try:
        assert process.communicate(timeout=20)[1] == ""
    finally:
        process.kill()
    assert process.returncode == 0


def test_every_stop_completes() -> None:
    """A hanging service, reactor or thread is logged, and the exit code is 1.

    A stop in time has the exit code 0.
    """
    started = {
        "fine": _hanging(seconds=30),
        "service": _hanging(stop="return Deferred()"),
        "reactor": _hanging(after="time.sleep(0.2)\n    while True: pass"),
        "thread": _hanging(after="threading.Thread(target=time.sleep, args=(60,)).start()"),
    }
    unready = _hanging(
        stop="return Deferred()", main="OrderedServices([Main(), Broken()], reactor)"
    )
    ended = {}
    for process in started.values():
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
    for name, process in {**started, "start": unready}.items():
        try:
            ended[name] = (process.communicate(timeout=20)[1], process.returncode)
        finally:
            process.kill()
    assert ended["fine"] == ("", 0)
    for name in ("service", "reactor", "thread", "start"):
        errors, code = ended[name]
        assert code == 1, name
        assert "(most recent call first)" in errors
    assert "Error: Not stopped within 0.2 s." in ended["service"][0]
    assert ended["start"][0].startswith("Error: It is broken.\nError: Not stopped within 0.2 s.")
    assert "in ready" in ended["reactor"][0]
