"""The producer for asyncio.

The thread of a `Producer` sends the batches. So compression doesn't block the event loop, a busy
event loop doesn't delay records, and remaining records are sent even after the loop has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from stream.client.batching import encoded
from stream.client.errors import BufferFull
from stream.client.producer import Producer

__all__ = ["AsyncProducer"]


class AsyncProducer:
    """Sends records to a source in batches, for one event loop.

    It accepts the parameters of `Producer` and raises the same errors. With ``when_full="block"``,
    `send` waits for space without blocking the loop.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._blocks = options.get("when_full", "block") == "block"
        self._event = asyncio.Event()
        self._producer = Producer(url, **options)
        self._producer.listen(self._decided)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def accepted(self) -> int:
        """Number of stored records."""
        return self._producer.accepted

    @property
    def rejected(self) -> int:
        """Number of records that the source can't store."""
        return self._producer.rejected

    @property
    def pending(self) -> int:
        """Number of records that are neither stored nor rejected yet."""
        return self._producer.pending

    async def send(self, record: Any) -> None:
        """Queue *record*; see `Producer.send`."""
        line = encoded(record)
        if self._producer.try_send(line):
            return
        if not self._blocks:
            raise BufferFull("too many records are waiting to be sent")
        await self._until(lambda: self._producer.try_send(line))

    async def flush(self) -> None:
        """Wait until every earlier record is stored or rejected."""
        until = self._producer.begin_flush()
        await self._until(lambda: self._producer.is_flushed(until))
        self._producer.check()

    async def close(self, timeout: float | None = None) -> None:
        """Send the remaining records, then stop; see `Producer.close`."""
        await self._loop.run_in_executor(None, self._producer.close, timeout)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._event.clear()
            # Records that were decided between the two lines above haven't set the event of this
            # wait.
            if condition():
                return
            await self._event.wait()

    def _decided(self) -> None:
        with suppress(RuntimeError):  # raised if the loop is closed
            self._loop.call_soon_threadsafe(self._event.set)
