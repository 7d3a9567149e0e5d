"""Deliberate faults in the service, to check that a test detects them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

__all__ = ["broken"]


@contextlib.contextmanager
def broken(patches: Mapping[str, Any]) -> Iterator[None]:
    """Replace attributes until the block ends.

    :param patches: replacements by dotted name.
    """
    with contextlib.ExitStack() as stack:
        for target, replacement in patches.items():
            stack.enter_context(mock.patch(target, replacement))
        yield
