"""Connections, which are named databases and stores that operators declare."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Self

import attrs

__all__ = ["Connection", "Connections"]

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,47}")


@attrs.frozen
class Connection:
    """A connection to a database or store.

    :ivar name: name by which sinks refer to the connection.
    :ivar type: type of the target that uses the connection.
    :ivar projects: IDs of the projects that may use the connection; empty for all projects.
    :ivar options: all other members; they may be secret.
    """

    name: str
    type: str
    projects: tuple[int, ...] = ()
    options: Mapping[str, Any] = attrs.field(factory=dict, repr=False, hash=False)

    def allows(self, project: int) -> bool:
        """Return whether sinks of *project* may use the connection."""
        return not self.projects or project in self.projects


@attrs.frozen
class Connections:
    """All connections by name. Their text form is YAML or JSON."""

    by_name: Mapping[str, Connection] = attrs.field(factory=dict, hash=False)

    @classmethod
    def parse(cls, raw: object) -> Self:
        """Parse a mapping from names to connections, or the text of one.

        Raises ValueError: the message contains no values, because any value may be secret.
        """
        if isinstance(raw, str):
            # Imported here, because most processes have no connections.
            import yaml

            try:
                raw = yaml.safe_load(raw)
            except Exception:  # including errors from values that don't fit their tags
                raise ValueError("expected YAML or JSON") from None
        if raw is None:
            return cls()
        if not isinstance(raw, Mapping):
            raise ValueError("expected a mapping from names to connections")
        return cls({name: _connection(name, plain) for name, plain in raw.items()})

    def of_type(self, type: str) -> Iterator[Connection]:
        """Return the connections of the target named *type*."""
        return (each for each in self.by_name.values() if each.type == type)

    def __bool__(self) -> bool:
        return bool(self.by_name)


def _connection(name: object, plain: object) -> Connection:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ValueError(
            "the name of a connection must consist of at most 48 letters, digits, dashes and "
            "underscores"
        )
    if not isinstance(plain, Mapping) or not all(isinstance(key, str) for key in plain):
        raise ValueError(f'connection "{name}" must have members, such as "type"')
    options = dict(plain)
    type, projects = options.pop("type", None), options.pop("projects", None)
    if not isinstance(type, str) or not type:
        raise ValueError(f'connection "{name}" has no "type"')
    return Connection(name, type, _projects(name, projects), options)


def _projects(name: str, plain: object) -> tuple[int, ...]:
    if plain is None:
        return ()
    try:
        if not isinstance(plain, list) or not plain:
            raise ValueError
        return tuple(int(project) for project in plain)
    except (ValueError, TypeError):
        raise ValueError(
            f'"projects" of the connection "{name}" must be a list of project ids'
        ) from None
