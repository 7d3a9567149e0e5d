"""The availability of connections, which is checked on request and cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import attrs
from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.concurrency.deadline import within
from stream.concurrency.waiters import Waiters
from stream.errors import UserError
from stream.settings.connections import Connection
from stream.target.protocol import Probing
from stream.target.registry import Targets

__all__ = ["PROBE_SECONDS", "REMEMBERED_SECONDS", "ConnectionState", "Probes"]

_log = Logger()

REMEMBERED_SECONDS = 10.0
"""How long an answer, or its absence, is shown before the connection is tried again."""
PREPARE_SECONDS = 30.0
"""How long the target may take to prepare for trying a connection."""
PROBE_SECONDS = 5.0
"""Time after which a connection that doesn't answer counts as unavailable."""


@attrs.frozen(kw_only=True)
class ConnectionState:
    """The state of a connection.

    :ivar is_available: whether the connection answers; ``None`` if unknown.
    :ivar message: why the connection doesn't answer, as shown to every user of the project.
    """

    connection: Connection
    is_available: bool | None
    checked_at: datetime
    message: str = ""


class Probes:
    """Checks connections; concurrent requests share one attempt.

    :param now: returns the current time in UTC.
    """

    def __init__(self, reactor: Any, targets: Targets, now: Callable[[], datetime]) -> None:
        self._reactor = reactor
        self._targets = targets
        self._now = now
        self._known: dict[str, tuple[float, ConnectionState]] = {}
        self._asking: dict[str, Waiters[ConnectionState]] = {}
        self._running: set[str] = set()

    async def states(self, connections: Sequence[Connection]) -> Sequence[ConnectionState]:
        """Return the states of *connections*, which are checked concurrently."""
        return await gatherResults([self._state(each) for each in connections], consumeErrors=True)

    def _state(self, connection: Connection) -> Deferred[ConnectionState]:
        name = connection.name
        known = self._known.get(name)
        waiters = self._asking.get(name)
        if waiters is not None:
            return waiters.wait()
        if known is not None and known[0] > self._reactor.seconds():
            done: Deferred[ConnectionState] = Deferred()
            done.callback(known[1])
            return done
        waiters = self._asking[name] = Waiters()
        waiting = waiters.wait()
        # Runs independently, since a caller that disconnects must not cancel it for the others.
        Deferred.fromCoroutine(self._probed(connection)).addCallback(self._answered, name)
        return waiting

    def _answered(self, state: ConnectionState, name: str) -> None:
        self._known[name] = (self._reactor.seconds() + REMEMBERED_SECONDS, state)
        self._asking.pop(name).fire(state)

    async def _probed(self, connection: Connection) -> ConnectionState:
        """Check a connection; never fails."""
        is_available: bool | None = False
        message = ""
        try:
            is_available = await self._probe(connection)
        except UserError as error:
            message = str(error)
        except TimeoutError:
            message = f"no answer within {PROBE_SECONDS:.0f} s"
        except Exception:
            _log.failure("cannot test the connection {connection}", connection=connection.name)
            message = "the test failed; the log of this node contains the reason"
        return ConnectionState(
            connection=connection,
            is_available=is_available,
            checked_at=self._now(),
            message=message,
        )

    async def _probe(self, connection: Connection) -> bool | None:
        target = self._targets.named(connection.type)
        if not isinstance(target, Probing):
            return None
        name = connection.name
        if name in self._running:
            raise TimeoutError  # the last attempt still runs and occupies a thread
        self._running.add(name)
        try:
            preparing = Deferred.fromCoroutine(_prepared(target, name))
            await within(preparing, PREPARE_SECONDS, self._reactor, f"the connection {name}")
        except BaseException:
            self._running.discard(name)
            raise
        answer: Deferred[None] = Deferred()

        def ended(result: object) -> None:
            self._running.discard(name)
            if isinstance(result, Failure) and not answer.called:
                answer.errback(result)
            elif not answer.called:
                answer.callback(None)

        Deferred.fromCoroutine(_awaited(target, name)).addBoth(ended)
        await within(answer, PROBE_SECONDS, self._reactor, f"the connection {name}")
        return True


async def _prepared(target: Probing, name: str) -> None:
    await target.prepare_probe(name)


async def _awaited(target: Probing, name: str) -> None:
    await target.probe(name)
