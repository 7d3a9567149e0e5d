"""Running coroutines concurrently."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, cast

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

__all__ = ["together"]


async def together(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run all coroutines concurrently; return their results in the same order.

    All coroutines run to completion. Then the failure of the first one, in the given order, is
    raised. So none of them is still running when the caller rolls back.
    """
    running = [Deferred.fromCoroutine(one) for one in work]
    results: Any = await DeferredList(running, consumeErrors=True)
    for _, result in results:
        if isinstance(result, Failure):
            result.raiseException()
    return [cast(Any, result) for _, result in results]
