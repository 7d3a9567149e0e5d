"""The limit, and fair sharing, of the bytes that connections hold for unanswered requests.

Note [Load shedding]: one client, source or project must not use up the shared memory. There are no
fixed shares. When the limit is reached, the largest holder is shed: the largest request of the
heaviest source of the heaviest project. A holder below an equal share is never refused because of
others.

Requests that are being processed can't be shed. Such requests of one project may use at most half
of the limit.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

import attrs

__all__ = ["Holder", "Intake", "Owner"]

Owner = tuple[Hashable, Hashable]
"""Owner of bytes within its group: project and source, or network and address of a client whose
source is unknown.
"""

_ROOM = 20
"""Share of the limit that is freed at once (1/n), because the search takes a while."""

_FIXED_SHARE = 2


class Holder(Protocol):
    """A holder of bytes, that is, a connection."""

    def give_way(self) -> None:
        """Release all bytes that aren't fixed; they no longer count."""


@attrs.define(eq=False)
class _Account:
    """The bytes of one holder.

    :ivar fixed: bytes that can't be shed.
    """

    owner: Owner
    size: int = 0
    fixed: int = 0


@attrs.define(eq=False)
class _Group:
    """The accounts of one project or one network, with their sums."""

    accounts: dict[Holder, _Account] = attrs.Factory(dict)
    size: int = 0
    fixed: int = 0


class Intake:
    """Counts the bytes of connections, and sheds holders when the limit is exceeded.

    :param limit: maximum number of bytes of all holders.

    :ivar size: current number of bytes of all holders.
    """

    def __init__(self, limit: int) -> None:
        self.size = 0
        self._limit = limit
        self._accounts: dict[Holder, _Account] = {}
        self._groups: dict[Hashable, _Group] = {}

    def hold(self, holder: Holder, owner: Owner, size: int) -> None:
        """Record that *holder* holds *size* bytes for *owner*, including fixed ones.

        If the limit is exceeded, holders are shed, possibly *holder* itself.
        """
        account = self._accounts.get(holder)
        if account is None or account.owner != owner:
            self.release(holder)
            account = self._accounts[holder] = _Account(owner)
            group = self._groups.setdefault(owner[0], _Group())
            group.accounts[holder] = account
        self._resize(account, size)
        if self.size > self._limit:
            self._make_room()

    def fix(self, holder: Holder) -> bool:
        """Mark the bytes of *holder* as fixed, because they are being processed.

        :returns: False if they would exceed the share of the holder's group; nothing changes then.
        """
        account = self._accounts[holder]
        group = self._groups[account.owner[0]]
        more = account.size - account.fixed
        if group.fixed + more > self._limit // _FIXED_SHARE:
            return False
        account.fixed += more
        group.fixed += more
        return True

    def release(self, holder: Holder) -> None:
        """Record that *holder* no longer holds any bytes."""
        account = self._accounts.pop(holder, None)
        if account is None:
            return
        self._resize(account, 0)
        group = self._groups[account.owner[0]]
        group.fixed -= account.fixed
        del group.accounts[holder]
        if not group.accounts:
            del self._groups[account.owner[0]]

    def _resize(self, account: _Account, size: int) -> None:
        more = size - account.size
        account.size = size
        self._groups[account.owner[0]].size += more
        self.size += more

    def _make_room(self) -> None:
        """Shed holders; see Note [Load shedding]."""
        goal = self._limit - self._limit // _ROOM
        for group in sorted(self._groups.values(), key=lambda each: each.size, reverse=True):
            sources: dict[Owner, int] = {}
            for account in group.accounts.values():
                sources[account.owner] = sources.get(account.owner, 0) + account.size
            for holder, account in sorted(
                group.accounts.items(),
                key=lambda item: (sources[item[1].owner], item[1].size - item[1].fixed),
                reverse=True,
            ):
                if self.size <= goal:
                    return
                if account.size > account.fixed:
                    self._resize(account, account.fixed)
                    holder.give_way()
