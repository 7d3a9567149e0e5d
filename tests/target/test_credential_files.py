"""Messages about files with credentials, which users of the API get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stream.errors import UserError
from stream.settings.connections import Connection
from stream.staging.bucket import BucketAddress
from stream.target.iceberg.connections import declared_catalogs
from stream.target.postgres.connections import declared_databases

FILE = "/run/secrets/of-the-operator"


def _connection(type_: str, **options: str) -> Connection:
    return Connection(name="w", type=type_, options=options)


def _bucket() -> Any:
    return BucketAddress(scheme="s3", bucket="b", credential_file=FILE).credentials()


def _catalog() -> Any:
    catalog = {"type": "rest", "uri": "http://127.0.0.1:1/", "credentialFile": FILE}
    connection = Connection(name="w", type="iceberg", options={"catalog": catalog})
    return declared_catalogs([connection])["w"].properties()


def _database() -> Any:
    connection = _connection("postgres", dsn="postgresql://u@127.0.0.1/d", passwordFile=FILE)
    return declared_databases([connection])["w"].parameters()


@pytest.mark.parametrize("read", [_bucket, _catalog, _database])
def test_the_message_has_no_path(read: Callable[[], Any]) -> None:
    """It names the member of the connection; the path is in the operator's settings."""
    with pytest.raises(UserError, match=r"(credential|password)File") as raised:
        read()
    assert raised.value.status == 503
    assert "secrets" not in f"{raised.value} {raised.value.detail} {raised.value!r}"
