"""Breaking the service on purpose, to see whether a test finds out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

__all__ = ["broken"]


@contextlib.contextmanager
def broken(patches: Mapping[str, Any]) -> Iterator[None]:
    """:param patches: what is replaced, by its dotted name."""
    with contextlib.ExitStack() as stack:
        for target, replacement in patches.items():
            stack.enter_context(mock.patch(target, replacement))
        yield
