"""The frameworks that the service is measured against: they read the body and throw it away.

python -m benchmarks.baselines aiohttp 8100
python -m benchmarks.baselines uvicorn 8100
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["BASELINES"]

BASELINES = ("aiohttp", "uvicorn")


def _aiohttp(port: int) -> None:
    from aiohttp import web

    async def discard(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text="OK")

    app = web.Application()
    app.router.add_post("/{path:.*}", discard)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


async def _discard(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"OK"})


def _uvicorn(port: int) -> None:
    import uvicorn

    uvicorn.run(
        _discard,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        lifespan="off",
    )


if __name__ == "__main__":
    {"aiohttp": _aiohttp, "uvicorn": _uvicorn}[sys.argv[1]](int(sys.argv[2]))
