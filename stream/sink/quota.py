"""Quotas of sinks on local disks, checked in rounds instead of for each record.

The sizes are those that all source nodes have put into etcd. A sink is therefore stopped about two
seconds after it exceeds its quota: it takes one second until the size is in etcd, and one until it
is checked. The sink resumes as soon as uploads have freed space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from stream.definition.key import SinkKey
from stream.errors import UserError
from stream.etcd import EtcdClient, EtcdError
from stream.sink.outcome import over_quota
from stream.storage.model import prefix
from stream.storage.model.state import Level
from stream.storage.model.statistics import Statistics, total
from stream.values.bytesize import ByteSize
from stream.values.codec import decode

__all__ = ["Quotas"]

_log = Logger()

LOOKED_UP_AT_ONCE = 16
LOG_SECONDS = 300.0


@attrs.define
class _Watched:
    quota: ByteSize
    logged_at: float = -LOG_SECONDS


class Quotas(Service):
    """Checks the quotas of sinks, in rounds.

    :ivar refusals: errors for records of sinks that exceed their quotas.

    :param interval: seconds between two rounds.
    """

    def __init__(self, client: EtcdClient, interval: float, reactor: Any) -> None:
        self.refusals: dict[SinkKey, UserError] = {}
        self._client = client
        self._interval = interval
        self._reactor = reactor
        self._watched: dict[SinkKey, _Watched] = {}
        self._looking: Deferred[None] | None = None
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor

    def startService(self) -> None:
        super().startService()
        self._loop.start(self._interval, now=False).addErrback(
            lambda failure: _log.failure("the quota check stopped", failure)
        )

    async def stopService(self) -> None:
        """Stop the checks, and wait until no check is running."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        if self._looking is not None:
            await self._looking

    def watch(self, sink: SinkKey, quota: ByteSize) -> None:
        """Refuse records of *sink* while it has buffered more than *quota*; 0 means no limit."""
        if not quota:
            self.forget(sink)
            return
        watched = self._watched.setdefault(sink, _Watched(quota))
        watched.quota = quota

    def forget(self, sink: SinkKey) -> None:
        """Stop watching a sink."""
        self._watched.pop(sink, None)
        self.refusals.pop(sink, None)

    def _look(self) -> Deferred[None]:
        self._looking = ensureDeferred(self._round())
        return self._looking

    async def _round(self) -> None:
        sinks = list(self._watched)
        for start in range(0, len(sinks), LOOKED_UP_AT_ONCE):
            await self._look_at(sinks[start : start + LOOKED_UP_AT_ONCE])

    async def _look_at(self, sinks: Sequence[SinkKey]) -> None:
        await DeferredList([ensureDeferred(self._try(sink)) for sink in sinks])

    async def _try(self, sink: SinkKey) -> None:
        """Check a sink; after a failure it keeps its state until the next round."""
        try:
            await self._check(sink)
        except EtcdError as error:
            _log.warn("cannot check a quota: {error}", error=error, sink_id=str(sink))
        except Exception:
            _log.failure("cannot check a quota", sink_id=str(sink))

    async def _check(self, sink: SinkKey) -> None:
        found = await self._client.range(f"{prefix.statistics(Level.LOCAL)}{sink}/")
        buffered = total(decode(Statistics, kv.value) for kv in found.kvs).compressed_size
        watched = self._watched.get(sink)
        if watched is None:
            return  # forgotten during the check
        if buffered <= watched.quota:
            self.refusals.pop(sink, None)
            return
        refusal = self.refusals[sink] = over_quota(str(sink), buffered, watched.quota)
        now = self._reactor.seconds()
        if now - watched.logged_at >= LOG_SECONDS:
            watched.logged_at = now
            _log.warn("{refusal}", refusal=refusal)
