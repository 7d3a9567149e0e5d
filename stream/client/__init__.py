"""The client library of Stream: the API, and producers that send records.

::

    from stream.client import Producer

    with Producer("https://…/stream/123/shop/…") as producer:
        producer.send({"item": "tea"})

The package imports neither Twisted nor other parts of the service. Names are loaded on first use,
so that a program loads only what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stream.client.api import Api
    from stream.client.async_producer import AsyncProducer
    from stream.client.errors import (
        BufferFull,
        ClientError,
        DeliveryFailed,
        ServiceError,
        TaskFailed,
        Unreachable,
    )
    from stream.client.producer import Producer, Rejected

__all__ = [
    "Api",
    "AsyncProducer",
    "BufferFull",
    "ClientError",
    "DeliveryFailed",
    "Producer",
    "Rejected",
    "ServiceError",
    "TaskFailed",
    "Unreachable",
]

_MODULES = {
    "Api": "api",
    "AsyncProducer": "async_producer",
    "Producer": "producer",
    "Rejected": "producer",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
