"""All forms of requests, from the source to the table."""

from __future__ import annotations

import gzip
import json

import zstandard

from tests.e2e.processes import ALL, Deployment, request

JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/x-ndjson"}


def _post(url: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    return request("POST", url, body, headers)


def test_batches_compressed_bodies_and_keys(deployed: Deployment) -> None:
    """Each record of each form is one row, and a repeated key adds none."""
    deployed.start(*ALL)
    url = deployed.define()
    lines = b'{"id":"l1"}\nbroken\n\n{"id":"l4"}\n'
    status, answer = _post(url, lines, LINES)
    document = json.loads(answer)
    assert (status, document["accepted"], document["rejected"]) == (207, 2, 1)
    assert [error["lines"] for error in document["errors"]] == [[2]]

    status, answer = _post(url + "?batch=true", b'[{"id":"a0"},{"id":"a1"}]', JSON)
    assert (status, json.loads(answer)["accepted"]) == (200, 2)

    many = b"".join(b'{"id":"m%d"}\n' % i for i in range(5000))
    status, answer = _post(url, gzip.compress(many), {**LINES, "Content-Encoding": "gzip"})
    assert (status, json.loads(answer)["accepted"]) == (200, 5000)

    single = zstandard.compress(b'{"id":"z"}')
    assert _post(url, single, {**JSON, "Content-Encoding": "zstd"}) == (200, b"OK")
    assert _post(url, b"no gzip", {**JSON, "Content-Encoding": "gzip"})[0] == 400
    assert _post(url, b"{}", {**JSON, "Content-Encoding": "br"})[0] == 415

    for _ in range(3):
        assert _post(url, b'{"id":"k"}', {**JSON, "Idempotency-Key": "k"}) == (200, b"OK")

    expected = {"l1", "l4", "a0", "a1", "z", "k"} | {f"m{i}" for i in range(5000)}
    assert sorted(deployed.wait_ids(expected)) == sorted(expected)
