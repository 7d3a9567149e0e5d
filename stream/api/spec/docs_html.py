"""The documentation as a page, made from the OpenAPI document. It needs no network."""

from __future__ import annotations

import json
from html import escape
from typing import Any

__all__ = ["documentation_page"]

Plain = dict[str, Any]

_METHODS = ("get", "post", "patch", "put", "delete")
_FILES = ("openapi.json", "openapi.yaml", "openapi3.json", "openapi3.yaml")


def documentation_page(document: Plain) -> str:
    """:param document: an OpenAPI 3.0 document."""
    info = document["info"]
    files = " · ".join(f'<a href="{name}">{name}</a>' for name in _FILES)
    sections = [_section(tag, document) for tag in document["tags"]]
    schemas = document["components"]["schemas"]
    named = "\n".join(_named(name, schema) for name, schema in sorted(schemas.items()))
    contents = "\n".join(
        f'<li><a href="#{tag["name"]}">{escape(tag["name"])}</a></li>' for tag in document["tags"]
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(info["title"])}</title>
<link rel="stylesheet" href="style.css">
</head>
<body>
<header>
<h1>{escape(info["title"])} <small>{escape(info["version"])}</small></h1>
<p>{escape(info["description"])}</p>
<p>Files: {files}</p>
</header>
<nav><ul>
{contents}
<li><a href="#schemas">objects</a></li>
</ul></nav>
<main>
<section>
<h2>How to call</h2>
<p>Send the master token of a project administrator in the header
<code>X-StorageApi-Token</code>. Changes are made in a task. With
<code>Prefer: wait=10</code> or <code>?wait=10s</code> the answer comes when it is done; otherwise
it is 202 with the task, whose <code>url</code> can be asked with <code>?wait=10s</code> for its
end.</p>
<pre>curl -X POST http://localhost:8000/v1/branches/default/sources?wait=10s \\
  -H 'X-StorageApi-Token: …' -H 'Content-Type: application/json' \\
  -d '{{"type": "http", "name": "My Source"}}'</pre>
</section>
{"".join(sections)}
<section id="schemas">
<h2>objects</h2>
{named}
</section>
</main>
</body>
</html>
"""


def _section(tag: Plain, document: Plain) -> str:
    name = tag["name"]
    operations = [
        _operation(method, path, operations[method])
        for path, operations in document["paths"].items()
        for method in _METHODS
        if method in operations and name in operations[method]["tags"]
    ]
    return f"""<section id="{escape(name)}">
<h2>{escape(name)}</h2>
<p>{escape(tag["description"])}</p>
{"".join(operations)}
</section>
"""


def _operation(method: str, path: str, operation: Plain) -> str:
    parts = [f"<p>{escape(operation['description'])}</p>"]
    if operation.get("parameters"):
        rows = "".join(_parameter(parameter) for parameter in operation["parameters"])
        parts.append(f"<h4>Parameters</h4><table>{rows}</table>")
    if "requestBody" in operation:
        parts.append(f"<h4>Body</h4><p>{_content(operation['requestBody'])}</p>")
    rows = "".join(
        f"<tr><td><code>{status}</code></td><td>{escape(answer['description'])}</td>"
        f"<td>{_content(answer)}</td></tr>"
        for status, answer in operation["responses"].items()
    )
    parts.append(f"<h4>Answers</h4><table>{rows}</table>")
    return f"""<details id="{escape(operation["operationId"])}">
<summary><span class="method {method}">{method.upper()}</span> <code>{escape(path)}</code>
<span class="summary">{escape(operation["summary"])}</span></summary>
{"".join(parts)}
</details>
"""


def _parameter(parameter: Plain) -> str:
    return (
        f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{parameter['in']}</td>"
        f"<td>{_type(parameter['schema'])}</td>"
        f"<td>{escape(parameter.get('description', ''))}</td></tr>"
    )


def _content(holder: Plain) -> str:
    content = holder.get("content", {})
    if "*/*" in content:
        return "any bytes"
    for media, form in content.items():
        what = _type(form["schema"])
        return what if media == "application/json" else f"{what}, <code>{escape(media)}</code>"
    return ""


def _named(name: str, schema: Plain) -> str:
    required = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(member)}</code></td><td>{_type(part)}</td>"
        f"<td>{'' if member in required else 'optional'}</td>"
        f"<td>{_details(part)}</td></tr>"
        for member, part in schema.get("properties", {}).items()
    )
    return f"""<details id="schema-{escape(name)}">
<summary><code>{escape(name)}</code></summary>
<table>{rows}</table>
</details>
"""


def _type(schema: Plain) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{escape(name)}">{escape(name)}</a>'
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if "enum" in schema:
        return " | ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    return escape(schema.get("format") or schema.get("type") or "any")


def _details(schema: Plain) -> str:
    limits = [
        f"{text} {schema[name]}"
        for name, text in (
            ("minLength", "at least"),
            ("maxLength", "at most"),
            ("minItems", "at least"),
            ("maxItems", "at most"),
        )
        if name in schema
    ]
    parts = [escape(schema.get("description", ""))]
    if limits:
        parts.append(escape(", ".join(limits)) + (" items" if "items" in schema else " characters"))
    if "example" in schema:
        parts.append(f"e.g. <code>{escape(json.dumps(schema['example']))}</code>")
    return "; ".join(part for part in parts if part)
