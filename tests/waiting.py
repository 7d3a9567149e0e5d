"""Waiting for asynchronous events of a process, a connection or another node."""

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
    """Wait until *condition* () is true. Fails the test after a timeout.

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
    """Wait until *mirror* has a write below its prefix with this *revision*."""
    await until(lambda: mirror.revision >= revision)
