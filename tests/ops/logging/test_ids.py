"""Random ids."""

from __future__ import annotations

import re

from stream.ops.logging.ids import exception_id, random_id, request_id


def test_request_id() -> None:
    """A request id consists of 15 digits and letters, and is different each time."""
    ids = {request_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(re.fullmatch(r"[0-9a-zA-Z]{15}", item) for item in ids)


def test_exception_id() -> None:
    """An exception id contains the service and the request."""
    assert exception_id("keboola-stream-api", "abc") == "keboola-stream-api-abc"
    assert re.fullmatch(r"keboola-stream-[0-9a-zA-Z]{15}", exception_id("keboola-stream"))
    assert len(random_id(7)) == 7
