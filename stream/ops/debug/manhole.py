"""A Python console of the running process, over SSH.

Users of the console can do whatever the process can. Therefore it listens only on loopback, accepts
only public keys, forwards no ports, runs no commands, and logs each line before it is executed.

Note [Endless lines]: a line is executed in the reactor's thread, which does nothing else until the
line ends. So that an endless loop doesn't stop the service, the kernel repeatedly sends a signal
after some seconds. The signal handler raises an exception in the running Python code. It can't
interrupt a single call of C code.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, cast

from twisted.application.service import Service
from twisted.conch.error import ConchError
from twisted.conch.insults.insults import ServerProtocol
from twisted.conch.interfaces import ISession
from twisted.conch.manhole import Manhole, ManholeInterpreter
from twisted.conch.manhole_ssh import ConchFactory, TerminalRealm, TerminalSession
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.transport import SSHServerTransport
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.errors import UserError
from stream.ops.debug.manhole_login import (
    AuthorizedKeys,
    KeyChecker,
    Person,
    check_authorized_keys,
    fingerprint_of,
    note,
    read_host_key,
)

__all__ = ["MAX_SECONDS", "ManholeService"]

_log = Logger(namespace="stream.manhole")

MAX_SESSIONS = 8
MAX_LINE_BYTES = 16 * 1024
MAX_SECONDS = 5.0
"""Time limit of a line; shorter than every lease, so that the node isn't considered dead."""


class ManholeService(Service):
    """The SSH server whose shell is the Python console of the process.

    :param endpoint: where to listen.
    :param address: the same address, for log messages.
    :param host_key: file with the server's private key.
    :param authorized_keys: file with one public key per line, read again at each login.
    :param namespace: names that are defined in the console.
    :param line_seconds: time limit of a line.

    startService fails with UserError if a file can't be read, or its permissions are too open.
    """

    name = "manhole"

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        address: str,
        *,
        host_key: str,
        authorized_keys: str,
        namespace: Mapping[str, Any],
        line_seconds: float = MAX_SECONDS,
    ) -> None:
        self._line_seconds = line_seconds
        self._endpoint = endpoint
        self._address = address
        self._host_key = host_key
        self._authorized_keys = authorized_keys
        self._namespace = dict(namespace)
        self._factory: _Factory | None = None
        self.port: IListeningPort | None = None

    async def startService(self) -> None:
        """Open the port, and wait until it is open."""
        super().startService()
        key = read_host_key(self._host_key)
        check_authorized_keys(self._authorized_keys)
        portal = Portal(cast(IRealm, _Realm(self._namespace, self._line_seconds)))
        portal.registerChecker(KeyChecker(AuthorizedKeys(Path(self._authorized_keys))))
        self._factory = _Factory(portal, key)
        self.port = await self._endpoint.listen(self._factory)
        _log.warn(
            'console of the process over SSH on "{address}", host key {fingerprint}',
            address=self._address,
            fingerprint=fingerprint_of(key),
        )

    async def stopService(self) -> None:
        """Close the port, and wait until no session is open."""
        super().stopService()
        port, self.port = self.port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
        if self._factory is not None:
            self._factory.hang_up()


class _Transport(SSHServerTransport):
    """An SSH connection that is registered with its factory."""

    factory: Any
    transport: Any

    def connectionMade(self) -> None:
        self.factory.connections.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.connections.discard(self)
        super().connectionLost(reason)

    def receiveError(self, reasonCode: int, description: bytes) -> None:
        """Log that the client disconnected; this isn't a server error."""
        _log.debug("a client disconnected: {reason}", reason=description.decode("utf-8", "replace"))


class _Factory(ConchFactory):
    """Limits the number of connections, and can close them."""

    protocol = _Transport
    noisy = False

    def __init__(self, portal: Portal, key: Key) -> None:
        super().__init__(portal)
        self.publicKeys: dict[Any, Any] = {key.sshType(): key.public()}
        self.privateKeys: dict[Any, Any] = {key.sshType(): key}
        self.connections: set[_Transport] = set()

    def buildProtocol(self, addr: Any) -> Any:
        if len(self.connections) >= MAX_SESSIONS:
            _log.warn("refused a connection: {count} are open", count=MAX_SESSIONS)
            return None
        return super().buildProtocol(addr)

    def hang_up(self) -> None:
        for connection in list(self.connections):
            connection.transport.abortConnection()


class _Session(TerminalSession):
    """A session that offers only the console, without commands and forwarding.

    :ivar person: the user who has logged in.
    """

    person: Person
    _proto: Any = None

    def openShell(self, proto: Any) -> None:
        self._proto = proto
        super().openShell(proto)
        note(self.person, '"{user}" has opened the console with the key {key}')

    def closed(self) -> None:
        """Log the end of the session; called for every session."""
        if self._proto is not None:
            note(self.person, '"{user}" has left the console')

    def ended_well(self) -> None:
        """End the session; the client exits with code 0."""
        channel = self._proto.session
        channel.conn.sendRequest(channel, b"exit-status", bytes(4))

    def execCommand(self, proto: Any, cmd: bytes) -> None:
        _log.warn("refused a command: the console has no shell")
        raise ConchError("only the console is available")

    def windowChanged(self, newWindowSize: Any) -> None:
        """Do nothing, because lines don't depend on the window's size."""

    def eofReceived(self) -> None:
        """End the session at the end of the input, and notify the client."""


class _Realm(TerminalRealm):
    def __init__(self, namespace: Mapping[str, Any], line_seconds: float) -> None:
        super().__init__()
        self._namespace = namespace
        self._line_seconds = line_seconds
        self.sessionFactory = _Session

    def _getAvatar(self, avatarId: Person) -> Any:
        user = super()._getAvatar(avatarId)
        namespace = dict(self._namespace)
        session = user.original.getComponent(ISession)
        session.person = avatarId
        session.chainedProtocolFactory = lambda: ServerProtocol(
            _Console, namespace, avatarId, session.ended_well, self._line_seconds
        )
        return user


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """Raise KeyboardInterrupt in a line that exceeds *seconds*; see Note [Endless lines]."""

    def interrupt(number: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt(
            f"interrupted after {seconds:g} s, because the line blocks the service"
        )

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Interpreter(ManholeInterpreter):
    """Runs lines with a time limit."""

    def __init__(self, console: _Console, namespace: dict[str, Any], seconds: float) -> None:
        super().__init__(console, namespace)
        self._seconds = seconds

    def runcode(self, *args: Any, **kwargs: Any) -> None:
        with _interrupted_after(self._seconds):
            super().runcode(*args, **kwargs)

    def displayhook(self, obj: Any) -> None:
        """Show *obj*, or its result if it is a Deferred that has fired."""
        if isinstance(obj, Deferred) and obj.called and not isinstance(obj.result, Deferred):
            obj.addErrback(self._failed)
            obj = obj.result
        super().displayhook(obj)

    def _failed(self, failure: Failure) -> None:
        self.write(f"{type(failure.value).__name__}: {failure.getErrorMessage()}\n")

    def excepthook(
        self, excType: type[BaseException], excValue: BaseException, excTraceback: Any
    ) -> None:
        """Show an exception; a UserError is shown without its traceback."""
        if isinstance(excValue, UserError):
            self.write(f"{excType.__name__}: {excValue}\n")
        else:
            super().excepthook(excType, excValue, excTraceback)


class _Console(Manhole):
    """The console of one session. Each of its lines is logged.

    :param leaves: called when the user ends the session.
    :param seconds: time limit of a line.
    """

    def __init__(
        self,
        namespace: Mapping[str, Any],
        person: Person,
        leaves: Callable[[], None],
        seconds: float,
    ) -> None:
        super().__init__(dict(namespace))
        self._leaves = leaves
        self._person = person
        self._seconds = seconds

    def connectionMade(self) -> None:
        super().connectionMade()
        self.interpreter = _Interpreter(self, self.namespace or {}, self._seconds)

    def initializeScreen(self) -> None:
        self.terminal.reset()
        self.terminal.write(b"Everything typed here is logged. help() lists what is available.")
        self.terminal.nextLine()
        self.terminal.write(self.ps[self.pn])
        self.setInsertMode()

    def terminalSize(self, width: int, height: int) -> None:
        """Do nothing, because the output isn't redrawn."""
        self.width, self.height = width, height

    def handle_QUIT(self) -> None:
        self._leaves()
        super().handle_QUIT()

    def lineReceived(self, line: bytes) -> None:
        if len(line) > MAX_LINE_BYTES:
            self.addOutput("the line is too long\n")
            return
        text = line.decode("utf-8", "replace")
        note(self._person, 'console of "{user}": {line}', line=text)
        try:
            super().lineReceived(line)
        except SystemExit:  # "exit()" is the usual way to leave a Python console
            self.handle_QUIT()
