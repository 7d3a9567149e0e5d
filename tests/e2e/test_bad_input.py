"""Mistakes of users and operators get a precise answer."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from tests.conftest import free_port
from tests.e2e.processes import ALL, Deployment


def test_mistakes_of_producers_and_users(deployed: Deployment) -> None:
    """Each wrong request has its status, its error name and a message that helps."""
    deployed.start(*ALL)
    url = deployed.define([{"type": "path", "name": "a", "path": "a"}])
    secret = url.rpartition("/")[2]
    cases = [
        (url.replace("my-source", "other"), b"{}", 404, "stream.in.noSourceFound"),
        (url.replace(secret, "x" * len(secret)), b"{}", 404, "stream.in.noSourceFound"),
        (url.replace("/123/", "/foo/"), b"{}", 400, "stream.in.badRequest"),
        (url, b"x" * (1024 * 1024 + 1), 413, "stream.in.bodyTooLarge"),
        (url, b'{"a":', 400, "stream.in.writeFailed"),
        (url, b"{}", 400, "stream.in.writeFailed"),
    ]
    for target, body, status, name in cases:
        found, answer = deployed.push(target, body)
        assert (found, json.loads(answer)["error"]) == (status, name), (target, answer)
    sources = f"{deployed.api}/v1/branches/default/sources"
    status, answer = deployed.call("GET", sources, token=None)
    assert (status, answer["error"]) == (400, "stream.api.missingField")
    status, answer = deployed.call("GET", sources, token="wrong")
    assert (status, answer["error"]) == (401, "storage.tokenInvalid")


def test_unknown_and_missing_components(deployed: Deployment) -> None:
    """The error lists the valid names."""
    for components, named in ((("foo", "api"), '"foo"'), (("",), "")):
        code, output = deployed.refused(*components)
        assert code == 1
        for name in (*ALL, named):
            assert name in output


def test_a_port_in_use(deployed: Deployment) -> None:
    """The error names the occupied address, and the exit code reports the failure."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", deployed.ports["api"]))
        taken.listen()
        code, output = deployed.refused(*ALL)
    assert code == 1
    assert f"127.0.0.1:{deployed.ports['api']}" in output
    assert "in use" in output


def test_an_unreachable_etcd(deployed: Deployment) -> None:
    """The start fails after the configured time, with an error that names the endpoint."""
    endpoint = f"127.0.0.1:{free_port()}"
    code, output = deployed.refused(
        "api", STREAM_ETCD_ENDPOINT=endpoint, STREAM_ETCD_CONNECT_TIMEOUT="1s"
    )
    assert code == 1
    assert f'etcd "{endpoint}"' in output


def test_an_unusable_volume(deployed: Deployment, tmp_path: Path) -> None:
    """The error names the path, whether it is no directory, empty or read-only."""
    deployed.start("etcd")
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (tmp_path / "missing", empty, Path("/proc/self")):
        code, output = deployed.refused("storage-writer", STREAM_STORAGE_VOLUMES_PATH=str(path))
        assert code == 1, output
        assert "/" in output


def test_all_wrong_settings_are_listed(deployed: Deployment) -> None:
    """Every problem is reported, unknown names with the most similar known one."""
    code, output = deployed.refused(
        "api", STREAM_API_LISTN="x:1", STREAM_ETCD_CONNECT_TIMEOUT="soon"
    )
    assert code == 1
    assert "STREAM_API_LISTEN" in output
    assert "etcd.connectTimeout" in output
