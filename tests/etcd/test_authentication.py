from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.task import deferLater

from stream.etcd import EtcdClient, EtcdError, Mirror
from tests.etcd.servers import EtcdServer, Proxy, reactor
from tests.waiting import mirrored, until

PASSWORD = "s3cret-Passw0rd"
TOKEN_SECONDS = 2


async def _client(url: str, password: str = PASSWORD, username: str = "root") -> EtcdClient:
    client = EtcdClient(
        reactor, [url], "x", username=username, password=password, request_timeout=3
    )
    await client.startService()
    return client


async def _enable(url: str) -> None:
    client = EtcdClient(reactor, [url], "")
    await client.call("auth/enable", {})
    await client.stopService()


@pytest_twisted.async_yield_fixture()
async def guarded(tmp_path: Path) -> AsyncIterator[EtcdServer]:
    """An etcd that needs a password, and whose tokens expire soon after their last use."""
    server = EtcdServer(tmp_path / "etcd", f"--auth-token-ttl={TOKEN_SECONDS}", "--bcrypt-cost=4")
    await server.start()
    client = EtcdClient(reactor, [server.url], "")
    for method, body in (
        ("user/add", {"name": "root", "password": PASSWORD}),
        ("role/add", {"name": "root"}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("user/add", {"name": "guest", "password": PASSWORD}),
    ):
        await client.call(f"auth/{method}", body)
    await client.stopService()
    await _enable(server.url)
    yield server
    server.kill()


@pytest_twisted.async_yield_fixture()
async def guarding(guarded: EtcdServer) -> AsyncIterator[Proxy]:
    """A proxy for the etcd with authentication."""
    listening = Proxy(guarded.url)
    listening.listen()
    yield listening
    await listening.refuse()


@pytest_twisted.ensureDeferred
async def test_passwords_are_never_logged(
    guarded: EtcdServer, logged: list[dict[str, Any]]
) -> None:
    """The right password is accepted, a wrong one is refused, and neither is logged."""
    client = await _client(guarded.url)
    await client.put("a", b"1")
    assert (await client.range("")).count == 1
    await client.stopService()
    seen = [repr(vars(client)), repr(client)]
    for password, username in (("wrong-Passw0rd", "root"), (PASSWORD, "nobody")):
        began = reactor.seconds()
        with pytest.raises(EtcdError, match="authentication failed") as caught:
            await _client(guarded.url, password, username)
        assert reactor.seconds() - began < 2
        seen.append(str(caught.value))
    anonymous = EtcdClient(reactor, [guarded.url], "x")
    with pytest.raises(EtcdError, match="user name is empty"):
        await anonymous.startService()
    await anonymous.stopService()
    told = "".join([*seen, *map(repr, logged)])
    for secret in (PASSWORD, "wrong-Passw0rd"):
        assert secret not in told, told[max(0, told.index(secret) - 200) :][:400]


@pytest_twisted.ensureDeferred
async def test_concurrent_requests_share_one_authentication(
    guarded: EtcdServer, monkeypatch: Any
) -> None:
    """Concurrent requests with an expired token request only one new token."""
    client = await _client(guarded.url)
    asked = []
    new_token = client._transport._new_token

    async def counted(endpoint: str) -> str:
        asked.append(endpoint)
        return await new_token(endpoint)

    monkeypatch.setattr(client._transport, "_new_token", counted)
    await client.call("auth/disable", {})
    await _enable(guarded.url)
    await gatherResults([ensureDeferred(client.put(f"k{i}", b"")) for i in range(10)])
    assert len(asked) == 1
    await client.stopService()


@pytest_twisted.ensureDeferred
async def test_an_expired_token(guarded: EtcdServer, guarding: Proxy) -> None:
    """A mirror that reconnects with an expired token gets a new one, without another request."""
    direct = await _client(guarded.url)
    client = await _client(guarding.url)
    mirror = Mirror(client, "m/", lambda kv: kv.value)
    await mirror.startService()
    await deferLater(reactor, TOKEN_SECONDS + 1.5)  # etcd checks for expired tokens once a second
    await guarding.cut()
    revision = await direct.put("m/a", b"1")
    await mirrored(mirror, revision)
    await mirror.stopService()
    await gatherResults([ensureDeferred(c.stopService()) for c in (client, direct)])


@pytest_twisted.ensureDeferred
async def test_authentication_is_disabled_and_enabled(guarded: EtcdServer, guarding: Proxy) -> None:
    """Clients continue when authentication is disabled, enabled again, or users change."""
    client = await _client(guarding.url)
    await client.call("auth/disable", {})
    await client.put("a", b"1")
    late = await _client(guarded.url)
    mirror = Mirror(late, "m/", lambda kv: kv.value)
    await mirror.startService()
    await late.put("a", b"2")
    await _enable(guarded.url)
    await late.put("m/a", b"3")
    await client.call("auth/user/add", {"name": "another", "password": PASSWORD})
    await client.put("a", b"4")
    revision = await late.put("m/a", b"5")
    await mirrored(mirror, revision)
    await mirror.stopService()
    await gatherResults([ensureDeferred(c.stopService()) for c in (client, late)])


@pytest_twisted.ensureDeferred
async def test_not_permitted(guarded: EtcdServer) -> None:
    """A user without rights gets an error for requests and for watches, instead of waiting."""
    guest = EtcdClient(reactor, [guarded.url], "x", username="guest", password=PASSWORD)
    for attempt in (guest.get("a"), guest.watch("a/", 0)):
        with pytest.raises(EtcdError, match="permission denied"):
            await attempt
    await guest.stopService()


@pytest_twisted.ensureDeferred
async def test_a_mirror_resumes_after_a_restart_of_etcd(guarded: EtcdServer) -> None:
    """A mirror resumes after a restart of etcd, which loses all tokens."""
    client = await _client(guarded.url)
    mirror = Mirror(client, "m/", lambda kv: kv.value)
    await mirror.startService()
    guarded.kill()
    await guarded.start()
    writer = await _client(guarded.url)
    revision = await writer.put("m/a", b"1")
    await until(lambda: mirror.revision >= revision, seconds=15)
    await mirror.stopService()
    await gatherResults([ensureDeferred(c.stopService()) for c in (client, writer)])
