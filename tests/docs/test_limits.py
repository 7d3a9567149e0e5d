"""The limits in the pages equal those in the code."""

from __future__ import annotations

import re

from stream.api.http import body, site
from stream.api.http import server as http
from stream.api.spec import request_schemas as requests
from stream.api.spec.operation import MAX_WAIT_SECONDS
from stream.definition import mappings, repository
from stream.definition.size import WRITTEN_PERIOD
from stream.mapping import columns, free_variables
from stream.record import elements, jsontree
from stream.record.large import LARGE_BYTES
from stream.settings import Settings
from stream.source import batch
from stream.source.http import chunked, parser
from stream.storage.writer import server as writer
from stream.task import ends
from stream.templates import pool
from tests.docs.blocks import ROOT

_ROW = re.compile(r"^\| (?P<what>[^|]+) \| (?P<limit>[^|]+) \|", re.MULTILINE)


def _limits(page: str) -> dict[str, str]:
    text = (ROOT / "docs" / page).read_text()
    section = text[text.index("\n## Limits\n") :].split("\n## ")[1]
    return {row["what"]: row["limit"] for row in _ROW.finditer(section)}


def _default(key: str) -> str:
    """Return the default of the setting *key*, as pages write it."""
    value: object = Settings()
    for part in key.split("."):
        value = getattr(value, re.sub(r"([A-Z])", r"_\1", part).lower())
    return f"{value:,}" if type(value) is int else str(value)


def test_limits_of_records() -> None:
    """Limits with a setting have its default."""
    limits = _limits("ingestion.md")
    assert limits["rows of a batch, for each sink"] == f"{batch.MAX_ROWS_BYTES:,} bytes"
    assert limits["nested objects and arrays"] == str(jsontree.MAX_DEPTH)
    template_seconds = batch.MAX_TEMPLATE_SECONDS
    assert limits["CPU time of the templates of a batch, for each sink"] == (
        f"{template_seconds:g} s"
    )
    assert limits["time that a record waits for its templates"] == f"{pool.QUEUE_SECONDS:g} s"
    large = f"a body of more than {LARGE_BYTES >> 10} KB, for all paths and templates of a sink"
    assert f"CPU time to read {large}" in limits
    assert limits["an item of a batch that is an array"] == f"{elements.MAX_ITEM_BYTES >> 20} MB"
    chunks = f"{chunked.FREE_CHUNKS:,}, and one more for each {chunked.BYTES_PER_CHUNK} bytes"
    assert limits["chunks of a body"] == chunks
    assert limits["the headers of a request"].endswith(f"; {parser.MAX_HEADERS} of them")
    settings = [limit for limit in limits.values() if "`" in limit]
    assert len(settings) == 17
    for limit in settings:
        shown, key = re.findall(r"(.*), `(.*)`", limit)[0]
        if shown != "unlimited":
            assert shown.replace(" ", "") == _default(key), key


def test_limits_of_definitions() -> None:
    """Limits of definitions are constants."""
    limits = _limits("api.md")
    assert limits["sources of a branch"] == str(repository.MAX_SOURCES)
    assert limits["sinks of a source"] == str(repository.MAX_SINKS)
    sinks = Settings().api.definitions.max_sinks
    assert limits["sinks of a project"] == f"{sinks}, `api.definitions.maxSinks`"
    assert limits["a mapping as JSON"] == f"{mappings.MAX_MAPPING_BYTES >> 10} KiB"
    rest = limits["the rest of a source or sink as JSON"]
    assert rest == f"{repository.MAX_DEFINITION_BYTES >> 10} KiB"
    assert limits["columns of a sink"] == str(columns.MAX_COLUMNS)
    assert limits["versions of a source or sink"] == str(repository.MAX_VERSIONS)
    assert limits["a template"] == f"{columns.MAX_TEMPLATE_CHARACTERS} characters"
    written = limits["what changes of a project write in 15 minutes"]
    assert WRITTEN_PERIOD.total_seconds() == 15 * 60
    assert written.startswith(f"{2 * Settings().api.definitions.max_size >> 20} MB, ")
    shown, key = limits["all definitions of a project"].split(", ")
    assert shown.replace(" ", "") == _default(key.strip("`"))
    nesting = limits["nested brackets in a template"]
    assert nesting == str(free_variables.MAX_NESTING)
    lengths = (requests.MAX_ID, requests.MAX_NAME, requests.MAX_DESCRIPTION)
    assert limits["an id, a name, a description"] == "{}, {}, {} characters".format(*lengths)
    assert limits["the path, the default value of a column"] == (
        f"{requests.MAX_PATH}, {requests.MAX_DEFAULT_VALUE} characters"
    )
    assert limits["nested objects and arrays in a body"] == str(body.MAX_DEPTH)
    assert limits["the body of a call"] == f"{site.MAX_BODY_BYTES >> 20} MiB"
    assert limits["path and query of a call"] == f"{http.MAX_TARGET_BYTES >> 10} KiB"
    assert limits["request line and headers of a call"] == (
        f"{site.MAX_HEAD_BYTES >> 10} KiB, {site.MAX_HEADERS} headers"
    )
    assert limits["time for the headers, for the body"] == (
        f"{site.HEADERS_SECONDS} s, {site.BODY_SECONDS} s"
    )
    assert limits["connections of a node"] == str(site.MAX_CONNECTIONS)
    assert limits["wait for a task, calls of a node that wait"] == (
        f"{MAX_WAIT_SECONDS} s, {ends.MAX_WAITING}"
    )


def test_limits_of_connections_without_a_secret() -> None:
    """The paragraph about the writer's port has the constants."""
    text = " ".join((ROOT / "docs/security.md").read_text().split())
    seconds = writer._HELLO_SECONDS + writer._SECOND_LOOK_SECONDS
    assert f"that it knows the secret is closed after about {seconds:g} s." in text
    assert f"There can be at most {writer.MAX_STRANGERS} such connections;" in text
