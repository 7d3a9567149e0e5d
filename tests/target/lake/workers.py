"""Processes that tests share, since each needs a second of processor time to start."""

from __future__ import annotations

from collections import defaultdict
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
    own: Any = target.services[0]
    workers = _shared(own._module)
    for name in ("_importing", "_questions"):
        if hasattr(target, name):
            setattr(target, name, defaultdict(lambda: workers))
    if hasattr(target, "_workers"):
        target._workers = workers
    target.services = ()
