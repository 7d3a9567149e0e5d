"""What the API says about itself: its root, its description in files, and a page for people."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from twisted.internet.threads import deferToThreadPool

from stream.api.http.call import Answer, Call, Handler
from stream.api.resources.views import Urls
from stream.api.spec.docs_html import documentation_page
from stream.api.spec.openapi import openapi2, openapi3, to_json, to_yaml
from stream.api.spec.operations import OPERATIONS
from stream.errors import UserError

__all__ = ["Documentation"]

_JSON = "application/json"
_YAML = "application/yaml"
_HTML = "text/html; charset=utf-8"
_STATIC = {"style.css": "text/css; charset=utf-8"}


class Documentation:
    """The API's documents.

    Each is made when it is first asked for, in a thread: printing one takes tens of milliseconds,
    which neither the start nor other requests should wait for.

    :param urls: of the API.
    """

    def __init__(self, reactor: Any, *, urls: Urls) -> None:
        self._reactor = reactor
        self._urls = urls

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
            "Documentation": self._document(_page, _HTML),
            "DocumentationFile": self.file,
        }

    def _document(self, make: Callable[[], bytes], content_type: str) -> Handler:
        async def handler(call: Call) -> Answer:
            pool = self._reactor.getThreadPool()
            body = await deferToThreadPool(self._reactor, pool, make)
            return Answer(body=body, content_type=content_type)

        return handler

    async def root(self, call: Call) -> Answer:
        return Answer(status=301, headers=(("Location", "/v1"),))

    async def version(self, call: Call) -> Any:
        return {"api": "stream", "documentation": f"{self._urls.api}/v1/documentation"}

    async def health(self, call: Call) -> Answer:
        return Answer(body=b"OK", content_type="text/plain")

    async def file(self, call: Call) -> Answer:
        name = call.parameters["path"]
        if name not in _STATIC:
            raise UserError(
                f'no endpoint found for path "/v1/documentation/{name}"',
                status=404,
                name="endpointNotFound",
            )
        return Answer(body=_static_file(name), content_type=_STATIC[name])


# Made once for a process, whatever the number of its APIs: they depend on the operations alone.


@cache
def _openapi2_json() -> bytes:
    return to_json(openapi2(OPERATIONS.values()))


@cache
def _openapi2_yaml() -> bytes:
    return to_yaml(openapi2(OPERATIONS.values()))


@cache
def _openapi3_json() -> bytes:
    return to_json(openapi3(OPERATIONS.values()))


@cache
def _openapi3_yaml() -> bytes:
    return to_yaml(openapi3(OPERATIONS.values()))


@cache
def _page() -> bytes:
    return documentation_page(openapi3(OPERATIONS.values())).encode()


@cache
def _static_file(name: str) -> bytes:
    return (files("stream.api") / "static" / name).read_bytes()
