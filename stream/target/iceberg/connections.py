"""Connections to Iceberg catalogs, as declared in the settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import attrs

from stream.errors import UserError
from stream.settings.connections import Connection
from stream.target.lake.options import MAX_WORKERS, whole_number

__all__ = ["Catalog", "declared_catalogs"]

_TYPES = ("rest", "sql")
_OPTIONS = ("catalog", "commitRetries", "workers")
_MAX_RETRIES = 100
_MAX_CREDENTIAL_BYTES = 64 * 1024


@attrs.frozen(kw_only=True)
class Catalog:
    """A catalog whose tables sinks may write to.

    :ivar declared: the connection in the settings.
    :ivar name: name of the catalog; a catalog of type ``sql`` stores it with each table.
    :ivar plain: pyiceberg properties except those in the credential file; may contain secrets.
    :ivar credential_file: path of a file with a JSON object of additional properties, read at each
        use.
    :ivar commit_retries: maximum number of retries after a commit conflict.
    :ivar workers: maximum number of concurrent import processes on one node.
    """

    declared: Connection
    name: str
    plain: Mapping[str, str] = attrs.field(repr=False, hash=False)
    credential_file: str = ""
    commit_retries: int = 10
    workers: int = 2

    def properties(self) -> dict[str, str]:
        """Return the pyiceberg properties; blocks.

        Raises UserError if the credentials can't be read.
        """
        if not self.credential_file:
            return dict(self.plain)
        try:
            with Path(self.credential_file).open(encoding="utf-8") as file:
                plain = json.loads(file.read(_MAX_CREDENTIAL_BYTES))
        except (OSError, ValueError):
            plain = None
        if not isinstance(plain, dict) or not all(isinstance(v, str) for v in plain.values()):
            raise UserError(
                f'"credentialFile" of the connection "{self.declared.name}" can\'t be used on this '
                "node: the file must be a JSON object of properties of the catalog, readable by "
                "the service",
                status=503,
                name="connectionFailed",
            )
        return {**self.plain, **plain}


def declared_catalogs(connections: list[Connection]) -> Mapping[str, Catalog]:
    """Return the catalogs that *connections* declare, by name. Raises UserError with the reason."""
    return {connection.name: _catalog(connection) for connection in connections}


def _catalog(connection: Connection) -> Catalog:
    options = connection.options
    where = f'the connection "{connection.name}" in "target.connections"'
    for option in options:
        if option not in _OPTIONS:
            known = ", ".join(("type", "projects", *_OPTIONS))
            raise UserError(f'{where} has an unknown option "{option}", known: {known}')
    catalog = options.get("catalog")
    if not isinstance(catalog, Mapping) or catalog.get("type") not in _TYPES:
        raise UserError(f'{where} needs "catalog" with a "type": {" or ".join(_TYPES)}')
    plain = {str(name): str(value) for name, value in catalog.items() if value is not None}
    credential_file = plain.pop("credentialFile", "")
    name = plain.pop("name", connection.name)
    if not plain.get("uri") and not credential_file:
        raise UserError(f'{where} needs "uri" in "catalog"')
    if plain["type"] == "sql" and not plain.get("warehouse"):
        raise UserError(
            f'{where} needs "warehouse" in "catalog", such as "s3://bucket/lake" or '
            '"file:///srv/lake"'
        )
    return Catalog(
        declared=connection,
        name=name,
        plain=plain,
        credential_file=credential_file,
        commit_retries=whole_number(connection, "commitRetries", 10, _MAX_RETRIES),
        workers=whole_number(connection, "workers", 2, MAX_WORKERS),
    )
