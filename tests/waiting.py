"""Waiting for what happens in its own time: a process, a connection, another node."""

from __future__ import annotations

from inspect import isawaitable
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

from stream.etcd import Mirror

__all__ = ["mirrored", "until"]

_LOOK_SECONDS = 0.01

reactor: Any = _reactor


async def until(condition: Any, *, seconds: float = 10.0) -> None:
    """Wait until *condition* () is true; fails the test if it doesn't become so.

    :param condition: may be asynchronous.
    """
    deadline = reactor.seconds() + seconds
    while True:
        met = condition()
        if await met if isawaitable(met) else met:
            return
        assert reactor.seconds() < deadline, "it did not happen in time"
        await deferLater(reactor, _LOOK_SECONDS)


async def mirrored(mirror: Mirror[Any], revision: int) -> None:
    """Wait until *mirror* contains the revision *revision* of a write below its prefix."""
    await until(lambda: mirror.revision >= revision)
