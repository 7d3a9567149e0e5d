"""The client of a Stream service: its API, and producers that send records.

::

    from stream.client import Producer

    with Producer("https://…/stream/123/shop/…") as producer:
        producer.send({"item": "tea"})

Nothing here imports Twisted or another part of the service. The names are loaded when they are
first used, so that a program that needs one of them doesn't wait for the others.
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
