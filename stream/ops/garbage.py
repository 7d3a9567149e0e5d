"""When the interpreter looks for circles of references that nobody holds any more.

It looks at a part of all objects whenever 700 more have been made than given back, and at all of
them, while everything stands still for 60 ms, several times a second under load: each request that
waits for the disk is a dozen objects, so a few hundred of them look like a leak. They aren't one;
what is finished is given back at once, by counting references.
"""

from __future__ import annotations

import gc

__all__ = ["settle"]

NEW_OBJECTS = 10_000
"""More than hundreds of waiting requests have."""


def settle() -> None:
    """All that is there now stays: never look at it again, and seldom at what comes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
