"""The effort of random tests: small in an ordinary run, larger with `make thorough`."""

from __future__ import annotations

import os

__all__ = ["USUAL_EXAMPLES", "examples"]

USUAL_EXAMPLES = 40
_EFFORT = int(os.environ.get("STREAM_EFFORT", "1"))


def examples(usual: int) -> int:
    """Return the number of examples for a test that tries *usual* ones in an ordinary run."""
    return usual * _EFFORT
