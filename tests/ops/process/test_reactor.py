"""The reactor of the service."""

from __future__ import annotations

import subprocess
import sys

SERVES = """
from twisted.plugin import getPlugins
from twisted.application.service import IServiceMaker
[maker] = [m for m in getPlugins(IServiceMaker) if m.tapname == "stream"]
options = maker.options
try:
    options().parseOptions(["--help"])
except SystemExit:
    pass
from twisted.internet import reactor, protocol, endpoints
print(type(reactor).__name__)
class Echo(protocol.Protocol):
    def dataReceived(self, data):
        if data == b"crash":
            raise ValueError
        self.transport.write(data)
class Ask(protocol.Protocol):
    def connectionMade(self):
        self.transport.write(b"hello")
    def dataReceived(self, data):
        print(data.decode())
        self.transport.write(b"crash")
    def connectionLost(self, reason):
        print("closed")
        reactor.stop()
server = reactor.listenTCP(0, protocol.Factory.forProtocol(Echo), interface="127.0.0.1")
reactor.connectTCP("127.0.0.1", server.getHost().port, protocol.ClientFactory.forProtocol(Ask))
reactor.callLater(20, reactor.stop)
reactor.run()
"""


def test_the_command_line_installs_the_direct_reactor() -> None:
    """The reactor serves connections; an exception in a protocol closes only its connection."""
    ended = subprocess.run(
        [sys.executable, "-c", SERVES], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.splitlines()[-3:] == ["DirectEPollReactor", "hello", "closed"]


BETWEEN = """
from stream.ops.process.reactor import install
install()
from twisted.internet import reactor, protocol
from twisted.internet.protocol import ClientFactory, Factory
between, order = reactor.between, []
class Server(protocol.Protocol):
    def dataReceived(self, data):
        order.append("read")
        between.call_soon(lambda: order.append("committed"))
        if order.count("read") == 2:
            between.unwatch(check)
            reactor.stop()
class Client(protocol.Protocol):
    def connectionMade(self):
        self.transport.write(b"x")
check = lambda: order.append("checked")
between.watch(check)
def start():
    port = reactor.listenTCP(0, Factory.forProtocol(Server), interface="127.0.0.1").getHost().port
    for _ in range(2):
        reactor.connectTCP("127.0.0.1", port, ClientFactory.forProtocol(Client))
def first():
    order.append("first")
    between.call_soon(lambda: (order.append("second"), between.call_soon(start)))
    reactor.callLater(0, order.append, "timer")
between.call_soon(first)
reactor.callLater(20, reactor.stop)
reactor.run()
print(*order)
"""


def test_calls_are_made_between_clients_and_without_any() -> None:
    """They don't wait for an event, a timer that they set is called, and a client is followed."""
    ended = subprocess.run(
        [sys.executable, "-c", BETWEEN], capture_output=True, text=True, timeout=60, check=True
    )
    words = ended.stdout.split()
    assert words[:3] == ["first", "second", "timer"]
    assert words.count("read") == words.count("committed") == 2
    assert words[words.index("read") + 1] == "checked"


OUTGOING = """
import socket, time
from collections import Counter
from stream.ops.process.fair_turns import OUTGOING_SECONDS
from stream.ops.process.reactor import install
install()
from twisted.internet import reactor, protocol
COUNT = 20
listener = socket.create_server(("127.0.0.1", 0), backlog=COUNT)
turn, served, connected = 0, Counter(), []
class Client(protocol.Protocol):
    def connectionMade(self):
        connected.append(listener.accept()[0])
        if len(connected) == COUNT:
            next_turn()
            for each in connected:
                each.sendall(b"x")
    def dataReceived(self, data):
        served[turn] += 1
        end = time.monotonic() + OUTGOING_SECONDS
        while time.monotonic() < end:
            pass
        if served.total() == COUNT:
            reactor.stop()
def next_turn():
    global turn
    turn += 1
    reactor.callLater(0, next_turn)
for _ in range(COUNT):
    reactor.connectTCP(*listener.getsockname(), protocol.ClientFactory.forProtocol(Client))
reactor.callLater(20, reactor.stop)
reactor.run()
print(served.total(), max(served.values()))
"""


def test_outgoing_connections_share_a_part_of_a_turn() -> None:
    """Each uses up a share: of cheap light ones, of those served longest ago, or of the others."""
    ended = subprocess.run(
        [sys.executable, "-c", OUTGOING], capture_output=True, text=True, timeout=60, check=True
    )
    total, most = map(int, ended.stdout.split())
    assert total == 20
    assert 1 <= most <= 3


THREADS = """
import threading
from stream.ops.process.reactor import install
install()
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
start, failed = threading.Thread.start, []
def fail(thread):
    failed.append(thread)
    raise RuntimeError("can't start new thread")
async def work():
    threading.Thread.start = fail
    try:
        await deferToThread(int, "7")
    except Exception as error:
        print(type(error).__name__)
    threading.Thread.start = start
    print(len(failed), await deferToThread(int, "7"))
    reactor.stop()
from twisted.internet.defer import ensureDeferred
reactor.callWhenRunning(lambda: ensureDeferred(work()))
reactor.callLater(20, reactor.stop)
reactor.run()
"""


def test_the_pool_of_the_reactor_works_again_after_a_failed_start_of_a_thread() -> None:
    """Host names are looked up in it."""
    ended = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.split() == ["NoThread", "1", "7"]


def test_an_installed_reactor_is_kept() -> None:
    """A reactor that is already installed, such as the test runner's, is kept."""
    script = (
        "import twisted.internet.reactor as before\n"
        "from stream.ops.process.reactor import install\n"
        "print(install())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout.strip() == "False"
