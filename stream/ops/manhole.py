"""A Python console of the running process, over SSH.

Whoever gets in can do whatever the process can. So it listens on loopback alone, takes public keys
and no passwords, forwards no ports and runs no commands, and writes each line to the log before it
is carried out.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from twisted.application.service import Service
from twisted.conch.checkers import IAuthorizedKeysDB, SSHPublicKeyChecker, readAuthorizedKeyFile
from twisted.conch.error import ConchError
from twisted.conch.insults.insults import ServerProtocol
from twisted.conch.interfaces import ISession
from twisted.conch.manhole import Manhole
from twisted.conch.manhole_ssh import ConchFactory, TerminalRealm, TerminalSession
from twisted.conch.ssh.keys import BadKeyError, EncryptedKeyError, Key
from twisted.conch.ssh.transport import SSHServerTransport
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from zope.interface import implementer

from stream.errors import UserError

__all__ = ["ManholeService"]

_log = Logger(namespace="stream.manhole")

MAX_SESSIONS = 8
MAX_KEYS_BYTES = 64 * 1024
MAX_LINE_BYTES = 16 * 1024
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_READ = stat.S_IRGRP | stat.S_IROTH


class ManholeService(Service):
    """:param endpoint: where to listen.
    :param address: the same for people.
    :param host_key: file with the private key that the server shows.
    :param authorized_keys: file with one public key a line, read again at each login.
    :param namespace: names that the console knows.

    startService fails with UserError if a file can't be read, or others may change or read it.
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
    ) -> None:
        self._endpoint = endpoint
        self._address = address
        self._host_key = host_key
        self._authorized_keys = authorized_keys
        self._namespace = dict(namespace)
        self._factory: _Factory | None = None
        self.port: IListeningPort | None = None

    async def startService(self) -> None:
        """Fires when the port is open."""
        super().startService()
        key = _host_key(self._host_key)
        _check_file(self._authorized_keys, "manhole.authorizedKeys", _OTHERS_WRITE)
        portal = Portal(cast(IRealm, _Realm(self._namespace)))
        portal.registerChecker(SSHPublicKeyChecker(_AuthorizedKeys(Path(self._authorized_keys))))
        self._factory = _Factory(portal, key)
        self.port = await self._endpoint.listen(self._factory)
        _log.warn(
            'console of the process over SSH on "{address}", host key {fingerprint}',
            address=self._address,
            fingerprint=key.fingerprint(),
        )

    async def stopService(self) -> None:
        """Fires when nobody is connected any more."""
        super().stopService()
        port, self.port = self.port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
        if self._factory is not None:
            self._factory.hang_up()


def _check_file(path: str, setting: str, forbidden: int) -> None:
    if not path:
        raise UserError(f'the console needs "{setting}"')
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        raise UserError(f'cannot read "{setting}" ({path}): {error.strerror}') from None
    if mode & forbidden:
        raise UserError(f'"{setting}" ({path}) is open to others, its mode is {mode & 0o777:o}')


def _host_key(path: str) -> Key:
    _check_file(path, "manhole.hostKey", _OTHERS_READ | _OTHERS_WRITE)
    try:
        key: Key = Key.fromFile(path)
    except (OSError, BadKeyError, EncryptedKeyError):
        raise UserError(f'"manhole.hostKey" ({path}) is no private key without a passphrase') from (
            None
        )
    if key.isPublic():
        raise UserError(f'"manhole.hostKey" ({path}) is no private key')
    return key


@implementer(IAuthorizedKeysDB)
class _AuthorizedKeys:
    """The keys in a file, whatever name their owner logs in with. A line with options in front of
    its key lets nobody in, since the options would not be obeyed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def getAuthorizedKeys(self, username: bytes) -> Iterable[Key]:
        try:
            _check_file(str(self._path), "manhole.authorizedKeys", _OTHERS_WRITE)
            with self._path.open("rb") as file:
                listed = BytesIO(file.read(MAX_KEYS_BYTES))
        except (OSError, UserError) as error:
            _log.error("nobody can log in: {reason}", reason=str(error))
            return []
        return list(readAuthorizedKeyFile(listed, _public_key))


def _public_key(line: bytes) -> Key:
    key: Key = Key.fromString(line, type="public_openssh")
    return key


class _Transport(SSHServerTransport):
    """One connection, known to its factory."""

    factory: Any
    transport: Any

    def connectionMade(self) -> None:
        self.factory.connections.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.connections.discard(self)
        super().connectionLost(reason)


class _Factory(ConchFactory):
    """Bounds the number of connections, and can end them."""

    protocol = _Transport

    def __init__(self, portal: Portal, key: Key) -> None:
        super().__init__(portal)
        self.publicKeys: dict[Any, Any] = {key.sshType(): key.public()}
        self.privateKeys: dict[Any, Any] = {key.sshType(): key}
        self.connections: set[_Transport] = set()

    def buildProtocol(self, addr: Any) -> Any:
        if len(self.connections) >= MAX_SESSIONS:
            _log.warn("refused a connection: there are {count}", count=MAX_SESSIONS)
            return None
        return super().buildProtocol(addr)

    def hang_up(self) -> None:
        for connection in list(self.connections):
            connection.transport.abortConnection()


class _Session(TerminalSession):
    """A shell alone: no commands, no forwarding."""

    _proto: Any = None

    def openShell(self, proto: Any) -> None:
        self._proto = proto
        super().openShell(proto)

    def ended_well(self) -> None:
        """Have the client end with 0."""
        channel = self._proto.session
        channel.conn.sendRequest(channel, b"exit-status", bytes(4))

    def execCommand(self, proto: Any, cmd: bytes) -> None:
        _log.warn("refused a command, the console has no shell")
        raise ConchError("there is only the console")

    def windowChanged(self, newWindowSize: Any) -> None:
        """Lines are not laid out for the window."""

    def eofReceived(self) -> None:
        """The end of the input is the end of the session, which the client tells, too."""


class _Realm(TerminalRealm):
    def __init__(self, namespace: Mapping[str, Any]) -> None:
        super().__init__()
        self._namespace = namespace
        self.sessionFactory = _Session

    def _getAvatar(self, avatarId: bytes) -> Any:
        user = super()._getAvatar(avatarId)
        name = avatarId.decode("utf-8", "replace")
        namespace = dict(self._namespace)
        session = user.original.getComponent(ISession)
        session.chainedProtocolFactory = lambda: ServerProtocol(
            _Console, namespace, name, session.ended_well
        )
        return user


class _Console(Manhole):
    """The console of one session; its lines are logged.

    :param user: the name given at the login. Who it is the key tells, which the name doesn't.
    :param leaves: called when the user ends the session.
    """

    def __init__(self, namespace: Mapping[str, Any], user: str, leaves: Callable[[], None]) -> None:
        super().__init__(dict(namespace))
        self._leaves = leaves
        self._user = user

    def connectionMade(self) -> None:
        super().connectionMade()
        _log.warn('"{user}" has opened a console', user=self._user)

    def initializeScreen(self) -> None:
        self.terminal.reset()
        self.terminal.write(b"Everything typed here is logged. help() tells what there is.")
        self.terminal.nextLine()
        self.terminal.write(self.ps[self.pn])
        self.setInsertMode()

    def terminalSize(self, width: int, height: int) -> None:
        """Nothing is drawn anew: what was shown stays."""
        self.width, self.height = width, height

    def connectionLost(self, reason: Any) -> None:
        _log.warn('"{user}" has left the console', user=self._user)
        super().connectionLost(reason)

    def handle_QUIT(self) -> None:
        self._leaves()
        super().handle_QUIT()

    def lineReceived(self, line: bytes) -> None:
        if len(line) > MAX_LINE_BYTES:
            self.addOutput("the line is too long\n")
            return
        _log.warn(
            'console of "{user}": {line}', user=self._user, line=line.decode("utf-8", "replace")
        )
        super().lineReceived(line)
