"""The log of requests to etcd."""

from __future__ import annotations

from base64 import b64encode

from stream.etcd.operation_log import MAX_KEYS, keys_of


def _b64(text: str) -> str:
    return b64encode(text.encode()).decode()


def test_keys_without_values() -> None:
    """The log contains the keys of operations, but never the values."""
    body = {
        "compare": [{"key": _b64("a/1"), "target": "MOD", "mod_revision": 3}],
        "success": [
            {"request_put": {"key": _b64("a/1"), "value": _b64("hunter2")}},
            {"request_delete_range": {"key": _b64("a/2"), "range_end": _b64("a/3")}},
        ],
    }
    told = keys_of(body)
    assert told == "compare a/1, put a/1, delete_range a/2…"
    assert keys_of({"key": _b64("b")}) == "b"
    assert keys_of({"ID": 1, "TTL": 5}) == ""


def test_many_keys() -> None:
    """A large transaction is logged in a short line."""
    body = {"success": [{"request_put": {"key": _b64(str(n))}} for n in range(MAX_KEYS + 7)]}
    assert keys_of(body).endswith(f"put {MAX_KEYS - 1} and 7 more")
