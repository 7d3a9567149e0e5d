"""Processes that tests share, since each needs a second of processor time to start."""

from __future__ import annotations

from functools import cache
from typing import Any

from twisted.internet import reactor as _reactor

from stream.target.lake.target import LakeTarget
from stream.target.lake.workers import Workers

__all__ = ["share_workers"]

reactor: Any = _reactor


@cache
def _shared(module: str) -> Workers:
    """Return worker processes that end with the process of the tests."""
    workers = Workers(reactor, module, 2)
    workers.startService()
    return workers


def share_workers(target: LakeTarget[Any]) -> None:
    """Let *target*, which hasn't started, use the shared processes instead of its own."""
    target._workers = _shared(target._workers._module)
    if hasattr(target, "_questions"):
        target._questions = target._workers
    target.services = ()
