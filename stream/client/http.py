"""The HTTP library, imported in less than half of the time.

httpx also imports its own command line if rich and click are there. Nothing here needs it, and a
command that starts for each call would wait for it.
"""

from __future__ import annotations

import sys
from typing import Any

from stream import __version__

_COMMAND_LINE = "httpx._main"
_leaves_it_out = "httpx" not in sys.modules

if _leaves_it_out:
    sys.modules[_COMMAND_LINE] = None  # type: ignore[assignment]  # an import of it fails
try:
    import httpx
except ImportError:
    raise ImportError("stream.client needs: pip install 'stream-service[cli]'") from None
finally:
    if _leaves_it_out:
        del sys.modules[_COMMAND_LINE]

__all__ = ["httpx", "reason_of", "user_agent"]


def reason_of(error: Any) -> str:
    """What *error* of the library says; its kind if it says nothing."""
    return str(error).rstrip(".") or type(error).__name__


def user_agent() -> str:
    """How the client calls itself."""
    return f"stream-client/{__version__}"
