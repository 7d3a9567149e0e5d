from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import Clock

from stream.authority.current import RENEWED_SECONDS, TRUSTED_SECONDS, CurrentTokens
from stream.authority.own import REMEMBERED_SECONDS, OwnAuthority
from stream.authority.tokens import PREFIX, REVOKED, TokenKey, Tokens, path_of
from stream.definition.entity import SYSTEM
from stream.errors import UserError
from stream.etcd import EtcdClient, EtcdError, EtcdUnavailable
from stream.values.token import Token
from tests.etcd.servers import EtcdServer, Proxy
from tests.waiting import mirrored, until

ensure = pytest_twisted.ensureDeferred

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@attrs.define
class Node:
    """A node whose clock only the test moves, with a real etcd, optionally behind a proxy.

    :ivar questions: keys that were read.
    """

    client: EtcdClient
    clock: Clock
    authority: OwnAuthority
    questions: list[str] = attrs.field(factory=list)

    @property
    def current(self) -> CurrentTokens:
        return self.authority._current

    async def is_good(self, text: str) -> bool:
        """Return whether the token is accepted. Raises an error other than that of an unknown
        token.
        """
        try:
            await self.authority.verify(Token(text))
        except UserError as error:
            assert (error.status, error.name) == (401, "tokenInvalid")
            return False
        return True

    async def follows(self, revision: int) -> None:
        """Wait until the mirror has everything that was written so far."""
        await mirrored(self.current._mirror, revision)

    async def stop(self) -> None:
        await self.authority.stopService()
        await self.client.stopService()


async def started_node(url: str, namespace: str) -> Node:
    client = EtcdClient(reactor, [url], namespace, request_timeout=1.0)
    await client.startService()
    clock = Clock()
    node = Node(client, clock, OwnAuthority(clock, client, lambda: NOW))
    await node.authority.startService()
    read: Any = client.read

    def noted(key: str, **options: Any) -> Awaitable[Any]:
        node.questions.append(key)
        result: Awaitable[Any] = read(key, **options)
        return result

    client.read = noted  # type: ignore[assignment]
    return node


@pytest_twisted.async_yield_fixture()
async def proxy(etcd_url: str) -> AsyncIterator[Proxy]:
    listening = Proxy(etcd_url)
    listening.listen()
    yield listening
    await listening.refuse()


@pytest_twisted.async_yield_fixture()
async def node(etcd: EtcdClient, proxy: Proxy) -> AsyncIterator[Node]:
    """A node whose etcd is behind the proxy."""
    running = await started_node(proxy.url, etcd.namespace)
    yield running
    await running.stop()


@pytest.fixture
def elsewhere(etcd: EtcdClient) -> Tokens:
    """The tokens as another node creates and revokes them, not behind the proxy."""
    return Tokens(etcd, lambda: NOW)


async def made(tokens: Tokens, node: Node) -> tuple[TokenKey, str]:
    """Return a token that the node knows."""
    record, text = await tokens.create(1, "ci", ["write"], SYSTEM)
    await until(lambda: path_of(record.key) in node.current._mirror.items)
    return record.key, text


@ensure
async def test_one_request_covers_all_tokens(node: Node, elsewhere: Tokens) -> None:
    """The request is repeated when its answer is old, and not while no token is used."""
    texts = [(await made(elsewhere, node))[1] for _ in range(5)]
    for _ in range(3):
        for text in texts:
            assert await node.is_good(text)
    assert node.questions == [REVOKED]
    node.clock.advance(100)
    assert node.questions == [REVOKED]
    assert await node.is_good(texts[0]) and await node.is_good(texts[1])
    assert node.questions == [REVOKED] * 2


@ensure
async def test_an_answer_is_renewed_before_it_expires(node: Node, elsewhere: Tokens) -> None:
    """The answer is renewed early, so that no request waits for etcd."""
    _, text = await made(elsewhere, node)
    assert await node.is_good(text)
    node.clock.advance(RENEWED_SECONDS)
    assert await node.is_good(text)
    await until(lambda: node.current._asking is None)
    node.clock.advance(TRUSTED_SECONDS - 0.01)
    assert await node.is_good(text)
    await until(lambda: node.current._asking is None)
    assert node.questions == [REVOKED] * 3


@ensure
async def test_a_revocation_is_effective_when_its_event_arrives(
    node: Node, elsewhere: Tokens
) -> None:
    """A revocation takes effect at once."""
    key, text = await made(elsewhere, node)
    assert await node.is_good(text)
    await elsewhere.revoke(key)
    await until(lambda: path_of(key) not in node.current._mirror.items)
    assert not await node.is_good(text)
    assert TRUSTED_SECONDS + REMEMBERED_SECONDS > 1 > max(TRUSTED_SECONDS, REMEMBERED_SECONDS)


@pytest.mark.parametrize("is_used", [False, True])
@ensure
async def test_a_watch_that_fails_silently(
    node: Node, proxy: Proxy, elsewhere: Tokens, is_used: bool
) -> None:
    """A revoked token is still refused within a second, and other tokens stay valid."""
    (key, text), (_, other) = await made(elsewhere, node), await made(elsewhere, node)
    proxy.is_deaf_to_watches = True
    assert await node.is_good(text)
    await elsewhere.revoke(key)
    if is_used:  # also without a pause between requests
        for _ in range(8):
            node.clock.advance(0.1)
            await node.is_good(text)
            await until(lambda: node.current._asking is None)
        node.clock.advance(0.199)
    else:
        node.clock.advance(TRUSTED_SECONDS)
    assert path_of(key) in node.current._mirror.items
    assert not await node.is_good(text)
    assert await node.is_good(other)


@ensure
async def test_a_token_that_the_mirror_does_not_have(
    node: Node, proxy: Proxy, elsewhere: Tokens
) -> None:
    """Both the token and its revocation are found."""
    proxy.is_deaf_to_watches = True
    record, text = await elsewhere.create(1, "ci", ["write"], SYSTEM)
    assert await node.is_good(text)
    await elsewhere.revoke(record.key)
    node.clock.advance(REMEMBERED_SECONDS)
    assert not await node.is_good(text)


@ensure
async def test_a_mirror_that_has_missed_a_revocation(node: Node, elsewhere: Tokens) -> None:
    """The mirror is no longer used, although it has the last revocation."""
    (key, text), (second, _) = await made(elsewhere, node), await made(elsewhere, node)
    mirror = node.current._mirror
    apply: Any = mirror._apply
    mirror._apply = lambda event: None  # type: ignore[method-assign]
    await elsewhere.revoke(key)
    revoked = await elsewhere._client.read(REVOKED)
    await node.follows(revoked.revision)
    mirror._apply = apply  # type: ignore[method-assign]
    await elsewhere.revoke(second)
    await until(lambda: path_of(second) not in mirror.items)
    assert path_of(key) in mirror.items
    assert not await node.is_good(text)


@ensure
async def test_etcd_is_unavailable(node: Node, proxy: Proxy, elsewhere: Tokens) -> None:
    """The last answer is valid for less than a second; then tokens can't be verified."""
    _, text = await made(elsewhere, node)
    assert await node.is_good(text)
    await proxy.refuse()
    node.clock.advance(TRUSTED_SECONDS - 0.001)
    assert await node.is_good(text)
    await until(lambda: node.current._asking is None)
    node.clock.advance(0.001)
    with pytest.raises(EtcdUnavailable):
        await node.authority.verify(Token(text))
    proxy.listen()
    assert await node.is_good(text)


@ensure
async def test_a_clock_that_is_set_back(node: Node, elsewhere: Tokens) -> None:
    """An answer isn't valid for longer when the clock is set back: the request is repeated."""
    _, text = await made(elsewhere, node)
    node.clock.advance(100)
    assert await node.is_good(text)
    node.clock.rightNow -= 50
    assert await node.is_good(text)
    assert node.questions == [REVOKED] * 2


@ensure
async def test_tokens_after_a_restore_of_etcd(tmp_path: Path) -> None:
    """A token that isn't in the snapshot is refused, and one that is in it is valid."""
    server = EtcdServer(tmp_path / "etcd")
    await server.start()
    node = await started_node(server.url, "restored/")
    tokens = Tokens(node.client, lambda: NOW)
    _, old = await made(tokens, node)
    server.save(tmp_path / "snapshot")
    _, new = await made(tokens, node)
    assert await node.is_good(old) and await node.is_good(new)
    server.kill()
    server.restore(tmp_path / "snapshot")
    await server.start()
    node.clock.advance(TRUSTED_SECONDS)
    good = await _answered(node, new), await _answered(node, old)
    assert good == (False, True)
    await node.stop()
    server.kill()


async def _answered(node: Node, text: str) -> bool:
    """Return whether the token is good, once etcd answers: connections to the old one must fail
    first.
    """
    while True:
        try:
            return await node.is_good(text)
        except EtcdError:
            node.clock.advance(1)


@ensure
async def test_a_revocation_is_atomic(etcd: EtcdClient) -> None:
    """A revocation deletes the token and stores the revocation, or does neither."""
    tokens = Tokens(etcd, lambda: NOW)
    with pytest.raises(UserError):
        await tokens.revoke(TokenKey(1, "a1b2c3d4"))
    assert not (await etcd.range(PREFIX)).kvs
    record, _ = await tokens.create(1, "ci", ["read"], SYSTEM)
    await tokens.revoke(record.key)
    (left,) = (await etcd.range(PREFIX)).kvs
    assert (left.key, left.value) == (REVOKED, str(record.key).encode())
    assert await tokens.list(1) == []
