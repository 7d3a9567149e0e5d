"""The API's documentation: its root, its description in files, and a viewer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from twisted.internet.threads import deferToThreadPool

from stream.api.http.call import Answer, Call, Handler
from stream.api.http.pages import BuiltPages
from stream.api.http.server import CONSOLE
from stream.api.resources.views import Urls
from stream.api.spec.openapi import openapi2, openapi3, to_json
from stream.api.spec.operations import OPERATIONS

__all__ = ["Documentation"]

_JSON = "application/json"
_YAML = "application/yaml"
_PAGE = "api.html"
_STATIC = {"style.css": "text/css; charset=utf-8"}


class Documentation:
    """The API's documents.

    Each document is made on the first request for it, in a thread. Formatting one takes tens of
    milliseconds, which must delay neither startup nor other requests.

    :param urls: URLs of the API.
    :param pages: the built viewer.
    :param has_console: whether browsers that request the root are redirected to the console.
    """

    def __init__(
        self, reactor: Any, *, urls: Urls, pages: BuiltPages, has_console: bool = False
    ) -> None:
        self._reactor = reactor
        self._urls = urls
        self._pages = pages
        self._has_console = has_console

    def handlers(self) -> dict[str, Handler]:
        """Handlers by the ids of their operations."""
        return {
            "ApiRootIndex": self.root,
            "ApiVersionIndex": self.version,
            "HealthCheck": self.health,
            "OpenapiJson": self._document(_openapi2_json, _JSON),
            "OpenapiYaml": self._document(_openapi2_yaml, _YAML),
            "Openapi3Json": self._document(_openapi3_json, _JSON),
            "Openapi3Yaml": self._document(_openapi3_yaml, _YAML),
            "Documentation": self.page,
            "DocumentationFile": self.file,
        }

    def _document(self, make: Callable[[], bytes], content_type: str) -> Handler:
        async def handler(call: Call) -> Answer:
            pool = self._reactor.getThreadPool()
            body = await deferToThreadPool(self._reactor, pool, make)
            return Answer(body=body, content_type=content_type)

        return handler

    async def root(self, call: Call) -> Answer:
        """Answer the root: redirect a browser to the console; otherwise show name and version."""
        if self._has_console and "text/html" in call.header(b"accept"):
            headers = (
                ("Location", f"{CONSOLE}/"),
                ("Vary", "Accept"),
                ("Cache-Control", "no-store"),
            )
            return Answer(status=302, headers=headers)
        return Answer(status=301, headers=(("Location", "/v1"),))

    async def version(self, call: Call) -> Any:
        """Return the name of the API and the address of its documentation."""
        return {"api": "stream", "documentation": f"{self._urls.api}/v1/documentation"}

    async def health(self, call: Call) -> Answer:
        """Answer the liveness check with ``OK``."""
        return Answer(body=b"OK", content_type="text/plain")

    async def page(self, call: Call) -> Answer:
        """Return the page of the API's documentation."""
        return await self._pages.answer(call, _PAGE, _PAGE)

    async def file(self, call: Call) -> Answer:
        """Return a file of the documentation's page."""
        name = call.parameters["path"]
        if name in _STATIC:
            return Answer(body=_static_file(name), content_type=_STATIC[name])
        return await self._pages.answer(call, name, _PAGE)


# Made once per process for all its APIs, because the documents depend only on the operations.


@cache
def _openapi2_json() -> bytes:
    return to_json(openapi2(OPERATIONS.values()))


@cache
def _openapi2_yaml() -> bytes:
    # Imported here, since few read it.
    from stream.api.spec.openapi_yaml import to_yaml

    return to_yaml(openapi2(OPERATIONS.values()))


@cache
def _openapi3_json() -> bytes:
    return to_json(openapi3(OPERATIONS.values()))


@cache
def _openapi3_yaml() -> bytes:
    # Imported here, since few read it.
    from stream.api.spec.openapi_yaml import to_yaml

    return to_yaml(openapi3(OPERATIONS.values()))


@cache
def _static_file(name: str) -> bytes:
    return (files("stream.api") / "static" / name).read_bytes()
