"""Addresses without secrets."""

from __future__ import annotations

import pytest

from stream.ops.secrets import shown_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/v1/branches/default/sources?limit=2", "/v1/branches/default/sources?limit=2"),
        ("/stream/123/my-source/hunter2", "/stream/123/my-source/*****"),
        ("/stream/123/my-source/hunter2?batch=true", "/stream/123/my-source/*****?batch=true"),
        ("/stream/123/my-source/hunter2/logs", "/stream/123/my-source/*****/logs"),
        ("/v1?X-StorageApi-Token=hunter2&a=b", "/v1?X-StorageApi-Token=*****&a=b"),
        ("/v1?a=b&token=hunter2", "/v1?a=b&token=*****"),
        ("/v1?api_key=hunter2#x", "/v1?api_key=*****#x"),
        ("http://user:hunter2@host/v1/traces", "http://*****@host/v1/traces"),
        ("/v1/a\r\nb", "/v1/a\\r\\nb"),
        ("/v1?tokenize=yes", "/v1?tokenize=yes"),
    ],
)
def test_secrets_in_addresses(url: str, shown: str) -> None:
    """The secret of a source, credentials and parameters with telling names are masked."""
    assert shown_url(url) == shown
