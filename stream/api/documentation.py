"""What the API says about itself: its root, its description in files, and a page for people."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from stream.api.call import Answer, Call, Handler
from stream.api.openapi import openapi2, openapi3, to_json, to_yaml
from stream.api.operations import OPERATIONS
from stream.api.page import documentation_page
from stream.api.views import Urls
from stream.errors import UserError

__all__ = ["Documentation"]

_JSON = "application/json"
_YAML = "application/yaml"
_STATIC = {"style.css": "text/css; charset=utf-8"}


class Documentation:
    """Everything is made once, at the start."""

    def __init__(self, *, urls: Urls) -> None:
        self._urls = urls
        described = OPERATIONS.values()
        second, third = openapi2(described), openapi3(described)
        self._openapi2_json = Answer(body=to_json(second), content_type=_JSON)
        self._openapi2_yaml = Answer(body=to_yaml(second), content_type=_YAML)
        self._openapi3_json = Answer(body=to_json(third), content_type=_JSON)
        self._openapi3_yaml = Answer(body=to_yaml(third), content_type=_YAML)
        self._page = Answer(
            body=documentation_page(third).encode(), content_type="text/html; charset=utf-8"
        )
        static = files("stream.api") / "static"
        self._files = {
            name: Answer(body=(static / name).read_bytes(), content_type=content_type)
            for name, content_type in _STATIC.items()
        }

    def handlers(self) -> dict[str, Handler]:
        return {
            "ApiRootIndex": self.root,
            "ApiVersionIndex": self.version,
            "HealthCheck": self.health,
            "OpenapiJson": _always(self._openapi2_json),
            "OpenapiYaml": _always(self._openapi2_yaml),
            "Openapi3Json": _always(self._openapi3_json),
            "Openapi3Yaml": _always(self._openapi3_yaml),
            "Documentation": _always(self._page),
            "DocumentationFile": self.file,
        }

    async def root(self, call: Call) -> Answer:
        return Answer(status=301, headers=(("Location", "/v1"),))

    async def version(self, call: Call) -> Any:
        return {"api": "stream", "documentation": f"{self._urls.api}/v1/documentation"}

    async def health(self, call: Call) -> Answer:
        return Answer(body=b"OK", content_type="text/plain")

    async def file(self, call: Call) -> Answer:
        name = call.parameters["path"]
        if name not in self._files:
            raise UserError(
                f'no endpoint found for path "/v1/documentation/{name}"',
                status=404,
                name="endpointNotFound",
            )
        return self._files[name]


def _always(answer: Answer) -> Handler:
    async def handler(call: Call) -> Answer:
        return answer

    return handler
