"""Bytes that connections hold of requests without an answer: bounded over all of them, and shared.

Note [Who is shed]: one client, source or project must not use up what all share. So nobody has a
fixed part, and when the bound is reached, those are shed who hold the most: of all projects the
heaviest, of its sources the heaviest, of its requests the largest. Whoever holds less than an equal
share is never refused because of the others.

What was handed on to be answered can't be shed any more. Of that, a project has at most half.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

import attrs

__all__ = ["Holder", "Intake", "Owner"]

Owner = tuple[Hashable, Hashable]
"""Who answers for bytes, and for whom together with others: project and source, or the network and
the address of a client that hasn't said yet what it wants."""

_ROOM = 20
"""A part of the bound, of which at least so much is freed at once: looking for it takes a while."""

_FIXED_SHARE = 2


class Holder(Protocol):
    """A holder of bytes: a connection."""

    def give_way(self) -> None:
        """Let the bytes go that aren't fixed; they don't count any more."""


@attrs.define(eq=False)
class _Account:
    """The bytes that one holder holds.

    :ivar fixed: bytes that can't be shed.
    """

    owner: Owner
    size: int = 0
    fixed: int = 0


@attrs.define(eq=False)
class _Group:
    """The accounts of one project, or of one network, with their sums."""

    accounts: dict[Holder, _Account] = attrs.Factory(dict)
    size: int = 0
    fixed: int = 0


class Intake:
    """Counts what connections hold, and says who is shed when it is too much.

    :param limit: bytes of all holders.

    :ivar size: bytes of all holders.
    """

    def __init__(self, limit: int) -> None:
        self.size = 0
        self._limit = limit
        self._accounts: dict[Holder, _Account] = {}
        self._groups: dict[Hashable, _Group] = {}

    def hold(self, holder: Holder, owner: Owner, size: int) -> None:
        """Note that *holder* holds *size* bytes for *owner*, with those that are fixed.

        Afterwards some have been shed if it is too much; perhaps *holder* itself.
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
        """Release the bytes of *holder*, which are passed on.

        :returns: false if that is more than its group's share; then nothing changes.
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
        """*holder* holds nothing any more; nothing happens if it hasn't."""
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
        """See Note [Who is shed]."""
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
