"""A bare Klein resource that answers every request with the same bytes.

python -m benchmarks.bare_klein 8100 answer.json
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from klein import Klein
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.web.server import Site

__all__ = ["resource"]


def resource(body: bytes) -> Any:
    """Return a resource with one route for all paths."""
    app = Klein()

    @app.route("/<path:path>")
    def answer(request: Any, path: str) -> bytes:
        request.setHeader(b"Content-Type", b"application/json")
        return body

    return app.resource()


def main() -> None:
    """Answer every request with a constant body until stopped."""
    port, body = int(sys.argv[1]), Path(sys.argv[2]).read_bytes()
    endpoint = serverFromString(reactor, f"tcp:{port}:interface=127.0.0.1:backlog=512")
    endpoint.listen(Site(resource(body)))
    reactor.run()


if __name__ == "__main__":
    main()
