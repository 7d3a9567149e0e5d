"""Work in small steps: generators whose result is needed at once or between other work."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

__all__ = ["result_of"]

Result = TypeVar("Result")


def result_of(steps: Generator[object, None, Result]) -> Result:
    """Run all *steps* at once, and return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
