"""Files of sources and sinks in YAML, parsed so that errors include the line.

The members are those of the API's requests. The schemas come from the OpenAPI document of the
service, so a newer service may support more members.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import attrs
import yaml

__all__ = ["Document", "DocumentError", "check", "parse_document", "schemas_of"]

MAX_BYTES = 8 * 1024 * 1024
MAX_NODES = 500_000
"""Maximum number of values in a file; values behind an alias count each time it is used."""
MAX_DEPTH = 50
MAX_KEY_CHARACTERS = 200
MAX_NUMBER_CHARACTERS = 100
_PLACE_CHARACTERS = 100
"""The path of a value counts as one more value for each this many characters."""


class DocumentError(Exception):
    """A file that can't be used.

    :ivar faults: messages, each with the line number.
    """

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@attrs.frozen
class Document:
    """A parsed file of definitions, with the line number of each value.

    :ivar value: content of the file.
    :ivar lines: the line number of each value by its path, such as ``sources[0].name``.
    :ivar name: name of the file.
    """

    name: str
    value: Any
    lines: Mapping[str, int]

    def at(self, place: str) -> str:
        """Return ``file:line`` of *place*, or of its nearest parent."""
        while place and place not in self.lines:
            cut = max(place.rfind("."), place.rfind("["))
            place = place[: max(cut, 0)]
        return f"{self.name}:{self.lines.get(place, 1)}"


def parse_document(name: str, text: str) -> Document:
    """Parse the YAML *text* of the file *name*. Raises DocumentError."""
    if len(text) > MAX_BYTES:
        raise DocumentError([f"{name}: the file is larger than {MAX_BYTES} bytes"])
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        raise DocumentError([f"{name}: {error.reason} at character {error.position}"]) from None
    reader = _Reader(name, loader)
    try:
        node = loader.get_single_node()
        value = None if node is None else reader.value(node, "", 0)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        raise DocumentError([f"{place}: {error.problem or error.context}"]) from None
    except yaml.YAMLError as error:
        raise DocumentError([f"{name}: {error}"]) from None
    except RecursionError:
        raise DocumentError([f"{name}: the values are nested too deeply"]) from None
    finally:
        loader.dispose()
    return Document(name, value, reader.lines)


class _Reader:
    """Converts nodes to plain values, and records their positions."""

    def __init__(self, name: str, loader: yaml.SafeLoader) -> None:
        self._name = name
        self._loader = loader
        self._left = MAX_NODES
        self.lines: dict[str, int] = {}

    def value(self, node: yaml.Node, place: str, depth: int) -> Any:
        self._left -= 1 + len(place) // _PLACE_CHARACTERS
        line = node.start_mark.line + 1
        if self._left < 0 or depth > MAX_DEPTH:
            raise DocumentError([f"{self._name}:{line}: too many values, or nested too deeply"])
        self.lines.setdefault(place, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place, depth)
        if isinstance(node, yaml.SequenceNode):
            return [
                self.value(item, f"{place}[{index}]", depth + 1)
                for index, item in enumerate(node.value)
            ]
        if node.tag == "tag:yaml.org,2002:timestamp":
            return node.value
        return self._scalar(node, line)

    def _scalar(self, node: yaml.Node, line: int) -> Any:
        is_number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if is_number and len(node.value) > MAX_NUMBER_CHARACTERS:
            raise DocumentError([f"{self._name}:{line}: a number is too long"])
        try:
            value = self._loader.construct_object(node)
        except (ValueError, KeyError, OverflowError):  # a tag doesn't match the text
            raise DocumentError([f"{self._name}:{line}: the value does not fit its tag"]) from None
        if isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
            raise DocumentError([f"{self._name}:{line}: this value is not allowed in JSON"])
        return value

    def _mapping(self, node: yaml.MappingNode, place: str, depth: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                raise DocumentError([f"{self._name}:{line}: a key must be a plain string"])
            name = str(key.value)
            if len(name) > MAX_KEY_CHARACTERS:
                raise DocumentError([f"{self._name}:{line}: a key is too long"])
            if name in members:
                raise DocumentError([f'{self._name}:{line}: "{name}" occurs twice'])
            inside = f"{place}.{name}" if place else name
            self.lines[inside] = line
            members[name] = self.value(value, inside, depth + 1)
        return members


def schemas_of(openapi: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schemas of the bodies for creating a source and a sink, from OpenAPI 3.

    If they are missing, returns empty schemas, which allow everything.
    """
    source = "/v1/branches/{branchId}/sources"
    found = []
    for path in (source, f"{source}/{{sourceId}}/sinks"):
        try:
            schema = openapi["paths"][path]["post"]["requestBody"]["content"]["application/json"][
                "schema"
            ]
            found.append(_resolved(schema, openapi, 0))
        except (KeyError, TypeError):
            found.append({})
    return found[0], found[1]


def _resolved(schema: Any, openapi: Any, depth: int) -> dict[str, Any]:
    if not isinstance(schema, dict) or depth > 20:
        return {}
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = openapi
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
        return _resolved(target, openapi, depth + 1)
    parts = schema.get("allOf")
    if isinstance(parts, list) and len(parts) == 1:
        return _resolved(parts[0], openapi, depth + 1)
    kept = {name: schema[name] for name in ("type", "required", "enum") if name in schema}
    if isinstance(schema.get("properties"), dict):
        kept["properties"] = {
            name: _resolved(member, openapi, depth + 1)
            for name, member in schema["properties"].items()
        }
    if "items" in schema:
        kept["items"] = _resolved(schema["items"], openapi, depth + 1)
    return kept


_SETTINGS = {"type": "object"}
_DISABLED = {"type": "boolean"}


def check(document: Document, source: dict[str, Any], sink: dict[str, Any]) -> None:
    """Check *document* against the schemas of a *source* and a *sink*.

    Raises DocumentError: lists all problems.
    """
    whole = {
        "type": "object",
        "required": ["sources"],
        "properties": {
            "sources": {
                "type": "array",
                "items": _entity(
                    source,
                    "sourceId",
                    {"sinks": {"type": "array", "items": _entity(sink, "sinkId", {})}},
                ),
            }
        },
    }
    faults = [f"{document.at(place)}: {text}" for place, text in _faults(document.value, whole, "")]
    if not faults:
        faults = [f"{document.at(place)}: {text}" for place, text in _repeated(document.value)]
    if faults:
        raise DocumentError(faults)


def _entity(schema: dict[str, Any], id: str, more: dict[str, Any]) -> dict[str, Any]:
    """Return the *schema* of a request, with the members that only files have."""
    if not schema:
        return {"type": "object", "required": [id]}
    required = [id, *(name for name in schema.get("required", ()) if name != id)]
    own = {"settings": _SETTINGS, "disabled": _DISABLED, **more}
    return {**schema, "required": required, "properties": {**schema.get("properties", {}), **own}}


_KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
}


def _faults(value: Any, schema: Mapping[str, Any], place: str) -> Iterator[tuple[str, str]]:
    kind = schema.get("type")
    named = place or "the file"
    if isinstance(kind, str) and kind in _KINDS and not isinstance(value, _KINDS[kind]):
        article = "an" if kind[0] in "ao" else "a"
        quotes = (
            "; put it into quotes"
            if kind == "string" and not isinstance(value, dict | list)
            else ""
        )
        yield place, f"{named} must be {article} {kind}{quotes}"
        return
    allowed = schema.get("enum")
    if allowed and value not in allowed:
        near = get_close_matches(str(value), [str(x) for x in allowed], 1)
        hint = f'; did you mean "{near[0]}"?' if near else f": {', '.join(map(str, allowed))}"
        yield place, f'{named} can\'t be "{value}"{hint}'
    if isinstance(value, dict):
        members = schema.get("properties")
        for name in schema.get("required", ()):
            if name not in value:
                yield place, f'{named} has no "{name}"'
        for name, member in value.items():
            inside = f"{place}.{name}" if place else name
            if members is None:
                continue
            if name in members:
                yield from _faults(member, members[name], inside)
            else:
                near = get_close_matches(name, members, 1)
                hint = f'; did you mean "{near[0]}"?' if near else ""
                yield inside, f'there is no member "{name}" in {named}{hint}'
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _faults(item, schema.get("items", {}), f"{place}[{index}]")


def _repeated(value: Any) -> Iterator[tuple[str, str]]:
    sources: set[str] = set()
    for i, source in enumerate(value["sources"]):
        if source["sourceId"] in sources:
            yield f"sources[{i}].sourceId", f'the source "{source["sourceId"]}" occurs twice'
        sources.add(source["sourceId"])
        sinks: set[str] = set()
        for j, sink in enumerate(source.get("sinks", ())):
            if sink["sinkId"] in sinks:
                yield (
                    f"sources[{i}].sinks[{j}].sinkId",
                    f'the sink "{sink["sinkId"]}" occurs twice',
                )
            sinks.add(sink["sinkId"])
