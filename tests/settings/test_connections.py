"""Connections in the settings."""

from __future__ import annotations

import re

import pytest

from stream.settings import load
from stream.settings.connections import Connection, Connections
from tests.settings.samples import VALID

_TEXT = """
warehouse: {type: postgres, dsn: "postgresql://stream:s3cret@db/events", projects: [1, 2]}
lake: {type: iceberg, catalog: {type: rest}}
"""


def test_a_connection_has_a_name_a_type_and_options() -> None:
    """YAML and JSON are equivalent; the target parses all members except type and projects."""
    connections = Connections.parse(_TEXT)
    assert connections.by_name == {
        "warehouse": Connection(
            "warehouse", "postgres", (1, 2), {"dsn": "postgresql://stream:s3cret@db/events"}
        ),
        "lake": Connection("lake", "iceberg", (), {"catalog": {"type": "rest"}}),
    }
    assert [each.name for each in connections.of_type("postgres")] == ["warehouse"]
    assert Connections.parse('{"a": {"type": "t"}}') == Connections.parse("a: {type: t}")
    assert not Connections.parse("")
    assert "s3cret" not in repr(connections)


def test_projects_of_a_connection() -> None:
    """All projects may use a connection, unless some are named."""
    connections = Connections.parse(_TEXT).by_name
    assert [connections["warehouse"].allows(project) for project in (1, 2, 3)] == [
        True,
        True,
        False,
    ]
    assert connections["lake"].allows(3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "expected YAML or JSON"),
        ("s3cret", "expected a mapping from names to connections"),
        ("a b: {type: t}", "the name of a connection must consist of"),
        ("1: {type: t}", "the name of a connection must consist of"),
        ("a: s3cret", 'connection "a" must have members, such as "type"'),
        ("a: {dsn: s3cret}", 'connection "a" has no "type"'),
        ("a: {type: t, projects: s3cret}", '"projects" of the connection "a" must be a list'),
        ("a: {type: t, projects: [s3cret]}", '"projects" of the connection "a" must be a list'),
        ("a: {type: t, projects: []}", '"projects" of the connection "a" must be a list'),
    ],
)
def test_errors_name_no_values(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as raised:
        Connections.parse(text)
    assert "s3cret" not in str(raised.value)


def test_connections_in_a_variable() -> None:
    """A variable can declare connections, so that containers need no file."""
    settings = load({}, {**VALID, "STREAM_TARGET_CONNECTIONS": _TEXT})
    assert settings.target.connections == Connections.parse(_TEXT)
