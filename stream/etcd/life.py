"""The life of one component of a node, whose name only one process at a time can hold."""

from __future__ import annotations

from twisted.application.service import Service

from stream.etcd.claims import Claim
from stream.etcd.session import Session

__all__ = ["Life"]


class Life(Service):
    """Holds a name as long as the session exists; claims it again under each new lease.

    :param key: the key in etcd; its last part is the name of the node.
    :param title: what holds the name, for messages; for example ``source node``.
    """

    def __init__(self, session: Session, key: str, title: str) -> None:
        self._session = session
        self._key = key
        self._title = title
        self._claim: Claim | None = None

    @property
    def number(self) -> int:
        """The number of the current life; 0 while the name isn't held. See `stream.etcd.claims`."""
        return 0 if self._claim is None else self._claim.number

    async def startService(self) -> None:
        """Claim the name, and wait until it is held.

        Raises NameHeld: another process holds the name.
        """
        super().startService()
        self._claim = await self._session.claim(self._key, self._title)
