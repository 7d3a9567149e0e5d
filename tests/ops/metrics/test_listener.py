"""The listener of metrics and health."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
import treq
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.error import CannotListenError
from twisted.web.client import Agent
from twisted.web.http_headers import Headers
from zope.interface.verify import verifyObject

from stream.ops.endpoint import server_endpoint
from stream.ops.metrics.listener import MetricsListener
from stream.ops.metrics.registry import Metrics


def _listener(metrics: Metrics, address: str = "127.0.0.1:0") -> MetricsListener:
    from twisted.internet import reactor

    return MetricsListener(reactor, server_endpoint(reactor, address), metrics, address)


def _port(listener: MetricsListener) -> int:
    assert listener.port is not None
    return listener.port.getHost().port  # type: ignore[attr-defined, no-any-return]


async def _get(listener: MetricsListener, path: str, method: str = "GET") -> Any:
    from twisted.internet import reactor

    client = treq.client.HTTPClient(Agent(reactor))
    url = f"http://127.0.0.1:{_port(listener)}{path}"
    response = await client.request(
        method, url, headers=Headers({"Host": ["KubernetesLivenessProbe"]})
    )
    return response, await response.content()


@pytest_twisted.ensureDeferred
async def test_metrics_page() -> None:
    """The page has Prometheus' text format."""
    metrics = Metrics()
    metrics.on_collect(lambda: metrics.descriptor_gauges()[0].set(3))
    listener = _listener(metrics)
    await listener.startService()
    try:
        response, body = await _get(listener, "/metrics")
        assert response.code == 200
        assert response.headers.getRawHeaders("content-type")[0].startswith("text/plain; version=0")
        names = {m.name for m in text_string_to_metric_families(body.decode())}
        assert "target_info" in names
        assert b"\nkeboola_go_stream_writer_file_descriptor_used_fd 3.0\n" in body
        response, body = await _get(listener, "/metrics", "HEAD")
        assert (response.code, body) == (200, b"")
    finally:
        await listener.stopService()


@pytest_twisted.ensureDeferred
async def test_health_check() -> None:
    """The health check answers OK to any host name, and other paths are not found."""
    listener = _listener(Metrics())
    await listener.startService()
    try:
        response, body = await _get(listener, "/health-check")
        assert (response.code, body) == (200, b"OK")
        assert response.headers.getRawHeaders("content-type") == ["text/plain"]
        response, _ = await _get(listener, "/nope")
        assert response.code == 404
        assert response.headers.getRawHeaders("x-content-type-options") == ["nosniff"]
    finally:
        await listener.stopService()


@pytest_twisted.ensureDeferred
async def test_readiness() -> None:
    """A process is ready when all its parts are; it may be healthy earlier."""
    from twisted.internet import reactor

    answers = [False, True, False]
    endpoint = server_endpoint(reactor, "127.0.0.1:0")
    listener = MetricsListener(reactor, endpoint, Metrics(), "", lambda: answers.pop(0))
    await listener.startService()
    try:
        seen = [await _get(listener, "/ready") for _ in range(3)]
        assert [(response.code, body) for response, body in seen] == [
            (503, b"not ready"),
            (200, b"OK"),
            (503, b"not ready"),
        ]
    finally:
        await listener.stopService()


@pytest_twisted.ensureDeferred
async def test_a_page_that_fails() -> None:
    """A page that can't be rendered is a 500 without details."""
    metrics = Metrics()

    def broken() -> float:
        raise ZeroDivisionError("inner detail")

    metrics.gauge("stream_x", "X.").labels({}).set_function(broken)
    listener = _listener(metrics)
    await listener.startService()
    try:
        response, body = await _get(listener, "/metrics")
        assert response.code == 500
        assert b"inner detail" not in body
    finally:
        await listener.stopService()


@pytest_twisted.ensureDeferred
async def test_busy_port() -> None:
    """startService fails with the reason if the port is taken."""
    first = _listener(Metrics())
    await first.startService()
    second = _listener(Metrics(), f"127.0.0.1:{_port(first)}")
    with pytest.raises(CannotListenError):
        await second.startService()
    await second.stopService()
    await first.stopService()


@pytest_twisted.ensureDeferred
async def test_stop_closes_the_port() -> None:
    """After stopService the port is free."""
    first = _listener(Metrics())
    await first.startService()
    address = f"127.0.0.1:{_port(first)}"
    await first.stopService()
    second = _listener(Metrics(), address)
    await second.startService()
    await second.stopService()


def test_ipv6_addresses() -> None:
    """The listener is a service, and IPv6 addresses result in IPv6 endpoints."""
    from twisted.application.service import IService
    from twisted.internet import reactor
    from twisted.internet.endpoints import TCP6ServerEndpoint

    assert verifyObject(IService, _listener(Metrics()))
    assert isinstance(server_endpoint(reactor, "[::1]:0"), TCP6ServerEndpoint)
    with pytest.raises(ValueError):
        server_endpoint(reactor, "nonsense")
