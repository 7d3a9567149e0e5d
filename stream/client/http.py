"""The HTTP library, imported in less than half the usual time.

If rich and click are installed, httpx also imports its own command line. The client doesn't need
it, and the import would delay commands that make a single call.
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
    """Return the message of the library's *error*; its type if there is no message."""
    return str(error).rstrip(".") or type(error).__name__


def user_agent() -> str:
    """Return the client's User-Agent."""
    return f"stream-client/{__version__}"
